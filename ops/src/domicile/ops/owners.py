"""Which jurisdiction each file of a world's state folder lies in, by the world's own manifest and record."""

from __future__ import annotations

from pathlib import Path

from domicile.model.access import GLOBAL
from domicile.model.manifest import Manifest
from domicile.ops.layout import Layout, owner_of
from domicile.ops.record import WorldRecord


class Owners:
    """A world that was never started has no record: its logs then belong to nobody."""

    def __init__(self, layout: Layout, manifest: Manifest) -> None:
        self._root = layout.root
        self.cells = {name: cell.jurisdiction for name, cell in manifest.cells.items()}
        self.routers = {zone: manifest.jurisdiction_of(r.country) or GLOBAL for zone, r in manifest.routers.items()}
        record = WorldRecord.read(layout)
        self._processes = {p.name: p.jurisdiction for p in record.processes} if record else {}
        self._processes |= {f"{name}-schema": jurisdiction for name, jurisdiction in self.cells.items()}

    def of(self, path: Path) -> str:
        return owner_of(path.relative_to(self._root), self.cells, self.routers, self._processes)
