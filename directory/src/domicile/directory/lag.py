"""How late a read replica is: measured by the change log's progress, and by this process's own clock. Pure.

Each look at the primary says where the log stood at that moment. A replica that has come to a sequence number shows
what the primary showed when it was last seen at that number or below it; the time since then is the replica's lag. A
quiet primary makes no replica late, a replica that stopped is late from the next change on, and a primary that is not
heard of makes each of them late.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from math import inf
from typing import Final, NamedTuple

from domicile.model import Position

KEPT: Final = 6_000
"""Numbers that are kept with the time when they were last seen: ten minutes of a log that never rests."""


class Seen(NamedTuple):
    """Where the primary stood, and when (monotonic seconds): not later than it did."""

    position: Position
    at: float


class Progress:
    """The primary's log as it was seen, of one generation at a time."""

    def __init__(self) -> None:
        self._last: Position | None = None
        self._sequences: deque[int] = deque(maxlen=KEPT)
        self._times: deque[float] = deque(maxlen=KEPT)

    @property
    def position(self) -> Position | None:
        return self._last

    def saw(self, seen: Seen) -> None:
        before, self._last = self._last, seen.position
        if before is None or before.generation != seen.position.generation:
            self._sequences.clear()
            self._times.clear()
        # a number that falls within a generation is of a look that was overtaken: it says nothing new
        while self._sequences and self._sequences[-1] >= seen.position.sequence:
            self._sequences.pop()
            self._times.pop()
        self._sequences.append(seen.position.sequence)
        self._times.append(seen.at)

    def lag(self, replica: Position, now: float) -> float:
        """Seconds since the primary was last seen to have no more than ``replica`` has.

        Without bound where it is of another generation, or was left behind longer ago than is kept.
        """
        if self._last is None or self._last.generation != replica.generation:
            return inf
        place = bisect_right(self._sequences, replica.sequence)
        return max(0.0, now - self._times[place - 1]) if place else inf
