"""The change log: commit order without gaps, resumed anywhere, and "anew" where resuming would be guessing."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import NamedTuple

import aiohttp
import asyncpg
import pytest
from domicile_testing.cell import superuser
from domicile_testing.databases import Storage
from domicile_testing.directories import RunningDirectory, any_key

from domicile.directory.second_zone import SecondZone
from domicile.directory.storage import Storage as DirectoryStorage
from domicile.model import GLOBAL, Address, Pin, Position, Role, Unavailable
from domicile.model.wire import ClaimRequest

GERMANY = ClaimRequest(residence="DE")
INSERT = (
    "INSERT INTO directory.pins (subject_key, jurisdiction, cell, epoch, state) VALUES ($1, 'eu', 'eu-1', 1, 'active')"
)


class Event(NamedTuple):
    position: Position
    kind: str
    pin: Pin | None


@asynccontextmanager
async def following(directory: RunningDirectory, after: Position | None) -> AsyncIterator[AsyncIterator[Event]]:
    """A router's view, by a client of server-sent events that knows nothing of the product."""
    credentials = directory.trust.credentials("eu", Role.ROUTER, "fra")
    connector = aiohttp.TCPConnector(ssl=credentials.client(GLOBAL, [Role.DIRECTORY]))
    query = {} if after is None else {"after": str(after)}
    async with (
        aiohttp.ClientSession(connector=connector) as session,
        session.get(f"https://{directory.address}/v1/changes", params=query) as response,
    ):
        assert response.status == 200, await response.text()

        async def events() -> AsyncIterator[Event]:
            fields: dict[str, str] = {}
            async for raw in response.content:
                line = raw.decode().rstrip("\n")
                if line:
                    name, _, value = line.partition(": ")
                    fields[name] = value
                    continue
                body = json.loads(fields["data"])
                pin = Pin.model_validate(body) if fields["event"] == "pin" else None
                yield Event(Position.parse(fields["id"]), fields["event"], pin)
                fields = {}

        yield events()


async def start(database: asyncpg.Connection) -> Position:
    """Where the log stands now; what a reader is told may be a beat old."""
    return Position(**dict(await database.fetchrow("SELECT generation, sequence FROM directory.clock") or {}))


async def read(directory: RunningDirectory, after: Position, count: int) -> list[Event]:
    """The next ``count`` changes."""
    found: list[Event] = []
    async with asyncio.timeout(20), following(directory, after) as events:
        async for event in events:
            assert event.kind in ("pin", "position")
            found += [event] if event.kind == "pin" else []
            if len(found) >= count:
                break
    return found


async def test_concurrent_claims_come_in_commit_order_without_a_gap(
    directory: RunningDirectory, database: asyncpg.Connection
) -> None:
    begun = await start(database)
    keys = [any_key() for _ in range(120)]
    clients = [directory.client("eu", Role.APP) for _ in range(8)]
    reading = asyncio.create_task(read(directory, begun, len(keys)))
    pins = await asyncio.gather(*(clients[n % 8].claim(key, GERMANY) for n, key in enumerate(keys)))
    found = await reading
    assert [event.position.sequence for event in found] == list(range(begun.sequence + 1, begun.sequence + 121))
    assert {event.position.generation for event in found} == {begun.generation}
    assert {event.pin.subject_key: event.pin for event in found if event.pin} == {p.subject_key: p for p in pins}
    assert await database.fetchval("SELECT count(*) FROM directory.pins") == len(keys)


async def test_a_later_change_waits_for_an_earlier_one_to_commit(
    directory: RunningDirectory, storage: Storage, database: asyncpg.Connection
) -> None:
    """With a plain sequence the second would commit first, and a reader would step over the first one."""
    begun = await start(database)
    first, second = any_key(), any_key()
    async with superuser(storage) as other:
        async with database.transaction():
            await database.execute(INSERT, first)
            blocked = asyncio.create_task(other.execute(INSERT, second))
            async with superuser(storage) as watcher:
                while not await watcher.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"):
                    assert not blocked.done()
        await blocked
    found = await read(directory, begun, 2)
    assert [event.pin.subject_key for event in found if event.pin] == [first, second]


async def test_a_transaction_that_is_rolled_back_leaves_no_gap(
    directory: RunningDirectory, database: asyncpg.Connection
) -> None:
    begun = await start(database)
    with pytest.raises(ZeroDivisionError):  # noqa: PT012
        async with database.transaction():
            await database.execute(INSERT, any_key())
            raise ZeroDivisionError
    await directory.app.claim(any_key(), GERMANY)
    assert [event.position.sequence for event in await read(directory, begun, 1)] == [begun.sequence + 1]


async def test_a_reader_that_is_cut_at_random_ends_with_the_databases_state(
    directory: RunningDirectory, database: asyncpg.Connection
) -> None:
    position = await start(database)
    known: dict[bytes, Pin] = {}
    keys = [any_key() for _ in range(60)]
    claiming = asyncio.gather(*(directory.app.claim(key, GERMANY) for key in keys))
    while len(known) < len(keys):
        for event in await read(directory, position, random.randint(1, min(9, len(keys) - len(known)))):
            assert event.position.sequence == position.sequence + 1
            position = event.position
            assert event.pin is not None
            known[event.pin.subject_key] = event.pin
    await claiming
    rows = await database.fetch("SELECT subject_key, cell, epoch FROM directory.pins")
    assert {row["subject_key"]: (row["cell"], row["epoch"]) for row in rows} == {
        key: (pin.cell, pin.epoch) for key, pin in known.items()
    }


async def test_a_statement_that_changes_many_pins_is_logged_whole(
    directory: RunningDirectory, database: asyncpg.Connection
) -> None:
    await asyncio.gather(*(directory.app.claim(any_key(), GERMANY) for _ in range(20)))
    begun = await start(database)
    await database.execute("UPDATE directory.pins SET state = 'moving', epoch = epoch + 1")
    found = await read(directory, begun, 20)
    assert {(event.pin.state.value, event.pin.epoch) for event in found if event.pin} == {("moving", 2)}


async def test_a_reader_without_a_position_is_told_to_begin_anew(directory: RunningDirectory) -> None:
    async with asyncio.timeout(10), following(directory, None) as events:
        assert [event.kind async for event in events] == ["anew"]


async def test_quiet_is_told_from_silence_by_heartbeats(
    directory: RunningDirectory, database: asyncpg.Connection
) -> None:
    begun = await start(database)
    async with asyncio.timeout(10), following(directory, begun) as events:
        for _ in range(2):
            event = await anext(events)
            assert (event.kind, event.position) == ("position", begun)


async def test_another_generation_and_a_trimmed_log_are_read_anew(
    directory: RunningDirectory, database: asyncpg.Connection
) -> None:
    begun = await start(database)
    for _ in range(3):
        await directory.app.claim(any_key(), GERMANY)
    await database.execute("DELETE FROM directory.changes WHERE sequence <= $1", begun.sequence + 2)
    await database.execute("UPDATE directory.clock SET trimmed = $1", begun.sequence + 2)
    for stale in (begun, Position(generation="00000000-0000-0000-0000-000000000000", sequence=begun.sequence)):
        async with asyncio.timeout(10), following(directory, stale) as events:
            event = [event async for event in events][-1]
            assert (event.kind, event.position.sequence) == ("anew", begun.sequence + 3)
    last = Position(generation=begun.generation, sequence=begun.sequence + 2)
    assert len(await read(directory, last, 1)) == 1


async def test_another_history_of_the_database_begins_a_generation(
    directory: RunningDirectory, database: asyncpg.Connection
) -> None:
    """As after a promotion or a restore to a point in time, which begin a timeline."""
    await directory.app.claim(any_key(), GERMANY)
    begun = await start(database)
    await database.execute("UPDATE directory.clock SET history = '1/00000001'")
    async with asyncio.timeout(10), following(directory, begun) as events:
        event = [event async for event in events][-1]
    assert event.kind == "anew"
    assert event.position.generation != begun.generation
    assert event.position.sequence == begun.sequence
    assert await database.fetchval("SELECT trimmed FROM directory.clock") == begun.sequence
    await directory.app.claim(any_key(), GERMANY)
    assert len(await read(directory, event.position, 1)) == 1


async def test_a_generation_begins_in_no_time_however_long_the_log_is(
    directory: RunningDirectory, database: asyncpg.Connection, storage: Storage
) -> None:
    """After an import of millions, what went through the log would take longer than a statement may."""
    await directory.app.claim(any_key(), GERMANY)
    begun = await start(database)
    async with database.transaction():  # who touched a change of before would wait for this
        await database.execute("SELECT FROM directory.changes FOR UPDATE")
        async with superuser(storage) as other:
            await other.execute("UPDATE directory.clock SET history = '1/00000001'")
        async with asyncio.timeout(10), following(directory, begun) as events:
            assert [event.kind async for event in events][-1] == "anew"


async def test_the_log_is_trimmed_by_small_steps_that_each_stand(
    directory: RunningDirectory, database: asyncpg.Connection, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("domicile.directory.storage.TRIMMED", 10)
    begun = (await start(database)).sequence
    await database.executemany(INSERT, [[any_key()] for _ in range(100)])
    await database.execute(
        "UPDATE directory.changes SET changed = changed - interval '2 days' WHERE sequence <= $1", begun + 75
    )
    trimmed = "SELECT trimmed, (SELECT min(sequence) FROM directory.changes) AS first FROM directory.clock"
    credentials = directory.trust.credentials(GLOBAL, Role.DIRECTORY, "fra")
    async with DirectoryStorage.connect(credentials, [Address(storage.address)], SecondZone.ABSENT) as opened:
        async with database.transaction():
            await database.execute("SELECT FROM directory.changes WHERE sequence = $1 FOR UPDATE", begun + 55)
            with pytest.raises(Unavailable):
                await opened.trim_changes(timedelta(days=1))
            assert tuple(await database.fetchrow(trimmed) or ()) == (begun + 50, begun + 51)
        await opened.trim_changes(timedelta(days=1))
    assert tuple(await database.fetchrow(trimmed) or ()) == (begun + 75, begun + 76)


async def test_a_pin_is_never_deleted_and_its_epoch_never_falls(
    directory: RunningDirectory, database: asyncpg.Connection
) -> None:
    key = any_key()
    await directory.app.claim(key, GERMANY)
    for statement in (
        "DELETE FROM directory.pins WHERE subject_key = $1",
        "UPDATE directory.pins SET state = 'erased' WHERE subject_key = $1",
        "UPDATE directory.pins SET cell = 'us-1', epoch = epoch - 1 WHERE subject_key = $1",
    ):
        with pytest.raises(asyncpg.PostgresError) as refused:
            await database.execute(statement, key)
        assert refused.value.sqlstate == "DM006"


@pytest.mark.parametrize("after", ["", "x", "1:2", "00000000-0000-0000-0000-000000000000:-1", "a:" * 99])
async def test_a_position_that_is_none_is_refused(directory: RunningDirectory, after: str) -> None:
    answer = await directory.ask("GET", f"/v1/changes?after={after}", role=Role.ROUTER)
    assert (answer.status, answer.body["code"]) == (422, "invalid-input")
