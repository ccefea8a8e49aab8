"""How much of this router one cell may hold: a cell that hangs or is gone takes nothing from the others.

Two bounds for each cell. So many requests may wait for the head of an answer: more are refused at once, since they
would wait behind those. And where request after request finds no endpoint that answers, the circuit opens: requests
are refused without being tried, but for one at a time after a while that tries again.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
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


class Circuit:
    """Of one cell. ``waiting``: requests that hold a place. ``until``: when it is tried again; 0 where it is closed."""

    __slots__ = ("_chance", "_clock", "failures", "limit", "opened", "probe", "until", "waiting")

    def __init__(self, limit: int, clock: Clock, chance: Callable[[], float]) -> None:
        self.limit = limit
        self._clock = clock
        self._chance = chance
        self.waiting = self.failures = self.opened = 0
        self.until = 0.0
        self.probe = False

    def try_again(self) -> None:
        """A place while it is open, for one at a time. Raises Unavailable."""
        left = self.until - self._clock()
        if left > 0 or self.probe:
            SHED.labels("circuit").inc()
            raise Unavailable("the home cell does not answer", retry_after=max(1, round(left + 0.5)))
        self.probe = True

    def failed(self, *, probe: bool) -> None:
        self.failures += 1
        now = self._clock()
        if probe or (self.failures >= TOLERATED and self.until <= now):
            seconds = min(FIRST_SECONDS * 2.0**self.opened, LAST_SECONDS)
            self.until = now + seconds * (0.75 + self._chance() / 2)
            self.opened += 1


class Permit:
    """One request's place. ``answered`` or ``failed`` gives it back; so does ``cancelled``, which says nothing.

    Raises Unavailable, at once, with the seconds after which it may be otherwise.
    """

    __slots__ = ("_circuit", "_open", "_probe")

    def __init__(self, circuit: Circuit) -> None:
        self._circuit = circuit
        self._open = self._probe = False
        if circuit.until:
            circuit.try_again()
            self._probe = True
        elif circuit.waiting >= circuit.limit:
            SHED.labels("cell").inc()
            raise Unavailable("the home cell has as many requests as it may hold", retry_after=1)
        circuit.waiting += 1
        self._open = True

    def answered(self) -> None:
        """The head of an answer has come; its body may take as long as it likes."""
        if self._open:
            self._give_back()
            self._circuit.failures = self._circuit.opened = 0
            self._circuit.until = 0.0

    def failed(self) -> None:
        """No endpoint answered."""
        if self._open:
            self._give_back()
            self._circuit.failed(probe=self._probe)

    def cancelled(self) -> None:
        """The client went away, or the request was at fault."""
        if self._open:
            self._give_back()

    def _give_back(self) -> None:
        self._open = False
        self._circuit.waiting -= 1
        if self._probe:
            self._circuit.probe = False


class Breakers:
    """Circuits by the name of what shares a fate, which is mostly a cell. ``chance``: 0 to 1, for the jitter."""

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
        self._circuits: dict[str, Circuit] = {}

    def circuit(self, cell: str) -> Circuit:
        circuit = self._circuits.get(cell)
        if circuit is None:
            circuit = self._circuits[cell] = Circuit(self._limit, self._clock, self._chance)
        return circuit
