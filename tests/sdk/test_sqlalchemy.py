"""SQLAlchemy's table of a class: statements run without columns written by hand, and nothing compares ciphertext."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Annotated, Any
from uuid import UUID, uuid4

import pytest
import sqlalchemy as sa

from domicile.model import SubjectKey
from domicile.sample import Note, Profile
from domicile.sdk import Personal, Record, Reference, Residency, Shareable, UnsupportedQuery
from domicile.sdk.admission import admitted
from domicile.sdk.sqlalchemy import table_of

Somebody = Callable[[], tuple[str, SubjectKey]]
OURS = Shareable("system.operations")


class Kinds(Record, table="kinds_of_columns"):
    text: Annotated[str, OURS]
    number: Annotated[int, OURS]
    key: Annotated[UUID, OURS]
    day: Annotated[date, OURS]
    flag: Annotated[bool, OURS]
    weight: Annotated[float, OURS]
    raw: Annotated[bytes, OURS]
    time: Annotated[datetime, OURS]
    price: Annotated[Decimal, OURS]
    secret: Annotated[str, Personal("user.name")]
    mail: Annotated[str | None, Personal("user.contact.email", find=True)]


class Currency(Reference, table="currencies_of_columns", key=("code",)):
    code: Annotated[str, OURS]
    digits: Annotated[int, OURS]


VALUES: dict[str, Any] = {
    "text": "x",
    "number": 1,
    "key": uuid4(),
    "day": date(2026, 1, 1),
    "flag": True,
    "weight": 0.5,
    "raw": b"x",
    "time": datetime(2026, 1, 1, tzinfo=UTC),
    "price": Decimal("9.90"),
    "id": uuid4(),
    "version": 1,
    "created_at": datetime(2026, 1, 1, tzinfo=UTC),
}


async def test_statements_are_written_by_the_class(residency: Residency, somebody: Somebody) -> None:
    home = await residency.claim(somebody()[0], residence="DE")
    await home.put(home.new(Profile, user="u", email="e", password="p", plan="pro"))
    await home.put_many([home.new(Note, text="secret", topic=topic) for topic in ("a", "b")])
    profiles, notes = table_of(Profile), table_of(Note)
    joined = (
        sa.select(profiles.c.plan, notes.c.topic)
        .join_from(profiles, notes, notes.c.subject_key == profiles.c.subject_key)
        .where(profiles.c.plan == "pro", notes.c.version >= 1)
        .order_by(notes.c.topic.desc())
    )
    async with home.transaction() as transaction:
        assert [tuple(row.values()) for row in await transaction.sql(joined)] == [("pro", "b"), ("pro", "a")]
        (note,) = await transaction.sql(sa.select(notes).where(notes.c.topic == "b"), into=Note)
        assert (note.text, note.topic) == ("secret", "b")
        (again,) = await transaction.sql(sa.select(notes).where(notes.c.id == note.id), into=Note)
        assert again == note
        gone = sa.delete(notes).where(notes.c.topic == "b").returning(notes.c.topic)
        assert await transaction.sql(gone) == [{"topic": "b"}]


@pytest.mark.parametrize("name", VALUES)
def test_a_value_of_each_type_is_compared_with_its_column(name: str) -> None:
    column = table_of(Kinds).c[name]
    statement, arguments = admitted(sa.select(column).where(column == VALUES[name]), [])
    assert "kinds_of_columns" in statement
    assert list(arguments) == ([] if VALUES[name] is True else [VALUES[name]])


COMPARISONS: list[Callable[[Any], Any]] = [
    lambda column: column == "x",
    lambda column: column != "x",
    lambda column: column > b"x",
    lambda column: column.in_(["x"]),
    lambda column: column.like("x%"),
    lambda column: column.is_(None),
    lambda column: column.desc(),
    lambda column: column.between("a", "b"),
    lambda column: column + "x",
    lambda column: "x" + column,
    lambda column: sa.and_(sa.true(), column == "x"),
    lambda column: sa.not_(column),
]


@pytest.mark.parametrize("compare", COMPARISONS)
@pytest.mark.parametrize(("name", "remedy"), [("secret", "find=True"), ("mail", "home.find(Kinds, mail=...)")])
def test_a_sealed_column_is_compared_with_nothing(compare: Callable[[Any], Any], name: str, remedy: str) -> None:
    table = table_of(Kinds)
    for column in (table.c[name], table.alias("k").c[name], sa.select(table).subquery().c[name]):
        with pytest.raises(UnsupportedQuery, match="sealed: it can be selected") as refusal:
            compare(column)
        assert refusal.value.where == f"Kinds.{name}"
        assert remedy in (refusal.value.remedy or "")


def test_what_is_no_operator_is_refused_when_it_is_read() -> None:
    column = table_of(Kinds).c.secret
    admitted(sa.select(column), [])
    for statement in (
        sa.select(sa.func.max(column)),
        sa.select(column.label("clear")),
        sa.select(column).distinct(),
        sa.select(sa.func.count()).select_from(table_of(Kinds)).group_by(column),
        sa.select(table_of(Kinds).c.id).order_by(column),
    ):
        with pytest.raises(UnsupportedQuery):
            admitted(statement, [])


def test_its_columns_are_those_of_the_class_without_blind_indexes() -> None:
    assert table_of(Kinds) is table_of(Kinds)
    assert "mail" in table_of(Kinds).c
    assert "mail_index" not in table_of(Kinds).c
    assert [column.name for column in table_of(Currency).primary_key] == ["code"]
    assert set(table_of(Currency).c.keys()) == {"code", "digits"}


def test_the_sdk_is_imported_without_sqlalchemy() -> None:
    program = "import sys; import domicile.sdk; sys.exit('sqlalchemy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False, timeout=60).returncode == 0
