"""Pins on disk: epochs never go back, a restart keeps them, damage costs a look-up and nothing else."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from domicile_testing.replicas import SIZE, apply_and_compact, at, home, numbered, read_on_demand
from domicile_testing.routing import pin, subject
from hypothesis import given, settings
from hypothesis import strategies as st

from domicile.model import InvalidInput, Pin, PinState, Position, SubjectKey, Unavailable, UnknownSubject
from domicile.model.snapshot import Block
from domicile.router.pins import Pins
from domicile.router.replica import Replica, ReplicaFull


def block(*numbers: int, name: str = "eu/eu-1", epoch: int = 1) -> Block:
    return Block((name,), b"".join(numbered(n) + epoch.to_bytes(8, "big") + b"\0\0\0" for n in numbers))


def load(replica: Replica, position: Position, *blocks: Block) -> None:
    loading = replica.loading(resume=False)
    loading.begin(position)
    for each in blocks:
        loading.add(each)
    replica.adopt(loading)


@pytest.fixture
def replica(tmp_path: Path) -> Iterator[Replica]:
    opened = Replica(tmp_path / "pins", SIZE)
    yield opened
    opened.close()


def test_a_pin_survives_a_restart(tmp_path: Path) -> None:
    replica = Replica(tmp_path / "pins", SIZE)
    moving = pin("alice", "eu-1", 7, PinState.MOVING)
    assert replica.put(moving) == moving
    replica.close()
    again = Replica(tmp_path / "pins", SIZE)
    assert again.get(subject("alice")) == moving
    assert again.get(subject("bob")) is None
    assert again.position is None, "a pin that was met is no map"
    again.close()


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 9), st.sampled_from(["eu-1", "us-1"]), st.booleans()), min_size=1))
def test_in_whatever_order_pins_arrive_the_first_of_the_highest_epoch_stands(
    tmp_path_factory: pytest.TempPathFactory, arrivals: list[tuple[int, str, bool]]
) -> None:
    replica = Replica(tmp_path_factory.mktemp("replica") / "pins", SIZE)
    for epoch, cell, streamed in arrivals:
        arrival = pin("alice", cell, epoch)
        replica.apply([arrival], at(1)) if streamed else replica.put(arrival)
    highest = max(epoch for epoch, _, _ in arrivals)
    first = next(cell for epoch, cell, _ in arrivals if epoch == highest)
    assert replica.get(subject("alice")) == pin("alice", first, highest)
    replica.close()


@given(st.integers(1, 2**63 - 1), st.sampled_from(list(PinState)))
@settings(max_examples=30, deadline=None)
def test_every_pin_comes_back_as_it_was(tmp_path_factory: pytest.TempPathFactory, epoch: int, state: PinState) -> None:
    replica = Replica(tmp_path_factory.mktemp("replica") / "pins", SIZE)
    replica.put(pin("alice", "us-1", epoch, state))
    assert replica.get(subject("alice")) == pin("alice", "us-1", epoch, state)
    replica.close()


def test_a_damaged_file_is_rebuilt(tmp_path: Path, replica: Replica) -> None:
    replica.put(pin("alice", "eu-1"))
    replica.close()
    next((tmp_path / "pins").glob("pins-*/data.mdb")).write_bytes(b"\xff" * 8192)
    again = Replica(tmp_path / "pins", SIZE)
    assert again.get(subject("alice")) is None
    again.put(pin("alice", "eu-1"))
    assert again.get(subject("alice")) == pin("alice", "eu-1")
    assert len(list((tmp_path / "pins").glob("pins-*"))) == 1
    again.close()


@pytest.mark.parametrize("junk", ["", "../..", "pins-missing", "\0", "/etc"])
def test_a_pointer_that_leads_nowhere_is_made_anew(tmp_path: Path, junk: str) -> None:
    (tmp_path / "pins").mkdir()
    (tmp_path / "pins/current").write_text(junk)
    replica = Replica(tmp_path / "pins", SIZE)
    assert replica.put(pin("alice", "eu-1")) == replica.get(subject("alice"))
    replica.close()


def test_a_full_file_still_answers(tmp_path: Path) -> None:
    replica = Replica(tmp_path / "pins", 1 << 17)
    for number in range(3000):
        replica.put(home(number))
    assert replica.put(pin("last", "eu-1")) == pin("last", "eu-1")
    assert replica.get(subject("last")) is None, "it did not fit"
    assert replica.get(numbered(0)) == home(0)
    with pytest.raises(ReplicaFull):
        replica.apply([home(n) for n in range(5000, 9000)], at(4000))
    assert replica.position is None, "what did not fit was not taken note of"
    replica.close()


def test_a_load_takes_the_place_of_what_was_there(tmp_path: Path, replica: Replica) -> None:
    load(replica, at(5), block(1, 2, 3), block(4, name="us/us-1"))
    assert replica.position == at(5)
    assert replica.get(numbered(4)) == home(4, "us-1")
    load(replica, at(1, UUID(int=2)), block(2, epoch=1, name="eu/eu-2"))
    assert replica.get(numbered(1)) is None
    assert replica.get(numbered(2)) == home(2, "eu-2"), "a new generation may be behind the old one"
    assert replica.position == at(1, UUID(int=2))
    assert len(list((tmp_path / "pins").glob("pins-*"))) == 1, "the old one takes no disk"


def test_what_was_met_during_a_load_is_not_forgotten_by_it(replica: Replica) -> None:
    load(replica, at(5), block(1, 2))
    loading = replica.loading(resume=False)
    loading.begin(at(9))
    loading.add(block(1, 2, epoch=2))
    replica.put(home(1, "eu-2", 3))
    replica.put(home(2, "eu-2", 2))
    replica.put(home(8))
    replica.adopt(loading)
    assert replica.get(numbered(1)) == home(1, "eu-2", 3), "the higher epoch"
    assert replica.get(numbered(2)) == home(2, epoch=2), "what was loaded is as new"
    assert replica.get(numbered(8)) == home(8)


def test_what_an_older_generation_met_is_dropped(replica: Replica) -> None:
    load(replica, at(5), block(1))
    loading = replica.loading(resume=False)
    loading.begin(at(2, UUID(int=2)))
    loading.add(block(1))
    replica.put(home(1, "eu-2", 9))
    replica.adopt(loading)
    assert replica.get(numbered(1)) == home(1)


def test_a_load_goes_on_where_it_was_cut_off(tmp_path: Path) -> None:
    replica = Replica(tmp_path / "pins", SIZE)
    loading = replica.loading()
    assert (loading.position, loading.last_key) == (None, b"")
    loading.begin(at(5))
    loading.add(block(1, 2))
    loading.close()
    replica.close()
    again = Replica(tmp_path / "pins", SIZE)
    loading = again.loading()
    assert (loading.position, loading.last_key) == (at(5), numbered(2))
    with pytest.raises(InvalidInput):
        loading.add(block(1))
    loading.add(block(3))
    again.adopt(loading)
    assert [again.get(numbered(n)) for n in (1, 2, 3, 4)] == [home(1), home(2), home(3), None]
    again.close()


def test_a_load_that_is_damaged_begins_again(tmp_path: Path, replica: Replica) -> None:
    folder = tmp_path / "pins/loading"
    folder.mkdir()
    (folder / "data.mdb").write_bytes(b"\xff" * 8192)
    assert replica.loading().last_key == b""


def test_after_churn_it_is_written_anew(replica: Replica) -> None:
    numbers = list(range(0, 200_000, 10))
    load(replica, at(1), *(block(*numbers[n : n + 5000]) for n in range(0, len(numbers), 5000)))
    assert replica.bytes_per_pin < 48
    chance = random.Random(3)
    extra = [n + 5 for n in numbers]
    chance.shuffle(extra)
    for n in range(0, len(extra), 100):
        replica.apply([home(number, "us-1") for number in extra[n : n + 100]], at(n + 2))
    replica.put(home(numbers[0], "eu-2", 4))
    assert replica.sparse(), replica.bytes_per_pin
    before = replica.position
    replica.compact()
    assert not replica.sparse()
    assert replica.bytes_per_pin < 48
    assert replica.position == before
    assert replica.count() == 2 * len(numbers)
    assert replica.get(numbered(numbers[0])) == home(numbers[0], "eu-2", 4)
    assert all(replica.get(numbered(n)) == home(n) for n in numbers[1:])
    assert all(replica.get(numbered(n)) == home(n, "us-1") for n in extra)


# --- other processes


def test_other_processes_read_what_one_writes_and_keep_up_with_a_new_file(tmp_path: Path, replica: Replica) -> None:
    spawn = multiprocessing.get_context("spawn")
    here, there = spawn.Pipe()
    reader = spawn.Process(target=read_on_demand, args=(tmp_path / "pins", there))
    reader.start()

    def ask(kind: str, what: object = None) -> Pin | None:
        here.send((kind, what))
        assert here.poll(30)
        answer: Pin | None = here.recv()
        return answer

    try:
        replica.apply([home(1), home(2, "us-1")], at(2))
        assert ask("get", 2) == home(2, "us-1")
        load(replica, at(9), block(3, name="jp/jp-1"))
        assert ask("get", 2) == home(2, "us-1"), "it still has the old one open"
        ask("put", home(7))
        assert ask("get", 7) == home(7) == replica.get(numbered(7)), "what it meets goes into the new one"
        load(replica, at(10), block(4))
        ask("renew")
        assert ask("get", 4) == home(4)
        assert ask("get", 2) is None
    finally:
        here.send(None)
        reader.join(30)
    assert reader.exitcode == 0


def test_killed_at_any_moment_it_has_all_up_to_its_position(tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    chance = random.Random(5)
    reached = 0
    for _ in range(6):
        here, there = spawn.Pipe()
        writer = spawn.Process(target=apply_and_compact, args=(tmp_path / "pins", there))
        writer.start()
        assert here.poll(30)
        assert here.recv() >= reached
        here.poll(chance.uniform(0.05, 0.4))
        assert writer.pid is not None
        os.kill(writer.pid, signal.SIGKILL)
        writer.join(30)
        replica = Replica(tmp_path / "pins", SIZE)
        assert replica.position is not None
        assert replica.position.sequence >= reached
        reached = replica.position.sequence
        assert replica.count() == reached
        assert all(replica.get(numbered(n)) == home(n) for n in range(1, reached + 1))
        replica.close()
    assert reached > 0


# --- resolving


class Answers:
    """What a directory knows, and how often it was asked."""

    def __init__(self) -> None:
        self.pins: dict[SubjectKey, Pin] = {}
        self.asked: list[bool] = []
        self.gone = False

    async def pin(self, key: SubjectKey, *, fresh: bool = False) -> Pin:
        self.asked.append(fresh)
        if self.gone:
            raise Unavailable("gone")
        if key not in self.pins:
            raise UnknownSubject("no such subject")
        return self.pins[key]

    def forget_unknown(self, key: SubjectKey) -> None:
        raise AssertionError


async def test_a_known_subject_costs_no_question(replica: Replica) -> None:
    directory = Answers()
    pins = Pins(replica, directory)
    assert await pins.ask(subject("alice")) is None
    directory.pins[subject("alice")] = pin("alice", "eu-1")
    assert await pins.ask(subject("alice")) == pin("alice", "eu-1")
    directory.gone = True
    assert pins.known(subject("alice")) == pin("alice", "eu-1")
    assert pins.known(subject("bob")) is None
    assert directory.asked == [False, False]
    with pytest.raises(Unavailable):
        await pins.ask(subject("bob"))
    with pytest.raises(Unavailable):
        await pins.refresh(subject("alice"))
    assert directory.asked == [False, False, False, True]


async def test_an_answer_that_is_late_does_not_go_back(replica: Replica) -> None:
    directory = Answers()
    pins = Pins(replica, directory)
    replica.apply([pin("alice", "eu-2", 2)], Position(generation=uuid4(), sequence=1))
    directory.pins[subject("alice")] = pin("alice", "eu-1")
    assert await pins.refresh(subject("alice")) == pin("alice", "eu-2", 2)
