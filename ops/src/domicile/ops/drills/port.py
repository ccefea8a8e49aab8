"""What a drill needs of a world, and no more: the local processes are the first one that gives it.

Parts have names and places, clusters say who leads, faults are data that go in and come out again. A world of
Kubernetes would kill pods, cordon nodes and cut by NetworkPolicy behind the same names.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from domicile.model.manifest import Manifest
from domicile.ops.drills.faults import Fault, FaultKind
from domicile.ops.drills.measure import Scanned

AGENT, SERVER, WITNESS = "patroni", "server", "witness"
"""Roles of a cluster's parts: what decides who leads, the database server under it, and the third vote."""


@dataclass(frozen=True, slots=True)
class Part:
    """``group``: the cell, key store or directory that it is of; else its own name."""

    name: str
    role: str
    jurisdiction: str
    zone: str
    group: str


@dataclass(frozen=True, slots=True)
class ClusterState:
    """``leader`` and ``standby``: their zones, where there is one; ``in_sync``: the standby has all that the leader
    acknowledges."""

    name: str
    leader: str | None
    standby: str | None
    in_sync: bool


@dataclass(frozen=True, slots=True)
class Entry:
    """Where a jurisdiction's users come in: its routers' public addresses, and the authority that they are believed
    by."""

    routers: tuple[str, ...]
    authority: Path


@dataclass(frozen=True, slots=True)
class Arranged:
    """The node that can be given a full disk and a wrong clock."""

    cell: str
    zone: str


class World(Protocol):
    @property
    def manifest(self) -> Manifest: ...

    def parts(self) -> Sequence[Part]: ...

    def arranged(self) -> Arranged | None:
        """None where nothing was arranged for drills when the world started."""
        ...

    async def clusters(self, names: Collection[str] | None = None) -> Sequence[ClusterState]:
        """``names``: these alone."""
        ...

    async def not_serving(self, parts: Collection[str] | None = None) -> Sequence[str]:
        """Which of ``parts``, or of all, do not answer as ready."""
        ...

    def method(self, kind: FaultKind) -> str:
        """How this world does it, for the report. Raises Unavailable where it can't."""
        ...

    async def inject(self, fault: Fault) -> None:
        """Raises DomicileError; what was done of it then is undone by ``undo``."""
        ...

    async def undo(self, fault: Fault) -> None:
        """Harmless where it was never injected, or in part, or was undone before."""
        ...

    def entry(self, jurisdiction: str) -> Entry: ...

    async def scan(self, since: float, values: Mapping[str, str]) -> Scanned:
        """Every file written since a time (of 1970), for the ``values`` of each jurisdiction outside of it."""
        ...

    async def crossings(self) -> Mapping[str, float]:
        """The border counters of all processes that answer, summed up by their labels."""
        ...
