"""What can be asked of sealed rows, and what cannot: a question that sealing makes impossible is an error.

An empty list means that there is nothing. Equality goes by blind indexes on sealed fields and plainly on others; ranges
and order are for shareable and clear fields.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Generic, TypeVar
from uuid import UUID

from pydantic import BaseModel

from domicile.model.errors import InvalidInput, NotFound, UnsupportedQuery
from domicile.model.wire import MAX_BATCH
from domicile.sdk.codec import Codec
from domicile.sdk.records import Record, as_stored
from domicile.sdk.references import Reference
from domicile.sdk.store.port import BOUNDS, CREATED, Condition, Operator, stored_principal
from domicile.sdk.tables import MAX_INTEGER, PRINCIPAL, Column

R = TypeVar("R", bound=Record)


@dataclass(frozen=True, kw_only=True, repr=False)
class Range:
    """Values between bounds, each of which may be left out: ``find(Profile, born=Range(below=date(2008, 1, 1)))``."""

    at_least: Any = None
    above: Any = None
    at_most: Any = None
    below: Any = None

    def __repr__(self) -> str:
        return f"Range({', '.join(field.name for field in fields(self) if getattr(self, field.name) is not None)})"


@dataclass(frozen=True)
class Page(Generic[R]):
    """Some records in their order. ``next`` leads to those after them; None where there are no more."""

    records: list[R]
    next: str | None


def _reference(kind: type[Reference], name: str) -> tuple[str, Column]:
    where, column = f"{kind.__name__}.{name}", kind.domicile_reference.by_name.get(name)
    if column is None:
        raise UnsupportedQuery("no such field to look up by", where=kind.__name__)
    return where, column


def look_up_by(kind: type[Reference], wanted: Mapping[str, Any]) -> list[Condition]:
    """Conditions on a table that belongs to no subject. Raises UnsupportedQuery, and InvalidInput for other values."""
    conditions: list[Condition] = []
    for name, value in wanted.items():
        where, column = _reference(kind, name)
        if value is None:
            raise UnsupportedQuery("None is not a value to find", where=where)
        if isinstance(value, Range):
            conditions += [Condition(name, operator, bound) for operator, bound in _bounds(kind, where, column, value)]
        else:
            conditions.append(Condition(name, Operator.EQUAL, equal(kind, column, value)))
    return conditions


def _column(kind: type[Record], name: str) -> tuple[str, Column]:
    where = f"{kind.__name__}.{name}"
    column = kind.domicile_table.by_name.get(name)
    if column is None:
        raise UnsupportedQuery("no such field to find by", where=kind.__name__, remedy="get() takes an id")
    return where, column


def _meant(kind: type[BaseModel], column: Column, value: Any) -> Any:
    """A value of the field's own type, as the class would normalise it."""
    column.kind.check(value)
    return as_stored(kind, column.name, value)


def equal(kind: type[BaseModel], column: Column, value: Any) -> Any:
    """A value to equal, as it lies in a column that is not sealed."""
    return column.clear(_meant(kind, column, value))


def bounds(kind: type[BaseModel], where: str, column: Column, value: Range) -> list[tuple[str, Any]]:
    """The bounds that are given, by name."""
    given = {name: getattr(value, name) for name in BOUNDS if getattr(value, name) is not None}
    if not given:
        raise UnsupportedQuery("a range without bounds", where=where, remedy="leave the condition out")
    return [(name, column.clear(_meant(kind, column, bound))) for name, bound in given.items()]


def _bounds(kind: type[BaseModel], where: str, column: Column, value: Range) -> list[tuple[Operator, Any]]:
    if column.sealed:
        raise UnsupportedQuery("a range of a sealed field", where=where, remedy="sealed=False, or equality")
    return [(BOUNDS[name], bound) for name, bound in bounds(kind, where, column, value)]


async def conditions_on(codec: Codec, kind: type[Record], wanted: Mapping[str, Any]) -> tuple[Condition, ...] | None:
    """The conditions as the store takes them; None where nothing can meet them, since no value was ever indexed.

    Raises UnsupportedQuery for what cannot be asked, InvalidInput for a value that its field doesn't take.
    """
    checked: list[tuple[str, Column, Any]] = []
    conditions: list[Condition] = []
    for name, value in wanted.items():
        if isinstance(value, Range):
            found = _bounds(kind, *_column(kind, name), value)
            conditions += [Condition(name, operator, bound) for operator, bound in found]
            continue
        if (about := kind.domicile_table.about) is not None and name == about.name:
            if not isinstance(value, UUID):
                raise InvalidInput("a principal is a UUID", where=f"{kind.__name__}.{name}", remedy="home.internal_id")
            principal = None if codec.is_subject(value) else stored_principal(value)
            conditions.append(Condition(PRINCIPAL, Operator.EQUAL, principal))
            continue
        where, column = _column(kind, name)
        if column.sealed and column.find is None:
            raise UnsupportedQuery(
                "a sealed field without a blind index", where=where, remedy="declare it with find=True"
            )
        if value is None:
            raise UnsupportedQuery("None is not a value to find", where=where)
        value = _meant(kind, column, value)
        checked.append((name, column, column.kind.dump(value) if column.find else column.clear(value)))
    for name, column, value in checked:
        if column.find is None:
            conditions.append(Condition(name, Operator.EQUAL, value))
            continue
        try:
            conditions.append(await codec.condition(column, kind.domicile_table, value))
        except NotFound:
            return None
    return tuple(conditions)


def parse_order(kind: type[Record], order_by: str | None) -> tuple[str, bool]:
    """A column, and whether it is descending. Raises UnsupportedQuery for an order that sealing makes impossible."""
    if order_by is None:
        return CREATED, False
    descending, name = order_by.startswith("-"), order_by.removeprefix("-")
    if name == CREATED:
        return name, descending
    where, column = _column(kind, name)
    if column.sealed:
        raise UnsupportedQuery("an order by a sealed field", where=where, remedy="sealed=False")
    return name, descending


def check_size(size: int) -> None:
    if not 1 <= size <= MAX_BATCH:
        raise InvalidInput(f"a page has 1 to {MAX_BATCH} records, not {size}")


def check_id(kind: type[Record], given: object) -> None:
    if not isinstance(given, UUID):
        raise InvalidInput("an id is a UUID", where=kind.__name__)


def check_version(version: object) -> None:
    """None is any version."""
    if version is not None and (type(version) is not int or not 0 <= version <= MAX_INTEGER):
        raise InvalidInput("a version is a whole number, 0 or more, of 64 bits with a sign")
