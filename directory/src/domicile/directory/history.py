"""Whether this database is the one that was there before, and has everything that was acknowledged.

A database that was restored to an earlier time answers like any other, and would give a second home to each
subject that it has forgotten. Each directory process therefore remembers outside of it, in a file of its own,
how far it has seen the change log come: its ``Mark``. A database that falls short of a mark has lost something:
claims, grants and aliases are refused, "no such pin" is not said, and routers keep the map that they have, until
every cell has told which fences it holds (``domicile.directory.reconciliation``). A standby that was promoted
with everything on it begins a generation too, and goes on at once.
"""

from __future__ import annotations

import os
from math import ceil
from pathlib import Path
from typing import Final, NamedTuple

from pydantic import ValidationError

from domicile.identity.tokens import LEEWAY_SECONDS
from domicile.model import PIN_GRANT_SECONDS, InvalidInput, Position
from domicile.model.pins import Frozen
from domicile.telemetry import warn

GRACE_SECONDS: Final = 1.0
"""Before a history that lacks nothing by one process's mark is believed: another may have acknowledged more since the
last beat, and notices within one of its own."""
QUIET_SECONDS: Final = PIN_GRANT_SECONDS + LEEWAY_SECONDS
"""Until no grant of before a reconciliation opens a fence any more."""


class Mark(Frozen):
    """The furthest that a process has seen: a position in the change log, and the topology's revision."""

    position: Position
    revision: int


class Standing(NamedTuple):
    """What a database says of itself. ``current``: the generation is of this history of the database.

    ``succeeded``: another generation took the place of the mark's, and has all of it or had it back.
    """

    position: Position
    trimmed: int
    current: bool
    reconciling: bool
    revision: int
    succeeded: bool

    @property
    def mark(self) -> Mark:
        return Mark(position=self.position, revision=self.revision)


def furthest(seen: Mark | None, found: Mark) -> Mark:
    """The later of two marks of one generation; of another one, what was found. Pure."""
    if seen is None or seen.position.generation != found.position.generation:
        return found
    position = max(seen.position, found.position, key=lambda each: each.sequence)
    return Mark(position=position, revision=max(seen.revision, found.revision))


def has_lost(mark: Mark | None, found: Standing) -> bool:
    """Whether a database lacks what a process has seen. Pure.

    Without a mark nobody can tell, and then a history that has just begun is not believed.
    """
    if mark is None:
        return not found.current
    if mark.position.generation != found.position.generation:
        return not found.succeeded
    return found.position.sequence < mark.position.sequence or found.revision < mark.revision


def wait_seconds(age: float | None) -> int:
    """Until reports are taken, ``age`` seconds after a reconciliation began. Pure."""
    return 0 if age is None else max(0, ceil(QUIET_SECONDS - age))


class MarkFile:
    """A mark on disk; ``keep`` is durable when it returns."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> Mark | None:
        """None where there is none yet. Raises InvalidInput for a file that holds something else."""
        try:
            return Mark.model_validate_json(self._path.read_bytes())
        except FileNotFoundError:
            return None
        except ValidationError:
            warn("mark-unreadable")
            raise InvalidInput(
                "not a mark of the change log", where=str(self._path), remedy="restore it; without it, delete it"
            ) from None

    def keep(self, mark: Mark) -> None:
        draft = self._path.with_suffix(".new")
        with draft.open("w") as file:
            file.write(mark.model_dump_json())
            file.flush()
            os.fsync(file.fileno())
        draft.replace(self._path)
        folder = os.open(self._path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)  # the new name, too, outlives a loss of power
        finally:
            os.close(folder)
