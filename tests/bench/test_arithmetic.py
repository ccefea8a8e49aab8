"""What a row of the bench says follows from its rounds, and a round that failed makes no row."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields

import pytest
from loadtests.bench import measure
from loadtests.cases import LOOPS, Case, Figure, Lane, Missing, Race, Row, Target, Unmeasured, each


def rounds(*values: float, ran: list[str] | None = None, name: str = "") -> Lane:
    """A lane that gives one of ``values`` in each round."""
    left: Iterator[float] = iter(values)

    def run() -> dict[str, float]:
        if ran is not None:
            ran.append(name)
        return {"value": next(left)}

    return run


def only(found: Iterator[Row | Missing]) -> Row:
    (row,) = found
    assert isinstance(row, Row)
    return row


def test_a_row_has_the_median_of_its_rounds_and_of_their_ratios() -> None:
    figure = Figure("f", "ms", "value", "ours", "theirs", "somebody", Target(ratio_at_most=2))
    row = only(measure(Race({"ours": rounds(1, 8, 3), "theirs": rounds(1, 2, 6)}, (figure,), 3)))
    assert row == Row("f", 3, "ms", "somebody", 1.0, "ratio <= 2", True, 3)  # ratios 1, 4, 0.5


def test_lanes_run_in_turn_in_every_round() -> None:
    ran: list[str] = []
    lanes = {name: rounds(1, 1, 1, ran=ran, name=name) for name in ("a", "b", "c")}
    list(measure(Race(lanes, (), 3)))
    assert ran == ["a", "b", "c"] * 3


def test_one_lane_serves_several_rows() -> None:
    figures = tuple(Figure(peer, "x", "value", "ours", peer) for peer in ("b", "c"))
    rows = list(measure(Race({"ours": rounds(6), "b": rounds(2), "c": rounds(12)}, figures, 1)))
    assert [row.ratio for row in rows if isinstance(row, Row)] == [3.0, 0.5]


@pytest.mark.parametrize(
    ("target", "value", "ratio", "met"),
    [
        (Target(), 5, 1, None),
        (Target(at_most=5), 5, None, True),
        (Target(at_most=5), 5.1, None, False),
        (Target(ratio_at_least=0.5), 9, 0.5, True),
        (Target(ratio_at_least=0.5), 9, 0.49, False),
        (Target(ratio_at_most=1.5), 9, 1.5, True),
        (Target(ratio_at_most=1.5), 9, 1.51, False),
        (Target(at_most=10, ratio_at_least=3), 9, 2.9, False),
        (Target(ratio_at_least=0.5), 9, None, False),
        (Target(ratio_at_most=0.5), 9, None, False),
    ],
)
def test_a_target_is_met_when_every_bound_of_it_is(
    target: Target, value: float, ratio: float | None, met: bool | None
) -> None:
    assert target.met(value, ratio) is met


def test_a_target_is_written_with_all_its_bounds() -> None:
    assert Target(at_most=10, ratio_at_least=0.5).text("us") == "<= 10 us ratio >= 0.5"
    assert Target().text("us") == ""


def test_a_row_has_the_members_that_other_tools_read() -> None:
    assert [field.name for field in fields(Row)] == "name value unit against ratio target met rounds".split()


def test_a_case_compares_one_figure_with_its_peers() -> None:
    row = only(measure(Case("c", "us", lambda: 6, lambda: 3, "peer", at_most=7, ratio_at_least=1.5, rounds=4).race()))
    assert row == Row("c", 6, "us", "peer", 2.0, "<= 7 us ratio >= 1.5", True, 4)
    alone = only(measure(Case("c", "us", lambda: 6, at_most=5, rounds=1).race()))
    assert (alone.ratio, alone.met) == (None, False)


def test_a_lane_that_fails_takes_its_rows_along_and_no_others() -> None:
    ran: list[str] = []

    def broken() -> dict[str, float]:
        ran.append("broken")
        raise Unmeasured("not installed")

    figures = (Figure("lost", "x", "value", "ours", "broken"), Figure("kept", "x", "value", "ours", "whole"))
    lost, kept = measure(Race({"ours": rounds(1, 1), "broken": broken, "whole": rounds(2, 2)}, figures, 2))
    assert lost == Missing("lost", "broken: not installed")
    assert isinstance(kept, Row)
    assert kept.ratio == 0.5
    assert ran == ["broken"], "a lane that failed is not tried again"


def test_a_call_takes_its_share_of_the_clock() -> None:
    now = 0.0
    called: list[int] = []

    def call(number: int) -> None:
        nonlocal now
        now += 3e-6
        called.append(number)

    assert each(call, clock=lambda: now) == pytest.approx(3.0)
    assert called == list(range(LOOPS))
