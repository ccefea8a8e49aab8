"""Who uses a database finds its new leader by himself, and a key service that dies is not missed.

One world of one jurisdiction, everything in it highly available; each test leaves it whole. ``pytest -s`` prints the
figures that docs/availability.md gives.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from itertools import count, pairwise
from typing import Any
from uuid import uuid4

import psutil
import pytest
from domicile_testing.databases import until
from domicile_testing.nodes import Nodes
from domicile_testing.worlds import LocalWorld, domicile, one_jurisdiction, running_world

from domicile.client import KeyClient
from domicile.model import Unavailable
from domicile.ops.manifests import load_file
from domicile.sample.records import Note
from domicile.sdk import Residency
from domicile.service import ProcessSettings, load_settings

CELL = "us-1"
pytestmark = [pytest.mark.system, pytest.mark.full, pytest.mark.timeout(900)]
_numbers = count()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalWorld]:
    folder = tmp_path_factory.mktemp("f")
    manifest = one_jurisdiction("us", folder / "world.yaml")
    with running_world(folder / "s", str(manifest), "--ha", seconds=400) as running:
        yield running


@pytest.fixture(scope="module")
def settings(world: LocalWorld) -> ProcessSettings:
    """An application's, in the zone of the first one."""
    environment = psutil.Process(world.pids()[f"{CELL}-app"]).environ()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            if name.startswith("DOMICILE_"):
                patch.setenv(name, value)
        return load_settings(ProcessSettings)


@pytest.fixture
async def residency(settings: ProcessSettings) -> AsyncIterator[Residency]:
    async with Residency.connect(settings) as opened:
        yield opened


def nobody_yet() -> str:
    return f"user {next(_numbers)} of {uuid4()}"


class Asking:
    """``ask`` again and again: when it was answered, and how often it was told to come again."""

    def __init__(self, ask: Callable[[], Awaitable[Any]]) -> None:
        self._ask = ask
        self.answered: list[float] = []
        self.refused = 0

    async def run(self) -> None:
        while True:
            try:
                await self._ask()
                self.answered.append(time.monotonic())
            except Unavailable:
                self.refused += 1
            await asyncio.sleep(0.05)

    async def goes_on(self) -> None:
        since = time.monotonic()

        async def again() -> bool:
            return sum(moment > since for moment in self.answered) > 10

        await until(again, "answers", 120)

    def longest(self, since: float) -> float:
        return max(after - before for before, after in pairwise([since, *(m for m in self.answered if m > since)]))


@asynccontextmanager
async def asking(*asks: Callable[[], Awaitable[Any]]) -> AsyncIterator[list[Asking]]:
    found = [Asking(ask) for ask in asks]
    tasks = [asyncio.create_task(each.run()) for each in found]
    try:
        for each in found:
            await each.goes_on()
        yield found
        assert [task for task in tasks if task.done()] == [], "only Unavailable is an answer to be repeated"
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_key_service_follows_its_store(world: LocalWorld, settings: ProcessSettings) -> None:
    """Keys that nobody holds yet: each one is a look-up, or is made, in the store."""
    nodes = Nodes(world.state, "keys-us")
    client = KeyClient.of_cell(settings.credentials, load_file(world.state / "domicile.yaml"), CELL)
    try:
        async with asking(lambda: client.data_key(uuid4(), uuid4(), create=True)) as (keys,):
            asked = time.monotonic()
            new = await nodes.hand_over()
            await keys.goes_on()
            print(f"keys: longest wait {keys.longest(asked):.1f} s, {keys.refused} refused")
    finally:
        await client.close()
    await nodes.settle()
    assert await nodes.leader() == new


async def test_a_killed_key_service_stops_no_cold_read(world: LocalWorld, settings: ProcessSettings) -> None:
    """Whoever asks goes on to the process of the other zone, which holds the same key-encryption keys."""
    manifest, subject = load_file(world.state / "domicile.yaml"), uuid4()
    names = [each for each in world.pids() if each == "keys-us" or each.startswith("keys-us.")]
    names = [each for each in names if world.process(each)["role"] == "keys"]
    assert len(names) == 2
    client = KeyClient.of_cell(settings.credentials, manifest, CELL)
    made = await client.data_key(subject, subject, create=True)

    async def cold() -> None:
        nobody_holds = KeyClient.of_cell(settings.credentials, manifest, CELL)
        try:
            assert (await nobody_holds.data_key(subject, subject)) == made
        finally:
            await nobody_holds.close()

    for name in names:
        async with asking(cold) as (reads,):
            killed = time.monotonic()
            psutil.Process(world.pids()[name]).kill()
            await reads.goes_on()
            print(f"{name} killed: cold reads wait {reads.longest(killed):.1f} s, {reads.refused} refused")
            assert reads.refused == 0
        await _again(world, name)
    await client.close()


@pytest.mark.parametrize("cluster", ["directory", CELL])
async def test_directory_and_gateway_follow(world: LocalWorld, residency: Residency, cluster: str) -> None:
    """A claim is a write of the directory, and a fence that the gateway opens; who is known is served all the while."""
    nodes = Nodes(world.state, cluster)
    known = nobody_yet()
    home = await residency.claim(known, residence="US")
    note = home.new(Note, id=uuid4(), text="x", topic="a")
    await home.put(note)

    async def read() -> None:
        again = await residency.home(known)
        assert await again.get(Note, note.id) is not None

    async with asking(lambda: residency.claim(nobody_yet(), residence="US"), read) as (claims, reads):
        asked = time.monotonic()
        new = await nodes.hand_over()
        await claims.goes_on()
        await reads.goes_on()
        print(f"{cluster}: claims wait {claims.longest(asked):.1f} s at most, {claims.refused} refused;", end=" ")
        print(f"reads {reads.longest(asked):.1f} s, {reads.refused} refused")
        if cluster == "directory":
            assert reads.refused == 0
    await nodes.settle()
    assert await nodes.leader() == new


async def _again(world: LocalWorld, part: str) -> None:
    done = await asyncio.to_thread(domicile, "restart", part, "--state", str(world.state), seconds=200)
    assert done.returncode == 0, done.stderr
