"""How another process has a world's supervisor stop one database, and start it again: by a file that it holds locked.

The lock ends with its holder, however that ends: the supervisor then starts the database on what is there.
"""

from __future__ import annotations

import asyncio
import fcntl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from domicile.model.errors import Unavailable
from domicile.ops.layout import Layout

WAIT_SECONDS: Final = 60.0
_POLL_SECONDS: Final = 0.1


def asked(layout: Layout) -> set[str]:
    """The databases that somebody wants stopped."""
    found = set()
    for path in layout.pauses.glob("*.wanted"):
        with path.open("rb") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                found.add(path.stem)
                continue
            path.unlink(missing_ok=True)  # its holder is gone
    return found


def tell(layout: Layout, stopped: set[str]) -> None:
    """What the supervisor has stopped, to those who wait for it."""
    layout.pauses.mkdir(exist_ok=True)
    for path in layout.pauses.glob("*.stopped"):
        if path.stem not in stopped:
            path.unlink(missing_ok=True)
    for name in stopped:
        (layout.pauses / f"{name}.stopped").touch()


@asynccontextmanager
async def paused(layout: Layout, database: str) -> AsyncIterator[None]:
    """The database is stopped while this lasts, and runs again when it is over. Raises Unavailable."""
    layout.pauses.mkdir(exist_ok=True)
    wanted, stopped = layout.pauses / f"{database}.wanted", layout.pauses / f"{database}.stopped"
    with wanted.open("wb") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        await _until(stopped.exists, f"the supervisor did not stop {database}")
        try:
            yield
        finally:
            wanted.unlink(missing_ok=True)
    await _until(lambda: not stopped.exists(), f"the supervisor did not start {database} again")


async def _until(condition: object, failed: str) -> None:
    assert callable(condition)
    try:
        async with asyncio.timeout(WAIT_SECONDS):
            while not condition():  # noqa: ASYNC110 - another process makes the file
                await asyncio.sleep(_POLL_SECONDS)
    except TimeoutError:
        raise Unavailable(f"{failed} within {WAIT_SECONDS:.0f} s", remedy="see `domicile status`") from None
