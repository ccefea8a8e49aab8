"""Windows, lists and functions in SQL of the application's own: what is admitted, and the refusals around each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY

from domicile.model import SubjectKey
from domicile.sample import Note
from domicile.sdk import Home, Residency, UnsupportedQuery
from domicile.sdk.admission import admitted

Somebody = Callable[[], tuple[str, SubjectKey]]


@pytest.fixture
async def home(residency: Residency, somebody: Somebody) -> Home:
    """With four notes, created in this order."""
    home = await residency.claim(somebody()[0], residence="DE")
    await home.put_many([home.new(Note, text="x", topic=topic) for topic in ("a", "b", "a", "c")])
    return home


ADMITTED: list[tuple[str, list[Any], list[Any]]] = [
    ("SELECT topic FROM notes WHERE topic = ANY($1) ORDER BY topic", [["b", "c"]], ["b", "c"]),
    ("SELECT topic FROM notes WHERE topic = ANY($1::text[]) ORDER BY topic", [["c"]], ["c"]),
    ("SELECT topic FROM notes WHERE NOT topic = ANY(ARRAY['a', 'c'])", [], ["b"]),
    ("SELECT topic FROM notes WHERE topic = ANY(SELECT topic FROM notes WHERE topic > 'b')", [], ["c"]),
    ("SELECT row_number() OVER (ORDER BY created_at, topic) FROM notes ORDER BY 1", [], [1, 2, 3, 4]),
    ("SELECT rank() OVER (ORDER BY topic) AS n FROM notes ORDER BY n", [], [1, 1, 3, 4]),
    ("SELECT dense_rank() OVER w AS n FROM notes WINDOW w AS (ORDER BY topic) ORDER BY n", [], [1, 1, 2, 3]),
    ("SELECT count(*) OVER (PARTITION BY topic) AS n FROM notes ORDER BY n", [], [1, 1, 2, 2]),
    ("SELECT lag(topic, 1, '-') OVER (ORDER BY topic) AS t FROM notes ORDER BY topic, t", [], ["-", "a", "a", "b"]),
    ("SELECT lead(topic) OVER (ORDER BY topic) AS t FROM notes ORDER BY t", [], ["a", "b", "c", None]),
    ("SELECT first_value(topic) OVER (ORDER BY topic DESC) FROM notes", [], ["c"] * 4),
    ("SELECT ntile(2) OVER (ORDER BY topic) AS n FROM notes ORDER BY n", [], [1, 1, 2, 2]),
    (
        "SELECT sum(version) OVER (ORDER BY topic ROWS BETWEEN 1 PRECEDING AND CURRENT ROW) AS n FROM notes ORDER BY n",
        [],
        [1, 2, 2, 2],
    ),
    ("SELECT count(*) FILTER (WHERE topic = 'a') FROM notes", [], [2]),
    ("SELECT string_agg(topic, '+' ORDER BY topic) FROM notes", [], ["a+a+b+c"]),
    ("SELECT array_agg(DISTINCT topic) FROM notes", [], [["a", "b", "c"]]),
    ("SELECT bool_or(topic = 'c') FROM notes", [], [True]),
    ("SELECT percentile_disc(0.5) WITHIN GROUP (ORDER BY topic) FROM notes", [], ["a"]),
    (
        "SELECT concat(substring(topic from 1 for 1), replace('xy', 'y', topic)) FROM notes WHERE topic = 'b'",
        [],
        ["bxb"],
    ),
    ("SELECT left(trim('  ab '), 1) FROM notes WHERE starts_with(topic, 'c')", [], ["a"]),
    ("SELECT power(2, 3)::int FROM notes WHERE topic = 'b'", [], [8]),
    ("SELECT created_at AT TIME ZONE 'UTC' > '2026-01-01' FROM notes WHERE topic = 'b'", [], [True]),
]


async def test_lists_windows_and_functions(home: Home) -> None:
    async with home.transaction() as transaction:
        for statement, arguments, expected in ADMITTED:
            rows = await transaction.sql(statement, *arguments)
            assert [next(iter(row.values())) for row in rows] == expected, statement


async def test_sqlalchemy_core_says_them_too(home: Home) -> None:
    notes = sa.table("notes", sa.column("topic", sa.String), sa.column("created_at"))
    wanted = sa.bindparam("wanted", ["a", "b"], type_=ARRAY(sa.String))
    numbered = sa.func.row_number().over(partition_by=notes.c.topic, order_by=notes.c.created_at).label("n")
    statement = sa.select(notes.c.topic, numbered).where(notes.c.topic == sa.any_(wanted)).order_by(notes.c.topic, "n")
    async with home.transaction() as transaction:
        rows = await transaction.sql(statement)
    assert [tuple(row.values()) for row in rows] == [("a", 1), ("a", 2), ("b", 1)]


@pytest.mark.parametrize(
    "statement",
    [
        # ciphertext is compared nowhere
        "SELECT id FROM notes WHERE text = ANY($1)",
        "SELECT id FROM notes WHERE $1 = ANY(SELECT text FROM notes)",
        "SELECT id FROM notes WHERE topic = ANY(ARRAY(SELECT text FROM notes))",
        "SELECT row_number() OVER (ORDER BY text) FROM notes",
        "SELECT row_number() OVER (PARTITION BY text) FROM notes",
        "SELECT rank() OVER w FROM notes WINDOW w AS (ORDER BY text)",
        "SELECT lag(text) OVER (ORDER BY topic) FROM notes",
        "SELECT lead(topic, 1, text) OVER (ORDER BY topic) FROM notes",
        "SELECT array_agg(text) FROM notes",
        "SELECT ARRAY[text] FROM notes",
        "SELECT string_agg(topic, ',' ORDER BY text) FROM notes",
        "SELECT count(*) FILTER (WHERE text IS NOT NULL) FROM notes",
        "SELECT mode() WITHIN GROUP (ORDER BY text) FROM notes",
        "SELECT concat(text, topic) FROM notes",
        "SELECT first_value(email_index) OVER () FROM profiles",
        # a whole row
        "SELECT lag(notes) OVER (ORDER BY topic) FROM notes",
        "SELECT array_agg(notes) FROM notes",
        "SELECT array_agg(notes.*) FROM notes",
        "SELECT ARRAY[notes] FROM notes",
        # beside what is on the list
        "SELECT lag(topic) IGNORE NULLS OVER (ORDER BY topic) FROM notes",
        "SELECT pg_sleep(1) OVER () FROM notes",
        "SELECT set_config('domicile.subject', topic, false) OVER () FROM notes",
        "SELECT array_agg(pg_read_file('x')) FROM notes",
        "SELECT unnest(array_agg(topic)) FROM notes",
        "SELECT ARRAY['x']::regclass[] FROM notes",
        "SELECT count(*) FILTER (WHERE pg_sleep(1) IS NULL) FROM notes",
        "SELECT jsonb_agg(topic) FROM notes",
        "SELECT query_to_xml('SELECT 1', true, true, '') FROM notes",
        "SELECT repeat(topic, 1000000000) FROM notes",
        "SELECT lpad(topic, 1000000000) FROM notes",
        "SELECT id FROM notes WHERE topic = ANY(SELECT relname FROM pg_class)",
    ],
)
def test_the_same_is_refused_of_what_is_sealed_or_not_on_the_list(statement: str) -> None:
    with pytest.raises(UnsupportedQuery):
        admitted(statement, [])
