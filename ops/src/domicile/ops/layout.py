"""Where a local world keeps things: one folder for each place, so that what lies where can be proved.

Everything of a jurisdiction lies below folders that name it, and ``owner_of`` says which one a path belongs
to; the scan of ``domicile demo`` trusts nothing else.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from domicile.model.access import GLOBAL, Identity, Role
from domicile.model.errors import InvalidInput

DEFAULT_STATE: Final = ".domicile"
MARKER: Final = "world"
LOG_TAIL_LINES: Final = 12


@dataclass(frozen=True, slots=True)
class Layout:
    """Paths below one state folder."""

    root: Path

    @classmethod
    def at(cls, state: Path | None) -> Layout:
        """``state``, else ``DOMICILE_STATE``, else ``.domicile`` here; made absolute, not created."""
        return cls((state or Path(os.environ.get("DOMICILE_STATE") or DEFAULT_STATE)).absolute())

    def prepare(self) -> None:
        """Make the folder, private. Raises InvalidInput where it can't be written or is somebody else's."""
        try:
            self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
            if any(self.root.iterdir()) and not self.marker.exists():
                raise InvalidInput(
                    "is not empty and holds no world", where=str(self.root), remedy="name another --state folder"
                )
            self.marker.touch()
            self.root.chmod(0o700)
            self.logs.mkdir(exist_ok=True)
        except OSError as error:
            raise InvalidInput(
                f"cannot be written: {error.strerror}",
                where=str(self.root),
                remedy="name a writable --state folder",
            ) from None

    @property
    def marker(self) -> Path:
        return self.root / MARKER

    @property
    def lock(self) -> Path:
        return self.root / "lock"

    @property
    def record(self) -> Path:
        return self.root / "world.json"

    @property
    def manifest(self) -> Path:
        return self.root / "domicile.yaml"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def pauses(self) -> Path:
        return self.root / "pauses"

    @property
    def drills(self) -> Path:
        """The record of what a drill broke, and below it, for each jurisdiction, what its load did."""
        return self.root / "drills"

    @property
    def rehearsal(self) -> Path:
        """The record of what was arranged for drills when the world started."""
        return self.root / "rehearsal.json"

    @property
    def reports(self) -> Path:
        return self.root / "reports"

    def log(self, process: str) -> Path:
        return self.logs / f"{process}.log"

    @property
    def authorities(self) -> Path:
        return self.root / "trust" / "authorities"

    @property
    def operator_keys(self) -> Path:
        return self.root / "trust" / "operators"

    @property
    def pepper(self) -> Path:
        return self.root / "secrets" / "pepper"

    def authority(self, jurisdiction: str) -> Path:
        """The issuing authority's own folder; the directory's trust domain has its own."""
        return (self.directory if jurisdiction == GLOBAL else self.keys(jurisdiction)) / "authority"

    @property
    def directory(self) -> Path:
        return self.root / "directory"

    def keys(self, jurisdiction: str) -> Path:
        return self.root / "keys" / jurisdiction

    def cell(self, cell: str, zone: str) -> Path:
        return self.root / "cells" / cell / zone

    def router(self, zone: str) -> Path:
        return self.root / "routers" / zone

    def edge(self, zone: str) -> Path:
        return self.root / "edges" / zone

    def operator(self, jurisdiction: str) -> Path:
        return self.root / "operators" / jurisdiction

    def home_of(self, identity: Identity, *, beside: bool = False) -> Path:
        """The private folder of a process: its certificate, caches and keys.

        ``beside``: of a key store or directory, in another zone than its first.
        """
        place: Path
        if identity.cell is not None:
            place = self.cell(identity.cell, identity.zone)
        elif identity.role is Role.ROUTER:
            place = self.router(identity.zone)
        elif identity.role is Role.EDGE:
            place = self.edge(identity.zone)
        elif identity.role is Role.OPERATOR:
            return self.operator(identity.jurisdiction)
        elif identity.jurisdiction == GLOBAL:
            place = self.directory
        else:
            place = self.keys(identity.jurisdiction)
        return place / identity.zone / identity.role if beside else place / identity.role


def owner_of(path: Path, cells: dict[str, str], routers: dict[str, str], processes: dict[str, str]) -> str:
    """The jurisdiction that a path relative to the state folder belongs to.

    ``cells``, ``routers`` and ``processes`` map names to jurisdictions; an edge is its router's neighbour. What
    belongs to none is ``global``: every jurisdiction's values are foreign there.
    """
    parts = path.parts
    if len(parts) < 2:
        return GLOBAL
    kind, name = parts[0], parts[1]
    if kind == "cells":
        return cells.get(name, GLOBAL)
    if kind in ("routers", "edges"):
        return routers.get(name, GLOBAL)
    if kind in ("keys", "operators", "backups", "drills"):
        return name
    if kind == "logs":
        return processes.get(name.removesuffix(".log"), GLOBAL)
    return GLOBAL


def log_tail(path: Path, lines: int = LOG_TAIL_LINES) -> str:
    try:
        text = path.read_text(errors="replace").splitlines()
    except OSError:
        return "(no log)"
    return "\n".join(f"    {line}" for line in text[-lines:]) or "    (its log is empty)"
