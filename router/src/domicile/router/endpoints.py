"""Where a request may be sent, as a type that cannot hold a place outside the home.

Failover walks the members of one of these and nothing else, so a zone of another jurisdiction is not a
candidate that some later check has to catch: it cannot be written down. What health makes of them is an order.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address
from typing import Self

from domicile.model import Address, Manifest, Role, WrongJurisdiction
from domicile.model.manifest import Network


@dataclass(frozen=True, slots=True)
class Upstream:
    """One listener: who must answer there, and the networks that its name may resolve into (none: any)."""

    role: Role
    jurisdiction: str
    cell: str | None
    zone: str
    address: str
    networks: tuple[Network, ...] = ()


def _in_network(upstream: Upstream) -> bool:
    try:
        literal = ip_address(Address(upstream.address).host)
    except ValueError:
        return True  # a name: held to the networks when it is resolved
    return any(literal in network for network in upstream.networks)


def _nearest_first(upstreams: list[Upstream], zone: str) -> tuple[Upstream, ...]:
    """The router's own zone, then the others as written."""
    return tuple(sorted(upstreams, key=lambda each: each.zone != zone))


@dataclass(frozen=True, slots=True)
class HomeEndpoints:
    """The zones of one cell, the nearest first.

    Raises WrongJurisdiction where any of them is not a zone of this cell, in this jurisdiction, at an
    address in its own network.
    """

    jurisdiction: str
    cell: str
    upstreams: tuple[Upstream, ...]

    def __post_init__(self) -> None:
        for upstream in self.upstreams:
            if (
                upstream.jurisdiction != self.jurisdiction
                or upstream.cell != self.cell
                or upstream.role not in (Role.APP, Role.GATEWAY)
                or not _in_network(upstream)
            ):
                raise WrongJurisdiction(f"{upstream.zone} is no zone of {self.cell} in {self.jurisdiction}")
        if not self.upstreams:
            raise WrongJurisdiction(f"{self.cell} has no zone")

    @property
    def role(self) -> Role:
        return self.upstreams[0].role

    @classmethod
    def of(cls, manifest: Manifest, cell: str, role: Role, *, zone: str) -> Self:
        """A cell's applications or gateways, as the manifest has them."""
        place = manifest.cells[cell]
        upstreams = [
            Upstream(
                role,
                place.jurisdiction,
                cell,
                name,
                data_zone.gateway if role is Role.GATEWAY else data_zone.app,
                (data_zone.network,),
            )
            for name, data_zone in place.zones.items()
        ]
        return cls(place.jurisdiction, cell, _nearest_first(upstreams, zone))


@dataclass(frozen=True, slots=True)
class PeerRouters:
    """The internal listeners of the routers of one jurisdiction. Raises WrongJurisdiction for any other."""

    jurisdiction: str
    upstreams: tuple[Upstream, ...]

    def __post_init__(self) -> None:
        for upstream in self.upstreams:
            if upstream.jurisdiction != self.jurisdiction or upstream.role is not Role.ROUTER:
                raise WrongJurisdiction(f"{upstream.zone} is no router of {self.jurisdiction}")

    @classmethod
    def of(cls, manifest: Manifest, jurisdiction: str, *, zone: str) -> Self:
        upstreams = [
            Upstream(Role.ROUTER, jurisdiction, None, name, router.internal)
            for name, router in manifest.routers_of(jurisdiction).items()
        ]
        return cls(jurisdiction, _nearest_first(upstreams, zone))
