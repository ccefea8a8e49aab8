"""A watcher of the change stream that is cut at any byte, again and again, ends with exactly the database's state."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import asyncpg
import pytest
from domicile_testing import Storage, Trust
from domicile_testing.cell import superuser
from domicile_testing.cutting import Relay, anywhere
from domicile_testing.directories import any_key, forget_marks
from domicile_testing.directory_processes import Site, directory_site
from domicile_testing.long import long_form, seeded

from domicile.client import DirectoryClient
from domicile.directory.storage import TRIMMED
from domicile.directory.transactions import SQL
from domicile.identity import Signer
from domicile.model import Pin, Position, Role, SubjectKey, Unavailable
from domicile.model.snapshot import STATES
from domicile.model.wire import ClaimRequest

WISHES = [ClaimRequest(residence="DE"), ClaimRequest(residence="US")]
WRITERS = 6
RAISE = (
    "UPDATE directory.pins SET epoch = epoch + 1, state = CASE state WHEN 'active' THEN 'moving' ELSE 'active' END"
    " WHERE subject_key IN (SELECT subject_key FROM directory.pins ORDER BY random() LIMIT 7)"
)


@pytest.fixture
async def site(
    trust: Trust, storage: Storage, operator: Signer, database: asyncpg.Connection, tmp_path: Path
) -> AsyncIterator[Site]:
    await database.execute("DROP SCHEMA IF EXISTS directory CASCADE")
    forget_marks(trust)
    async with directory_site(trust, storage, operator, tmp_path) as running:
        await running.only(0).publish(1)
        yield running


@dataclass
class Watcher:
    """The simplest reader that the stream's contract allows: a dictionary and a position; it checks the order."""

    client: DirectoryClient
    pins: dict[SubjectKey, Pin] = field(default_factory=dict)
    streamed: dict[SubjectKey, int] = field(default_factory=dict)
    loaded: dict[SubjectKey, Pin] = field(default_factory=dict)
    loading: Position | None = None
    position: Position | None = None
    loads: int = 0

    async def run(self) -> None:
        while True:
            try:
                if self.position is None:
                    await self._load()
                await self._follow()
            except Unavailable:
                await asyncio.sleep(0)

    async def _load(self) -> None:
        """The whole map, from where the last attempt was cut."""
        async with self.client.snapshot(max(self.loaded, default=b"")) as snapshot:
            position = await snapshot.head()
            self.loading = self.loading or position
            assert self.loading.generation == position.generation
            while (block := await snapshot.block()) is not None:
                for raw, epoch, state, home in block:
                    key, (jurisdiction, _, cell) = SubjectKey(raw), block.homes[home].partition("/")
                    self.loaded[key] = Pin.trusted(key, jurisdiction, cell, epoch, STATES[state])
        self.pins, self.position = self.loaded, self.loading
        self.loaded, self.loading, self.streamed = {}, None, {}
        self.loads += 1

    async def _follow(self) -> None:
        assert self.position is not None
        async with aclosing(self.client.follow(self.position)) as stream:
            async for changes in stream:
                for change in changes:
                    if change.anew:
                        self.position = None
                        return
                    assert change.position.generation == self.position.generation
                    step = change.position.sequence - self.position.sequence
                    if change.pin is None:
                        assert step == 0, "a heartbeat ahead of what it follows"
                        continue
                    assert step == 1, "a change was stepped over, or came twice"
                    key, epoch = change.pin.subject_key, change.pin.epoch
                    assert self.streamed.get(key, 0) < epoch, "an epoch fell"
                    self.streamed[key] = epoch
                    # what a snapshot read after its head's position comes again
                    if key not in self.pins or self.pins[key].epoch < epoch:
                        self.pins[key] = change.pin
                    self.position = change.position


@asynccontextmanager
async def writing(site: Site, storage: Storage, *, trim: bool) -> AsyncIterator[None]:
    """Claims at both processes, epochs that rise many at a time; with ``trim`` the log is soon forgotten.

    Of so many subjects that a connection may live to the end of a load.
    """
    keys = [any_key() for _ in range(600)]

    async def claim() -> None:
        client = site.client("eu", Role.APP)
        while True:
            with suppress(Unavailable):
                key = random.choice(keys)
                await client.claim(key, WISHES[key[-1] % 2])

    async def raise_epochs() -> None:
        async with superuser(storage) as connection:
            while True:
                await connection.execute(RAISE)

    async def forget() -> None:
        async with superuser(storage) as connection:
            while True:
                await connection.execute(SQL["trim_changes"], timedelta(milliseconds=200), TRIMMED)
                await asyncio.sleep(0.05)

    async with asyncio.TaskGroup() as group:
        writers = [claim() for _ in range(WRITERS)] + [raise_epochs()] + ([forget()] if trim else [])
        tasks = [group.create_task(writer) for writer in writers]
        yield
        for task in tasks:
            task.cancel()


async def rows(database: asyncpg.Connection) -> dict[SubjectKey, Pin]:
    found = await database.fetch("SELECT subject_key, jurisdiction, cell, epoch, state FROM directory.pins")
    return {SubjectKey(row["subject_key"]): Pin(**dict(row)) for row in found}


async def until(condition: Callable[[], bool], seconds: float = 60) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - the watcher tells nobody
            await asyncio.sleep(0.02)


async def watch(
    site: Site,
    storage: Storage,
    database: asyncpg.Connection,
    enough: Callable[[Watcher, Relay], bool],
    *,
    trim: bool,
) -> None:
    chance = seeded()
    relay = Relay([process.settings.bind for process in site.processes], anywhere(chance, 50_000), chance)
    watcher = Watcher(DirectoryClient(site.trust.credentials("eu", Role.ROUTER, "fra"), [relay.address]))
    async with relay.running(), asyncio.TaskGroup() as group:
        running = group.create_task(watcher.run())
        async with writing(site, storage, trim=trim):
            await until(lambda: enough(watcher, relay), 3600)
        wanted = await rows(database)
        await until(lambda: watcher.pins == wanted)
        running.cancel()
    await watcher.client.close()
    assert len(wanted) > 20


async def test_cut_at_any_byte_it_ends_with_the_databases_state(
    site: Site, storage: Storage, database: asyncpg.Connection
) -> None:
    def enough(watcher: Watcher, relay: Relay) -> bool:
        return relay.cuts >= 25 and watcher.position is not None and watcher.position.sequence > 300

    await watch(site, storage, database, enough, trim=False)


async def test_cut_and_left_behind_by_a_trimmed_log_it_begins_anew(
    site: Site, storage: Storage, database: asyncpg.Connection
) -> None:
    await watch(site, storage, database, lambda watcher, relay: watcher.loads >= 4 and relay.cuts >= 20, trim=True)


@pytest.mark.full
@pytest.mark.parametrize("trim", [False, True], ids=["kept", "trimmed"])
async def test_cut_for_long(site: Site, storage: Storage, database: asyncpg.Connection, *, trim: bool) -> None:
    going_on = long_form(0.06)
    await watch(site, storage, database, lambda *_: not going_on(), trim=trim)
