"""Each lock on a write holds alone, the others gone around: the SDK, and the database. The guard: sdk/test_guard."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, cast
from uuid import UUID, uuid4

import asyncpg
import pytest
from domicile_testing import Storage
from domicile_testing.cell import superuser
from domicile_testing.homes import Surroundings

from domicile.model import FenceRefused, PinGrant, Role, SubjectKey
from domicile.ops.testing import Cell, PostgresCell
from domicile.sample import Note
from domicile.sdk import Record, Residency, Shareable, WrongJurisdiction
from domicile.sdk.store import FenceStore, local

Somebody = Callable[[], tuple[str, SubjectKey]]
INSERT = (
    "INSERT INTO notes (jurisdiction, subject_key, principal_key, id, epoch, text, topic) "
    "VALUES ($1, $2, $2, $3, $4, $5, 'general')"
)


async def grant(fences: FenceStore, key: SubjectKey, epoch: int = 1, **changes: Any) -> PinGrant:
    now = int(time.time())
    values = {"iss": "acme", "sub": key, "jur": "us", "cell": "us-1", "epoch": epoch, "iat": now, "exp": now + 60}
    return PinGrant(**{**values, "incarnation": await fences.incarnation(), **changes})


async def insert(
    connection: asyncpg.Connection, key: SubjectKey, *, label: str = "us", epoch: int = 1, row: UUID | None = None
) -> None:
    """A row by plain SQL, as whoever has taken the application's certificate would write it."""
    await connection.execute("SELECT set_config('domicile.subject', $1, false)", str(key))
    await connection.execute(INSERT, label, key, row or uuid4(), epoch, b"\0")


async def count(root: asyncpg.Connection, key: SubjectKey) -> int:
    return int(await root.fetchval("SELECT count(*) FROM notes WHERE subject_key = $1", key))


async def refused(state: str, attempt: Any) -> None:
    with pytest.raises(asyncpg.PostgresError) as refusal:
        await attempt
    assert refusal.value.sqlstate == state


# -- the SDK alone: nothing behind it is running ------------------------------------------------------


async def test_a_wrong_label_is_refused_before_any_connection(
    around: Surroundings, residency: Residency, somebody: Somebody, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = await residency.claim(somebody()[0], residence="DE")
    record = home.new(Note, text="x", topic="y").model_copy(update={"jurisdiction": "us"})

    def connect(*_: Any, **__: Any) -> None:
        raise AssertionError("something was connected to")

    monkeypatch.setattr(asyncpg.pool.Pool, "acquire", connect)
    monkeypatch.setattr(asyncio.get_running_loop(), "create_connection", connect, raising=False)
    monkeypatch.setattr("domicile.client.KeyClient.data_key", connect)
    with pytest.raises(WrongJurisdiction):
        await home.put(record)
    with pytest.raises(AssertionError):
        await home.put(home.new(Note, text="x", topic="y"))


# -- the database alone: plain SQL by the application's own role ---------------------------------------


async def test_a_european_row_labelled_us_is_refused_by_the_us_cell(
    us_app: asyncpg.Connection, us_root: asyncpg.Connection, somebody: Somebody
) -> None:
    _, european = somebody()
    await refused("DM001", insert(us_app, european))
    assert await count(us_root, european) == 0


async def test_a_row_at_home_is_taken(
    us_app: asyncpg.Connection, us_root: asyncpg.Connection, us_fences: FenceStore, somebody: Somebody
) -> None:
    _, key = somebody()
    await us_fences.open(await grant(us_fences, key), {})
    await insert(us_app, key)
    assert await count(us_root, key) == 1


@pytest.mark.parametrize("epoch", [1, 2, 4, 2**62])
async def test_stale_and_future_epochs_are_refused(
    us_app: asyncpg.Connection, us_root: asyncpg.Connection, us_fences: FenceStore, somebody: Somebody, epoch: int
) -> None:
    _, key = somebody()
    await us_fences.open(await grant(us_fences, key, 3), {})
    await refused("DM001", insert(us_app, key, epoch=epoch))
    assert await count(us_root, key) == 0


@pytest.mark.parametrize("state", ["closed", "retired"])
async def test_a_fence_that_is_not_open_refuses_every_kind_of_write(
    us_app: asyncpg.Connection, us_root: asyncpg.Connection, us_fences: FenceStore, somebody: Somebody, state: str
) -> None:
    _, key = somebody()
    row = uuid4()
    await us_fences.open(await grant(us_fences, key), {})
    await insert(us_app, key, row=row)
    await us_root.execute("UPDATE domicile.fences SET state = $2 WHERE subject_key = $1", key, state)
    await refused("DM001", insert(us_app, key))
    await refused("DM001", us_app.execute("UPDATE notes SET topic = 'x'"))
    await us_app.execute("SET domicile.epoch = '1'")
    await refused("DM001", us_app.execute("DELETE FROM notes"))
    assert await count(us_root, key) == 1


async def test_a_deletion_names_the_epoch_at_which_it_is_made(
    us_app: asyncpg.Connection, us_root: asyncpg.Connection, us_fences: FenceStore, somebody: Somebody
) -> None:
    _, key = somebody()
    await us_fences.open(await grant(us_fences, key), {})
    await insert(us_app, key)
    await us_fences.open(await grant(us_fences, key, 2), {})
    await refused("DM001", us_app.execute("DELETE FROM notes"))
    await us_app.execute("SET domicile.epoch = '1'")
    await refused("DM001", us_app.execute("DELETE FROM notes"))
    await us_app.execute("SET domicile.epoch = '2'")
    assert await us_app.execute("DELETE FROM notes") == "DELETE 1"


async def test_another_label_is_refused_also_for_a_subject_at_home(
    us_app: asyncpg.Connection, us_fences: FenceStore, somebody: Somebody
) -> None:
    _, key = somebody()
    await us_fences.open(await grant(us_fences, key), {})
    await refused("DM002", insert(us_app, key, label="eu"))


async def test_the_label_is_checked_also_without_the_trigger(
    us_root: asyncpg.Connection, us_fences: FenceStore, somebody: Somebody
) -> None:
    _, key = somebody()
    await us_fences.open(await grant(us_fences, key), {})
    transaction = us_root.transaction()
    await transaction.start()
    try:
        await us_root.execute("ALTER TABLE notes DISABLE TRIGGER domicile_check")
        await refused("23514", insert(us_root, key, label="eu"))
    finally:
        await transaction.rollback()


@pytest.mark.parametrize("column", ["subject_key", "principal_key", "jurisdiction", "id"])
async def test_a_row_keeps_what_it_is(
    us_root: asyncpg.Connection, us_fences: FenceStore, somebody: Somebody, column: str
) -> None:
    (_, key), (_, other) = somebody(), somebody()
    for subject in (key, other):
        await us_fences.open(await grant(us_fences, subject), {})
    await insert(us_root, key)
    value = {"jurisdiction": "eu", "id": uuid4()}.get(column, other)
    statement = f"UPDATE notes SET {column} = $2 WHERE subject_key = $1"
    await refused("DM003", us_root.execute(statement, key, value))


@pytest.mark.parametrize("level", ["off", "local", "remote_write"])
async def test_a_write_that_would_not_be_durable_is_refused(
    us_app: asyncpg.Connection, us_fences: FenceStore, somebody: Somebody, level: str
) -> None:
    _, key = somebody()
    await us_fences.open(await grant(us_fences, key), {})
    await us_app.execute(f"SET synchronous_commit = {level}")
    await refused("DM004", insert(us_app, key))


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT * FROM domicile.fences",
        "SELECT * FROM domicile.fences FOR SHARE",
        "UPDATE domicile.fences SET state = 'open'",
        "INSERT INTO domicile.fences (subject_key, epoch, state) VALUES ('\\x00'::bytea, 1, 'open')",
        "DELETE FROM domicile.fences",
        "TRUNCATE domicile.fences",
        "TRUNCATE notes",
        "UPDATE domicile.cell SET jurisdiction = 'eu'",
        "SELECT domicile.open_fence('\\x00', 'us-1', 'us', gen_random_uuid(), 1, '{}')",
        "INSERT INTO domicile.border_events (from_jurisdiction, role, kind, verdict) VALUES ('a', 'b', 'c', 'd')",
        "ALTER TABLE notes DISABLE TRIGGER domicile_check",
        "ALTER TABLE notes DISABLE ROW LEVEL SECURITY",
        "DROP TABLE notes",
        "SET ROLE domicile_owner",
        "SET ROLE domicile_turner",
        "SET session_replication_role = replica",
        "CREATE TABLE public.mine (a int)",
        "CREATE TABLE domicile.mine (a int)",
        "CREATE TEMPORARY TABLE fences (a int)",
        "CREATE SCHEMA mine",
        "COPY notes TO PROGRAM 'cat'",
        "SELECT lo_from_bytea(0, 'x')",
        "SELECT lo_create(0)",
    ],
)
async def test_the_applications_role_cannot_touch_what_fences_it(us_app: asyncpg.Connection, statement: str) -> None:
    await refused("42501", us_app.execute(statement))


async def test_a_session_sees_and_writes_its_own_subject_only(
    us_app: asyncpg.Connection, us_root: asyncpg.Connection, us_fences: FenceStore, somebody: Somebody
) -> None:
    (_, key), (_, other) = somebody(), somebody()
    for subject in (key, other):
        await us_fences.open(await grant(us_fences, subject), {})
        await insert(us_app, subject)
    assert [row["subject_key"] for row in await us_app.fetch("SELECT subject_key FROM notes")] == [other]
    assert await us_app.execute("UPDATE notes SET topic = 'x' WHERE subject_key = $1", key) == "UPDATE 0"
    await refused("42501", us_app.execute(INSERT, "us", key, uuid4(), 1, b"\0"))
    await us_app.execute("RESET domicile.subject")
    assert await us_app.fetchval("SELECT count(*) FROM notes") == 0
    assert await count(us_root, key) == await count(us_root, other) == 1


# -- the fence itself --------------------------------------------------------------------------------


async def test_a_fence_opens_at_a_strictly_higher_epoch_only(
    us_fences: FenceStore, us_root: asyncpg.Connection, somebody: Somebody
) -> None:
    _, key = somebody()
    assert await us_fences.fence(key) is None
    first = await us_fences.open(await grant(us_fences, key, 2), {})
    assert (first.epoch, first.state) == (2, "open")
    assert await us_fences.open(await grant(us_fences, key, 2), {}) == first
    with pytest.raises(FenceRefused):
        await us_fences.open(await grant(us_fences, key, 1), {})
    await us_root.execute("UPDATE domicile.fences SET state = 'closed' WHERE subject_key = $1", key)
    with pytest.raises(FenceRefused):
        await us_fences.open(await grant(us_fences, key, 2), {})
    again = await us_fences.open(await grant(us_fences, key, 3), {})
    assert (again.epoch, again.state, again.internal_id) == (3, "open", first.internal_id)


@pytest.mark.parametrize("changes", [{"cell": "us-2"}, {"jur": "eu"}, {"incarnation": UUID(int=1)}, {"exp": 1_000_000}])
async def test_a_grant_for_another_place_or_time_opens_nothing(
    us_fences: FenceStore, somebody: Somebody, changes: dict[str, Any]
) -> None:
    _, key = somebody()
    with pytest.raises(FenceRefused):
        await us_fences.open(await grant(us_fences, key, **changes), {})
    assert await us_fences.fence(key) is None


async def test_many_openings_at_once_open_one_fence(us_fences: FenceStore, somebody: Somebody) -> None:
    _, key = somebody()
    grants = [await grant(us_fences, key, epoch) for epoch in (1, 2, 3, 3, 2, 1)]
    answers = await asyncio.gather(*(us_fences.open(one, {}) for one in grants), return_exceptions=True)
    for one, answer in zip(grants, answers, strict=True):
        assert isinstance(answer, FenceRefused) or answer.epoch >= one.epoch  # type: ignore[union-attr]
    fence = await us_fences.fence(key)
    assert fence is not None
    assert (fence.epoch, fence.state) == (3, "open")


@asynccontextmanager
async def application(us: Storage) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(
        host=us.host, port=us.port, user="domicile_app", database="domicile", ssl=us.context(Role.APP, "us-1.iad")
    )
    try:
        yield connection
    finally:
        await connection.close()


CLOSE = "UPDATE domicile.fences SET state = 'closed' WHERE subject_key = $1"


async def test_closing_waits_for_a_writer_that_is_under_way(
    us: Storage, us_app: asyncpg.Connection, us_root: asyncpg.Connection, us_fences: FenceStore, somebody: Somebody
) -> None:
    _, key = somebody()
    await us_fences.open(await grant(us_fences, key), {})
    writer = us_app.transaction()
    await writer.start()
    await insert(us_app, key)
    closing = asyncio.create_task(us_root.execute(CLOSE, key))
    async with superuser(us) as watcher:
        waits = "SELECT count(*) FROM pg_stat_activity WHERE pid = $1 AND wait_event_type = 'Lock'"
        async with asyncio.timeout(10):
            while not await watcher.fetchval(waits, us_root.get_server_pid()):
                pass
    assert not closing.done()
    await writer.commit()
    await closing
    await refused("DM001", insert(us_app, key))
    assert await count(us_root, key) == 1


async def test_nothing_is_written_after_the_fence_was_closed(
    us: Storage, us_root: asyncpg.Connection, us_fences: FenceStore, somebody: Somebody
) -> None:
    _, key = somebody()
    await us_fences.open(await grant(us_fences, key), {})
    written = asyncio.Semaphore(0)
    acknowledged = 0

    async def write_until_refused() -> None:
        nonlocal acknowledged
        async with application(us) as connection:
            while True:
                try:
                    await insert(connection, key)
                except asyncpg.PostgresError as error:
                    assert error.sqlstate == "DM001"  # noqa: PT017 - the loop ends by it
                    return
                acknowledged += 1
                written.release()

    writers = [asyncio.create_task(write_until_refused()) for _ in range(3)]
    for _ in range(10):
        await written.acquire()
    await us_root.execute(CLOSE, key)
    at_closing = await count(us_root, key)
    await asyncio.gather(*writers)
    assert await count(us_root, key) == at_closing == acknowledged


async def test_what_counts_and_dates_a_row_is_the_databases_to_write(domicile_postgres: Cell) -> None:
    """By plain SQL as the application's role: a row keeps its history, whatever a statement says of it."""
    cell = cast("PostgresCell", domicile_postgres)
    stamps = "SELECT version, created_at, updated_at FROM notes WHERE subject_key = $1"
    long_ago = datetime(1999, 1, 1, tzinfo=UTC)

    async def stamped(root: asyncpg.Connection, subject: SubjectKey) -> asyncpg.Record:
        row = await root.fetchrow(stamps, subject)
        assert row is not None
        return row

    async with cell.home(Note) as home, local.superuser(cell.folder) as root, local.application(cell.folder) as pool:
        before = await root.fetchval("SELECT clock_timestamp()")
        async with pool.acquire() as psql:
            await psql.execute("SELECT set_config('domicile.subject', $1, false)", str(home.subject_key))
            columns = (
                "jurisdiction, subject_key, principal_key, id, epoch, text, topic, version, created_at, updated_at"
            )
            await psql.execute(
                f"INSERT INTO notes ({columns}) VALUES ('eu', $1, $1, gen_random_uuid(), 1, '', '', 9, $2, $2)",
                home.subject_key,
                long_ago,
            )
            first = await stamped(root, home.subject_key)
            assert first["version"] == 1
            assert before <= first["created_at"] <= first["updated_at"]
            for change in ("version = 9, created_at = $1, updated_at = $1", "topic = 'x', created_at = $1"):
                await psql.execute(f"UPDATE notes SET {change}", long_ago)
            second = await stamped(root, home.subject_key)
            assert (second["version"], second["created_at"]) == (3, first["created_at"])
            assert second["updated_at"] > first["updated_at"]
            async with psql.transaction():  # what used to say that keys are turned says nothing any more
                await psql.execute("SELECT set_config('domicile.turning', 'on', true)")
                await psql.execute("UPDATE notes SET text = '1', version = 9, updated_at = $1", long_ago)
            third = await stamped(root, home.subject_key)
            assert third["version"] == 4, "who read the row before would else write over this"
            await psql.execute("SELECT set_config('domicile.subject', '', false)")
        async with local.application(cell.folder, user="domicile_turner") as turners, turners.acquire() as turner:
            await turner.execute("SELECT set_config('domicile.subject', $1, false)", str(home.subject_key))
            await turner.execute("UPDATE notes SET text = '2', version = 9, updated_at = $1", long_ago)
            assert tuple(await stamped(root, home.subject_key)) == tuple(third), "the values stay: keys were turned"


class Visit(Record, table="visits_kept", keep=timedelta(days=30)):
    place: Annotated[str, Shareable("user.location")]


async def test_how_long_a_row_is_kept_is_its_classs_to_say(domicile_postgres: Cell) -> None:
    """By plain SQL as the application's role: no row is swept early, and none is kept for longer."""
    cell = cast("PostgresCell", domicile_postgres)
    columns = "jurisdiction, subject_key, principal_key, id, epoch, place, expires_at"
    put = f"INSERT INTO visits_kept ({columns}) VALUES ('eu', $1, $1, $2, 1, 'x', $3)"
    unkept = "INSERT INTO notes (jurisdiction, subject_key, principal_key, id, epoch, text, topic, expires_at) "
    ends = "SELECT expires_at - created_at FROM visits_kept WHERE subject_key = $1"
    long_ago, far = datetime(1999, 1, 1, tzinfo=UTC), datetime(2999, 1, 1, tzinfo=UTC)
    async with (
        cell.home(Note, Visit) as home,
        local.superuser(cell.folder) as root,
        local.application(cell.folder) as pool,
        pool.acquire() as psql,
    ):
        await psql.execute("SELECT set_config('domicile.subject', $1, false)", str(home.subject_key))
        row = uuid4()
        for wanted in (long_ago, far, None):
            await psql.execute(f"{put} ON CONFLICT DO NOTHING", home.subject_key, uuid4(), wanted)
            again = f"{put} ON CONFLICT (subject_key, id) DO UPDATE SET expires_at = excluded.expires_at"
            await psql.execute(again, home.subject_key, row, wanted)
            await psql.execute("UPDATE visits_kept SET expires_at = $1", wanted)
        assert {each[0] for each in await root.fetch(ends, home.subject_key)} == {timedelta(days=30)}
        await psql.execute(f"{unkept} VALUES ('eu', $1, $1, $2, 1, '', '', $3)", home.subject_key, row, long_ago)
        await psql.execute("UPDATE notes SET expires_at = $1", long_ago)
        kept = await root.fetch("SELECT expires_at FROM notes WHERE subject_key = $1", home.subject_key)
        assert [each[0] for each in kept] == [None], "a class that says nothing keeps its rows"
        await psql.execute("SELECT set_config('domicile.subject', '', false)")
