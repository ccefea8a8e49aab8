"""SQL of the application's own: what is admitted runs over one subject, what could leave it is refused unread."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from domicile.model import SubjectKey
from domicile.sample import Note, Profile
from domicile.sdk import Home, InvalidInput, Residency, UnsupportedQuery
from domicile.sdk.admission import admitted

Somebody = Callable[[], tuple[str, SubjectKey]]
CANARY = "canary-51d0"


@pytest.fixture
async def home(residency: Residency, somebody: Somebody) -> Home:
    """With three notes and a profile; so has somebody else."""
    for _ in range(2):
        home = await residency.claim(somebody()[0], residence="DE")
        await home.put_many([home.new(Note, text=CANARY, topic=topic) for topic in ("a", "a", "b")])
        await home.put(home.new(Profile, user="u", email="e", password="p", plan="pro"))
    return home


async def test_queries_are_of_the_subjects_own_rows(home: Home) -> None:
    async with home.transaction() as transaction:
        counted = await transaction.sql("SELECT topic, count(*) AS n FROM notes GROUP BY topic ORDER BY topic")
        assert counted == [{"topic": "a", "n": 2}, {"topic": "b", "n": 1}]
        joined = await transaction.sql(
            "WITH mine AS (SELECT n.topic, p.plan FROM notes n JOIN profiles p ON p.subject_key = n.subject_key) "
            "SELECT DISTINCT topic, plan FROM mine WHERE plan = $1 AND topic LIKE 'a%'",
            "pro",
        )
        assert joined == [{"topic": "a", "plan": "pro"}]
        records = await transaction.sql("SELECT * FROM notes WHERE topic = $1", "b", into=Note)
        assert [(note.text, note.topic, note.version) for note in records] == [(CANARY, "b", 1)]
        raw = await transaction.sql("SELECT text FROM notes")
        assert all(isinstance(row["text"], bytes) and CANARY.encode() not in row["text"] for row in raw)
        assert await transaction.sql("DELETE FROM notes WHERE topic = 'a' RETURNING topic") == [{"topic": "a"}] * 2
    assert len(await home.all(Note)) == 1


async def test_sqlalchemy_core(home: Home) -> None:
    notes = sa.table("notes", sa.column("id", sa.Uuid), sa.column("topic", sa.String))
    counted = sa.select(notes.c.topic, sa.func.count().label("n")).where(notes.c.topic.in_(["b", "c"]))
    whole: sa.Select[Any] = (
        sa.select(sa.literal_column("*")).select_from(notes).where(notes.c.topic == sa.bindparam("t", "b"))
    )
    async with home.transaction() as transaction:
        assert await transaction.sql(counted.group_by(notes.c.topic)) == [{"topic": "b", "n": 1}]
        (note,) = await transaction.sql(whole, into=Note)
        assert note.text == CANARY
        assert await transaction.sql(sa.delete(notes).where(notes.c.id == uuid4())) == []
        with pytest.raises(UnsupportedQuery):
            await transaction.sql(whole, "b")
        with pytest.raises(UnsupportedQuery):
            await transaction.sql(sa.update(notes).values(topic="x"))
        with pytest.raises(UnsupportedQuery):
            await transaction.sql(sa.select(sa.func.set_config("domicile.subject", "", True)))


REFUSED = [
    "SET domicile.subject = ''",
    "SET LOCAL synchronous_commit = off",
    "RESET ALL",
    "COMMIT",
    "COMMIT; BEGIN",
    "ROLLBACK TO SAVEPOINT s",
    "SAVEPOINT s",
    "SELECT 1; SELECT 2",
    "SELECT 1; COMMIT",
    "SELECT set_config('domicile.subject', '', false)",
    "SELECT pg_catalog.set_config('domicile.subject', '', false)",
    "SELECT current_setting('domicile.subject')",
    "SELECT domicile.enter($1)",
    "SELECT * FROM domicile.enter('x')",
    "SELECT * FROM domicile.fences",
    "SELECT * FROM pg_catalog.pg_class",
    "SELECT * FROM pg_class",
    "SELECT * FROM other.public.notes",
    "SELECT * FROM generate_series(1, 10)",
    "SELECT pg_sleep(10)",
    "SELECT pg_advisory_lock(1)",
    "SELECT dblink('x', 'y')",
    "SELECT lo_import('/etc/passwd')",
    "SELECT * FROM notes FOR UPDATE",
    "SELECT * INTO other FROM notes",
    "CREATE TABLE t AS SELECT * FROM notes",
    "UPDATE notes SET topic = 'x'",
    "INSERT INTO notes (topic) VALUES ('x')",
    "MERGE INTO notes USING profiles ON true WHEN MATCHED THEN DELETE",
    "WITH d AS (DELETE FROM notes RETURNING *) SELECT * FROM d",
    "WITH u AS (UPDATE notes SET topic = 'x' RETURNING *) SELECT * FROM u",
    "WITH notes AS (SELECT 1 AS a) SELECT * FROM notes",
    "TRUNCATE notes",
    "DROP TABLE notes",
    "COPY notes TO STDOUT",
    "EXPLAIN ANALYZE DELETE FROM notes",
    "DO $$BEGIN END$$",
    "CALL something()",
    "LISTEN x",
    "PREPARE p AS SELECT 1",
    "VALUES (1)",
    "SELECT 'x'::regclass",
    "SELECT CAST('x' AS regproc)",
    # questions about ciphertext
    "SELECT id FROM notes WHERE text = $1",
    "SELECT id FROM notes ORDER BY text",
    "SELECT count(*) FROM notes GROUP BY text",
    "SELECT min(text) FROM notes",
    "SELECT text AS clear FROM notes",
    "SELECT n.id FROM notes n JOIN notes m USING (text)",
    "SELECT n.id FROM notes n NATURAL JOIN notes m",
    "SELECT id FROM profiles WHERE email_index = $1",
    "SELECT email_index FROM profiles",
    "SELECT id FROM notes WHERE notes = notes",
    "SELECT id FROM notes n WHERE n.* IS NOT NULL",
    "SELECT notes FROM notes",
    "SELECT text FROM notes UNION SELECT text FROM notes",
    "",
    ";",
    "SELEC 1",
    "\0",
]


@pytest.mark.parametrize("statement", REFUSED)
def test_everything_else_is_refused_before_it_is_sent(statement: str) -> None:
    with pytest.raises(UnsupportedQuery) as refusal:
        admitted(f"{statement} -- {CANARY}", [])
    assert CANARY not in str(refusal.value)
    assert refusal.value.__context__ is None


@pytest.mark.parametrize(
    ("statement", "instead"),
    [
        ("UPDATE notes SET topic = 'x'", "update(record"),
        ("WITH u AS (UPDATE notes SET topic = 'x' RETURNING *) SELECT * FROM u", "update(record"),
        ("INSERT INTO notes (topic) VALUES ('x')", "put(record)"),
        ("INSERT INTO notes SELECT * FROM notes ON CONFLICT (id) DO UPDATE SET topic = 'x'", "put(record)"),
        ("MERGE INTO notes USING profiles ON true WHEN MATCHED THEN DELETE", "put_many(records)"),
    ],
)
def test_what_would_write_a_value_says_which_call_does(statement: str, instead: str) -> None:
    with pytest.raises(UnsupportedQuery) as refusal:
        admitted(statement, [])
    assert instead in (refusal.value.remedy or "")


@pytest.mark.parametrize(
    "value", ["it's", "\\", "\\'; COMMIT; --", "$$", "/* */ --", "''", "E'\\''", "ü\u2028", "U&'\\0061'"]
)
async def test_a_literal_stays_a_literal(home: Home, value: str) -> None:
    await home.put(home.new(Note, text="x", topic=value))
    doubled = value.replace("'", "''")
    async with home.transaction() as transaction:
        found = await transaction.sql(f"SELECT topic FROM notes WHERE topic = '{doubled}'")
    assert found == [{"topic": value}]


@given(st.text(alphabet="'\"\\$;-/*EUX&b()\n sel,1", max_size=30))
def test_no_text_is_admitted_as_more_than_one_statement(text: str) -> None:
    try:
        admitted_text, _ = admitted(f"SELECT topic FROM notes WHERE topic = '{text}'", [])
    except UnsupportedQuery:
        return
    assert admitted(admitted_text, [])[0] == admitted_text, "what is written is what is read"


@pytest.mark.parametrize("columns", ["topic", "id, topic", "id, version, topic"])
async def test_a_record_needs_every_column(home: Home, columns: str) -> None:
    async with home.transaction() as transaction:
        with pytest.raises(UnsupportedQuery, match="a result without"):
            await transaction.sql(f"SELECT {columns} FROM notes", into=Note)


async def test_a_statement_that_fails_says_nothing_of_its_values(home: Home) -> None:
    attempts: list[tuple[str, Any]] = [
        ("SELECT id FROM notes WHERE topic = $1::bigint", CANARY),
        ("SELECT CAST(topic AS INT) FROM notes", None),
        ("SELECT nothing FROM notes", None),
    ]
    for statement, value in attempts:
        with pytest.raises(InvalidInput) as refusal:
            async with home.transaction() as transaction:
                await transaction.sql(statement, *([] if value is None else [value]))
        error: BaseException | None = refusal.value
        while error is not None:
            assert CANARY not in f"{error} {vars(error)}"
            assert not isinstance(error, asyncpg.PostgresError)
            error = error.__cause__ or error.__context__
