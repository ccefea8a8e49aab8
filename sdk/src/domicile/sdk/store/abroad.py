"""What another jurisdiction may read of a subject: shareable columns, by a role that can select nothing else.

A page ends with a cursor that is sealed under the subject's internal id: random, known to its cell alone, the same for
each of its gateways, and another one when the subject was erased. What it holds is an id and a shareable value.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple
from uuid import UUID

import asyncpg

from domicile.model.abroad import MAX_CURSOR, AbroadQuery
from domicile.model.errors import FenceRefused, NotFound, UnsupportedQuery
from domicile.model.ids import SubjectKey
from domicile.model.wire import AbroadRows
from domicile.sdk.cursors import Cursors
from domicile.sdk.store.failures import untold
from domicile.sdk.store.port import BOUNDS, Operator, Place
from domicile.sdk.store.queries import query
from domicile.sdk.store.statements import beyond
from domicile.sdk.tables import KINDS, Kind

KEY: Final = "id"
_USE: Final = b"domicile/abroad-cursor/1"
_BOUNDS: Final[Mapping[str, Operator]] = {"": Operator.EQUAL, **BOUNDS}
_BY_SQL: Final[Mapping[str, Kind]] = {kind.sql: kind for kind in KINDS.values()}


class ShareableRows(NamedTuple):
    """``rows`` hold ``id`` and the shareable columns as JSON has them; ``withheld`` names each personal field's
    category. ``next``: the cursor to the rows after them, if there are any."""

    rows: list[dict[str, Any]]
    withheld: dict[str, str]
    next: str | None = None

    def answer(self, jurisdiction: str, cell: str) -> AbroadRows:
        return AbroadRows(jurisdiction=jurisdiction, cell=cell, rows=self.rows, withheld=self.withheld, next=self.next)


class Question(NamedTuple):
    """A checked ``AbroadQuery``: ``types`` are the SQL types of ``id`` and of the shareable columns."""

    table: str
    types: Mapping[str, str]
    compared: Sequence[tuple[str, Operator]]
    values: Sequence[str]
    order: str
    descending: bool
    size: int

    @classmethod
    def of(cls, table: str, types: Mapping[str, str], asked: AbroadQuery) -> Question:
        """Raises UnsupportedQuery for a condition on, or an order by, anything but shareable columns and ``id``."""
        named = [name.partition(".") for name in asked.conditions]
        order = KEY if asked.order_by is None else asked.order_by.removeprefix("-")
        if (
            not {order, *(each[0] for each in named)} <= types.keys()
            or not {each[2] for each in named} <= _BOUNDS.keys()
        ):
            raise UnsupportedQuery(
                "a condition on a column, or an order by one, that may not be asked from abroad",
                remedy="shareable columns only",
            )
        compared = [(column, _BOUNDS[bound]) for column, _, bound in named]
        descending = asked.order_by is not None and asked.order_by.startswith("-")
        return cls(table, types, compared, list(asked.conditions.values()), order, descending, asked.size)

    def kind(self, column: str) -> Kind:
        return _BY_SQL[self.types[column]]

    def cursors(self, internal_id: UUID) -> Cursors:
        spelled = [repr((*each, value)).encode() for each, value in zip(self.compared, self.values, strict=True)]
        parts = [self.table.encode(), self.order.encode(), bytes([self.descending]), *spelled]
        return Cursors([internal_id.bytes], _USE, parts, self.kind(self.order))

    def next(self, internal_id: UUID, last: UUID, value: Any) -> str:
        """The cursor to what is after a row. Raises UnsupportedQuery where it were too long to be sent back."""
        cursor = self.cursors(internal_id).after(last, value)
        if len(cursor) > MAX_CURSOR:
            raise UnsupportedQuery(
                "a page ends at a text that is too long to go on from", where=self.table, remedy="another order"
            )
        return cursor

    def row(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """A row's values as JSON has them, each in the one spelling of its type."""
        spelled: dict[str, Any] = {}
        for name in self.types:
            kind, value = self.kind(name), values[name]
            spelled[name] = None if value is None else json.loads(kind.dump(kind.plain(value)))
        return spelled


def select(question: Question, *, after: bool) -> str:
    """The statement for a question: $1 is the subject, then the conditions' values as text, then the place. Pure.

    It reads the fence and the rows in one snapshot, and answers one row without a key where no row matches; one row
    more than a page has tells that there is another page.
    """
    columns = ", ".join(f'r."{name}"' for name in question.types)
    wheres = "".join(
        f' AND r."{name}" {operator.value} ${number}::text::{question.types[name]}'
        for number, (name, operator) in enumerate(question.compared, start=2)
    )
    order, (way, further) = f'r."{question.order}"', ("DESC", "<") if question.descending else ("ASC", ">")
    if after:
        mark = len(question.compared) + 2
        value = f"${mark}::{question.types[question.order]}"
        wheres += " AND " + beyond(order, f'r."{KEY}"', further, value, f"${mark + 1}::uuid")
    return (
        "SELECT f.subject_key AS fence_key, f.internal_id AS fence_id, f.state AS fence_state, "  # noqa: S608
        f"{columns} FROM domicile.read_fence($1) f "
        f'LEFT JOIN public."{question.table}" r ON r.subject_key = $1{wheres} '
        f'ORDER BY {order} {way} NULLS LAST, r."{KEY}" {way} LIMIT {question.size + 1}'
    )


class AbroadStore:
    """Reads as ``domicile_abroad``, which has no right on personal columns."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def rows(self, table: str, key: SubjectKey, asked: AbroadQuery) -> ShareableRows:
        """A page of a subject's rows.

        Raises NotFound for a table that no schema recorded, UnsupportedQuery for what may not be asked, InvalidInput
        for a value that its column's type doesn't take and a cursor of another question, and FenceRefused for a
        subject that isn't open here.
        """
        known = await untold(self._pool.fetch(query("shareable_columns"), table))
        if not known:
            raise NotFound("no such table of records")
        types = {KEY: "uuid"} | {row["column_name"]: row["sql_type"] for row in known if row["class"] == "shareable"}
        withheld = {row["column_name"]: row["category"] for row in known if row["class"] != "shareable"}
        question = Question.of(table, types, asked)
        place = None if asked.after is None else await untold(self._place(key, question, asked.after))
        found = await untold(self._select(key, question, place))
        if not found or found[0]["fence_state"] != "open":
            raise FenceRefused("the subject is not open in this cell")
        rows = [question.row(dict(row)) for row in found[: question.size] if row[KEY] is not None]
        if len(found) <= question.size:
            return ShareableRows(rows, withheld)
        last = found[question.size - 1]
        cursor = question.next(UUID(int=last["fence_id"].int), UUID(int=last[KEY].int), last[question.order])
        return ShareableRows(rows, withheld, cursor)

    async def _place(self, key: SubjectKey, question: Question, cursor: str) -> Place:
        fence = await self._pool.fetchrow(query("read_fence"), key)
        if fence is None:
            raise FenceRefused("the subject is not open in this cell")
        return question.cursors(UUID(int=fence["internal_id"].int)).place(cursor)

    async def _select(self, key: SubjectKey, question: Question, place: Place | None) -> list[asyncpg.Record]:
        statement = select(question, after=place is not None)
        arguments = [*question.values, *(() if place is None else (place.value, place.id))]
        async with self._pool.acquire() as connection, connection.transaction(readonly=True):
            await connection.execute(query("limit_to_subject"), str(key))
            rows = await connection.fetch(statement, key, *arguments)
            while rows and (now := SubjectKey(rows[0]["fence_key"])) != key:
                key = now  # the rows are named by it too; they were looked for by the one before
                await connection.execute(query("limit_to_subject"), str(key))
                rows = await connection.fetch(statement, key, *arguments)
            return rows
