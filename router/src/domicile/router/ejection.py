"""Which endpoints of a home are tried last for now: those that failed, for a time that grows with each relapse.

An ejected endpoint is never ruled out: it is only tried after the others, so that a wrong verdict costs time and
no answer. Never more than a share of a home's endpoints is ejected: where most fail, the fault is likely not
theirs, and the order stays as it was (panic).
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from domicile.router.endpoints import Upstream
from domicile.telemetry import UPSTREAM_EJECTIONS

FIRST_SECONDS: Final = 2.0
LAST_SECONDS: Final = 60.0
JITTER: Final = 0.25
"""An ejection is up to this share shorter or longer, so that a fleet's routers don't come back at once."""
MAX_SHARE: Final = 0.5
FORGIVEN_AFTER_SECONDS: Final = 120.0
"""Without a failure for this long, the next ejection is a first one again."""
_NONE: Final[frozenset[str]] = frozenset()
Clock = Callable[[], float]


class Failure(StrEnum):
    """How an attempt failed, by what the endpoint may have seen of the request."""

    UNREACHED = "unreached"  # no connection: not one byte of the request was sent
    LOST = "lost"  # sent, and the connection ended without the head of an answer
    SLOW = "slow"  # sent, and no head of an answer came in time


TOLERATED: Final = {Failure.UNREACHED: 1, Failure.LOST: 5, Failure.SLOW: 3}
"""Consecutive failures until an ejection. One poisonous request must not take an endpoint away from others."""


@dataclass(slots=True)
class _Record:
    failures: int = 0
    relapses: int = 0
    failed_at: float = 0.0
    until: float = 0.0


class Outliers:
    """Of one router's process. ``clock``: monotonic seconds; ``chance``: 0 to 1, for the jitter."""

    def __init__(self, *, clock: Clock = time.monotonic, chance: Callable[[], float] = random.random) -> None:
        self._clock = clock
        self._chance = chance
        self._records: dict[str, _Record] = {}

    def down(self) -> frozenset[str]:
        """Addresses that are ejected now, whatever their share."""
        if not self._records:
            return _NONE
        now = self._clock()
        return frozenset(address for address, record in self._records.items() if record.until > now)

    def order(self, upstreams: tuple[Upstream, ...]) -> tuple[Upstream, ...]:
        """The same endpoints, the ejected ones last and of those the one first that returns first."""
        if not self._records:
            return upstreams
        now = self._clock()
        until = {each.address: self._until(each, now) for each in upstreams}
        ejected = sum(each > 0 for each in until.values())
        if ejected == 0 or ejected > len(upstreams) * MAX_SHARE:
            return upstreams
        return tuple(sorted(upstreams, key=lambda each: until[each.address]))

    def _until(self, upstream: Upstream, now: float) -> float:
        record = self._records.get(upstream.address)
        return record.until if record is not None and record.until > now else 0.0

    def succeeded(self, upstream: Upstream) -> None:
        """The head of an answer came, whatever its status: an application's 500 is its own."""
        record = self._records.get(upstream.address)
        if record is None:
            return
        record.failures = 0
        record.until = 0.0
        if self._clock() - record.failed_at >= FORGIVEN_AFTER_SECONDS:
            del self._records[upstream.address]

    def failed(self, upstream: Upstream, failure: Failure) -> None:
        now = self._clock()
        record = self._records.setdefault(upstream.address, _Record(failed_at=now))
        if now - record.failed_at >= FORGIVEN_AFTER_SECONDS:
            record.relapses = 0
        record.failures += 1
        record.failed_at = now
        if record.failures < TOLERATED[failure] or record.until > now:
            return
        seconds = min(FIRST_SECONDS * 2.0**record.relapses, LAST_SECONDS)
        record.until = now + seconds * (1 + JITTER * (2 * self._chance() - 1))
        record.relapses += 1
        record.failures = 0
        UPSTREAM_EJECTIONS.labels(upstream.jurisdiction, upstream.cell or "", failure.value).inc()
