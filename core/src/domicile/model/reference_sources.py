"""Which cell writes a table that belongs to no subject; the gateways of every other cell pull it from there.

One cell, not one jurisdiction, since a version is the number of what lies in one database.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Annotated

from pydantic import StringConstraints

from domicile.model.errors import ManifestProblem
from domicile.model.ids import CellName

ReferenceSources = dict[Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,54}$")], CellName]


def check_sources(sources: Mapping[str, str] | None, cells: Collection[str]) -> Iterator[ManifestProblem]:
    """Each table is written in a cell that there is."""
    for table, cell in (sources or {}).items():
        if cell not in cells:
            yield ManifestProblem(
                f"references.{table}", f"unknown cell {cell!r}", f"the cell where it is loaded: {', '.join(cells)}"
            )
