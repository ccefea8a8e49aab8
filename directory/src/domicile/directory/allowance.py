"""How often one caller may ask about aliases: whoever has taken over an application must not go through all addresses.

A token bucket for each process that calls, by the name in its certificate, so that one caller's storm is not
another's refusal. It is each directory process's own: with n of them a caller is given n times as much at most.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from math import ceil
from typing import Final

from domicile.model import Identity, TooMany

REMEMBERED: Final = 4096
"""Callers; when there are more, those who have saved up everything again are forgotten, which changes nothing."""


class Allowance:
    """``rate`` a second, and ``burst`` saved up at most. ``clock``: monotonic seconds."""

    def __init__(self, rate: float, burst: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate = rate
        self._burst = burst
        self._clock = clock
        self._left: dict[Identity, tuple[float, float]] = {}

    def take(self, caller: Identity) -> None:
        """Raises TooMany, which says when there will be one again; that costs the caller nothing."""
        now = self._clock()
        if len(self._left) > REMEMBERED:
            self._left = {who: held for who, held in self._left.items() if self._by_now(*held, now) < self._burst}
        left, since = self._left.get(caller, (self._burst, now))
        left = self._by_now(left, since, now)
        if left < 1:
            self._left[caller] = (left, now)
            raise TooMany(
                "more questions about aliases than one caller may ask", retry_after=ceil((1 - left) / self._rate)
            )
        self._left[caller] = (left - 1, now)

    def _by_now(self, left: float, since: float, now: float) -> float:
        return min(self._burst, left + max(0.0, now - since) * self._rate)
