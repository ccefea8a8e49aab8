"""Endpoints that fail are tried last, longer each time, never most of them, and never for good."""

from __future__ import annotations

from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domicile.model import Role
from domicile.router.ejection import (
    FIRST_SECONDS,
    FORGIVEN_AFTER_SECONDS,
    JITTER,
    LAST_SECONDS,
    TOLERATED,
    Failure,
    Outliers,
)
from domicile.router.endpoints import HomeEndpoints, Upstream


def zone(number: int) -> Upstream:
    return Upstream(Role.APP, "eu", "eu-1", f"z{number}", f"10.0.0.{number + 1}:1", (ip_network("10.0.0.0/24"),))


THREE = HomeEndpoints("eu", "eu-1", tuple(zone(number) for number in range(3))).upstreams
FIRST, SECOND, THIRD = THREE


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def outliers(clock: Clock, chance: float = 0.5) -> Outliers:
    return Outliers(clock=clock, chance=lambda: chance)


@pytest.mark.parametrize("failure", Failure)
def test_so_many_failures_in_a_row_put_an_endpoint_last(clock: Clock, failure: Failure) -> None:
    health = outliers(clock)
    for _ in range(TOLERATED[failure] - 1):
        health.failed(FIRST, failure)
    assert health.order(THREE) == THREE
    health.failed(FIRST, failure)
    assert health.order(THREE) == (SECOND, THIRD, FIRST)
    assert health.down() == {FIRST.address}
    clock.now += FIRST_SECONDS
    assert health.order(THREE) == THREE
    assert health.down() == frozenset()


def test_a_success_between_failures_starts_the_count_anew(clock: Clock) -> None:
    health = outliers(clock)
    for _ in range(10 * TOLERATED[Failure.SLOW]):
        health.failed(FIRST, Failure.SLOW)
        health.succeeded(FIRST)
    assert health.order(THREE) == THREE


def test_each_relapse_lasts_twice_as_long_up_to_a_bound(clock: Clock) -> None:
    health = outliers(clock)
    lasted = []
    for _ in range(8):
        health.failed(FIRST, Failure.UNREACHED)
        began = clock.now
        while FIRST.address in health.down():
            clock.now += 1
        lasted.append(clock.now - began)
    assert lasted[:5] == [FIRST_SECONDS * 2**number for number in range(5)]
    assert set(lasted[5:]) == {LAST_SECONDS}
    clock.now += FORGIVEN_AFTER_SECONDS
    health.failed(FIRST, Failure.UNREACHED)
    clock.now += FIRST_SECONDS
    assert health.down() == frozenset(), "long well, the next one is a first one"


@pytest.mark.parametrize(("chance", "factor"), [(0.0, 1 - JITTER), (1.0, 1 + JITTER)])
def test_the_time_is_jittered(clock: Clock, chance: float, factor: float) -> None:
    health = outliers(clock, chance)
    health.failed(FIRST, Failure.UNREACHED)
    clock.now += FIRST_SECONDS * factor - 0.001
    assert health.down()
    clock.now += 0.002
    assert not health.down()


def test_where_most_fail_the_order_is_left_alone(clock: Clock) -> None:
    health = outliers(clock)
    health.failed(FIRST, Failure.UNREACHED)
    assert health.order(THREE) == (SECOND, THIRD, FIRST)
    clock.now += 0.5
    health.failed(SECOND, Failure.UNREACHED)
    assert health.order(THREE) == THREE
    assert health.order((FIRST, SECOND)) == (FIRST, SECOND)
    assert health.order((SECOND, THIRD)) == (THIRD, SECOND)
    assert health.down() == {FIRST.address, SECOND.address}


def test_an_ejected_endpoint_that_answers_is_back_at_once(clock: Clock) -> None:
    health = outliers(clock)
    health.failed(FIRST, Failure.UNREACHED)
    health.succeeded(FIRST)
    assert health.order(THREE) == THREE


@given(st.lists(st.tuples(st.sampled_from(THREE), st.sampled_from([*Failure, None]), st.floats(0, 200)), max_size=60))
def test_an_order_is_always_the_same_endpoints(steps: list[tuple[Upstream, Failure | None, float]]) -> None:
    clock = Clock()
    health = outliers(clock)
    for upstream, failure, seconds in steps:
        clock.now += seconds
        if failure is None:
            health.succeeded(upstream)
        else:
            health.failed(upstream, failure)
        order = health.order(THREE)
        assert sorted(each.address for each in order) == sorted(each.address for each in THREE)
        moved = [each for each, before in zip(order, THREE, strict=True) if each is not before]
        assert not moved or len(health.down()) == 1
        assert HomeEndpoints("eu", "eu-1", order).upstreams == order, "still a home's endpoints"
        clock.now += 0.001
    clock.now += LAST_SECONDS * (1 + JITTER)
    assert health.order(THREE) == THREE
