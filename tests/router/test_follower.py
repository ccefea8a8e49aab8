"""The replica at the heels of a real directory: loaded, followed, cut off, gone, replaced. Always the same map."""

from __future__ import annotations

import asyncio
import mmap
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import asyncpg
import pytest
from domicile_testing import Storage, Trust
from domicile_testing.conditions import until
from domicile_testing.directories import RunningDirectory, any_key, directory_settings, serving
from domicile_testing.routing import pin, subject

from domicile.client import DirectoryClient
from domicile.identity import Signer
from domicile.model import Pin, Role, SubjectKey, Unavailable, UnknownSubject
from domicile.model.wire import ClaimRequest
from domicile.router.follow import Follower
from domicile.router.replica import Replica

SIZE = 1 << 26
GERMANY, AMERICA = ClaimRequest(residence="DE"), ClaimRequest(residence="US")


@asynccontextmanager
async def following(replica: Replica, client: DirectoryClient) -> AsyncIterator[None]:
    task = asyncio.create_task(Follower(replica, client).run())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def rows(database: asyncpg.Connection) -> dict[SubjectKey, Pin]:
    found = await database.fetch("SELECT subject_key, jurisdiction, cell, epoch, state FROM directory.pins")
    return {SubjectKey(row["subject_key"]): Pin(**dict(row)) for row in found}


async def same(replica: Replica, database: asyncpg.Connection) -> None:
    wanted = await rows(database)
    await until(lambda: replica.count() == len(wanted) and all(replica.get(k) == p for k, p in wanted.items()))


@pytest.fixture
async def replica(tmp_path: Path) -> AsyncIterator[Replica]:
    opened = Replica(tmp_path / "pins", SIZE)
    yield opened
    opened.close()


def router(directory: RunningDirectory) -> DirectoryClient:
    return directory.client("eu", Role.ROUTER)


async def test_a_map_is_loaded_and_then_followed(
    directory: RunningDirectory, database: asyncpg.Connection, replica: Replica
) -> None:
    app = directory.app
    await asyncio.gather(*(app.claim(any_key(), random.choice([GERMANY, AMERICA])) for _ in range(60)))
    assert replica.staleness() == float("inf")
    async with following(replica, router(directory)):
        await same(replica, database)
        await asyncio.gather(*(app.claim(any_key(), GERMANY) for _ in range(30)))
        await database.execute("UPDATE directory.pins SET epoch = 7, state = 'moving' WHERE jurisdiction = 'us'")
        await same(replica, database)
        await until(lambda: replica.staleness() < 5)


async def test_a_disk_that_refuses_is_waited_for(
    directory: RunningDirectory, database: asyncpg.Connection, replica: Replica, tmp_path: Path
) -> None:
    await directory.app.claim(any_key(), GERMANY)
    folder = tmp_path / "pins"
    in_the_way = folder / "current.new"
    in_the_way.mkdir()
    async with following(replica, router(directory)):
        await until(lambda: len(list(folder.glob("pins-*"))) > 1)  # loaded, and not put in its place
        in_the_way.rmdir()
        await same(replica, database)
        assert [each.name for each in folder.glob("pins-*")] == [(folder / "current").read_text()]
        await directory.app.claim(any_key(), GERMANY)
        await same(replica, database)


async def test_a_large_map_comes_in_blocks(
    directory: RunningDirectory, database: asyncpg.Connection, replica: Replica
) -> None:
    await database.execute(
        "INSERT INTO directory.pins SELECT '\\x01' || uuid_send(gen_random_uuid()), "
        "'eu', 'eu-' || (n % 2 + 1), n, 'active' FROM generate_series(1, 12000) AS n"
    )
    async with following(replica, router(directory)):
        await same(replica, database)


async def test_what_the_stream_brings_is_no_longer_unknown(directory: RunningDirectory, replica: Replica) -> None:
    client = router(directory)
    client._clock = lambda: 0.0  # what is remembered goes by what the stream says, and not by its age
    key = any_key()
    async with following(replica, client):
        await until(lambda: replica.position is not None)
        with pytest.raises(UnknownSubject):
            await client.pin(key)
        claimed = await directory.app.claim(key, GERMANY)
        await until(lambda: replica.get(key) == claimed)
        await until(lambda: key not in client._unknown)
        assert await client.pin(key) == claimed


async def test_cut_off_again_and_again_it_ends_with_the_databases_state(
    trust: Trust, storage: Storage, operator: Signer, directory: RunningDirectory, database: asyncpg.Connection,
    replica: Replica,
) -> None:  # fmt: skip
    """A second directory process that ends and starts, over the same database, while claims go on at the first."""
    settings = directory_settings(trust, storage.address, operator, "iad")
    client = DirectoryClient(trust.credentials("eu", Role.ROUTER, "fra"), [settings.bind])
    app = directory.app
    async with following(replica, client):
        for _ in range(5):
            async with serving(settings, trust, operator):
                await asyncio.gather(*(app.claim(any_key(), GERMANY) for _ in range(10)))
                await asyncio.sleep(random.uniform(0, 0.3))
            await asyncio.gather(*(app.claim(any_key(), AMERICA) for _ in range(5)))
        async with serving(settings, trust, operator):
            await same(replica, database)
    await client.close()


async def test_a_file_that_is_damaged_under_its_writer_is_loaded_anew(
    directory: RunningDirectory, database: asyncpg.Connection, replica: Replica, tmp_path: Path
) -> None:
    await asyncio.gather(*(directory.app.claim(any_key(), GERMANY) for _ in range(5)))
    async with following(replica, router(directory)):
        await same(replica, database)
        await until(lambda: len(list((tmp_path / "pins").glob("pins-*"))) == 1)
        (file,) = (tmp_path / "pins").glob("pins-*/data.mdb")
        with file.open("r+b") as opened:
            opened.seek(2 * mmap.PAGESIZE)  # behind the two pages that say where the rest is
            opened.write(b"\xff" * (file.stat().st_size - 2 * mmap.PAGESIZE))
        await directory.app.claim(any_key(), AMERICA)
        await until(lambda: not file.exists())
        await same(replica, database)


async def test_after_a_trimmed_log_the_map_is_loaded_anew(
    directory: RunningDirectory, database: asyncpg.Connection, replica: Replica
) -> None:
    async with following(replica, router(directory)):
        await directory.app.claim(any_key(), GERMANY)
        await same(replica, database)
    await asyncio.gather(*(directory.app.claim(any_key(), GERMANY) for _ in range(5)))
    async with database.transaction():
        await database.execute("UPDATE directory.clock SET trimmed = sequence")
        await database.execute("DELETE FROM directory.changes")
    async with following(replica, router(directory)):
        await same(replica, database)


async def test_a_new_generation_replaces_the_old_one_whole(
    directory: RunningDirectory, database: asyncpg.Connection, replica: Replica
) -> None:
    """As after a restore: pins are gone, and one's epoch is lower than it was."""
    app = directory.app
    kept, lost = any_key(), any_key()
    await app.claim(kept, GERMANY)
    await app.claim(lost, GERMANY)
    await database.execute("UPDATE directory.pins SET epoch = 9")
    async with following(replica, router(directory)):
        await same(replica, database)
        async with database.transaction():
            await database.execute("SET LOCAL session_replication_role = replica")
            await database.execute("DELETE FROM directory.pins WHERE subject_key = $1", lost)
            await database.execute("UPDATE directory.pins SET epoch = 3")
            await database.execute("UPDATE directory.clock SET history = 'another'")
        await same(replica, database)
        assert replica.get(lost) is None


async def test_it_boots_from_disk_with_the_directory_gone(trust: Trust, tmp_path: Path) -> None:
    replica = Replica(tmp_path / "pins", SIZE)
    replica.put(pin("alice", "eu-1"))
    replica.close()
    again = Replica(tmp_path / "pins", SIZE)
    client = DirectoryClient(trust.credentials("eu", Role.ROUTER, "fra"), ["127.0.0.1:1"])
    async with following(again, client):
        await asyncio.sleep(0.3)
        assert again.get(subject("alice")) == pin("alice", "eu-1")
        with pytest.raises(Unavailable):
            await client.pin(subject("bob"))
    await client.close()
    again.close()
