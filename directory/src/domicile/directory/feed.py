"""The change log to its readers: one look at the log for all of them, and no reader costs memory by being slow.

A process asks the database at a steady beat where the log stands, whatever happens (constant work); readers
wait for that, then fetch what follows their own position, batch by batch, each no faster than it takes them.
What a reader gets is server-sent events (WHATWG HTML, 9.2): ``pin`` with its position as the event's id,
``position`` as a heartbeat that says how far the log has come, and ``anew`` for a reader that must load the
whole map, because its position is of another generation, or older than what is kept.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from typing import Final, Protocol

from domicile.directory.history import Mark, MarkFile, Standing, furthest
from domicile.directory.lag import Seen
from domicile.model import Pin, Position, Unavailable
from domicile.service import ended
from domicile.telemetry import warn

BEAT_SECONDS: Final = 0.1
HEARTBEAT_SECONDS: Final = 1.0
KEEP_SECONDS: Final = 1.0
"""Between two writes of the mark: a crash of the process and a loss in one second go unseen."""
TRIM_SECONDS: Final = 600.0
KEPT: Final = timedelta(days=1)
BATCH: Final = 500
Write = Callable[[bytes], Awaitable[None]]


class Log(Protocol):
    """The storage, as far as the feed reads it. Each method raises Unavailable."""

    async def standing(self, mark: Mark | None) -> Standing: ...

    async def changes(self, after: int, limit: int) -> list[tuple[int, Pin]]: ...

    async def trim_changes(self, keep: timedelta) -> None: ...


class Feed:
    """Where the log stands, kept up to date while ``running``; ``stream`` serves one reader."""

    def __init__(self, log: Log, marks: MarkFile) -> None:
        self._log = log
        self._marks = marks
        self._mark = marks.read()
        self._kept = self._mark
        self._keep_at = 0.0
        self._keeping = asyncio.Lock()
        self._news = asyncio.Condition()
        self._position: Position | None = None
        self._seen_at = 0.0
        self._trimmed = 0
        self._ended = False

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Follows the log inside the context; its readers end with it.

        Raises Unavailable where the database does not say at once where it stands: nothing is served before that.
        """
        await self._look()
        tasks = [asyncio.create_task(self._follow()), asyncio.create_task(self._trim())]
        try:
            yield
        finally:
            self.end()
            await ended(*tasks)
            self._keep_at = 0.0
            with suppress(Unavailable):
                await self._look()

    async def settled(self) -> Position:
        """Where the log stands now. Raises Unavailable also where the database may have lost something."""
        found = await self._look()
        if found.reconciling:
            raise Unavailable("the directory's database may have lost pins, and asks the cells")
        return found.position

    def seen(self) -> Seen | None:
        """Where the log stood when it was looked at last; none where that is not known, or something may be lost."""
        return None if self._position is None else Seen(self._position, self._seen_at)

    def end(self) -> None:
        """Readers are told goodbye at their next beat: they come back to another process."""
        self._ended = True

    async def _follow(self) -> None:
        while True:
            position: Position | None = None
            trimmed = 0
            asked_at = asyncio.get_running_loop().time()
            # without a position a reader hears nothing, and its stream's staleness tells it so
            with suppress(Unavailable):
                found = await self._look()
                if found.current and not found.reconciling:
                    position, trimmed = found.position, found.trimmed
            async with self._news:
                self._position, self._trimmed, self._seen_at = position, trimmed, asked_at
                self._news.notify_all()
            await asyncio.sleep(BEAT_SECONDS)

    async def _look(self) -> Standing:
        found = await self._log.standing(self._mark)
        self._mark = furthest(self._mark, found.mark)
        async with self._keeping:
            await self._keep()
        return found

    async def _keep(self) -> None:
        """Now and then, by one of those who look at a time. A disk that takes nothing stops no reader."""
        now = asyncio.get_running_loop().time()
        mark = self._mark
        if mark is None or mark == self._kept or now < self._keep_at:
            return
        self._keep_at = now + KEEP_SECONDS
        try:
            await asyncio.to_thread(self._marks.keep, mark)
            self._kept = mark
        except OSError as error:
            warn("mark-not-kept", error=type(error).__name__)

    async def _trim(self) -> None:
        while True:
            await asyncio.sleep(TRIM_SECONDS)
            try:
                await self._log.trim_changes(KEPT)
            except Unavailable as error:
                warn("changes-not-trimmed", code=error.code)

    def _is_news(self, reader: Position | None) -> bool:
        now = self._position
        if now is None:
            return False
        if reader is None or reader.generation != now.generation:
            return True
        return reader.sequence < max(now.sequence, self._trimmed)

    async def _beyond(self, reader: Position | None) -> Position | None:
        """Waits for news, at most until the next heartbeat is due; where the log stands, if that is known."""
        async with self._news:
            for _ in range(round(HEARTBEAT_SECONDS / BEAT_SECONDS)):
                if self._ended or self._is_news(reader):
                    break
                await self._news.wait()
            return self._position

    async def stream(self, after: Position | None, write: Write) -> None:
        """Write events for one reader until it is sent to load anew, the feed ends, or ``write`` raises.

        Raises Unavailable where the database cannot be used: the reader resumes from its last position.
        """
        reader = after
        ahead = 0
        while not self._ended:
            now = await self._beyond(reader)
            if now is None or self._ended:
                continue
            if reader is None or reader.generation != now.generation or reader.sequence < self._trimmed:
                await write(event("anew", now))
                return
            if reader.sequence > now.sequence:
                # read at another process, a beat ahead of this one; for longer only where this one has lost something
                ahead += 1
                if ahead > 1:
                    warn("reader-ahead")
                    await write(event("anew", now))
                    return
                continue
            ahead = 0
            while reader.sequence < now.sequence:
                found = await self._log.changes(reader.sequence, BATCH)
                if not found or found[0][0] != reader.sequence + 1:
                    break  # trimmed, or another generation: the next beat says which
                reader = Position(generation=now.generation, sequence=found[-1][0])
                await write(b"".join(event("pin", _at(now, number), pin) for number, pin in found))
            else:
                await write(event("position", reader))


def _at(position: Position, sequence: int) -> Position:
    return Position.model_construct(generation=position.generation, sequence=sequence)


def event(kind: str, position: Position, pin: Pin | None = None) -> bytes:
    data = pin.model_dump_json() if pin is not None else "{}"
    return f"id: {position}\nevent: {kind}\ndata: {data}\n\n".encode()
