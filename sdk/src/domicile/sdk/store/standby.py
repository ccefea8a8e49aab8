"""Reads at a cell's standby, for who said how old an answer may be.

How old a standby is it says itself: the time since the last commit that it replayed was made. Commits are replayed in
their order, so that all of before that one are there; in a cell where nobody writes the time grows all the same, and
the leader is asked. The two servers' clocks are taken to agree within ``SKEW_SECONDS``: a standby that seems to be
further ahead than that is not believed.

Whatever a standby refuses, or cannot answer in time, is asked of the leader: a fence that was opened a moment ago, keys
that were turned, a query that stood in the way of what it replays. So a stale read fails only where any read would.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

import asyncpg

from domicile.model.errors import DomicileError, Unavailable
from domicile.sdk.store.failures import untold
from domicile.sdk.store.queries import query

SKEW_SECONDS: Final = 0.1
ASK_SECONDS: Final = 2.0
"""For a connection and an answer; then the leader is asked."""
AGAIN_SECONDS: Final = 1.0
"""No standby is looked for again so soon after none was there."""
Answer = TypeVar("Answer")
Question = Callable[[Callable[..., Awaitable[list[asyncpg.Record]]]], Awaitable[Answer]]
"""What asks by a connection's ``fetch``."""


class Standby:
    """``pool``: of sessions that begin at a standby (``open_pool``)."""

    def __init__(self, pool: asyncpg.Pool, clock: Callable[[], float] = time.monotonic) -> None:
        self._pool = pool
        self._clock = clock
        self._not_before = clock()

    async def ask(self, question: Question[Answer], stale: float) -> Answer | None:
        """The answer, as of ``stale`` seconds ago at most; None where there is none."""
        if self._clock() < self._not_before:
            return None
        try:
            return await untold(self._ask(question, stale), seconds=ASK_SECONDS)
        except Unavailable:
            self._not_before = self._clock() + AGAIN_SECONDS
        except DomicileError:
            pass
        return None

    async def _ask(self, question: Question[Answer], stale: float) -> Answer | None:
        async with self._pool.acquire() as connection:
            began = self._clock()
            age: Any = await connection.fetchval(query("standby_age"))
            if age is None:  # it leads by now
                connection.terminate()
                return None
            if age < -SKEW_SECONDS or self._late(age, began, stale):
                return None
            answer = await question(connection.fetch)
        return None if self._late(age, began, stale) else answer

    def _late(self, age: float, told: float, stale: float) -> bool:
        """Whether what was ``age`` seconds old when it was ``told`` may be older than that by now."""
        return age + SKEW_SECONDS + self._clock() - told > stale
