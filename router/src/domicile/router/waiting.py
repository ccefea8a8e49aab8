"""Waiting out a move: writes of a subject that is being moved, and whatever its new home has not taken over yet, are
held for as long as a move usually takes.

Bounded in time, in number and in bytes, so that a move that hangs costs a router little; whoever finds no place
gets the 503 at once that the others get at the end. All who wait for one subject share one look at its pin.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Final, Protocol

from domicile.model import Pin, PinState, SubjectKey, Unavailable
from domicile.telemetry import SHED

SECONDS: Final = 5.0
COUNT: Final = 1_000
BYTES: Final = 32 << 20
FIRST_LOOK_SECONDS: Final = 0.05
LAST_LOOK_SECONDS: Final = 0.5
Clock = Callable[[], float]
Keys = tuple[SubjectKey, ...]
Sleep = Callable[[float], Awaitable[None]]


class Look(Protocol):
    """The newest pin of a subject, by whichever of its keys. Raises Unavailable."""

    async def __call__(self, *keys: SubjectKey) -> Pin | None: ...


def _still_moving() -> Unavailable:
    return Unavailable("the subject is still being moved; reads are served", retry_after=2)


class Patience:
    """One request's place among those that wait, until its own deadline."""

    def __init__(self, deadline: float, clock: Clock, sleep: Sleep) -> None:
        self.deadline = deadline
        self._clock = clock
        self._sleep = sleep
        self._next = FIRST_LOOK_SECONDS

    async def pause(self) -> None:
        """Longer each time. Raises Unavailable where the time is up."""
        left = self.deadline - self._clock()
        if left <= 0:
            raise _still_moving()
        await self._sleep(min(self._next, left))
        self._next = min(self._next * 2, LAST_LOOK_SECONDS)


class MoveBuffer:
    """``look``: at what the directory says, whatever is known here. ``clock``: monotonic seconds."""

    def __init__(
        self,
        look: Look,
        *,
        seconds: float = SECONDS,
        count: int = COUNT,
        size: int = BYTES,
        clock: Clock = time.monotonic,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self._look = look
        self._seconds = seconds
        self._count = count
        self._size = size
        self._clock = clock
        self._sleep = sleep
        self._held = 0
        self._bytes = 0
        self._looking: dict[Keys, asyncio.Task[Pin | None]] = {}
        self._waiters: dict[Keys, int] = {}

    def __len__(self) -> int:
        return self._held

    @property
    def held_bytes(self) -> int:
        return self._bytes

    @contextmanager
    def patience(self, size: int) -> Iterator[Patience]:
        """A place for whoever asks again himself. ``size``: the bytes that this request keeps in memory meanwhile.

        Raises Unavailable, at once, where there is none.
        """
        if self._held >= self._count or self._bytes + size > self._size:
            SHED.labels("move").inc()
            raise _still_moving()
        self._held += 1
        self._bytes += size
        try:
            yield Patience(self._clock() + self._seconds, self._clock, self._sleep)
        finally:
            self._held -= 1
            self._bytes -= size

    async def settled(self, keys: Keys, size: int) -> Pin | None:
        """The subject's pin when it moves no longer; None where it has none any more, by any of ``keys``: it may be
        renamed meanwhile.

        ``size`` as for ``patience``. Raises Unavailable where there is no place, or the move takes too long.
        """
        with self.patience(size) as patience:
            self._waiters[keys] = self._waiters.get(keys, 0) + 1
            try:
                return await self._shared(keys, patience.deadline)
            finally:
                self._leave(keys)

    async def _shared(self, keys: Keys, deadline: float) -> Pin | None:
        # each has its own deadline, and the look goes on for whoever came later
        while True:
            looking = self._looking.get(keys)
            if looking is None:
                looking = self._looking[keys] = asyncio.create_task(self._until_settled(keys, deadline))
                looking.add_done_callback(partial(self._seen, keys))
            pin = await asyncio.shield(looking)
            if pin is None or pin.state is not PinState.MOVING:
                return pin
            if self._clock() >= deadline:
                raise _still_moving()

    def _leave(self, keys: Keys) -> None:
        self._waiters[keys] -= 1
        if self._waiters[keys] == 0:
            del self._waiters[keys]
            if (looking := self._looking.pop(keys, None)) is not None:
                looking.cancel()

    def _seen(self, keys: Keys, looking: asyncio.Task[Pin | None]) -> None:
        if self._looking.get(keys) is looking:
            del self._looking[keys]
        if not looking.cancelled():
            looking.exception()  # taken note of, also where everybody has gone

    async def _until_settled(self, keys: Keys, deadline: float) -> Pin | None:
        """The last pin that was seen, at the latest at the deadline of whoever came first."""
        patience = Patience(deadline, self._clock, self._sleep)
        while True:
            await patience.pause()
            pin = await self._look(*keys)
            if pin is None or pin.state is not PinState.MOVING or self._clock() >= deadline:
                return pin
