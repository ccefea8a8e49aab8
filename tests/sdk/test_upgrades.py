"""A record class changes while old code goes on: what adds is done, what loses wants a word, the rest is refused."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from types import new_class
from typing import Annotated, Any

import asyncpg
import pytest
from domicile_testing import Storage
from domicile_testing.cell import superuser

from domicile.model import SubjectKey
from domicile.sdk import Conflict, Home, Personal, Record, Residency, Shareable
from domicile.sdk.store import apply_schema, plan_schema
from domicile.sdk.store.upgrades import Applied, steps

Somebody = Callable[[], tuple[str, SubjectKey]]


class Before(Record, table="things"):
    name: Annotated[str, Personal("user.name", find=True)]
    size: Annotated[int, Shareable("user.thing.size")]
    note: Annotated[str | None, Shareable("user.thing.note")] = None


class More(Record, table="things"):
    name: Annotated[str, Personal("user.name", find=True)]
    size: Annotated[int | None, Shareable("user.thing.weight")] = None
    note: Annotated[str | None, Shareable("user.thing.note")] = None
    nick: Annotated[str | None, Personal("user.name.nick", find=True)] = None
    colour: Annotated[str | None, Shareable("user.thing.colour")] = None


class Less(Record, table="things"):
    name: Annotated[str, Personal("user.name")]
    note: Annotated[str | None, Shareable("user.thing.note")] = None


class Opened(Record, table="opened"):
    born: Annotated[str | None, Personal("user.demographic", sealed=False)] = None


class Shared(Record, table="opened"):
    born: Annotated[str | None, Shareable("user.demographic")] = None


def applied(record: type[Record]) -> dict[str, Applied]:
    return {column.name: Applied.of(column) for column in record.domicile_table.columns}


def test_the_same_class_needs_nothing() -> None:
    assert steps(Before.domicile_table, applied(Before)) == []


def test_what_is_added_comes_without_a_loss_and_what_goes_comes_last() -> None:
    added = steps(More.domicile_table, applied(Before))
    assert not [step for step in added if step.loses]
    assert [step.sql for step in added if step.column == "size"] == [
        'ALTER TABLE public."things" ALTER COLUMN "size" DROP NOT NULL'
    ]
    removed = steps(Less.domicile_table, applied(Before))
    assert [(step.column, step.loses) for step in removed] == [
        ("name", "name can no longer be found by"),
        ("size", "every value of size"),
    ]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ((int, Shareable("user.a")), (str, Shareable("user.a"))),
        ((str, Personal("user.a")), (str, Personal("user.a", sealed=False))),
        ((str, Personal("user.a")), (str, Shareable("user.a"))),
        ((str, Personal("user.a")), (str, Personal("user.a", find=True))),
        ((str, Personal("user.a", find=True)), (str, Personal("user.a", find="cell"))),
    ],
)
def test_what_would_leave_rows_unread_is_refused(before: Any, after: Any) -> None:
    def record(field: Any) -> type[Record]:
        made: type[Record] = new_class(
            "Made",
            (Record,),
            {"table": "made"},
            lambda names: names.update(__annotations__={"a": Annotated[field[0], field[1]]}, __module__=__name__),
        )
        return made

    with pytest.raises(Conflict) as refusal:
        steps(record(after).domicile_table, applied(record(before)))
    assert refusal.value.where == "schema: made.a"
    assert refusal.value.remedy


def test_a_new_field_allows_none() -> None:
    class Strict(Record, table="things"):
        extra: Annotated[str, Shareable("user.thing.extra")]

    with pytest.raises(Conflict, match="does not allow None"):
        steps(Strict.domicile_table, applied(Before))


# -- a real cell -------------------------------------------------------------------------------------


@pytest.fixture
async def root(eu: Storage) -> AsyncIterator[asyncpg.Connection]:
    """The superuser of ``eu-1``, where a table is as it was before any upgrade."""
    async with superuser(eu) as connection:
        await connection.execute("DROP TABLE IF EXISTS things, opened")
        await connection.execute("DELETE FROM domicile.columns WHERE table_name IN ('things', 'opened')")
        await apply_schema(connection, "eu-1", "eu", [Before, Opened])
        yield connection


@pytest.fixture
async def home(residency: Residency, somebody: Somebody) -> Home:
    return await residency.claim(somebody()[0], residence="DE")


async def columns(root: asyncpg.Connection) -> set[str]:
    found = await root.fetch(
        "SELECT attname FROM pg_attribute WHERE attrelid = 'things'::regclass AND attnum > 0 AND NOT attisdropped"
    )
    return {row[0] for row in found}


async def test_old_code_goes_on_beside_new(root: asyncpg.Connection, home: Home) -> None:
    old = home.new(Before, name="a", size=1)
    await home.put(old)
    planned = await plan_schema(root, "eu-1", "eu", [More])
    assert "nick" not in await columns(root), "a plan changes nothing"
    before = await root.fetchval("SELECT count(*) FROM domicile.revisions")
    assert await apply_schema(root, "eu-1", "eu", [More]) == planned
    assert await root.fetchval("SELECT count(*) FROM domicile.revisions") == before + 1
    assert (await plan_schema(root, "eu-1", "eu", [More])).statements == ()
    new = home.new(More, name="b", nick="bee", colour="red")
    await home.put(new)
    await home.put(home.new(Before, name="c", size=3))
    await home.put(old.model_copy(update={"size": 2}))
    assert {each.name for each in await home.all(More)} == {"a", "b", "c"}
    assert [each.id for each in await home.find(More, nick="bee")] == [new.id]
    assert [each.size for each in await home.find(Before, name="a")] == [2]
    await home.put(new.model_copy(update={"colour": "blue"}))
    kept = home.new(Before, id=new.id, name="b", size=9)
    await home.put(kept)
    (found,) = await home.find(More, name="b")
    assert (found.colour, found.nick, found.size) == ("blue", "bee", 9), "old code leaves new fields alone"
    category = "SELECT category FROM domicile.columns WHERE table_name = 'things' AND column_name = 'size'"
    assert await root.fetchval(category) == "user.thing.weight"


async def test_what_loses_something_wants_a_word(root: asyncpg.Connection, home: Home) -> None:
    await home.put(home.new(Before, name="a", size=1))
    with pytest.raises(Conflict, match="every value of size"):
        await apply_schema(root, "eu-1", "eu", [Less])
    assert "size" in await columns(root)
    plan = await apply_schema(root, "eu-1", "eu", [Less], destructive=True)
    assert plan.loses == ("things: name can no longer be found by", "things: every value of size")
    assert {"size", "name_index"}.isdisjoint(await columns(root))
    assert [each.name for each in await home.all(Less)] == ["a"]


async def test_what_may_cross_the_border_is_the_operators_word_and_can_be_taken_back(root: asyncpg.Connection) -> None:
    crosses = "SELECT has_column_privilege('domicile_abroad', 'opened', 'born', 'SELECT')"
    with pytest.raises(Conflict, match="may cross the border"):
        await apply_schema(root, "eu-1", "eu", [Shared])
    assert not await root.fetchval(crosses)
    await apply_schema(root, "eu-1", "eu", [Shared], destructive=True)
    assert await root.fetchval(crosses)
    await apply_schema(root, "eu-1", "eu", [Opened])
    assert not await root.fetchval(crosses)


async def test_two_operators_at_once_do_it_once(root: asyncpg.Connection, eu: Storage) -> None:
    async with superuser(eu) as other:
        plans = await asyncio.gather(*(apply_schema(connection, "eu-1", "eu", [More]) for connection in (root, other)))
    assert sorted(bool(plan.statements) for plan in plans) == [False, True]
