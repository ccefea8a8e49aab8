"""Counts of what happens with every request: plain numbers, added to their series when those are read.

A series' own methods take a lock and about a microsecond each, which for a proxy is a good part of a request. A tally
is counted by one thread, which also renders the metrics; ``settle`` brings the series up to date.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import Final

from prometheus_client import Counter, Histogram


class Tally:
    """Of one series of a counter: add to ``count``."""

    __slots__ = ("_series", "count")

    def __init__(self, series: Counter) -> None:
        self._series = series
        self.count = 0

    def settle(self) -> None:
        if self.count:
            self._series.inc(self.count)
            self.count = 0


class Times:
    """Of one series of a histogram."""

    __slots__ = ("_bounds", "_counts", "_series", "_sum")

    def __init__(self, series: Histogram) -> None:
        self._series = series
        self._bounds: list[float] = series._upper_bounds
        self._counts = [0] * len(self._bounds)
        self._sum = 0.0

    def add(self, seconds: float) -> None:
        self._counts[bisect_left(self._bounds, seconds)] += 1
        self._sum += seconds

    def settle(self) -> None:
        for bucket, count in enumerate(self._counts):
            if count:
                self._series._buckets[bucket].inc(count)
                self._counts[bucket] = 0
        self._series._sum.inc(self._sum)
        self._sum = 0.0


_TALLIES: Final[dict[Counter, Tally]] = {}
_TIMES: Final[dict[Histogram, Times]] = {}


def tally(series: Counter) -> Tally:
    """That of a series, the same each time. To be asked for once, not for each request."""
    return _TALLIES.setdefault(series, Tally(series))


def times(series: Histogram) -> Times:
    """As ``tally``."""
    return _TIMES.setdefault(series, Times(series))


def settle() -> None:
    """Add what was counted since to the series."""
    for counted in _TALLIES.values():
        counted.settle()
    for timed in _TIMES.values():
        timed.settle()
