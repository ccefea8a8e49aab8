"""Every type that a field may have is the same value again: sealed and clear, at home and abroad, in each home."""

from __future__ import annotations

from datetime import UTC, date, datetime, time
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from typing import Annotated, Any, Literal
from uuid import UUID

import pytest
from pydantic import BaseModel, Field

from domicile.ops.testing import Cell
from domicile.sdk import InvalidInput, ModelError, Personal, Range, Record, Shareable, UnsupportedQuery
from domicile.sdk.sqlalchemy import table_of
from domicile.sdk.store.changes import recorded


class Plan(StrEnum):
    FREE = "free"
    PRO = "pro"


class Rank(IntEnum):
    LOW = 1
    HIGH = 2


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Address(BaseModel):
    street: str
    numbers: list[int]


S, P, C = Shareable("user.content"), Personal("user.content"), Personal("user.content", sealed=False)
F = Personal("user.content", find=True)


class Thing(Record, table="things", indexes=("plan",)):
    plan: Annotated[Plan, S]
    plan_found: Annotated[Plan, F]
    rank: Annotated[Rank, S] = Rank.LOW
    rank_clear: Annotated[Rank | None, C] = None
    colour: Annotated[Colour, S] = Colour.RED
    state: Annotated[Literal["on", "off"], S] = "on"
    state_found: Annotated[Literal["on", "off"] | None, F] = None
    level: Annotated[Literal[1, 2], S] = 1
    at: Annotated[time, S]
    at_found: Annotated[time, F]
    price: Annotated[Decimal, S]
    price_sealed: Annotated[Decimal, P]
    flag: Annotated[bool, S]
    ratio: Annotated[float, S]
    raw: Annotated[bytes, S]
    raw_sealed: Annotated[bytes, P]
    when: Annotated[datetime, S]
    day: Annotated[date, S]
    other: Annotated[UUID, S]
    address: Annotated[Address, P]
    tags: Annotated[list[str], P] = Field(default_factory=list)
    notes: Annotated[dict[str, int] | None, P] = None


VALUES: dict[str, Any] = {
    "plan": Plan.PRO,
    "plan_found": Plan.PRO,
    "rank": Rank.HIGH,
    "rank_clear": Rank.HIGH,
    "colour": Colour.BLUE,
    "state": "off",
    "state_found": "off",
    "level": 2,
    "at": time(12, 30, 0, 1),
    "at_found": time(12, 30),
    "price": Decimal("1.50"),
    "price_sealed": Decimal("-0.1"),
    "flag": True,
    "ratio": float("inf"),
    "raw": b"\xff\x00",
    "raw_sealed": b"\xff\x00",
    "when": datetime(2020, 2, 29, 1, 2, 3, 4, UTC),
    "day": date(2020, 2, 29),
    "other": UUID(int=7),
    "address": Address(street="s", numbers=[1, 2]),
    "tags": ["a", "b"],
    "notes": {"a": 1},
}


@pytest.mark.parametrize("fixture", ["domicile_memory", "domicile_postgres"])
async def test_values_come_back_as_they_were(request: pytest.FixtureRequest, fixture: str) -> None:
    cell: Cell = request.getfixturevalue(fixture)
    async with cell.home(Thing) as home, cell.abroad(home, Thing) as abroad:
        made = home.new(Thing, **VALUES)
        await home.put(made)
        await home.put(home.new(Thing, **{**VALUES, "plan": Plan.FREE, "plan_found": Plan.FREE, "at": time(1)}))
        read = await home.get(Thing, made.id)
        assert read is not None
        for name, value in VALUES.items():
            assert (type(getattr(read, name)), getattr(read, name)) == (type(value), value), name
        shareable = {column.name for column in Thing.domicile_table.columns if not column.personal}
        for name in shareable | {"plan_found", "rank_clear", "state_found", "at_found"}:
            assert made.id in {each.id for each in await home.find(Thing, **{name: VALUES[name]})}, name
        for name in shareable:
            (seen,) = [each for each in await abroad.find(Thing, **{name: VALUES[name]}) if each.id == made.id]
            assert (type(getattr(seen, name)), getattr(seen, name)) == (type(VALUES[name]), VALUES[name]), name
        assert [each.id for each in await home.find(Thing, plan_found=Plan.PRO)] == [made.id]
        assert [each.id for each in await home.find(Thing, at=Range(above=time(2)))] == [made.id]
        for page in (home.page, abroad.page):
            first = await page(Thing, size=1, order_by="-plan")
            second = await page(Thing, size=1, order_by="-plan", after=first.next)
            rows: list[Any] = [getattr(each, "records", getattr(each, "rows", None)) for each in (first, second)]
            assert [each[0].plan for each in rows] == [Plan.PRO, Plan.FREE]
        with pytest.raises(UnsupportedQuery):
            await home.find(Thing, tags=["a"])
        with pytest.raises(InvalidInput):
            await home.find(Thing, state="neither")


def test_what_is_recorded_is_what_is_stored() -> None:
    said = {name: recorded(column) for name, column in Thing.domicile_table.by_name.items()}
    kinds = {name: (each["kind"], each["sql_type"]) for name, each in said.items()}
    assert kinds["plan"] == ("str", "text")
    assert kinds["rank_clear"] == ("int", "bigint")
    assert kinds["level"] == ("int", "bigint")
    assert kinds["at"] == ("time", "time without time zone")
    assert kinds["address"] == ("json", "bytea")
    assert (said["plan"]["default"], said["colour"]["default"]) == (None, "'red'::text")


@pytest.mark.parametrize(
    ("annotation", "field"),
    [(list[str], S), (dict[str, int], C), (Address, S), (Literal["a", 1], S), (Literal[True], S), (complex, S)],
)
def test_what_no_column_holds_is_refused_where_it_is_defined(annotation: Any, field: Any) -> None:
    members = {"__module__": __name__, "__annotations__": {"bad": Annotated[annotation, field]}}
    with pytest.raises(ModelError, match="cannot be stored"):
        type("Bad", (Record,), members, table="bads")


def test_sqlalchemy_has_a_type_for_each() -> None:
    types = {column.name: type(column.type).__name__ for column in table_of(Thing).columns}
    assert (types["plan"], types["level"], types["at"], types["tags"]) == ("Text", "BigInteger", "Time", "Sealed")


def test_no_time_of_day_has_a_zone() -> None:
    column = Thing.domicile_table.by_name["at"]
    with pytest.raises(InvalidInput):
        column.clear(time(12, tzinfo=UTC))
