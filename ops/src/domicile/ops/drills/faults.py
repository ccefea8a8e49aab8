"""Faults as data, and the record of those that are in force: written to disk before anything is broken.

The record is what ``domicile drill --recover`` goes by after the tool was killed, so a fault may stand there that was
never injected, or was undone already; undoing has to be harmless then. One drill at a time: a lock that the kernel
gives back when its holder ends, however it ends.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from domicile.model.errors import Conflict, InvalidInput
from domicile.ops.record import try_lock


class FaultKind(StrEnum):
    """What a world can be asked to break. ``KILL``: the parts end at once, and stay ended; ``SUSPEND``: they stand
    still, their connections open; ``SLOW``: they stand still half of the time; ``CUT``: nothing reaches them or comes
    from them; ``FILL``: their disk is full; ``CLOCK``: their clock is an hour ahead; ``LOSE``: the data of a cell, or
    of the directory, is lost; ``HAND_OVER``: a cluster's standby leads."""

    KILL = "kill"
    SUSPEND = "suspend"
    SLOW = "slow down"
    CUT = "cut off"
    FILL = "fill the disk of"
    CLOCK = "put the clock forward of"
    LOSE = "lose the data of"
    HAND_OVER = "hand over"


class Fault(BaseModel):
    """``parts``: names of parts, or of the one cluster that hands over or loses its data."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: FaultKind
    parts: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.kind} {', '.join(self.parts)}"


_FAULTS: Final = TypeAdapter(list[Fault])


class Journal:
    """The faults in force in one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder / "faults.json"

    @contextmanager
    def alone(self) -> Iterator[None]:
        """No other drill in this folder while this lasts. Raises Conflict where there is one."""
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = try_lock(self._folder / "lock")
        if lock is None:
            raise Conflict("another drill is under way", where=str(self._folder), remedy="wait for its end")
        try:
            yield
        finally:
            lock.close()

    def faults(self) -> list[Fault]:
        """In the order in which they were written. Raises InvalidInput for a record that is none."""
        try:
            return _FAULTS.validate_json(self._path.read_bytes())
        except FileNotFoundError:
            return []
        except ValidationError:
            raise InvalidInput(
                "is no record of faults", where=str(self._path), remedy="put the world right by hand, then remove it"
            ) from None

    def add(self, fault: Fault) -> None:
        """On disk when this returns."""
        self._write([*self.faults(), fault])

    def remove(self, fault: Fault) -> None:
        self._write([each for each in self.faults() if each != fault])

    def _write(self, faults: list[Fault]) -> None:
        if not faults:
            self._path.unlink(missing_ok=True)
            return
        temporary = self._path.with_suffix(".new")
        with temporary.open("w") as stream:
            json.dump([fault.model_dump(mode="json") for fault in faults], stream)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(self._path)
        folder = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
