"""Thousands of subjects whom nobody knows, at a router whose directory denies them slowly or says nothing at all."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Literal

import aiohttp
import pytest
from domicile_testing.long import full_seconds
from domicile_testing.routing import World, pin, subject

from domicile.client.directory import DEADLINE_SECONDS, MAX_LOOK_UPS

PEOPLE = [f"person-{number}" for number in range(40)]
READERS = 4
TURNED_AWAY = 0
"""Counted beside the answers' statuses: how often somebody had to come again."""
ANSWER_SECONDS = 2 * DEADLINE_SECONDS + 14
"""For anybody: a place in the line, the question itself, and what a busy machine takes on top."""


@dataclass
class Readers:
    """Known subjects who read, each when the last answer has come; what they got, and how long they waited at most."""

    answers: Counter[int] = field(default_factory=Counter)
    slowest: float = 0.0

    async def read(self, world: World, client: aiohttp.ClientSession) -> None:
        while True:
            for name in PEOPLE:
                begun = time.monotonic()
                self.answers[await ask(world, client, name)] += 1
                self.slowest = max(self.slowest, time.monotonic() - begun)


async def ask(world: World, client: aiohttp.ClientSession, name: str) -> int:
    async with client.get("/notes", headers=world.bearer(name)) as response:
        await response.read()
        return response.status


@asynccontextmanager
async def reading(world: World, client: aiohttp.ClientSession) -> AsyncIterator[Readers]:
    readers = Readers()
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(readers.read(world, client)) for _ in range(READERS)]
        yield readers
        for task in tasks:
            task.cancel()


async def storm(world: World, unknown: int, at_once: int, *, silent: bool = False) -> tuple[Readers, Counter[int]]:
    """What known subjects were answered while ``unknown`` strangers were asked for, and what those were."""
    strangers: Counter[int] = Counter()
    names = iter([f"stranger-{number}" for number in range(unknown)])

    connected = asyncio.Barrier(at_once)

    async def sender(client: aiohttp.ClientSession) -> None:
        assert await ask(world, client, PEOPLE[0]) == 200
        await connected.wait()
        for name in names:
            async with asyncio.timeout(ANSWER_SECONDS):
                while (status := await ask(world, client, name)) == 503 and not silent:
                    strangers[TURNED_AWAY] += 1
                    await asyncio.sleep(0.1)
                strangers[status] += 1

    world.directory.place(*(pin(name, "eu-1") for name in PEOPLE))
    async with world.router(connect_seconds=30.0) as client:
        for name in PEOPLE:
            assert await ask(world, client, name) == 200
        world.directory.asked.clear()
        if silent:
            world.directory.gate.clear()
        crowd = aiohttp.TCPConnector(ssl=world.public_context("eu"), limit=at_once)
        address = f"https://{world.manifest.routers['fra'].public}"
        async with aiohttp.ClientSession(address, connector=crowd) as other, reading(world, client) as readers:
            await asyncio.gather(*(sender(other) for _ in range(at_once)))
    assert not {subject(name) for name in PEOPLE} & set(world.directory.asked), "they stand in no line"
    return readers, strangers


def check_served(readers: Readers) -> None:
    assert set(readers.answers) == {200}, readers.answers
    assert readers.answers[200] > READERS, "each of them goes on"
    assert readers.slowest < ANSWER_SECONDS


class Slow(asyncio.Event):
    """A gate that lets everybody through after a while; ``most``: how many stood in it at once."""

    def __init__(self) -> None:
        super().__init__()
        self.standing = self.most = 0

    async def wait(self) -> Literal[True]:
        self.standing += 1
        self.most = max(self.most, self.standing)
        try:
            await asyncio.sleep(0.02)
        finally:
            self.standing -= 1
        return True


async def deny_slowly(world: World, unknown: int) -> None:
    world.directory.gate = slow = Slow()
    readers, strangers = await storm(world, unknown, at_once=100)
    check_served(readers)
    late = strangers.pop(TURNED_AWAY, 0)  # a router that is late answers 503, before or after it asked
    assert strangers == {404: unknown}
    assert unknown <= len(world.directory.asked) <= unknown + late, "each was asked for once"
    assert slow.most == MAX_LOOK_UPS, "no more at once than one router may ask"


async def test_a_storm_of_strangers_that_are_denied_starves_nobody(world: World) -> None:
    await deny_slowly(world, 1500)


async def test_a_storm_of_strangers_at_a_silent_directory_starves_nobody(world: World) -> None:
    """And each stranger is told so soon, not when those before it have been given up one after the other."""
    readers, strangers = await storm(world, 200, at_once=200, silent=True)
    check_served(readers)
    assert strangers == {503: 200}


@pytest.mark.full
async def test_a_long_storm_of_strangers_starves_nobody(world: World) -> None:
    await deny_slowly(world, int(30 * full_seconds()))
