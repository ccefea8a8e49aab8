"""A disk that is full to its last block, and empty again."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Final

from domicile.model.errors import Unavailable

FILLER: Final = "domicile-drill"
_STEPS: Final = (1 << 20, 4096, 1)


def fill(disk: Path) -> None:
    """Write one file until nothing more goes. Raises Unavailable where ``disk`` is no file system of its own."""
    if not disk.is_mount():
        raise Unavailable("is no file system of its own any more", where=str(disk), remedy="start a new world")
    with (disk / FILLER).open("wb", buffering=0) as stream:
        for step in _STEPS:
            block = bytes(step)
            try:
                while stream.write(block) == step:
                    pass
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise


def empty(disk: Path) -> None:
    (disk / FILLER).unlink(missing_ok=True)
