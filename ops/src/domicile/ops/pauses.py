"""How another process has a world's supervisor stop one database, and start it again: by a file that it holds locked.

The lock ends with its holder, however that ends: the supervisor then starts the database on what is there.
"""

from __future__ import annotations

import asyncio
import fcntl
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, Protocol

from domicile.model.errors import DomicileError, Unavailable
from domicile.ops.layout import Layout
from domicile.ops.plan import STORAGE, ProcessSpec, doors_of
from domicile.ops.switching import finish_switch

WAIT_SECONDS: Final = 60.0
RESUME_SECONDS: Final = 300.0
"""Longer than the supervisor waits for a server, or a cluster, before it gives it up."""
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


class Parts(Protocol):
    """A running world, as far as its databases are stopped and started."""

    layout: Layout

    @property
    def specs(self) -> dict[str, ProcessSpec]: ...

    async def end_part(self, name: str) -> None: ...

    async def start_part(self, name: str) -> None: ...

    async def start_storage(self, clusters: Collection[str]) -> None: ...


async def mind(world: Parts, stopped: set[str], progress: Callable[[str, str], None]) -> set[str]:
    """Stop the databases that somebody has to be alone with, start those that nobody has; which are stopped now."""
    wanted = asked(world.layout)
    for name in wanted - stopped:
        nodes = _nodes(world, name)
        clustered = any(spec.cluster for spec in nodes)  # such a one is started with its doors
        for spec in [*(doors_of(world.specs.values(), name) if clustered else ()), *nodes]:
            await world.end_part(spec.name)
    for name in stopped - wanted:
        try:
            await _resume(world, name)
        except Exception as error:  # whatever it is: who waits for it is told, and the rest of the world goes on
            said = str(error) if isinstance(error, DomicileError) else type(error).__name__
            _failed(world.layout, name).write_text(said)
            progress(name, f"did not start again: {said}")
    if wanted != stopped:
        tell(world.layout, wanted)
    return wanted


def _failed(layout: Layout, database: str) -> Path:
    """Why a database did not start again."""
    return layout.pauses / f"{database}.failed"


async def _resume(world: Parts, name: str) -> None:
    nodes = _nodes(world, name)
    for spec in nodes:
        if spec.database is not None:
            await asyncio.to_thread(finish_switch, spec.database)
    if any(spec.cluster for spec in nodes):
        await world.start_storage([name])
    else:
        await world.start_part(nodes[0].name)


def _nodes(world: Parts, name: str) -> list[ProcessSpec]:
    """The processes of a database: its server, or its Patronis and witness."""
    storages = [spec for spec in world.specs.values() if spec.stage == STORAGE]
    return [spec for spec in storages if spec.cluster == name or spec.name == f"{name}-postgres"]


@asynccontextmanager
async def paused(layout: Layout, database: str) -> AsyncIterator[None]:
    """The database is stopped while this lasts, and runs again when it is over. Raises Unavailable."""
    layout.pauses.mkdir(exist_ok=True)
    wanted, stopped = layout.pauses / f"{database}.wanted", layout.pauses / f"{database}.stopped"
    with wanted.open("wb") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        failed = _failed(layout, database)
        failed.unlink(missing_ok=True)  # of one before
        await _until(stopped.exists, f"the supervisor did not stop {database}", WAIT_SECONDS)
        try:
            yield
        finally:
            wanted.unlink(missing_ok=True)
    await _until(lambda: not stopped.exists(), f"the supervisor did not start {database} again", RESUME_SECONDS)
    if failed.exists():
        raise Unavailable(f"{database} did not start again: {failed.read_text()}", remedy="see `domicile status`")


async def _until(condition: Callable[[], bool], failed: str, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            while not condition():  # noqa: ASYNC110 - another process makes the file
                await asyncio.sleep(_POLL_SECONDS)
    except TimeoutError:
        raise Unavailable(f"{failed} within {seconds:.0f} s", remedy="see `domicile status`") from None
