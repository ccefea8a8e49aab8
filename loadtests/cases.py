"""What the figures of the bench are made of: lanes that run in turn, and the rows that their rounds give."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

ROUNDS: Final = 9
LOOPS: Final = 20_000
Lane = Callable[[], Mapping[str, float]]
"""Runs one round, and gives its figures by name. Raises Unmeasured where a round gave none that counts."""


class Unmeasured(Exception):
    """Why there is no figure: in words for whoever reads the table."""


@dataclass(frozen=True, slots=True)
class Target:
    """Bounds on a figure itself and on its ratio to the peer's; None: no bound."""

    at_most: float | None = None
    ratio_at_most: float | None = None
    ratio_at_least: float | None = None

    def met(self, value: float, ratio: float | None) -> bool | None:
        """None where nothing was aimed at. A bound on a ratio is missed where there is no peer to compare with."""
        verdicts = list(self._verdicts(value, ratio))
        return all(verdicts) if verdicts else None

    def _verdicts(self, value: float, ratio: float | None) -> Iterable[bool]:
        if self.at_most is not None:
            yield value <= self.at_most
        if self.ratio_at_most is not None:
            yield ratio is not None and ratio <= self.ratio_at_most
        if self.ratio_at_least is not None:
            yield ratio is not None and ratio >= self.ratio_at_least

    def text(self, unit: str) -> str:
        parts = []
        if self.at_most is not None:
            parts.append(f"<= {self.at_most:g} {unit}")
        if self.ratio_at_most is not None:
            parts.append(f"ratio <= {self.ratio_at_most:g}")
        if self.ratio_at_least is not None:
            parts.append(f"ratio >= {self.ratio_at_least:g}")
        return " ".join(parts)


@dataclass(frozen=True, slots=True)
class Figure:
    """One row: what ``lane`` gives under the name ``of``, against what ``peer`` gives under it."""

    name: str
    unit: str
    of: str
    lane: str
    peer: str | None = None
    against: str = ""
    target: Target = Target()


@dataclass(frozen=True, slots=True)
class Race:
    """Lanes that run one after the other in each of ``rounds`` rounds, so that a slow moment meets them all."""

    lanes: Mapping[str, Lane]
    figures: tuple[Figure, ...]
    rounds: int = ROUNDS


@dataclass(frozen=True, slots=True)
class Row:
    """One budget. ``ratio`` is ours over the peer's, None without a peer; ``met`` is None without a target."""

    name: str
    value: float
    unit: str
    against: str
    ratio: float | None
    target: str
    met: bool | None
    rounds: int


@dataclass(frozen=True, slots=True)
class Missing:
    """A row that cannot be measured here, and what would have to be there."""

    name: str
    why: str


@dataclass(frozen=True, slots=True)
class Case:
    """A race of ``ours`` against one ``peer`` or none, with one figure each."""

    name: str
    unit: str
    ours: Callable[[], float]
    peer: Callable[[], float] | None = None
    against: str = ""
    at_most: float | None = None
    ratio_at_most: float | None = None
    ratio_at_least: float | None = None
    rounds: int = ROUNDS

    def race(self) -> Race:
        lanes = {"ours": _named(self.ours)}
        if self.peer is not None:
            lanes["peer"] = _named(self.peer)
        target = Target(self.at_most, self.ratio_at_most, self.ratio_at_least)
        peer = None if self.peer is None else "peer"
        return Race(lanes, (Figure(self.name, self.unit, "value", "ours", peer, self.against, target),), self.rounds)


def _named(figure: Callable[[], float]) -> Lane:
    return lambda: {"value": figure()}


def each(call: Callable[[int], object], loops: int = LOOPS, *, clock: Callable[[], float] = time.perf_counter) -> float:
    """Microseconds a call, over that many calls; by ``time.process_time`` where nothing waits."""
    started = clock()
    for number in range(loops):
        call(number)
    return (clock() - started) / loops * 1e6
