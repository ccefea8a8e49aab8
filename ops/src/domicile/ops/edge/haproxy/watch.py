"""Keeps the map of a running HAProxy at the directory's heels: the whole of it once, then what changes.

The map itself says how far it has come, in an entry of its own. Where that is not what was written last, HAProxy was
started again with an empty map, and is given the whole of it anew; until then all requests are the routers'.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, aclosing, suppress
from pathlib import Path
from typing import Final, Protocol

from domicile.client import Change
from domicile.model import DomicileError, Pin, PinState, Position, SubjectKey, Unavailable
from domicile.model.snapshot import STATES, Block, SnapshotReader
from domicile.ops.edge.haproxy.configuration import DOUBTS, SOCKET, SUBJECTS
from domicile.ops.edge.haproxy.runtime import Runtime

POSITION: Final = "position"
DOUBT_SECONDS: Final = 60.0
"""After so long whoever was doubted is believed again."""
FIRST_WAIT_SECONDS: Final = 0.2
LAST_WAIT_SECONDS: Final = 10.0
Clock = Callable[[], float]


class Source(Protocol):
    """The directory, as far as a map is made from it. Each method raises DomicileError."""

    def snapshot(self, after: bytes = b"") -> AbstractAsyncContextManager[SnapshotReader]: ...

    def follow(self, after: Position) -> AsyncGenerator[list[Change], None]: ...


def entry_of(pin: Pin, jurisdiction: str) -> tuple[str, str | None]:
    """The subject's key, and its cell and epoch; None for whoever is not to be found in the map: one of another
    jurisdiction, one that moves (a router waits for it), one that is gone. Pure."""
    here = pin.jurisdiction == jurisdiction and pin.state is PinState.ACTIVE
    return pin.subject_key.hex(), f"{pin.cell}/{pin.epoch}" if here else None


class Watcher:
    """``told``: a line for whoever watches. ``clock``: monotonic seconds."""

    def __init__(
        self,
        directory: Source,
        folder: Path,
        jurisdiction: str,
        told: Callable[[str], None],
        *,
        clock: Clock = time.monotonic,
    ) -> None:
        self._directory = directory
        self._runtime = Runtime(folder / SOCKET)
        self._subjects = folder / SUBJECTS
        self._doubts = folder / DOUBTS
        self._jurisdiction = jurisdiction
        self._told = told
        self._clock = clock
        self._position: Position | None = None
        self._believed_at = clock()

    async def run(self) -> None:
        """Without end: a failure is waited out, longer each time."""
        wait, said = FIRST_WAIT_SECONDS, ""
        while True:
            try:
                if self._position is None:
                    await self._load()
                assert self._position is not None
                async with aclosing(self._directory.follow(self._position)) as stream:
                    async for changes in stream:
                        wait, said = FIRST_WAIT_SECONDS, ""
                        if not await self._take(changes):
                            break
            except DomicileError as error:
                if str(error) != said:
                    said = str(error)
                    self._told(f"the map stays as it is: {said}")
                await asyncio.sleep(wait)
                wait = min(wait * 2, LAST_WAIT_SECONDS)

    async def _load(self) -> None:
        count = 0
        async with self._directory.snapshot() as snapshot:
            position = await snapshot.head()
            version = await self._runtime.prepare(self._subjects)
            try:
                while (block := await snapshot.block()) is not None:
                    entries = self._entries(block)
                    await self._runtime.add(self._subjects, version, entries)
                    count += len(entries)
                await self._runtime.add(self._subjects, version, [(POSITION, str(position))])
                await self._runtime.commit(self._subjects, version)
            except BaseException:
                with suppress(Unavailable):
                    await self._runtime.forget(self._subjects, version)
                raise
        self._position = position
        self._told(f"{count:,} subjects of {self._jurisdiction} are in the map")

    def _entries(self, block: Block) -> list[tuple[str, str]]:
        entries = []
        for key, epoch, state, home in block:
            jurisdiction, cell = block.homes[home].split("/")
            if jurisdiction == self._jurisdiction and STATES[state] is PinState.ACTIVE:
                entries.append((SubjectKey(key).hex(), f"{cell}/{epoch}"))
        return entries

    async def _take(self, changes: list[Change]) -> bool:
        """Whether the map can be kept up by changes; False where all of it has to be loaded anew."""
        if await self._runtime.get(self._subjects, POSITION) != str(self._position):
            self._position = None
            raise Unavailable("HAProxy was started anew, and is given the whole map")
        position = self._position
        entries = []
        for change in changes:
            if change.anew:
                self._position = None
                return False
            position = change.position
            if change.pin is not None:
                entries.append(entry_of(change.pin, self._jurisdiction))
        if position != self._position:
            await self._runtime.change(self._subjects, [*entries, (POSITION, str(position))])
            self._position = position
        if self._clock() - self._believed_at >= DOUBT_SECONDS:
            await self._runtime.clear(self._doubts)
            self._believed_at = self._clock()
        return True
