"""What one cell may hold of a router, when its circuit opens, and what is tried a second time."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domicile.model import Unavailable
from domicile.router.breaker import FIRST_SECONDS, LAST_SECONDS, TOLERATED, Breakers, Permit
from domicile.router.ejection import Failure
from domicile.router.health import Health
from domicile.router.retries import RESERVE, RetryBudget, may_repeat


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def breakers(clock: Clock, limit: int = 4) -> Breakers:
    return Breakers(limit, clock=clock, chance=lambda: 0.5)


def test_only_so_many_wait_for_one_cell_and_others_are_not_concerned(clock: Clock) -> None:
    cells = breakers(clock)
    held = [Permit(cells.circuit("eu-1")) for _ in range(4)]
    with pytest.raises(Unavailable) as caught:
        Permit(cells.circuit("eu-1"))
    assert caught.value.retry_after == 1
    Permit(cells.circuit("eu-2"))
    held[0].answered()
    held[1].cancelled()
    assert cells.circuit("eu-1").waiting == 2
    Permit(cells.circuit("eu-1"))
    held[0].cancelled()
    held[0].failed()
    assert cells.circuit("eu-1").waiting == 3, "a place is given back once"


def failing(cells: Breakers, times: int) -> None:
    for _ in range(times):
        Permit(cells.circuit("eu-1")).failed()


def test_a_cell_that_never_answers_is_tried_by_one_request_at_a_time(clock: Clock) -> None:
    cells = breakers(clock)
    failing(cells, TOLERATED - 1)
    Permit(cells.circuit("eu-1")).cancelled()
    failing(cells, 1)
    with pytest.raises(Unavailable):
        Permit(cells.circuit("eu-1"))
    Permit(cells.circuit("eu-2")).answered()
    clock.now += FIRST_SECONDS
    probe = Permit(cells.circuit("eu-1"))
    with pytest.raises(Unavailable):
        Permit(cells.circuit("eu-1"))
    probe.answered()
    held = [Permit(cells.circuit("eu-1")) for _ in range(4)]
    assert len(held) == 4


def test_each_failed_trial_makes_the_next_one_wait_longer(clock: Clock) -> None:
    cells = breakers(clock)
    failing(cells, TOLERATED)
    lasted = []
    for _ in range(7):
        began = clock.now
        while True:
            try:
                probe = Permit(cells.circuit("eu-1"))
                break
            except Unavailable:
                clock.now += 0.125
        lasted.append(clock.now - began)
        probe.failed()
    assert lasted == [0.25, 0.5, 1, LAST_SECONDS, LAST_SECONDS, LAST_SECONDS, LAST_SECONDS]


def test_a_trial_that_was_broken_off_says_nothing_and_the_next_request_tries(clock: Clock) -> None:
    cells = breakers(clock)
    failing(cells, TOLERATED)
    clock.now += FIRST_SECONDS
    Permit(cells.circuit("eu-1")).cancelled()
    Permit(cells.circuit("eu-1")).answered()
    assert [Permit(cells.circuit("eu-1")) for _ in range(4)]


def test_a_late_answer_closes_the_circuit(clock: Clock) -> None:
    cells = breakers(clock)
    late = Permit(cells.circuit("eu-1"))
    failing(cells, TOLERATED)
    late.answered()
    Permit(cells.circuit("eu-1")).answered()


@given(
    st.lists(st.tuples(st.sampled_from(["admit", "answered", "failed", "cancelled"]), st.floats(0, 20)), max_size=80)
)
def test_no_order_of_events_loses_a_place(steps: list[tuple[str, float]]) -> None:
    clock = Clock()
    cells = breakers(clock)
    held: list[Permit] = []
    for step, seconds in steps:
        clock.now += seconds
        if step == "admit":
            try:
                held.append(Permit(cells.circuit("c")))
            except Unavailable:
                continue
        elif held:
            getattr(held.pop(0), step)()
        assert cells.circuit("c").waiting == len(held) <= 4
    for permit in held:
        permit.cancelled()
    clock.now += 2 * LAST_SECONDS
    Permit(cells.circuit("c")).answered()
    assert [Permit(cells.circuit("c")) for _ in range(4)], "it recovers from anything"


@pytest.mark.parametrize(
    ("method", "failure", "replayable"),
    list(
        itertools.product(
            ["GET", "HEAD", "OPTIONS", "POST", "PUT", "DELETE", "PATCH", "MADEUP"], Failure, [True, False]
        )
    ),
)
def test_only_what_cannot_take_effect_twice_is_repeated(method: str, failure: Failure, replayable: bool) -> None:
    harmless = failure is Failure.UNREACHED or method in ("GET", "HEAD", "OPTIONS")
    assert may_repeat(method, failure, replayable=replayable) is (harmless and replayable)


def test_retries_are_a_share_of_requests_and_a_reserve() -> None:
    budget = RetryBudget()
    assert sum(budget.spend() for _ in range(1000)) == RESERVE
    made = 0
    for _ in range(1000):
        budget.request()
        made += budget.spend()
    assert made == pytest.approx(200, abs=2)
    for _ in range(100_000):
        budget.request()
    assert sum(budget.spend() for _ in range(1000)) == RESERVE, "no more is saved up"


def test_the_budget_is_each_cells_own() -> None:
    health = Health()
    while health.retries(health.fate("eu-1"), "GET", Failure.LOST, replayable=True):
        pass
    assert not health.retries(health.fate("eu-1"), "GET", Failure.UNREACHED, replayable=True)
    assert health.retries(health.fate("eu-2"), "GET", Failure.LOST, replayable=True)
    assert not health.retries(health.fate("eu-2"), "POST", Failure.LOST, replayable=True)
