"""The directory as its clients ask it: one request for many callers, bounded, and "no" is remembered for a while."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from domicile_testing.routing import World, pin, subject

from domicile.client import DirectoryClient
from domicile.client.directory import MAX_LOOK_UPS, MAX_WAITING
from domicile.model import Role, Unavailable, UnknownSubject
from domicile.model.wire import UNKNOWN_SECONDS


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def client(world: World, clock: Clock) -> AsyncIterator[DirectoryClient]:
    credentials = world.trust.credentials("eu", Role.ROUTER, "fra")
    opened = DirectoryClient(credentials, [world.manifest.directory.sites[0].address], deadline=30, clock=clock)
    yield opened
    await opened.close()


async def test_callers_of_one_subject_share_one_request(world: World, client: DirectoryClient) -> None:
    world.directory.place(pin("alice", "eu-1"))
    world.directory.gate.clear()
    waiting = [asyncio.create_task(client.pin(subject("alice"))) for _ in range(100)]
    await world.directory.reached.wait()
    waiting[0].cancel()
    world.directory.gate.set()
    assert [await each for each in waiting[1:]] == [pin("alice", "eu-1")] * 99, "one that gives up takes nobody along"
    assert len(world.directory.asked) == 1


async def test_a_storm_is_bounded_and_refused_beyond_that(world: World, client: DirectoryClient) -> None:
    world.directory.gate.clear()
    storm = [asyncio.create_task(client.pin(subject(f"s{n}"))) for n in range(MAX_LOOK_UPS + MAX_WAITING)]
    await world.directory.reached.wait()
    with pytest.raises(Unavailable, match="too many"):
        await client.pin(subject("one more"))
    while len(world.directory.asked) < MAX_LOOK_UPS:  # noqa: ASYNC110 - nothing tells
        await asyncio.sleep(0.01)
    assert len(world.directory.asked) == MAX_LOOK_UPS, "the others wait"
    world.directory.gate.set()
    answers = await asyncio.gather(*storm, return_exceptions=True)
    assert {type(answer) for answer in answers} == {UnknownSubject}


async def test_somebody_known_is_asked_about_past_a_storm_of_strangers(world: World, client: DirectoryClient) -> None:
    world.directory.place(pin("alice", "eu-1"))
    world.directory.gate.clear()
    strangers = [subject(f"s{n}") for n in range(MAX_LOOK_UPS + MAX_WAITING)]
    storm = [asyncio.create_task(client.pin(key)) for key in strangers]
    alice = asyncio.create_task(client.pin(subject("alice"), fresh=True))
    async with asyncio.timeout(20):
        while subject("alice") not in world.directory.asked:  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0.01)
    world.directory.gate.set()
    assert await alice == pin("alice", "eu-1")
    await asyncio.gather(*storm, return_exceptions=True)


async def test_no_such_subject_is_remembered_for_a_stated_time(
    world: World, client: DirectoryClient, clock: Clock
) -> None:
    async def unknown(*, fresh: bool = False) -> int:
        with pytest.raises(UnknownSubject):
            await client.pin(subject("alice"), fresh=fresh)
        return len(world.directory.asked)

    assert [await unknown() for _ in range(3)] == [1, 1, 1]
    assert await unknown(fresh=True) == 2
    client.forget_unknown(subject("alice"))
    assert await unknown() == 3
    clock.now = UNKNOWN_SECONDS - 0.1
    assert await unknown() == 3
    clock.now = UNKNOWN_SECONDS
    world.directory.place(pin("alice", "eu-1"))
    assert await client.pin(subject("alice")) == pin("alice", "eu-1")
    with pytest.raises(UnknownSubject):
        await client.pin(subject("bob"))
    assert len(world.directory.asked) == 5
