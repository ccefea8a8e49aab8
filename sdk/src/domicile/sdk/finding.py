"""What can be asked of sealed rows, and what cannot: a question that sealing makes impossible is an error.

An empty list means that there is nothing. Equality goes by blind indexes on sealed fields and plainly on others; ranges
and order are for shareable and clear fields.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import struct
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Final, Generic, TypeVar
from uuid import UUID

from domicile.model.errors import InvalidInput, NotFound, UnsupportedQuery
from domicile.model.wire import MAX_BATCH
from domicile.sdk.codec import Codec
from domicile.sdk.records import Record
from domicile.sdk.sealing import blind_index
from domicile.sdk.store.port import CREATED, Condition, Operator, Selection
from domicile.sdk.tables import Column, Table

R = TypeVar("R", bound=Record)
CURSOR: Final = "domicile/cursor/1"
_BOUNDS: Final = {
    "at_least": Operator.AT_LEAST,
    "above": Operator.ABOVE,
    "at_most": Operator.AT_MOST,
    "below": Operator.BELOW,
}


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


def _column(kind: type[Record], name: str) -> tuple[str, Column]:
    where = f"{kind.__name__}.{name}"
    column = kind.domicile_table.by_name.get(name)
    if column is None:
        raise UnsupportedQuery("no such field to find by", where=kind.__name__, remedy="get() takes an id")
    return where, column


def _bounds(kind: type[Record], name: str, value: Range) -> list[tuple[Operator, Any]]:
    where, column = _column(kind, name)
    if column.sealed:
        raise UnsupportedQuery("a range of a sealed field", where=where, remedy="sealed=False, or equality")
    given = [(operator, getattr(value, bound)) for bound, operator in _BOUNDS.items()]
    bounds = [(operator, column.clear(bound)) for operator, bound in given if bound is not None]
    if not bounds:
        raise UnsupportedQuery("a range without bounds", where=where, remedy="leave the condition out")
    return bounds


async def conditions_on(codec: Codec, kind: type[Record], wanted: Mapping[str, Any]) -> tuple[Condition, ...] | None:
    """The conditions as the store takes them; None where nothing can meet them, since no value was ever indexed.

    Raises UnsupportedQuery for what cannot be asked, InvalidInput for a value that its field doesn't take.
    """
    checked: list[tuple[str, Column, Any]] = []
    conditions: list[Condition] = []
    for name, value in wanted.items():
        if isinstance(value, Range):
            conditions += [Condition(name, operator, bound) for operator, bound in _bounds(kind, name, value)]
            continue
        where, column = _column(kind, name)
        if column.sealed and column.find is None:
            raise UnsupportedQuery(
                "a sealed field without a blind index", where=where, remedy="declare it with find=True"
            )
        if value is None:
            raise UnsupportedQuery("None is not a value to find", where=where)
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


def another_question() -> InvalidInput:
    return InvalidInput("a cursor of another question", remedy="ask as for the page before, or begin anew")


def _mac(secret: bytes, subject: UUID, table: Table, selection: Selection, row: UUID) -> bytes:
    """Over whose page it is, and of which question; what is asked for does not lie in the cursor."""
    spelled = [repr((c.column, c.operator.value, c.value)).encode() for c in selection.conditions]
    parts = [table.name.encode(), selection.order.encode(), bytes([selection.descending]), *spelled]
    message = b"".join(struct.pack(">I", len(part)) + part for part in (subject.bytes, row.bytes, *parts))
    return blind_index(secret, CURSOR, "", message)


def cursor_after(secret: bytes, subject: UUID, table: Table, selection: Selection, row: UUID) -> str:
    """What leads to the rows after one: its random id and a MAC, nothing personal."""
    return base64.urlsafe_b64encode(row.bytes + _mac(secret, subject, table, selection, row)).decode()


def row_of(secret: bytes, subject: UUID, table: Table, selection: Selection, cursor: str) -> UUID:
    """The row after which a page begins. Raises InvalidInput for a cursor that was not made for this question."""
    try:
        raw = base64.b64decode(cursor, altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raw = b""
    if len(raw) == 32:
        row = UUID(bytes=raw[:16])
        if hmac.compare_digest(raw[16:], _mac(secret, subject, table, selection, row)):
            return row
    raise another_question()
