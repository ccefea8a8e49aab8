"""How much of this router one cell may hold: a cell that hangs or is gone takes nothing from the others.

Two bounds for each cell. So many requests may wait for the head of an answer: more are refused at once, since they
would wait behind those. And where request after request finds no endpoint that answers, the circuit opens: requests
are refused without being tried, but for one at a time after a while that tries again.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from domicile.model import Unavailable
from domicile.telemetry import SHED

MAX_WAITING: Final = 512
TOLERATED: Final = 10
"""Requests in a row that no endpoint of the cell answered, until the circuit opens."""
FIRST_SECONDS: Final = 0.25
LAST_SECONDS: Final = 2.0
"""Between two trials. Short, since it adds to the time in which a cell that failed over is served again."""
Clock = Callable[[], float]


@dataclass(slots=True)
class _Circuit:
    waiting: int = 0
    failures: int = 0
    opened: int = 0
    until: float = 0.0
    probe: bool = False


class Permit:
    """One request's place. ``answered`` or ``failed`` gives it back; so does ``cancelled``, which says nothing."""

    __slots__ = ("_breakers", "_circuit", "_open", "_probe")

    def __init__(self, breakers: Breakers, circuit: _Circuit, *, probe: bool) -> None:
        self._breakers = breakers
        self._circuit = circuit
        self._probe = probe
        self._open = True

    def answered(self) -> None:
        """The head of an answer has come; its body may take as long as it likes."""
        if self._give_back():
            self._circuit.failures = self._circuit.opened = 0
            self._circuit.until = 0.0

    def failed(self) -> None:
        """No endpoint answered."""
        if self._give_back():
            self._breakers.failed(self._circuit, probe=self._probe)

    def cancelled(self) -> None:
        """The client went away, or the request was at fault."""
        self._give_back()

    def _give_back(self) -> bool:
        was, self._open = self._open, False
        if was:
            self._circuit.waiting -= 1
            if self._probe:
                self._circuit.probe = False
        return was


class Breakers:
    """By the name of what shares a fate, which is mostly a cell. ``chance``: 0 to 1, for the jitter."""

    def __init__(
        self,
        limit: int = MAX_WAITING,
        *,
        clock: Clock = time.monotonic,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._limit = limit
        self._clock = clock
        self._chance = chance
        self._circuits: dict[str, _Circuit] = {}

    def admit(self, cell: str) -> Permit:
        """Raises Unavailable, at once, with the seconds after which it may be otherwise."""
        circuit = self._circuits.get(cell)
        if circuit is None:
            circuit = self._circuits[cell] = _Circuit()
        probe = False
        if circuit.until:
            left = circuit.until - self._clock()
            if left > 0 or circuit.probe:
                SHED.labels("circuit").inc()
                raise Unavailable("the home cell does not answer", retry_after=max(1, round(left + 0.5)))
            probe = circuit.probe = True
        elif circuit.waiting >= self._limit:
            SHED.labels("cell").inc()
            raise Unavailable("the home cell has as many requests as it may hold", retry_after=1)
        circuit.waiting += 1
        return Permit(self, circuit, probe=probe)

    def failed(self, circuit: _Circuit, *, probe: bool) -> None:
        circuit.failures += 1
        now = self._clock()
        if probe or (circuit.failures >= TOLERATED and circuit.until <= now):
            seconds = min(FIRST_SECONDS * 2.0**circuit.opened, LAST_SECONDS)
            circuit.until = now + seconds * (0.75 + self._chance() / 2)
            circuit.opened += 1

    def waiting(self, cell: str) -> int:
        circuit = self._circuits.get(cell)
        return circuit.waiting if circuit is not None else 0
