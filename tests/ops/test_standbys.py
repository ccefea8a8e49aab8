"""A cell's database loses its leader: nothing acknowledged is lost, and nobody is told yesterday's rows as today's."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import asyncpg
import psutil
import pytest
from asyncpg.connect_utils import SessionAttribute
from domicile_testing.databases import until
from domicile_testing.long import MINUTES, long_form

from domicile.model import Address, Role
from domicile.ops.clusters import members, settled
from domicile.ops.health import Prober, operator
from domicile.ops.layout import Layout
from domicile.ops.leadership import LEASE_SECONDS, LOOP_SECONDS, PROOF_SECONDS
from domicile.ops.manifests import local_manifest
from domicile.ops.record import ProcessRecord, WorldRecord
from domicile.ops.world import World

CELL = "us-1"
LOST = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError, TimeoutError)
pytestmark = [
    pytest.mark.system,
    pytest.mark.timeout(400),
    # asyncpg's own: a connection attempt that is cancelled while its server is being killed is left to the collector
    pytest.mark.filterwarnings("ignore:unclosed connection:ResourceWarning"),
]


class Pair:
    """The two nodes of a running cluster."""

    def __init__(self, world: World, layout: Layout) -> None:
        self.world = world
        self._layout = layout
        self._prober = Prober(layout)

    def processes(self) -> dict[str, ProcessRecord]:
        record = WorldRecord.read(self._layout)
        assert record is not None
        return {process.name: process for process in record.processes}

    async def nodes(self) -> list[dict[str, Any]]:
        for process in self.processes().values():
            if process.role == "patroni" and (document := await self._prober.cluster(process)) is not None:
                return members(CELL, document)
        return []

    async def settled(self) -> bool:
        return settled(await self.nodes())

    async def leader(self) -> str:
        return next(str(node["zone"]) for node in await self.nodes() if node["role"] == "leader")

    def patroni(self, zone: str) -> ProcessRecord:
        return next(each for each in self.processes().values() if each.role == "patroni" and each.zone == zone)

    def server(self, zone: str) -> psutil.Process:
        lock = self._layout.cell(CELL, zone) / "storage" / "data" / "postmaster.pid"
        return psutil.Process(int(lock.read_text().splitlines()[0]))

    def kill(self, zone: str) -> None:
        """SIGKILL of a node's Patroni and server."""
        for victim in (psutil.Process(self.patroni(zone).pid), self.server(zone)):
            victim.kill()

    async def connect(self) -> asyncpg.Connection:
        doors = [Address(each.address) for each in self.processes().values() if each.role == Role.STORAGE]
        return await asyncpg.connect(
            host=[door.host for door in doors],
            port=[door.port for door in doors],
            user="postgres",
            database="domicile",
            ssl=operator(self._layout, "us").client("us", [Role.STORAGE], cell=CELL),
            target_session_attrs=SessionAttribute.primary,
            timeout=5,
            command_timeout=10,
        )

    async def rows(self, zone: str) -> set[int]:
        """Of one node, asked at its own socket."""
        folder = self._layout.cell(CELL, zone) / "storage"
        own = await asyncpg.connect(host=str(folder), user="postgres", database="domicile")
        found = {row["n"] for row in await own.fetch("SELECT n FROM numbered")}
        await own.close()
        return found


class Writer:
    """Writes 1, 2, 3... for as long as it runs, and keeps which were acknowledged, and when."""

    def __init__(self, pair: Pair) -> None:
        self._pair = pair
        self.acknowledged: dict[int, float] = {}
        self._stopped = False

    def stop(self) -> None:
        self._stopped = True

    async def run(self) -> None:
        connection: asyncpg.Connection | None = None
        number = 0
        while not self._stopped:
            number += 1
            try:
                connection = connection or await self._pair.connect()
                await connection.execute("INSERT INTO numbered VALUES ($1)", number)
                self.acknowledged[number] = time.monotonic()
            except LOST:
                if connection is not None:
                    connection.terminate()
                connection = None
                await asyncio.sleep(0.05)

    def since(self, moment: float) -> int:
        return sum(when > moment for when in self.acknowledged.values())


@asynccontextmanager
async def running(layout: Layout) -> AsyncIterator[tuple[Pair, Writer]]:
    layout.prepare()
    world = World.acquire(layout, progress=lambda *_: None)
    try:
        world.prepare(local_manifest(None, layout), [CELL])
        await world.start_storage([CELL])
        pair = Pair(world, layout)
        await until(_connects(pair), "a proved leader")
        connection = await pair.connect()
        await connection.execute("CREATE TABLE numbered (n bigint PRIMARY KEY)")
        await connection.close()
        writer = Writer(pair)
        writing = asyncio.create_task(writer.run())
        try:
            yield pair, writer
        finally:
            writer.stop()  # first, since a connection that is cancelled while it opens complains
            await asyncio.wait({writing}, timeout=15)
            writing.cancel()
            await asyncio.gather(writing, return_exceptions=True)
    finally:
        world.stop()


def _connects(pair: Pair) -> Any:
    async def connects() -> bool:
        try:
            await (await pair.connect()).close()
        except LOST:
            return False
        return True

    return connects


async def _writes(writer: Writer, moment: float) -> None:
    async def again() -> bool:
        return writer.since(moment) > 20

    await until(again, "writes", 90)


async def _another_leads(pair: Pair, old: str) -> str:
    """Until reads are answered again; the zone that answers them."""
    await until(_connects(pair), "a proved leader", 90)
    new = await pair.leader()
    assert new != old
    return new


async def _nothing_lost(pair: Pair, writer: Writer) -> None:
    acknowledged = set(writer.acknowledged)
    connection = await pair.connect()
    found = {row["n"] for row in await connection.fetch("SELECT n FROM numbered")}
    await connection.close()
    assert acknowledged - found == set()


@pytest.fixture
def layout(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    return Layout(tmp_path_factory.mktemp("ha") / "s")


async def test_a_leader_whose_patroni_is_gone_is_not_believed_and_nothing_it_acknowledged_is_lost(
    layout: Layout,
) -> None:
    async with running(layout) as (pair, writer):
        await _writes(writer, 0)
        old = await pair.leader()
        reader, left_alone = await pair.connect(), pair.server(old)
        os.kill(pair.patroni(old).pid, signal.SIGKILL)
        killed = time.monotonic()

        async def cut() -> bool:
            return reader.is_closed()

        await until(cut, "the end of a session at a leader without proof", PROOF_SECONDS + 5)
        cut_after = time.monotonic() - killed
        assert left_alone.is_running()  # it would have gone on answering
        new = await _another_leads(pair, old)
        back = time.monotonic() - killed
        assert cut_after < back
        await _nothing_lost(pair, writer)
        assert writer.since(killed + back) == 0  # strict: the new leader has no standby yet
        print(f"cut after {cut_after:.1f} s, reads at {new} after {back:.1f} s")


@pytest.mark.full
async def test_nodes_killed_again_and_again_lose_nothing_that_was_acknowledged(layout: Layout) -> None:
    async with running(layout) as (pair, writer):
        more, rounds = long_form(0.2), 0
        while rounds < 2 or more():
            rounds += 1
            await _writes(writer, time.monotonic())
            old = await pair.leader()
            pair.kill(old)
            killed = time.monotonic()
            await _another_leads(pair, old)
            print(f"round {rounds}: {old} killed, reads back after {time.monotonic() - killed:.1f} s")
            await _nothing_lost(pair, writer)
            await pair.world.start_part(pair.patroni(old).name)
            await until(pair.settled, "the old leader as a standby", 120)
        await _writes(writer, time.monotonic())
        writer.stop()

        async def alike() -> bool:
            return await pair.rows("iad") == await pair.rows("pdx")

        await until(alike, "two nodes with the same rows")
        await _nothing_lost(pair, writer)


@pytest.mark.full
async def test_without_its_standby_a_strict_leader_acknowledges_nothing(layout: Layout) -> None:
    async with running(layout) as (pair, writer):
        await _writes(writer, 0)
        leader = await pair.leader()
        standby = next(str(node["zone"]) for node in await pair.nodes() if node["zone"] != leader)
        pair.kill(standby)
        killed = time.monotonic()
        connection = await pair.connect()
        # a COMMIT with nobody to confirm it is not answered, nor is it by Patroni's taking the name away
        with pytest.raises(TimeoutError):
            await connection.execute("INSERT INTO numbered VALUES (-1)", timeout=30)
        connection.terminate()
        assert writer.since(killed + 1) == 0
        await pair.world.start_part(pair.patroni(standby).name)
        await _writes(writer, time.monotonic())
        await _nothing_lost(pair, writer)


@MINUTES
@pytest.mark.full
async def test_what_the_loss_of_a_witness_of_any_two_and_of_a_nodes_disk_means(layout: Layout) -> None:
    """As docs/availability.md says to whoever has to do something about it."""
    async with running(layout) as (pair, writer):
        await _writes(writer, 0)
        leader, witness = await pair.leader(), pair.processes()[f"{CELL}-witness"]
        standby = next(str(node["zone"]) for node in await pair.nodes() if node["zone"] != leader)
        os.kill(witness.pid, signal.SIGKILL)
        lost = time.monotonic()

        async def for_longer_than_a_lease() -> bool:
            return time.monotonic() - lost > LEASE_SECONDS + LOOP_SECONDS

        await until(for_longer_than_a_lease, "the end of a lease", LEASE_SECONDS + 15)
        await _writes(writer, time.monotonic())
        assert await pair.leader() == leader
        pair.kill(standby)

        async def nobody_leads() -> bool:
            return not await _connects(pair)()

        await until(nobody_leads, "the end of a leader that has no majority", 60)
        await pair.world.start_part(witness.name)
        await until(_connects(pair), "reads, when one of the two is back", 90)
        quiet = time.monotonic()
        await _nothing_lost(pair, writer)
        shutil.rmtree(layout.cell(CELL, standby) / "storage" / "data")
        await pair.world.start_part(pair.patroni(standby).name)
        await until(pair.settled, "a copy of the other node", 180)
        await _writes(writer, time.monotonic())
        print(f"a node copied anew, and writes, {time.monotonic() - quiet:.1f} s after reads were back")
        await _nothing_lost(pair, writer)


@pytest.fixture
def small_disk(layout: Layout) -> Iterator[Path]:
    """The first node's folder on a file system of its own that is soon full."""
    layout.prepare()
    folder = layout.cell(CELL, "iad") / "storage"
    folder.mkdir(parents=True)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256m,mode=0700", "domicile-test", str(folder)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if mounted.returncode != 0:
        pytest.skip(f"no file system may be mounted here: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


async def _again(connection: asyncpg.Connection, statement: str) -> None:
    while True:
        await connection.execute(statement)


@pytest.mark.full
async def test_a_leader_whose_disk_is_full_loses_nothing_and_goes_on_when_there_is_room(
    layout: Layout, small_disk: Path
) -> None:
    async with running(layout) as (pair, writer):
        await _writes(writer, 0)
        assert await pair.leader() == "iad"
        connection = await pair.connect()
        await connection.execute("CREATE TABLE ballast (what text STORAGE EXTERNAL)")
        filling = small_disk / "filling"
        with filling.open("wb") as stream:
            free = os.statvfs(small_disk)
            os.posix_fallocate(stream.fileno(), 0, free.f_bavail * free.f_frsize)
        with pytest.raises(LOST) as refused:
            await _again(connection, "INSERT INTO ballast SELECT repeat('x', 1000000) FROM generate_series(1, 8)")
        connection.terminate()
        filling.unlink()
        full = time.monotonic()
        await _writes(writer, full)
        back = min(when for when in writer.acknowledged.values() if when > full)
        print(f"full: {refused.type.__name__}; writes {back - full:.1f} s after there was room")
        await _nothing_lost(pair, writer)
        await until(pair.settled, "both nodes", 120)


@pytest.mark.full
async def test_a_leader_whose_disk_has_no_room_for_its_log_comes_back_by_itself_when_there_is(
    layout: Layout, small_disk: Path
) -> None:
    """Its server ends; the same disk holds Patroni's part of the lease, which must not end with it."""
    async with running(layout) as (pair, writer):
        await _writes(writer, 0)
        assert await pair.leader() == "iad"
        agents, server = {zone: pair.patroni(zone).pid for zone in ("iad", "pdx")}, pair.server("iad")
        connection = await pair.connect()
        filling = small_disk / "filling"
        with filling.open("wb") as stream:
            free = os.statvfs(small_disk)
            os.posix_fallocate(stream.fileno(), 0, free.f_bavail * free.f_frsize)
        with pytest.raises(LOST):
            await _again(connection, "SELECT pg_logical_emit_message(false, 'ballast', repeat('x', 1000000))")
        connection.terminate()

        async def ended() -> bool:
            return not server.is_running()

        # by itself, or by its Patroni where its recovery hangs
        await until(ended, "the end of a server without room for its log", 60)
        await _another_leads(pair, "iad")
        full = time.monotonic()
        await _nothing_lost(pair, writer)
        filling.unlink()
        await until(pair.settled, "the node as a standby, by itself", 120)
        print(f"no room for the log: whole again {time.monotonic() - full:.1f} s after there was room")
        assert {zone: pair.patroni(zone).pid for zone in agents} == agents
        assert all(psutil.pid_exists(pid) for pid in agents.values())
        await _writes(writer, time.monotonic())
        await _nothing_lost(pair, writer)


@pytest.mark.full
async def test_a_leader_that_hands_over_loses_nothing_and_follows(layout: Layout) -> None:
    async with running(layout) as (pair, writer):
        await _writes(writer, 0)
        old = await pair.leader()
        new = next(str(node["zone"]) for node in await pair.nodes() if node["zone"] != old)
        asked = time.monotonic()
        await pair.world.hand_over(CELL, old, new)
        assert await pair.leader() == new
        await _writes(writer, time.monotonic())
        moments = [asked, *(when for when in writer.acknowledged.values() if when > asked)]
        print(f"switchover: {max(after - before for before, after in pairwise(moments)):.1f} s without a write")
        await _nothing_lost(pair, writer)
