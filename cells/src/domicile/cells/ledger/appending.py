"""Appends in groups: what waits while a group is being committed is the next group, so that one commit serves many.

A line is told to be in the ledger when its group's commit was answered, and never before. A group that fails is refused
as a whole: each of its crossings is, by whoever waits for it. Who stops waiting takes nothing back.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Final, Protocol

from domicile.cells.ledger.tree import leaf_hash
from domicile.model import DomicileError, Unavailable
from domicile.model.crossings import Crossing, LedgerLine
from domicile.service import ended
from domicile.telemetry import LEDGER_LINES, LEDGER_REFUSED, warn

MOST_AT_ONCE: Final = 500
MOST_WAITING: Final = 10_000
"""About twenty groups: more is refused, since nobody would wait for it to be durable."""


class Lines(Protocol):
    async def append(self, lines: Sequence[str]) -> int: ...

    async def append_once(self, line: str) -> tuple[int, str, bool]: ...


def _refused() -> Unavailable:
    return Unavailable("the ledger cannot be written, so nothing may cross", where="ledger", retry_after=5)


class Ledger:
    """The port for whoever lets something cross. ``run`` has to be running, and never ends by itself."""

    def __init__(self, store: Lines) -> None:
        self._store = store
        self._waiting: deque[tuple[Crossing, str, asyncio.Future[LedgerLine]]] = deque()
        self._some = asyncio.Event()
        self._failing = False

    async def append(self, crossing: Crossing) -> LedgerLine:
        """As CrossingLog says; InvalidInput for a line that is too long."""
        line = crossing.line()
        if len(self._waiting) >= MOST_WAITING:
            LEDGER_REFUSED.inc()
            raise Unavailable("too much waits for the ledger", where="ledger", retry_after=1)
        told: asyncio.Future[LedgerLine] = asyncio.get_running_loop().create_future()
        self._waiting.append((crossing, line, told))
        self._some.set()
        return await told

    async def append_once(self, crossing: Crossing) -> LedgerLine:
        """As CrossingLog says. By itself: a release is rare, and what it waits for is its own commit."""
        line = crossing.line()
        try:
            place, kept, added = await self._store.append_once(line)
        except DomicileError as error:
            self._note(error, 1)
            raise _refused() from None
        self._failing = False
        LEDGER_LINES.inc(added)
        return LedgerLine(place, leaf_hash(kept.encode()), Crossing.parse(kept))

    async def run(self) -> None:
        while True:
            await self._some.wait()
            self._some.clear()
            while self._waiting:
                group = [self._waiting.popleft() for _ in range(min(len(self._waiting), MOST_AT_ONCE))]
                # the commit is not cut short by the end of this task, and who waits is told how it went
                writing = asyncio.ensure_future(self._write(group))
                try:
                    await asyncio.shield(writing)
                except asyncio.CancelledError:
                    await asyncio.wait({writing})
                    raise

    async def _write(self, group: list[tuple[Crossing, str, asyncio.Future[LedgerLine]]]) -> None:
        try:
            first = await self._store.append([line for _, line, _ in group])
        except DomicileError as error:
            self._note(error, len(group))
            for _, _, told in group:
                if not told.done():
                    told.set_exception(_refused())
            return
        self._failing = False
        LEDGER_LINES.inc(len(group))
        for place, (crossing, line, told) in enumerate(group):
            if not told.done():
                told.set_result(LedgerLine(first + place, leaf_hash(line.encode()), crossing))

    def _note(self, error: DomicileError, crossings: int) -> None:
        if not self._failing:
            warn("ledger-not-written", code=error.code)
        self._failing = True
        LEDGER_REFUSED.inc(crossings)

    async def close(self, running: asyncio.Task[None]) -> None:
        """End ``run``; who still waits is refused."""
        await ended(running)
        while self._waiting:
            _, _, told = self._waiting.popleft()
            if not told.done():
                told.set_exception(Unavailable("the ledger is being closed", where="ledger"))
