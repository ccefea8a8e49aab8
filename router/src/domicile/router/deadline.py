"""Two ways to wait that cost nothing while there is nothing to wait for: one timer for all of a connection's
deadlines, and coroutines that run on the spot as far as they can."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Generator
from math import inf
from types import coroutine
from typing import Any, TypeVar

Result = TypeVar("Result")


class Deadline:
    """Calls back once, ``set`` seconds after the last ``set``; the timer behind it is rarely touched."""

    __slots__ = ("_at", "_call", "_loop", "_rings", "_timer")

    def __init__(self, loop: asyncio.AbstractEventLoop, call: Callable[[], None]) -> None:
        self._loop = loop
        self._call = call
        self._at = inf
        self._rings = inf
        self._timer: asyncio.TimerHandle | None = None

    def set(self, seconds: float) -> None:
        self._at = at = self._loop.time() + seconds
        if at < self._rings:
            self._arm()

    def clear(self) -> None:
        self._at = inf

    def close(self) -> None:
        """For good: nothing is called any more."""
        self._at, self._rings = inf, -inf
        if self._timer is not None:
            self._timer.cancel()

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._rings = self._at
        self._timer = self._loop.call_at(self._at, self._ring)

    def _ring(self) -> None:
        self._timer, self._rings = None, inf
        if self._at <= self._loop.time() + 0.001:  # a loop's clock may have a coarser grain than its timers
            self._at = inf
            self._call()
        elif self._at < inf:
            self._arm()


def at_once(
    work: Coroutine[Any, Any, Result],
    then: Callable[[Result], None],
    later: Callable[[Coroutine[Any, Any, Result]], None],
) -> None:
    """Run ``work`` until it has to wait. ``then`` gets its result now, or ``later`` what is left of it.

    What ``work`` does before it first waits runs outside of any task: no ``asyncio.timeout`` there. Whatever it
    raises before that is raised here. (From Python 3.12 on tasks can start so; this is for 3.11 as well.)
    """
    try:
        waits_for = work.send(None)
    except StopIteration as ended:
        then(ended.value)
    else:
        later(_rest(work, waits_for))


@coroutine
def _rest(work: Coroutine[Any, Any, Result], waits_for: Any) -> Generator[Any, Any, Result]:
    while True:
        try:
            value = yield waits_for
        except BaseException as error:
            try:
                waits_for = work.throw(error)
            except StopIteration as ended:
                return ended.value  # type: ignore[no-any-return]
        else:
            try:
                waits_for = work.send(value)
            except StopIteration as ended:
                return ended.value  # type: ignore[no-any-return]
