"""A restored database in the place of the one before: two renames, and what is done where only the first happened.

``folder`` holds a database as ``domicile.ops.postgres`` lays it out; what is restored lies below it meanwhile, so that
both are on one disk. The data of before stays beside, until an operator deletes it.
"""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from domicile.model.errors import InvalidInput

RESTORING: Final = "restoring"
_READY: Final = "ready"
_BELOW: Final = (
    "cells/*/*/storage",
    *(f"{top}/{kind}" for top in ("keys/*", "directory") for kind in ("storage", "*/storage", "backup/verify")),
)
"""Where restores are staged in a world's folder."""


@contextmanager
def staging(folder: Path) -> Iterator[Path]:
    """An empty folder for a restore, alone; removed on leaving. Raises InvalidInput where one is under way."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with _alone(folder) as alone:
        if not alone:
            raise InvalidInput("another restore of it is under way", where=str(folder), remedy="wait for its end")
        finish_switch(folder)
        place = folder / RESTORING
        shutil.rmtree(place, ignore_errors=True)  # of one that was interrupted
        place.mkdir(mode=0o700)
        try:
            yield place
        finally:
            shutil.rmtree(place, ignore_errors=True)


@contextmanager
def _alone(folder: Path) -> Iterator[bool]:
    """Whether no restore of it is under way; none begins while this lasts."""
    with (folder / f"{RESTORING}.lock").open("wb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


def interrupted(root: Path) -> list[Path]:
    """Folders below a world's where a restore was killed: what it had brought lies there in clear."""
    found = []
    for place in sorted(place for below in _BELOW for place in root.glob(f"{below}/{RESTORING}")):
        with _alone(place.parent) as alone:
            if alone and place.exists():
                found.append(place.parent)
    return found


def clear_interrupted(root: Path) -> list[Path]:
    """End what was killed between its two renames, and remove the rest; where that was."""
    found = interrupted(root)
    for folder in found:
        with _alone(folder) as alone:
            if alone:
                finish_switch(folder)
                shutil.rmtree(folder / RESTORING, ignore_errors=True)
    return found


def put_in_place(folder: Path, place: Path) -> Path | None:
    """Put ``place/data`` in the place of ``folder/data``, which no server uses; where the data of before is now."""
    data, before = folder / "data", None
    (place / _READY).touch()
    if data.exists():
        before = folder / f"data.before-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
        data.rename(before)
    (place / "data").rename(data)
    (folder / "created").touch()
    return before


def set_aside(folder: Path) -> None:
    """Of a second node: it copies the first one anew."""
    if (folder / "data").exists():
        (folder / "data").rename(folder / f"data.before-{datetime.now(UTC):%Y%m%dT%H%M%SZ}")


def finish_switch(folder: Path) -> None:
    """Go on with a switch that was interrupted between its two renames; else nothing."""
    place = folder / RESTORING
    if (place / _READY).exists() and (place / "data").exists() and not (folder / "data").exists():
        (place / "data").rename(folder / "data")
        (folder / "created").touch()
