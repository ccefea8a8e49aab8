"""What a router tells of the bytes that it carried: all of them, once each, and the same again until it is taken."""

from __future__ import annotations

import pytest

from domicile.model import Unavailable
from domicile.model.ledger_wire import CarriedReport
from domicile.router.carried import CarriedReporter, Way, counted
from domicile.telemetry import BORDER_BYTES

OUT: Way = ("eu", "us", "request")
BACK: Way = ("us", "eu", "answer")


class Place:
    """A router's counts and clock, and two gateways that take reports, or don't."""

    def __init__(self) -> None:
        self.now, self.counts = 1000.0, {OUT: 7}
        self.taken: list[CarriedReport] = []
        self.refusing: set[str] = set()
        self.lost_answers = False
        self.reporter = CarriedReporter("fra", [self._at("a"), self._at("b")], lambda: self.counts, lambda: self.now)

    def _at(self, name: str):  # type: ignore[no-untyped-def]
        async def take(report: CarriedReport) -> None:
            if name in self.refusing:
                raise Unavailable("away")
            self.taken.append(report)
            if self.lost_answers:
                raise Unavailable("no answer")

        return take

    def carry(self, way: Way, size: int) -> None:
        self.counts = self.counts | {way: self.counts.get(way, 0) + size}
        self.now += 30

    def told(self) -> dict[Way, int]:
        """By what a reader makes of it: each interval once."""
        found: dict[Way, int] = {}
        for report in {each.number: each for each in self.taken}.values():
            for way in report.ways:
                key = (way.source, way.destination, way.kind)
                found[key] = found.get(key, 0) + way.bytes
        return found


async def test_every_byte_since_the_start_is_told_once() -> None:
    place = Place()
    await place.reporter.tell()
    assert place.taken == []
    place.carry(OUT, 5)
    await place.reporter.tell()
    await place.reporter.tell()
    place.carry(BACK, 100)
    place.carry(OUT, 1)
    await place.reporter.finish()
    assert place.told() == {OUT: 6, BACK: 100}
    assert [(each.number, each.since, each.until) for each in place.taken] == [(0, 1000, 1030), (1, 1030, 1090)]


async def test_what_one_gateway_does_not_take_another_does() -> None:
    place = Place()
    place.refusing = {"a"}
    place.carry(OUT, 5)
    await place.reporter.tell()
    assert place.told() == {OUT: 5}


async def test_what_nobody_takes_is_told_again_before_anything_newer() -> None:
    place = Place()
    place.refusing = {"a", "b"}
    place.carry(OUT, 5)
    with pytest.raises(Unavailable):
        await place.reporter.tell()
    place.carry(OUT, 9)
    await place.reporter.finish()
    place.refusing = set()
    await place.reporter.tell()
    await place.reporter.tell()
    assert [(each.number, each.ways[0].bytes) for each in place.taken] == [(0, 5), (1, 9)]


async def test_a_report_whose_answer_was_lost_comes_again_under_its_number() -> None:
    place = Place()
    place.lost_answers = True
    place.carry(OUT, 5)
    with pytest.raises(Unavailable):
        await place.reporter.tell()
    place.lost_answers = False
    place.carry(OUT, 3)
    await place.reporter.tell()
    await place.reporter.tell()
    assert len(place.taken) == 4
    assert place.told() == {OUT: 8}


async def test_a_clock_that_was_set_back_makes_no_interval_that_ends_before_it_begins() -> None:
    place = Place()
    place.carry(OUT, 5)
    place.now = 10.0
    await place.reporter.tell()
    assert (place.taken[0].since, place.taken[0].until) == (1000, 1000)


def test_the_counts_are_those_of_the_metrics() -> None:
    before = counted().get(("eu", "us", "splice"), 0)
    BORDER_BYTES.labels("eu", "us", "splice").inc(12)
    assert counted()["eu", "us", "splice"] == before + 12


async def test_two_runs_are_told_apart() -> None:
    first, second = Place(), Place()
    for place in (first, second):
        place.carry(OUT, 1)
        await place.reporter.tell()
    assert first.taken[0].run != second.taken[0].run
