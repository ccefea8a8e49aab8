"""What an edge brings along: where it listens, and the files that it proves itself and recognises others by."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from domicile.identity import Credentials
from domicile.model.access import GLOBAL
from domicile.model.addresses import literal
from domicile.model.errors import InvalidInput
from domicile.model.manifest import Address


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate chain and its private key (PEM)."""

    certificate: Path
    key: Path


@dataclass(frozen=True, slots=True)
class Equipment:
    """Of one edge; every path is absolute, since a proxy reads its configuration elsewhere.

    ``public``: shown to clients; None on a loopback address, behind something that ends TLS. ``own``: shown to cells
    and the directory. ``router_authority``: who signs the routers' public certificates; None: the jurisdiction's own.
    Raises InvalidInput for a plain listener that anybody could reach.
    """

    listen: str
    public: Pair | None
    own: Credentials
    router_authority: Path | None = None

    def __post_init__(self) -> None:
        place = literal(self.listen)
        if self.public is None and (place is None or not place.is_loopback):
            raise InvalidInput(
                "without TLS only a loopback address is listened on",
                where="--listen",
                remedy="name --public-certificate and --public-key",
            )

    @property
    def address(self) -> Address:
        return Address(self.listen)

    @property
    def own_pair(self) -> Pair:
        return Pair(self.own.certificate.absolute(), self.own.key.absolute())

    def authority(self, jurisdiction: str) -> Path:
        """The certificates that sign a jurisdiction's processes."""
        return self.own.authorities.absolute() / f"{jurisdiction}.pem"

    @property
    def directory_authority(self) -> Path:
        return self.authority(GLOBAL)
