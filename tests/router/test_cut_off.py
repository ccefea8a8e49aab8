"""A replica whose connections are cut at any byte, of its load and of its stream: it ends with the database's state."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from pathlib import Path

import asyncpg
import pytest
from domicile_testing import Storage, Trust
from domicile_testing.cell import superuser
from domicile_testing.cutting import Relay, anywhere
from domicile_testing.directories import RunningDirectory, any_key, directory_settings, serving
from domicile_testing.long import long_form, seeded

from domicile.client import DirectoryClient
from domicile.directory.storage import TRIMMED
from domicile.directory.transactions import SQL
from domicile.identity import Signer
from domicile.model import Pin, Role, SubjectKey, Unavailable
from domicile.model.snapshot import MAX_RECORDS, RECORD_BYTES
from domicile.model.wire import ClaimRequest
from domicile.router import follow
from domicile.router.follow import Follower
from domicile.router.replica import Replica

SIZE = 1 << 26
CUTS = 6
BLOCK_BYTES = MAX_RECORDS * RECORD_BYTES
"""Of a load, which goes on after the last whole one."""
WISHES = [ClaimRequest(residence="DE"), ClaimRequest(residence="US")]
FILL = (
    "INSERT INTO directory.pins SELECT '\\x01' || uuid_send(gen_random_uuid()), 'eu', 'eu-' || (n % 2 + 1), 1, 'active'"
    " FROM generate_series(1, 12000) AS n"
)
RAISE = (
    "UPDATE directory.pins SET epoch = epoch + 1 WHERE subject_key IN"
    " (SELECT subject_key FROM directory.pins ORDER BY subject_key OFFSET (random() * 11000)::int LIMIT 9)"
)


@asynccontextmanager
async def writing(directories: list[RunningDirectory], storage: Storage) -> AsyncIterator[None]:
    """Claims at both processes, epochs that rise, and a log that is forgotten after half a second."""

    async def claim(directory: RunningDirectory) -> None:
        client = directory.app
        while True:
            key = any_key()
            with suppress(Unavailable):
                await client.claim(key, WISHES[key[-1] % 2])

    async def keep_on(statement: str, *arguments: object) -> None:
        async with superuser(storage) as connection:
            while True:
                await connection.execute(statement, *arguments)
                await asyncio.sleep(0.05)

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(claim(directory)) for directory in directories]
        tasks.append(group.create_task(keep_on(RAISE)))
        tasks.append(group.create_task(keep_on(SQL["trim_changes"], timedelta(milliseconds=500), TRIMMED)))
        yield
        for task in tasks:
            task.cancel()


async def same(replica: Replica, database: asyncpg.Connection) -> None:
    found = await database.fetch("SELECT subject_key, jurisdiction, cell, epoch, state FROM directory.pins")
    wanted = {SubjectKey(row["subject_key"]): Pin(**dict(row)) for row in found}
    async with asyncio.timeout(120):
        while replica.count() != len(wanted) or any(replica.get(key) != pin for key, pin in wanted.items()):  # noqa: ASYNC110
            await asyncio.sleep(0.05)


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A follower that is cut off all the time would wait ten seconds before most attempts."""
    monkeypatch.setattr(follow, "LAST_WAIT_SECONDS", 0.2)


@pytest.fixture
async def second(trust: Trust, storage: Storage, operator: Signer) -> AsyncIterator[RunningDirectory]:
    """Another process over the same database."""
    async with serving(directory_settings(trust, storage.address, operator, "iad"), trust, operator) as running:
        yield running


async def cut_off(
    directories: list[RunningDirectory], storage: Storage, database: asyncpg.Connection, folder: Path, share: float
) -> None:
    chance = seeded()
    await database.execute(FILL)
    relay = Relay([directory.address for directory in directories], anywhere(chance, 3 * BLOCK_BYTES), chance)
    going_on = long_form(share)
    async with relay.running():
        credentials = directories[0].trust.credentials("eu", Role.ROUTER, "fra")
        while True:
            replica, client = Replica(folder, SIZE), DirectoryClient(credentials, [relay.address])
            following = asyncio.create_task(Follower(replica, client).run())
            async with writing(directories, storage), asyncio.timeout(120):
                wanted = relay.cuts + CUTS
                while relay.cuts < wanted or replica.position is None:  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
            over = not going_on()
            if over:
                await same(replica, database)
            following.cancel()
            with suppress(asyncio.CancelledError):
                await following
            await client.close()
            replica.close()
            if over:
                break


async def test_cut_at_any_byte_and_left_behind_it_ends_with_the_databases_state(
    directory: RunningDirectory,
    second: RunningDirectory,
    storage: Storage,
    database: asyncpg.Connection,
    tmp_path: Path,
) -> None:
    await cut_off([directory, second], storage, database, tmp_path / "pins", share=0)


@pytest.mark.full
async def test_cut_off_and_started_again_for_long(
    directory: RunningDirectory,
    second: RunningDirectory,
    storage: Storage,
    database: asyncpg.Connection,
    tmp_path: Path,
) -> None:
    await cut_off([directory, second], storage, database, tmp_path / "pins", share=0.08)
