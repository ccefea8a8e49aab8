"""The breaker of one key domain, by a clock of the test's own; and where its latency and failures are told."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from domicile.cells.keys import guarded
from domicile.cells.keys.guarded import FAILURES, OPEN_SECONDS, Breaker, GuardedHolder
from domicile.cells.keys.holders import Plain, Wrapped
from domicile.identity.wrapping import check_value
from domicile.model import KeyWithheld, Unavailable
from domicile.telemetry import HOLDER_DURATION, HOLDER_FAILURES

KEY = Plain(b"context", b"k" * 64)
WRAPPED = Wrapped(b"context", 1, b"w" * 80)
CHECK = check_value(KEY.value, KEY.context)


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Holder:
    """Of somebody who may be gone. ``asked``: how often it was tried."""

    gone = False
    asked = 0

    async def version(self) -> int:
        return 1

    async def wrap(self, keys: Sequence[Plain]) -> list[Wrapped]:
        return [WRAPPED for _ in keys]

    async def unwrap(self, keys: Sequence[Wrapped]) -> list[bytes]:
        self.asked += 1
        if self.gone:
            raise Unavailable("gone")
        return [KEY.value for _ in keys]

    async def rotate(self) -> int:
        return 2


def test_it_opens_after_failures_in_a_row_and_admits_one_trial_at_a_time() -> None:
    clock = Clock()
    breaker = Breaker(clock)
    for _ in range(FAILURES - 1):
        breaker.failed()
    breaker.succeeded()  # not in a row
    for _ in range(FAILURES):
        assert breaker.admits()
        breaker.failed()
    assert not breaker.admits()
    for _ in range(3):
        clock.now += OPEN_SECONDS
        assert [breaker.admits() for _ in range(5)] == [True, False, False, False, False]
        breaker.failed()
    clock.now += OPEN_SECONDS
    assert breaker.admits()
    breaker.succeeded()
    assert all(breaker.admits() for _ in range(5))


async def test_a_dead_holder_is_asked_once_each_while_and_works_at_once_when_it_is_back() -> None:
    clock, holder = Clock(), Holder()
    guard = GuardedHolder("gone-and-back", holder, clock=clock)
    assert await guard.unwrap([WRAPPED], [CHECK]) == [KEY.value]
    holder.gone = True
    for _ in range(50):
        with pytest.raises(KeyWithheld):
            await guard.unwrap([WRAPPED], [CHECK])
    assert holder.asked == 1 + FAILURES
    clock.now += OPEN_SECONDS
    for _ in range(50):
        with pytest.raises(KeyWithheld):
            await guard.unwrap([WRAPPED], [CHECK])
    assert holder.asked == 2 + FAILURES
    holder.gone = False
    clock.now += OPEN_SECONDS
    for _ in range(50):
        assert await guard.unwrap([WRAPPED], [CHECK]) == [KEY.value]
    told = HOLDER_FAILURES.labels("gone-and-back", "unavailable"), HOLDER_FAILURES.labels("gone-and-back", "broken")
    assert [counter._value.get() for counter in told] == [FAILURES + 1, 100 - FAILURES - 1]
    latency = HOLDER_DURATION.labels("gone-and-back", "unwrap")
    assert sum(bucket.get() for bucket in latency._buckets) == holder.asked


async def test_one_that_is_full_turns_away_and_is_not_taken_for_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guarded, "AT_ONCE", 0)
    guard = GuardedHolder("full", Holder(), clock=Clock())
    for _ in range(2 * FAILURES):
        with pytest.raises(KeyWithheld, match="full"):
            await guard.unwrap([WRAPPED], [CHECK])
    monkeypatch.setattr(guarded, "AT_ONCE", 1)
    assert await guard.unwrap([WRAPPED], [CHECK]) == [KEY.value]
