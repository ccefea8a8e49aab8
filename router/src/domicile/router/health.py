"""All that the byte path asks about the state of what it sends to, in one place and a few words.

    fate = health.fate(cell)
    permit = Permit(fate.circuit)            # or Unavailable, at once
    fate.budget.request()
    for upstream in health.order(upstreams):
        ... health.succeeded(upstream); permit.answered()
        ... health.failed(upstream, failure); if not health.retries(fate, method, failure, replayable=...): break
    permit.failed()

A ``cell`` is any name for what shares a fate: the applications of a cell, its gateways, a jurisdiction's routers.
No I/O: what it knows is what it was told, and the clock is the caller's.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import NamedTuple

from domicile.router.breaker import MAX_WAITING, Breakers, Circuit
from domicile.router.ejection import Failure, Outliers
from domicile.router.endpoints import Upstream
from domicile.router.retries import RetryBudget, may_repeat
from domicile.telemetry import UPSTREAM_RETRIES

Clock = Callable[[], float]


class Fate(NamedTuple):
    """What a cell's requests share."""

    circuit: Circuit
    budget: RetryBudget


class Health:
    """Of one router's process: endpoints, cells and the budget of retries, which is one for each cell."""

    def __init__(
        self,
        waiting: int = MAX_WAITING,
        *,
        clock: Clock = time.monotonic,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._outliers = Outliers(clock=clock, chance=chance)
        self._breakers = Breakers(waiting, clock=clock, chance=chance)
        self._fates: dict[str, Fate] = {}

    def fate(self, cell: str) -> Fate:
        """Always the same for a cell."""
        fate = self._fates.get(cell)
        if fate is None:
            fate = self._fates[cell] = Fate(self._breakers.circuit(cell), RetryBudget())
        return fate

    def order(self, upstreams: tuple[Upstream, ...]) -> tuple[Upstream, ...]:
        return self._outliers.order(upstreams)

    def down(self) -> frozenset[str]:
        return self._outliers.down()

    def succeeded(self, upstream: Upstream) -> None:
        self._outliers.succeeded(upstream)

    def failed(self, upstream: Upstream, failure: Failure) -> None:
        self._outliers.failed(upstream, failure)

    def retries(self, fate: Fate, method: str, failure: Failure, *, replayable: bool) -> bool:
        """Whether the next endpoint may be tried: harmless, and within the budget."""
        allowed = may_repeat(method, failure, replayable=replayable)
        verdict = "unsafe" if not allowed else "made" if fate.budget.spend() else "over-budget"
        UPSTREAM_RETRIES.labels(verdict).inc()
        return verdict == "made"
