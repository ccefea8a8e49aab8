"""From which country a request came, for placement at sign-up. Only a country code leaves this module."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

from geoip2.database import Reader
from geoip2.errors import AddressNotFoundError
from maxminddb import InvalidDatabaseError

from domicile.model import COUNTRIES, InvalidInput
from domicile.model.manifest import Network

IPAddress = IPv4Address | IPv6Address


def read_address(text: str) -> IPAddress | None:
    """A socket's peer or one entry of ``X-Forwarded-For``, with or without a port; an IPv4-mapped one as IPv4."""
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        return _plain(ip_address(text))
    except ValueError:
        return None


def _plain(address: IPAddress) -> IPAddress:
    return getattr(address, "ipv4_mapped", None) or address


def client_address(peer: str, forwarded: Sequence[str], trusted: Collection[Network]) -> IPAddress | None:
    """Who asks: the socket's peer or, behind trusted peers, the rightmost hop that is none of them.

    ``forwarded``: the request's ``X-Forwarded-For`` fields in order. What stands left of that hop is the
    client's own claim. None where a trusted peer named something that is no address.
    """

    def is_trusted(address: IPAddress) -> bool:
        return any(address in network for network in trusted)

    address = read_address(peer)
    hops = [hop for field in forwarded for hop in field.split(",")]
    while address is not None and is_trusted(address) and hops:
        address = read_address(hops.pop())
    return address


class Countries:
    """A country database, and the peers whose word about a client's address is taken."""

    def __init__(self, database: Path, trusted: Collection[Network]) -> None:
        self._trusted = tuple(trusted)
        try:
            self._reader = Reader(database)
        except (OSError, InvalidDatabaseError) as error:
            raise InvalidInput(
                f"not a country database ({type(error).__name__})",
                where=str(database),
                remedy="name a MaxMind country database with DOMICILE_COUNTRIES",
            ) from None

    def observe(self, peer: str, forwarded: Sequence[str]) -> str | None:
        """The ISO 3166-1 code of the client's country, where the database has one."""
        address = client_address(peer, forwarded, self._trusted)
        if address is None:
            return None
        try:
            code = self._reader.country(address).country.iso_code
        except AddressNotFoundError:
            return None
        return code if code in COUNTRIES else None

    def close(self) -> None:
        self._reader.close()
