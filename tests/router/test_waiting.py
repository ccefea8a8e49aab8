"""Writes of a subject that is being moved wait: not for ever, not many, not large; and then go where it lives."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web
from domicile_testing.certificates import PEPPER
from domicile_testing.conditions import until
from domicile_testing.routing import World, pin, subject

from domicile.model import Pepper, Pin, PinState, SubjectKey, Unavailable
from domicile.router.waiting import COUNT, MoveBuffer

ALICE, BOB = subject("alice"), subject("bob")
MOVING, MOVED = pin("alice", "eu-1", 3, PinState.MOVING), pin("alice", "eu-2", 4)


class Directory:
    """Pins, and a clock that moves when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0
        self.pins: dict[SubjectKey, Pin] = {ALICE: MOVING, BOB: pin("bob", "eu-1", 1, PinState.MOVING)}
        self.looks: list[float] = []
        self.ends = float("inf")
        self.gone = False

    async def look(self, *keys: SubjectKey) -> Pin | None:
        self.looks.append(self.now)
        if self.gone:
            raise Unavailable("gone")
        if ALICE in keys and self.now >= self.ends:
            return MOVED
        return next((self.pins[key] for key in keys if key in self.pins), None)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(0)
        self.now += seconds

    def buffer(self, **bounds: Any) -> MoveBuffer:
        return MoveBuffer(self.look, clock=lambda: self.now, sleep=self.sleep, **bounds)


@pytest.fixture
async def directory() -> AsyncIterator[Directory]:
    yield Directory()
    left = asyncio.all_tasks() - {asyncio.current_task()}
    assert [task for task in left if "settled" in repr(task)] == []


async def test_a_move_that_ends_in_time_gives_the_new_pin(directory: Directory) -> None:
    directory.ends = 2.0
    waiting = directory.buffer()
    assert await waiting.settled((ALICE,), 10) == MOVED
    assert 2.0 <= directory.now < 2.6
    assert len(directory.looks) < 10, "looks become rarer"
    assert (len(waiting), waiting.held_bytes) == (0, 0)


async def test_a_move_that_hangs_is_given_up(directory: Directory) -> None:
    waiting = directory.buffer(seconds=3.0)
    with pytest.raises(Unavailable) as caught:
        await waiting.settled((ALICE,), 10)
    assert caught.value.retry_after >= 1
    assert directory.now == pytest.approx(3.0, abs=0.01)
    assert (len(waiting), waiting.held_bytes) == (0, 0)


async def test_a_subject_that_is_gone_or_erased_is_no_longer_waited_for(directory: Directory) -> None:
    waiting = directory.buffer()
    del directory.pins[ALICE]
    assert await waiting.settled((ALICE,), 0) is None
    directory.pins[ALICE] = pin("alice", "eu-1", 5, PinState.ERASED)
    assert await waiting.settled((ALICE,), 0) == directory.pins[ALICE]


async def test_without_a_directory_nobody_waits(directory: Directory) -> None:
    directory.gone = True
    waiting = directory.buffer()
    with pytest.raises(Unavailable):
        await waiting.settled((ALICE,), 10)
    assert len(waiting) == 0


@pytest.mark.parametrize(
    ("bounds", "sizes"), [({"count": 3}, [1, 1, 1, 1]), ({"size": 100}, [60, 40, 1]), ({"size": 100}, [101])]
)
async def test_the_buffer_is_bounded_and_says_so_at_once(
    directory: Directory, bounds: dict[str, int], sizes: list[int]
) -> None:
    directory.ends = 1.0
    waiting = directory.buffer(**bounds)
    *held, last = sizes
    tasks = [asyncio.create_task(waiting.settled((ALICE,), size)) for size in held]
    await asyncio.sleep(0)
    assert (len(waiting), waiting.held_bytes) == (len(held), sum(held))
    before = directory.now
    with pytest.raises(Unavailable):
        await waiting.settled((BOB,), last)
    assert directory.now == before
    assert await asyncio.gather(*tasks) == [MOVED] * len(held)
    assert (len(waiting), waiting.held_bytes) == (0, 0)


async def test_whoever_asks_again_himself_has_a_place_and_a_time(directory: Directory) -> None:
    waiting = directory.buffer(seconds=2.0, count=1)
    pauses = []
    with waiting.patience(10) as patience:
        with pytest.raises(Unavailable), waiting.patience(10):
            pass
        while directory.now < 2.0:
            before = directory.now
            await patience.pause()
            pauses.append(round(directory.now - before, 3))
        with pytest.raises(Unavailable):
            await patience.pause()
    assert pauses[:4] == [0.05, 0.1, 0.2, 0.4]
    assert sum(pauses) == pytest.approx(2.0)
    assert (len(waiting), waiting.held_bytes) == (0, 0)


async def test_all_who_wait_for_one_subject_share_one_look(directory: Directory) -> None:
    directory.ends = 1.0
    waiting = directory.buffer()
    await asyncio.gather(*(waiting.settled((ALICE,), 1) for _ in range(COUNT)))
    assert len(directory.looks) < 10


async def test_whoever_comes_later_has_his_own_time(directory: Directory) -> None:
    directory.ends = 4.0
    waiting = directory.buffer(seconds=3.0)
    first = asyncio.create_task(waiting.settled((ALICE,), 1))
    while directory.now < 1.5:  # noqa: ASYNC110 - the clock goes on with each turn
        await asyncio.sleep(0)
    second = asyncio.create_task(waiting.settled((ALICE,), 1))
    with pytest.raises(Unavailable):
        await first
    assert await second == MOVED


async def test_a_client_that_goes_away_leaves_nothing_behind(directory: Directory) -> None:
    waiting = directory.buffer()
    tasks = [asyncio.create_task(waiting.settled((ALICE,), 5)) for _ in range(2)]
    await asyncio.sleep(0)
    tasks[0].cancel()
    await asyncio.wait([tasks[0]])
    assert (len(waiting), waiting.held_bytes) == (1, 5)
    tasks[1].cancel()
    await asyncio.wait([tasks[1]])
    assert (len(waiting), waiting.held_bytes) == (0, 0)


async def test_whoever_comes_as_the_last_one_leaves_waits_for_himself(directory: Directory) -> None:
    waiting = directory.buffer()
    first = asyncio.create_task(waiting.settled((ALICE,), 5))
    await asyncio.sleep(0)
    first.cancel()
    second = asyncio.create_task(waiting.settled((ALICE,), 5))
    directory.ends = 1.0
    assert await second == MOVED
    with pytest.raises(asyncio.CancelledError):
        await first


async def test_a_write_waits_at_the_router_and_goes_to_the_new_home(world: World) -> None:
    world.directory.place(MOVING)
    async with world.router() as client:
        async with client.get("/notes", headers=world.bearer("alice")) as response:
            assert response.status == 200
        write = asyncio.create_task(client.post("/notes", data=b"text", headers=world.bearer("alice")))
        asked = len(world.directory.asked)
        await until(lambda: len(world.directory.asked) >= asked + 2)
        world.directory.place(MOVED)
        async with await write as response:
            assert response.status == 200
    assert [(seen.place, seen.method, seen.body) for seen in world.seen] == [
        ("eu-1.fra/app", "GET", b""),
        ("eu-2.ams/app", "POST", b"text"),
    ]


NEW_PEPPER = "2:" + "cd" * 32


def renamed(world: World, moved: Pin) -> Pin:
    """Alice's pin under a new pepper, and no other of hers."""
    (world.folder / "pepper").write_text(f"{NEW_PEPPER}\n{PEPPER}")
    return moved.model_copy(update={"subject_key": Pepper.parse(NEW_PEPPER).subject_key("alice")})


async def test_a_subject_that_is_renamed_while_its_write_waits_is_found_by_its_other_key(world: World) -> None:
    after = renamed(world, MOVED)
    world.directory.place(MOVING)
    async with world.router() as client:
        write = asyncio.create_task(client.post("/notes", data=b"text", headers=world.bearer("alice")))
        await until(lambda: world.directory.asked.count(ALICE) >= 2)
        del world.directory.pins[ALICE]
        world.directory.place(after)
        async with await write as response:
            assert response.status == 200
    assert [(seen.place, seen.headers["Domicile-Subject-Key"]) for seen in world.seen] == [
        ("eu-2.ams/app", str(after.subject_key))
    ]


async def test_so_it_is_after_a_guards_refusal(world: World) -> None:
    after = renamed(world, MOVED)
    world.directory.place(pin("alice", "eu-1", 3))

    async def renames(_: web.BaseRequest) -> web.StreamResponse:
        world.directory.pins.pop(ALICE, None)
        world.directory.place(after)
        return web.Response(status=421, headers={"Domicile-Guard": "stale-epoch", "Domicile-Epoch": "4"})

    world.answers(renames, "eu-1.fra")
    async with world.router() as client, client.get("/notes", headers=world.bearer("alice")) as response:
        assert response.status == 200
    assert [seen.place for seen in world.seen] == ["eu-1.fra/app", "eu-2.ams/app"]
