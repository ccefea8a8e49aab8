"""Where a process listens: one spelling of each address, so that two spellings can't pass for two places."""

from __future__ import annotations

import re
from collections.abc import Collection
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Annotated, Final

from pydantic import AfterValidator, BeforeValidator

Network = IPv4Network | IPv6Network
_LABEL: Final = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9])?"
_HOST: Final = re.compile(rf"(?=.{{1,253}}$){_LABEL}(?:\.{_LABEL})*")
_NUMERIC: Final = re.compile(r"(?:.*\.)?(?:[0-9]+|0x[0-9a-f]*)")


def _host(text: str) -> str | None:
    """One spelling of a host, brackets included; None for what is none.

    A name whose last label is a number is none either: resolvers read ``127.1`` or ``0x7f000001`` as an
    address, which then no network would have been asked about (WHATWG URL, "ends in a number").
    """
    bracketed = text[:1] == "[" and text[-1:] == "]"
    try:
        address = ip_address(text[1:-1] if bracketed else text)
    except ValueError:
        lower = text.lower()
        return lower if _HOST.fullmatch(lower) and not _NUMERIC.fullmatch(lower) else None
    if (address.version == 6) != bracketed or getattr(address, "scope_id", None):
        return None
    return f"[{address}]" if bracketed else str(address)


def _port(text: str) -> bool:
    return re.fullmatch(r"[1-9][0-9]{0,4}", text) is not None and int(text) <= 65535


class Address(str):
    """``host:port`` or ``[ipv6]:port``; the port is never left to a default."""

    __slots__ = ()

    @property
    def host(self) -> str:
        return self.rpartition(":")[0].strip("[]")

    @property
    def port(self) -> int:
        return int(self.rpartition(":")[2])


def _address(text: str) -> Address:
    name, _, port = text.rpartition(":")
    if not _port(port):
        raise ValueError(f"{text!r} is not host:port with a port from 1 to 65535")
    host = _host(name)
    if host is None:
        raise ValueError(f"{text!r} is not host:port with a name, an IPv4 address or a bracketed IPv6 one")
    return Address(f"{host}:{port}")


def _public_host(text: str) -> str:
    name, colon, port = text.rpartition(":")
    host = _host(name) if colon and _port(port) else _host(text)
    if host is None:
        raise ValueError(f"{text!r} is not a host name, with or without a port")
    return f"{host}:{port}" if colon and _port(port) else host


AddressField = Annotated[str, AfterValidator(_address)]


def _network(value: object) -> Network:
    if not isinstance(value, str | IPv4Network | IPv6Network):
        raise ValueError("a network is written like 127.10.1.0/24")
    if not isinstance(value, str):
        return value
    try:
        return ip_network(value)
    except ValueError:
        raise ValueError(
            f"{value!r} is not a network such as 127.10.1.0/24, with no bit set behind the slash"
        ) from None


PublicHost = Annotated[str, AfterValidator(_public_host)]
"""A host name for clients, with or without a port."""
NetworkField = Annotated[Network, BeforeValidator(_network)]


def literal(address: str) -> IPv4Address | IPv6Address | None:
    """The IP address that ``host:port`` is written with, an IPv4-mapped one as IPv4; None for a name."""
    try:
        ip = ip_address(Address(address).host)
    except ValueError:
        return None
    return getattr(ip, "ipv4_mapped", None) or ip


def may_listen(address: str) -> bool:
    """False for a literal link-local, multicast or unspecified address: no process of ours is there."""
    ip = literal(address)
    return ip is None or not (ip.is_link_local or ip.is_multicast or ip.is_unspecified)


def inside(host: str, networks: Collection[Network] | None) -> bool:
    """Whether an IP address may be connected to: in one of the networks, if given; never link-local."""
    address = f"[{host}]:1" if ":" in host else f"{host}:1"
    ip = literal(address)
    return ip is not None and may_listen(address) and (networks is None or any(ip in net for net in networks))
