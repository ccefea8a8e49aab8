"""What one figure of the bench is made of."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

ROUNDS: Final = 9
LOOPS: Final = 20_000


@dataclass(frozen=True, slots=True)
class Case:
    """One figure: ``ours`` and ``peer`` each run a round and give it; smaller is better."""

    name: str
    unit: str
    ours: Callable[[], float]
    peer: Callable[[], float] | None = None
    against: str = ""
    at_most: float | None = None
    """Of the figure itself; None where only the ratio has a bound."""
    ratio_at_most: float | None = None
    rounds: int = ROUNDS


def each(call: Callable[[int], object], loops: int = LOOPS) -> float:
    """Microseconds a call, over that many calls."""
    started = time.perf_counter()
    for number in range(loops):
        call(number)
    return (time.perf_counter() - started) / loops * 1e6
