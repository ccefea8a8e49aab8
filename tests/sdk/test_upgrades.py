"""A newer schema under processes of an older one: nothing is lost, nobody is refused, and no table lacks a lock.

``schemas/1.sql`` is the first schema that a cell could have, with the sample's tables as it made them; the
statements below are those of its processes. The others are the system's own part, by its number.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Annotated
from uuid import UUID, uuid4

import asyncpg
import pytest
from domicile_testing import Storage, Trust, running_storage
from domicile_testing.cell import superuser
from domicile_testing.databases import until

from domicile.model import Endpoint, PinGrant, Role, SubjectKey
from domicile.sample import Note, Profile
from domicile.sdk import Conflict, Personal, Record, Residency, Shareable, Unavailable
from domicile.sdk.store import FenceStore, apply_schema, open_pool, plan_schema, schema
from domicile.sdk.store.queries import query

FIRST = (Path(__file__).parent / "schemas" / "1.sql").read_text()
SYSTEMS = {int(path.stem): path.read_text() for path in (Path(__file__).parent / "schemas").glob("*.sql")}
PLACE = ("eu-1", "eu")
PUT = (
    'INSERT INTO public."notes" AS t (jurisdiction, subject_key, principal_key, id, epoch, "text", "topic") '
    "VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (subject_key, id) DO UPDATE SET epoch = $5, "
    'version = t.version + 1, updated_at = clock_timestamp(), "text" = $6, "topic" = $7 RETURNING t.version'
)
READ = (
    "SELECT f.subject_key AS fence_key, f.epoch AS fence_epoch, f.state AS fence_state, r.id, r.version, "
    'r."text", r."topic" FROM domicile.read_fence($1) f LEFT JOIN public."notes" r ON r.subject_key = $1 '
    "ORDER BY r.created_at, r.id"
)


class LongerNote(Record, table="notes", indexes=("topic",), keep=timedelta(days=365)):
    """``Note`` of a later version of the application."""

    text: Annotated[str, Personal("user.content.private")]
    topic: Annotated[str, Shareable("user.content.topic")]
    mood: Annotated[str, Personal("user.content.private")] = "unknown"
    stars: Annotated[int, Shareable("user.content.rating")] = 3
    place: Annotated[str | None, Personal("user.location", find="cell")] = None


class Order(Record, table="orders"):
    item: Annotated[str, Shareable("user.payment")]


class ShorterNote(Record, table="notes"):
    text: Annotated[str, Personal("user.content.private")]


@pytest.fixture(scope="module")
def storage(trust: Trust) -> Iterator[Storage]:
    with running_storage(trust, trust.folder / "old", Endpoint.CELL_STORAGE, "eu", "eu-1.fra", None) as running:
        yield running


@pytest.fixture
async def root(storage: Storage) -> AsyncIterator[asyncpg.Connection]:
    """The superuser in a database as the first schema made it."""
    async with superuser(storage) as connection:
        tables = await connection.fetch("SELECT relname FROM pg_class WHERE relkind IN ('r', 'v') "
                                        "AND relnamespace = 'public'::regnamespace")  # fmt: skip
        for row in tables:
            await connection.execute(f'DROP TABLE public."{row[0]}" CASCADE')
        await connection.execute("DROP SCHEMA IF EXISTS domicile CASCADE")
        async with connection.transaction():
            await connection.execute(FIRST)
        yield connection


@pytest.fixture
async def subject(root: asyncpg.Connection, storage: Storage, trust: Trust) -> AsyncIterator[SubjectKey]:
    """Somebody whose fence the gateway of before has opened."""
    credentials = trust.credentials("eu", Role.GATEWAY, "eu-1.fra")
    pool = await open_pool(credentials, [storage.address], jurisdiction="eu", cell="eu-1", user="domicile_gateway")
    fences, now = FenceStore(pool), int(time.time())
    key = SubjectKey(bytes([1]) + uuid4().bytes)
    grant = PinGrant(iss="acme", sub=key, jur="eu", cell="eu-1", epoch=1, iat=now, exp=now + 60,
                     incarnation=await fences.incarnation())  # fmt: skip
    await fences.open(grant, {})
    yield key
    pool.terminate()


@asynccontextmanager
async def old_processes(storage: Storage, subject: SubjectKey) -> AsyncIterator[list[UUID]]:
    """Four writers and a reader by the statements of before; none is ever refused."""
    written: list[UUID] = []
    reads = 0
    ended = asyncio.Event()

    @asynccontextmanager
    async def app() -> AsyncIterator[asyncpg.Connection]:
        connection = await asyncpg.connect(
            host=storage.host, port=storage.port, user="domicile_app", database="domicile",
            ssl=storage.context(Role.APP, "eu-1.fra"),
        )  # fmt: skip
        try:
            yield connection
        finally:
            await connection.close()

    async def write() -> None:
        async with app() as connection:
            while not ended.is_set():
                row = uuid4()
                await connection.execute(
                    f"BEGIN; SET LOCAL domicile.subject = '{subject}'; SET LOCAL domicile.epoch = '1'; "
                    f"SELECT domicile.hold_fence('\\x{subject}', 1)"
                )
                assert await connection.fetchval(PUT, "eu", subject, subject, row, 1, b"sealed", "t") == 1
                assert await connection.execute("COMMIT") == "COMMIT"
                written.append(row)

    async def read() -> None:
        nonlocal reads
        async with app() as connection:
            while not ended.is_set():
                async with connection.transaction(readonly=True):
                    await connection.execute(f"SET LOCAL domicile.subject = '{subject}'")
                    seen = len(written)
                    assert len(await connection.fetch(READ, subject)) >= seen
                reads += 1

    async def more() -> None:
        before = (len(written), reads)

        async def went_on() -> bool:
            return len(written) >= before[0] + 20 and reads >= before[1] + 5

        await until(went_on, "older processes to go on")

    async with asyncio.TaskGroup() as group:
        for _ in range(4):
            group.create_task(write())
        group.create_task(read())
        try:
            await more()
            yield written
            await more()
        finally:
            ended.set()


async def test_older_processes_go_on_while_the_schema_changes_and_after_it(
    root: asyncpg.Connection, storage: Storage, subject: SubjectKey
) -> None:
    async with old_processes(storage, subject) as written:
        done = await apply_schema(root, *PLACE, [Profile, LongerNote, Order], by="spiffe://acme/eu/operator/root")
        assert done.id is not None
    rows = await root.fetch("SELECT id, stars, mood, place, expires_at IS NULL AS kept FROM notes")
    assert {UUID(int=row["id"].int) for row in rows} == set(written)
    assert {(row["stars"], row["mood"], row["place"]) for row in rows} == {(3, None, None)}
    assert {row["kept"] for row in rows} == {True, False}, "rows of before are kept for ever, those after for a year"
    assert await root.fetch(query("loose_tables")) == []
    indexes = await root.fetch(query("applied_indexes"))
    assert all(row["valid"] for row in indexes)
    assert ("notes", ["subject_key", "topic", "id"]) in [(row["table_name"], row["columns"]) for row in indexes]
    again = await apply_schema(root, *PLACE, [Profile, LongerNote, Order])
    assert (again.id, again.plan.steps) == (None, ())
    older = await plan_schema(root, *PLACE, [Profile, Note])
    assert [refusal.where for refusal in older.refusals] == ["notes.mood", "notes.place", "notes.stars"]


async def test_a_revision_says_who_when_what_and_by_which_statements(root: asyncpg.Connection) -> None:
    planned = await plan_schema(root, *PLACE, [Profile, LongerNote])
    done = await apply_schema(root, *PLACE, [Profile, LongerNote], by="spiffe://acme/eu/operator/root")
    assert done.plan == planned
    kept = await root.fetchrow("SELECT * FROM domicile.revisions")
    assert kept is not None
    assert (kept["applied_by"], kept["digest"]) == ("spiffe://acme/eu/operator/root", done.digest)
    assert kept["statements"] == [step.sql for step in planned.steps]
    assert schema.digest([LongerNote.domicile_table, Profile.domicile_table]) == done.digest
    assert schema.digest([Note.domicile_table, Profile.domicile_table]) != done.digest


async def test_what_is_refused_leaves_everything_as_it_was(root: asyncpg.Connection) -> None:
    before = await root.fetch("SELECT oid, relname FROM pg_class ORDER BY oid")
    with pytest.raises(Conflict, match=r"notes\.topic"):
        await apply_schema(root, *PLACE, [Order, ShorterNote])
    assert await root.fetch("SELECT oid, relname FROM pg_class ORDER BY oid") == before
    planned = await plan_schema(root, *PLACE, [Order, ShorterNote], drops=["notes.topic"])
    assert planned.refusals == ()
    assert await root.fetch("SELECT oid, relname FROM pg_class ORDER BY oid") == before, "a plan changes nothing"
    await apply_schema(root, *PLACE, [Order, ShorterNote], drops=["notes.topic"])
    assert await root.fetchval("SELECT count(*) FROM domicile.columns WHERE table_name = 'notes'") == 1


async def test_schema_changes_are_one_at_a_time_and_build_indexes_all_the_same(
    root: asyncpg.Connection, storage: Storage
) -> None:
    async with superuser(storage) as second, superuser(storage) as third:
        applied = await asyncio.gather(
            *(apply_schema(connection, *PLACE, [Profile, LongerNote]) for connection in (root, second, third))
        )
    assert sorted(done.id is None for done in applied) == [False, True, True]


async def test_a_change_gives_way_to_who_holds_a_table_and_writers_wait_for_neither(
    root: asyncpg.Connection, storage: Storage, subject: SubjectKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schema, "ATTEMPTS", 2)
    async with old_processes(storage, subject):
        async with superuser(storage) as backup, backup.transaction():
            await backup.execute("LOCK TABLE notes, domicile.fences IN ACCESS SHARE MODE")
            with pytest.raises(Unavailable, match="holds a table"):
                await apply_schema(root, *PLACE, [Profile, LongerNote])
        assert await root.fetchval("SELECT to_regclass('domicile.revisions')") is None
        assert (await apply_schema(root, *PLACE, [Profile, LongerNote])).id == 1


async def test_an_older_program_takes_no_system_schema_back(
    root: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    text, number, _ = schema.system()
    monkeypatch.setattr(schema, "system", lambda: (text, number + 1, "later"))
    await apply_schema(root, *PLACE, [Profile, Note])
    monkeypatch.undo()
    assert (await apply_schema(root, *PLACE, [Profile, Note])).plan.steps == ()
    assert [step.what for step in (await apply_schema(root, *PLACE, [Order])).plan.steps] == ["create table orders"]
    monkeypatch.setattr(schema, "system", lambda: (text, number, "another text of the same number"))
    assert [step.what for step in (await plan_schema(root, *PLACE, [Order])).steps] == [f"system schema {number}"]


def test_a_system_schema_that_changes_gets_the_next_number() -> None:
    text, number, _ = schema.system()
    assert max(SYSTEMS) == number
    assert SYSTEMS[number] == text, "number the change, and copy the text to schemas/<number>.sql"


@pytest.mark.parametrize("number", sorted(SYSTEMS)[1:])
async def test_every_system_schema_becomes_the_last_one(root: asyncpg.Connection, number: int) -> None:
    await root.execute("DROP TABLE notes, profiles; DROP SCHEMA domicile CASCADE")
    async with root.transaction():
        await root.execute(SYSTEMS[number])
    done = await apply_schema(root, *PLACE, [Profile, Note])
    assert (done.id, done.plan.steps[0].what) == (1, f"system schema {max(SYSTEMS)}")
    assert await root.fetch(query("loose_tables")) == []


LOOSE = {
    "ALTER TABLE notes DISABLE TRIGGER domicile_check": "the fence trigger",
    "DROP TRIGGER domicile_check ON notes": "the fence trigger",
    "DROP TRIGGER domicile_check ON notes; CREATE TRIGGER domicile_check BEFORE INSERT ON notes "
    "FOR EACH ROW EXECUTE FUNCTION domicile.check_row()": "the fence trigger",
    "DROP TRIGGER domicile_check ON notes; CREATE TRIGGER domicile_check BEFORE INSERT OR UPDATE OR DELETE ON notes "
    "FOR EACH ROW WHEN (pg_trigger_depth() > 0) EXECUTE FUNCTION domicile.check_row()": "the fence trigger",
    "ALTER TABLE notes DISABLE ROW LEVEL SECURITY": "row security",
    "DROP POLICY domicile_subject ON notes": "the rule of one subject alone",
    "ALTER POLICY domicile_subject ON notes USING (true)": "the rule of one subject alone",
    "CREATE POLICY other ON notes TO domicile_app USING (true)": "the rule of one subject alone",
    "ALTER TABLE notes DROP CONSTRAINT notes_jurisdiction_check": "the label",
    "ALTER TABLE notes DROP CONSTRAINT notes_jurisdiction_check; "
    "ALTER TABLE notes ADD CHECK (jurisdiction = 'us')": "the label",
    "ALTER TABLE notes OWNER TO domicile_gateway": "the owner that nobody logs in as",
    "GRANT TRUNCATE ON notes TO domicile_app": "the rights of each role and no more",
    "GRANT SELECT ON notes TO domicile_abroad": "the rights of each role and no more",
    'GRANT SELECT ("text") ON notes TO domicile_abroad': "the rights of each role and no more",
    "GRANT SELECT ON notes TO domicile_eraser": "the rights of each role and no more",
    "CREATE TABLE lists (a int); GRANT DELETE ON lists TO domicile_eraser": "the fence trigger",
    "CREATE TABLE lists (a int); GRANT SELECT ON lists TO PUBLIC": "the fence trigger",
    "CREATE VIEW lists AS SELECT * FROM notes; GRANT SELECT ON lists TO domicile_app": "being a table",
}


@pytest.mark.parametrize("statement", LOOSE)
async def test_a_table_that_lost_a_lock_is_told_and_nothing_is_applied(
    root: asyncpg.Connection, statement: str
) -> None:
    await apply_schema(root, *PLACE, [Profile, LongerNote])
    assert await root.fetch(query("loose_tables")) == []
    await root.execute(statement)
    (row,) = await root.fetch(query("loose_tables"))
    assert LOOSE[statement] in row["lacks"]
    with pytest.raises(Conflict, match=row["table_name"]):
        await apply_schema(root, *PLACE, [Profile, LongerNote, Order])
    assert await root.fetchval("SELECT to_regclass('public.orders')") is None


# -- two versions of one application -----------------------------------------------------------------


class Before(Record, table="things"):
    name: Annotated[str, Personal("user.name", find=True)]
    size: Annotated[int, Shareable("user.content.size")]


class After(Record, table="things"):
    name: Annotated[str, Personal("user.name", find=True)]
    size: Annotated[int, Shareable("user.content.size")]
    nick: Annotated[str | None, Personal("user.name.nick", find=True)] = None
    mood: Annotated[str, Personal("user.content.mood")] = "unknown"
    stars: Annotated[int, Shareable("user.content.stars")] = 3


async def test_old_code_and_new_code_share_a_table(
    eu_root: asyncpg.Connection, residency: Residency, somebody: Callable[[], tuple[str, SubjectKey]]
) -> None:
    await eu_root.execute("DROP TABLE IF EXISTS things; DELETE FROM domicile.columns WHERE table_name = 'things'")
    await apply_schema(eu_root, "eu-1", "eu", [Before])
    home = await residency.claim(somebody()[0], residence="DE")
    old = home.new(Before, name="a", size=1)
    await home.put(old)
    await apply_schema(eu_root, "eu-1", "eu", [After])
    found = await home.get(After, old.id)
    assert found is not None
    assert (found.nick, found.mood, found.stars) == (None, "unknown", 3)
    assert (await home.update(found, mood="calm")).stars == 3
    new = home.new(After, name="b", size=2, nick="bee", stars=5)
    await home.put(new)
    await home.put(home.new(Before, id=new.id, name="b", size=9))
    await home.put(home.new(Before, name="c", size=3))
    (changed,) = await home.find(After, nick="bee")
    assert (changed.size, changed.stars, changed.mood) == (9, 5, "unknown"), "old code leaves new fields alone"
    assert {each.name for each in await home.all(After)} == {"a", "b", "c"}
    assert [each.size for each in await home.find(Before, name="a")] == [1]
