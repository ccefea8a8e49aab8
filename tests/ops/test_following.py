"""Who uses a database finds its new leader by himself, and a write whose answer was lost is settled by its key.

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

import asyncpg
import psutil
import pytest
from domicile_testing.databases import until
from domicile_testing.long import MINUTES
from domicile_testing.nodes import Nodes
from domicile_testing.worlds import LocalWorld, domicile, one_jurisdiction, running_world

from domicile.client import KeyClient
from domicile.model import Unavailable
from domicile.ops.manifests import load_file
from domicile.sample.records import Note
from domicile.sdk import Home, Residency
from domicile.service import ProcessSettings, load_settings

CELL = "us-1"
REPLICATED = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND usename = 'domicile_app'"
pytestmark = [MINUTES, pytest.mark.system, pytest.mark.full, pytest.mark.timeout(900)]
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


async def test_a_write_whose_answer_was_swallowed_by_a_dying_leader_is_done_once(
    world: LocalWorld, settings: ProcessSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """COMMIT is on both nodes and nobody was told; then the leader dies. The key settles it at the other node, and not
    before that has a standby of its own: strict."""
    opened: list[asyncpg.Connection] = []
    connect = asyncpg.connect

    async def connected(*where: Any, **options: Any) -> asyncpg.Connection:
        opened.append(await connect(*where, **options))
        return opened[-1]

    monkeypatch.setattr(asyncpg, "connect", connected)
    nodes = Nodes(world.state, CELL)
    await nodes.settle()
    old, new = await nodes.leader(), await nodes.standby()
    async with Residency.connect(settings) as residency:
        home = await residency.claim(nobody_yet(), residence="US")
        note = home.new(Note, id=uuid4(), text="x", topic="a")
        root = await connect(host=str(nodes.folder(old)), user="postgres", database="domicile", command_timeout=10)
        with nodes.receiving_nothing(new):
            writing = asyncio.create_task(home.put(note, idempotency_key="once"))
            await until(_waits(root), "a COMMIT that waits for the standby")
            for connection in opened:
                connection._transport.pause_reading()  # type: ignore[attr-defined]  # whatever comes, nobody hears it
        assert await _settles(root, note), "it is committed, on both nodes"
        assert not writing.done()
        nodes.kill(old)
        root.terminate()
        for connection in opened:
            connection.terminate()
        with pytest.raises(Unavailable):
            await writing
        await until(_leads(nodes, new), "the other node to lead", 60)
        repeated = asyncio.create_task(_until_done(home, note))
        at_new = await connect(host=str(nodes.folder(new)), user="postgres", database="domicile", command_timeout=10)
        await until(_waits(at_new), "the repeated request to wait for a standby, its answer known", 60)
        assert not repeated.done(), "an answer of before is a promise of two zones too"
        await _again(world, nodes.patroni(old).name)
        assert await repeated == 1
        rows = await at_new.fetch("SELECT version FROM notes WHERE id = $1", note.id)
        assert [row["version"] for row in rows] == [1]
        await at_new.close()
    await nodes.settle()


def _waits(root: asyncpg.Connection) -> Callable[[], Awaitable[bool]]:
    async def waits() -> bool:
        return bool(await root.fetchval(REPLICATED))

    return waits


async def _settles(root: asyncpg.Connection, note: Note) -> bool:
    async def nobody_waits() -> bool:
        return not await root.fetchval(REPLICATED)

    await until(nobody_waits, "the COMMIT to be done")
    return bool(await root.fetchval("SELECT count(*) FROM notes WHERE id = $1", note.id))


def _leads(nodes: Nodes, zone: str) -> Callable[[], Awaitable[bool]]:
    async def leads() -> bool:
        return any(row["role"] == "leader" and row["zone"] == zone for row in await nodes.rows())

    return leads


async def _until_done(home: Home, note: Note) -> int:
    while True:
        try:
            return await home.put(note, idempotency_key="once")
        except Unavailable:
            await asyncio.sleep(0.1)


async def _again(world: LocalWorld, part: str) -> None:
    done = await asyncio.to_thread(domicile, "restart", part, "--state", str(world.state), seconds=200)
    assert done.returncode == 0, done.stderr
