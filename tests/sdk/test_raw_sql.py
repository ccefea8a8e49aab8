"""SQL of the application's own: what is admitted runs over one subject, what could leave it is refused unread."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any
from uuid import uuid4

import asyncpg
import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from domicile.model import SubjectKey
from domicile.sample import Note, Profile
from domicile.sdk import Home, InvalidInput, ModelError, Record, Reference, Residency, Shareable, UnsupportedQuery
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


async def test_a_table_of_the_records_hides_behind_no_other_of_its_name(home: Home) -> None:
    assert admitted("SELECT n.id FROM notes AS n", [])[0] == "SELECT n.id FROM public.notes AS n"
    async with home.transaction() as transaction:
        assert len(await transaction.sql("SELECT notes.id FROM notes JOIN profiles p ON p.plan = 'pro'")) == 3
        assert len(await transaction.sql("SELECT public.notes.id FROM public.notes")) == 3
        named = "WITH a AS (SELECT id FROM notes), b AS (SELECT id FROM a)"
        assert await transaction.sql(f"{named} DELETE FROM notes USING b WHERE notes.id = b.id") == []


@pytest.mark.parametrize("table", ["pg_stat_activity", "pg_"])
def test_no_class_stands_for_a_table_of_the_catalogue(table: str) -> None:
    with pytest.raises(ModelError, match="names no table"):
        type("Bad", (Record,), {"__module__": __name__}, table=table)
    with pytest.raises(ModelError, match="names no table"):
        type("Bad", (Reference,), {"__module__": __name__}, table=table, key=("a",))


@pytest.mark.parametrize("field", ["ctid", "xmin", "xmax", "cmin", "cmax", "tableoid"])
def test_no_field_has_the_name_of_a_column_that_every_table_has(field: str) -> None:
    members = {"__module__": __name__, "__annotations__": {field: Annotated[str, Shareable("system.operations")]}}
    with pytest.raises(ModelError, match="no column"):
        type("Bad", (Record,), dict(members), table="bads")
    with pytest.raises(ModelError, match="no column"):
        type("Bad", (Reference,), dict(members), table="bads", key=(field,))


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
    # a name of WITH, where it means a table
    "WITH pg_class AS (SELECT * FROM pg_class) SELECT * FROM pg_class",
    "WITH a AS (SELECT * FROM pg_class), pg_class AS (SELECT 1 AS b) SELECT * FROM a",
    "SELECT * FROM (WITH pg_class AS (SELECT 1 AS a) SELECT * FROM pg_class) AS x, pg_class",
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
    # the same, as PostgreSQL folds names
    "SELECT id FROM notes WHERE TEXT = $1",
    "SELECT id FROM notes WHERE TEXT /* sqlglot.meta case_sensitive */ = $1",
    "SELECT id FROM profiles WHERE Email_Index = $1",
    "SELECT id FROM notes ORDER BY Text",
    "SELECT n.id FROM notes n JOIN notes m USING (TEXT)",
    "SELECT NOTES FROM notes",
    'SELECT * FROM "NOTES"',
    # by position, or by comparing whole results
    "SELECT text FROM notes ORDER BY 1",
    "SELECT * FROM notes ORDER BY (4)",
    "SELECT text FROM notes GROUP BY 1",
    "SELECT text FROM notes GROUP BY (1, id)",
    "SELECT text FROM notes UNION ALL SELECT text FROM notes ORDER BY 1",
    "SELECT text FROM ((SELECT text FROM notes) ORDER BY 1) AS x",
    "SELECT DISTINCT ON (1) text FROM notes",
    "SELECT DISTINCT text FROM notes",
    "SELECT DISTINCT * FROM notes",
    "SELECT DISTINCT * FROM (SELECT text FROM notes) AS x",
    "WITH m AS (SELECT * FROM notes) SELECT DISTINCT m.* FROM m",
    "SELECT text FROM notes EXCEPT ALL SELECT text FROM notes",
    "SELECT text FROM notes INTERSECT ALL SELECT text FROM notes",
    "WITH m AS (SELECT text FROM notes UNION SELECT text FROM notes) SELECT text FROM m",
    # as a value
    "SELECT id FROM notes WHERE $1 IN (SELECT text FROM notes)",
    "SELECT id FROM notes WHERE $1 IN (SELECT text FROM notes UNION ALL SELECT text FROM notes)",
    "SELECT id FROM notes WHERE $1 IN (SELECT * FROM (SELECT text FROM notes) AS x)",
    "SELECT id FROM notes WHERE (SELECT text FROM notes LIMIT 1) = $1",
    "SELECT max((SELECT text FROM notes LIMIT 1))",
    "SELECT id FROM profiles ORDER BY (SELECT text FROM notes LIMIT 1)",
    "DELETE FROM notes WHERE $1 IN (SELECT text FROM notes)",
    # under another name
    "SELECT x.t FROM (SELECT text FROM notes) AS x(t) WHERE x.t = $1",
    "SELECT max(x.t) FROM (SELECT text FROM notes) AS x(t)",
    "SELECT max(x.c) FROM (notes CROSS JOIN profiles) AS x(a, b, c)",
    "SELECT n.d FROM notes AS n(a, b, c, d) WHERE n.d = $1",
    "WITH m(t) AS (SELECT text FROM notes) SELECT t FROM m WHERE t = $1",
    "WITH m AS (SELECT text FROM notes) SELECT t FROM m AS x(t) WHERE t = $1",
    "WITH m AS (SELECT text AS t FROM notes) SELECT t FROM m WHERE t = $1",
    "WITH m AS (SELECT text FROM notes) SELECT text FROM m WHERE text = $1",
    "SELECT t FROM (SELECT NULL AS t UNION ALL SELECT text FROM notes) AS x WHERE t = $1",
    "SELECT NULL AS t UNION ALL SELECT text FROM notes ORDER BY t",
    # a function as an attribute of a row, or a row as a value
    "SELECT n.row_to_json FROM notes n",
    "SELECT n.pg_sleep FROM notes n",
    'SELECT n."row_to_json" FROM notes n',
    "SELECT notes.to_jsonb FROM notes",
    "SELECT public.notes.row_to_json FROM notes",
    "SELECT public.notes FROM notes",
    "SELECT n.topic.upper FROM notes n",
    "SELECT topic.upper FROM notes",
    "SELECT n.n FROM notes n",
    "SELECT x.topic FROM notes n",
    "SELECT (n).row_to_json FROM notes n",
    "SELECT (n).text FROM notes n",
    "SELECT (n.*).text FROM notes n",
    "SELECT n FROM notes n",
    "SELECT n::text FROM notes n",
    "SELECT CAST(n AS text) FROM notes n",
    "SELECT count(n) FROM notes n",
    "SELECT coalesce(n, n) FROM notes n",
    "SELECT id FROM notes n ORDER BY n",
    "SELECT id FROM notes n WHERE n.pg_sleep IS NULL",
    "SELECT n.topic FROM notes n ORDER BY n.row_to_json",
    "SELECT count(*) FROM notes n GROUP BY n.row_to_json",
    "SELECT a.id FROM notes a JOIN notes b ON a.hashtext = b.hashtext",
    "DELETE FROM notes n RETURNING n.row_to_json",
    "DELETE FROM notes n USING profiles p WHERE p.row_to_json IS NULL",
    "SELECT x.row_to_json FROM (SELECT topic FROM notes) AS x",
    "SELECT x.row_to_json FROM (SELECT * FROM notes) AS x",
    "SELECT x.row_to_json FROM (notes n CROSS JOIN profiles p) AS x",
    "WITH a AS (SELECT topic FROM notes) SELECT a.row_to_json FROM a",
    "SELECT n.row_to_json FROM notes n, (SELECT 1 AS row_to_json) x",
    "SELECT n.row_to_json FROM notes n, (SELECT n.row_to_json FROM (SELECT 1 AS row_to_json) n) x",
    "SELECT (SELECT n.row_to_json) FROM notes n",
    "SELECT (SELECT n.plan FROM profiles p) FROM notes n",
    "SELECT x.upper FROM notes AS n, (SELECT lower(topic)::text FROM notes) AS x",
    "SELECT n.topic::regtype FROM notes n",
    "SELECT 'pg_sleep'::regprocedure",
    "SELECT user FROM profiles",
    "SELECT current_catalog",
    "SELECT system_user",
    "SELECT localtime",
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
    "statement",
    [
        "SELECT * FROM NOTES WHERE Topic = 'a' ORDER BY ID",
        "SELECT text FROM notes UNION ALL SELECT email FROM profiles",
        "SELECT * FROM notes UNION ALL SELECT * FROM notes",
        "SELECT topic FROM notes UNION SELECT plan FROM profiles ORDER BY 1",
        "SELECT topic, count(*) FROM notes GROUP BY 1 ORDER BY 2",
        "SELECT DISTINCT ON (topic) topic, text FROM notes ORDER BY topic, created_at",
        "WITH m AS (SELECT id, text FROM notes) SELECT m.text FROM m JOIN (SELECT id, text FROM notes) AS x USING (id)",
        "WITH m(t) AS (SELECT topic FROM notes) SELECT DISTINCT * FROM m WHERE t IN (SELECT * FROM m)",
        "WITH RECURSIVE m AS (SELECT topic FROM notes UNION SELECT topic FROM m) SELECT DISTINCT * FROM m",
        "SELECT text FROM (SELECT text FROM notes UNION ALL SELECT text FROM notes) AS x",
        "SELECT topic FROM notes WHERE EXISTS (SELECT * FROM profiles WHERE plan = 'pro')",
        "SELECT n.topic, n.created_at FROM notes n WHERE EXISTS (SELECT n.plan FROM profiles n WHERE n.plan = 'pro')",
        "SELECT n.topic FROM notes n WHERE EXISTS (SELECT p.plan FROM profiles p WHERE p.subject_key = n.subject_key)",
        "SELECT x.topic, x.n FROM (SELECT n.topic, count(*) AS n FROM notes n GROUP BY n.topic) AS x ORDER BY x.n",
        "SELECT n.topic, p.plan FROM (notes n JOIN profiles p ON n.subject_key = p.subject_key)",
        "WITH a AS (SELECT n.* FROM notes n), b AS (SELECT a.topic FROM a) SELECT n.topic FROM b AS n JOIN a ON true",
        "WITH a(t, u) AS (SELECT topic, id FROM notes) SELECT a.t, a.u FROM a",
        'SELECT "user" FROM profiles',
    ],
)
async def test_sealed_columns_are_selected_beside_what_is_compared(home: Home, statement: str) -> None:
    async with home.transaction() as transaction:
        assert await transaction.sql(statement)


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
