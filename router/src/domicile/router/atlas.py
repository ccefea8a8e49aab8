"""The topology as one router sees it, compiled once: every set of endpoints that it may ever send to.

Cells of other jurisdictions are known here by name alone, so that no endpoint of theirs exists in this process.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from domicile.model import CellState, Identity, Jurisdiction, Manifest, Role
from domicile.router.endpoints import HomeEndpoints, PeerRouters

GATEWAY_PATHS: Final = "/.domicile/"


@dataclass(frozen=True, slots=True)
class Home:
    """A cell of this router's jurisdiction."""

    jurisdiction: str
    state: CellState
    app: HomeEndpoints
    gateway: HomeEndpoints

    def endpoints(self, path: str) -> HomeEndpoints:
        return self.gateway if path.startswith(GATEWAY_PATHS) else self.app


@dataclass(frozen=True, slots=True)
class Abroad:
    """Another jurisdiction: what it wants for its travellers, and its routers' internal listeners."""

    policy: Jurisdiction
    routers: PeerRouters


class Atlas:
    """One manifest from one vantage. ``placed``: the jurisdiction of each cell; ``open``: homes that take anybody."""

    def __init__(self, manifest: Manifest, vantage: Identity) -> None:
        zone = vantage.zone
        self.vantage: Final = vantage
        self.placed: Final = {name: cell.jurisdiction for name, cell in manifest.cells.items()}
        self.homes: Final = {
            name: Home(
                cell.jurisdiction,
                cell.state,
                HomeEndpoints.of(manifest, name, Role.APP, zone=zone),
                HomeEndpoints.of(manifest, name, Role.GATEWAY, zone=zone),
            )
            for name, cell in manifest.cells_of(vantage.jurisdiction).items()
        }
        self.open: Final = tuple(home for home in self.homes.values() if home.state is CellState.OPEN)
        self.abroad: Final = {
            name: Abroad(policy, PeerRouters.of(manifest, name, zone=zone))
            for name, policy in manifest.jurisdictions.items()
            if name != vantage.jurisdiction
        }
