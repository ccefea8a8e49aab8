"""Who is turned away when this router has too much to do: first those who cost the most and may not be anybody.

A subject that the replica doesn't know costs a question to the directory, and made-up ones cost the same; a known
one costs one local look-up, and has a home that waits. So each kind may use a share of the places only, and the
last of them are the known ones'. How late the event loop is counts like a share of places that are taken.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from enum import StrEnum
from typing import Final

from domicile.model import Unavailable
from domicile.telemetry import SHED

PLACES: Final = 4096
LATE_SECONDS: Final = 0.5
"""An event loop that is so late has no place left, for anybody but the known, who get all the places."""
LOOK_SECONDS: Final = 0.1
_WEIGHT: Final = 0.3
Clock = Callable[[], float]


class Caller(StrEnum):
    LOOK_UP = "look-up"  # identified, and not in the replica
    UNPINNED = "unpinned"
    KNOWN = "known"


_KNOWN: Final = Caller.KNOWN
SHARES: Final = {Caller.LOOK_UP: 0.6, Caller.UNPINNED: 0.8, Caller.KNOWN: 1.0}


class Shedder:
    """Of one router's process. ``places``: requests at once, each from its head to the head of its answer.

    An answer that streams holds no place: what it costs shows in how late the event loop is.
    """

    def __init__(self, places: int = PLACES, *, clock: Clock = time.monotonic) -> None:
        self._places = places
        self._clock = clock
        self._taken = 0
        self._late = 0.0

    def enter(self) -> None:
        """A request has begun, whether it is admitted or not; ``leave`` at its answer's head."""
        self._taken += 1

    def leave(self) -> None:
        self._taken -= 1

    def late(self, seconds: float) -> None:
        """How late the event loop came to do what was due; averaged over a few looks."""
        self._late += _WEIGHT * (max(0.0, seconds) - self._late)

    def admit(self, caller: Caller) -> None:
        """Raises Unavailable for a kind whose share is taken. The request itself is counted already."""
        load = self._taken / (self._places + 1)
        if caller is not _KNOWN:
            load = max(load, self._late / LATE_SECONDS)
        if load >= SHARES[caller]:
            SHED.labels(caller.value).inc()
            raise Unavailable("the router has too much to do", retry_after=1)

    async def watch(self) -> None:
        """Until cancelled, see how late the event loop is."""
        while True:
            due = self._clock() + LOOK_SECONDS
            await asyncio.sleep(LOOK_SECONDS)
            self.late(self._clock() - due)
