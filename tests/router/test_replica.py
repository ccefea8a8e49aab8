"""Pins on disk: epochs never go back, a restart keeps them, damage costs a look-up and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
from domicile_testing.routing import pin, subject
from hypothesis import given, settings
from hypothesis import strategies as st

from domicile.model import Pin, PinState, SubjectKey, Unavailable, UnknownSubject
from domicile.router.replica import NEGATIVE_ENTRIES, NEGATIVE_SECONDS, Pins, Replica

SIZE = 1 << 24


class Answers:
    """What a directory knows, and how often it was asked."""

    def __init__(self) -> None:
        self.pins: dict[SubjectKey, Pin] = {}
        self.asked = 0
        self.gone = False

    async def pin(self, key: SubjectKey) -> Pin:
        self.asked += 1
        if self.gone:
            raise Unavailable("gone")
        if key not in self.pins:
            raise UnknownSubject("no such subject")
        return self.pins[key]


def test_a_pin_survives_a_restart(tmp_path: Path) -> None:
    replica = Replica(tmp_path / "pins", SIZE)
    moving = pin("alice", "eu-1", 7, PinState.MOVING)
    assert replica.put(moving) == moving
    replica.close()
    again = Replica(tmp_path / "pins", SIZE)
    assert again.get(subject("alice")) == moving
    assert again.get(subject("bob")) is None
    again.close()


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 9), st.sampled_from(["eu-1", "us-1"])), min_size=1))
def test_in_whatever_order_pins_arrive_the_first_of_the_highest_epoch_stands(
    tmp_path_factory: pytest.TempPathFactory, arrivals: list[tuple[int, str]]
) -> None:
    replica = Replica(tmp_path_factory.mktemp("replica") / "pins", SIZE)
    for epoch, cell in arrivals:
        replica.put(pin("alice", cell, epoch))
    highest = max(epoch for epoch, _ in arrivals)
    first = next(cell for epoch, cell in arrivals if epoch == highest)
    assert replica.get(subject("alice")) == pin("alice", first, highest)
    replica.close()


def test_a_damaged_file_is_rebuilt(tmp_path: Path) -> None:
    folder = tmp_path / "pins"
    folder.mkdir()
    (folder / "data.mdb").write_bytes(b"\xff" * 8192)
    replica = Replica(folder, SIZE)
    replica.put(pin("alice", "eu-1"))
    assert replica.get(subject("alice")) == pin("alice", "eu-1")
    replica.close()


def test_a_full_file_still_answers(tmp_path: Path) -> None:
    replica = Replica(tmp_path / "pins", 1 << 16)
    for number in range(1000):
        replica.put(pin(f"s{number}", "eu-1"))
    assert replica.put(pin("last", "eu-1")) == pin("last", "eu-1")
    assert replica.get(subject("last")) is None, "it did not fit"
    assert replica.get(subject("s0")) == pin("s0", "eu-1")
    replica.close()


async def test_an_unknown_subject_is_remembered_for_a_stated_time(tmp_path: Path) -> None:
    now = 0.0
    directory = Answers()
    replica = Replica(tmp_path / "pins", SIZE)
    pins = Pins(replica, directory, clock=lambda: now)
    for _ in range(3):
        assert await pins.resolve(subject("alice")) is None
    assert directory.asked == 1
    directory.pins[subject("alice")] = pin("alice", "eu-1")
    now = NEGATIVE_SECONDS
    assert await pins.resolve(subject("alice")) == pin("alice", "eu-1")
    directory.gone = True
    assert await pins.resolve(subject("alice")) == pin("alice", "eu-1")
    with pytest.raises(Unavailable):
        await pins.resolve(subject("bob"))
    replica.close()


async def test_what_is_remembered_of_unknown_subjects_is_bounded(tmp_path: Path) -> None:
    directory = Answers()
    replica = Replica(tmp_path / "pins", SIZE)
    pins = Pins(replica, directory, clock=lambda: 0.0)
    for number in range(NEGATIVE_ENTRIES + 1):
        await pins.resolve(subject(f"s{number}"))
    asked = directory.asked
    await pins.resolve(subject(f"s{NEGATIVE_ENTRIES}"))
    assert directory.asked == asked, "the newest is remembered"
    await pins.resolve(subject("s0"))
    assert directory.asked == asked + 1, "the oldest is not"
    replica.close()
