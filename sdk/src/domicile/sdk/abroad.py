"""A subject as seen from anywhere: shareable fields as they are, Withheld in place of personal ones.

The answer comes from the home cell's gateway, whose database role can select nothing else; nothing of it is
kept here. Asking at home gives the same view, so that code needn't know where it runs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any, Generic, NoReturn, Protocol, TypeVar, cast
from uuid import UUID

from domicile.model.abroad import MAX_ABROAD, AbroadQuery
from domicile.model.errors import InvalidInput, UnsupportedQuery
from domicile.model.fields import Withheld
from domicile.model.ids import SubjectKey
from domicile.model.wire import AbroadRows
from domicile.sdk.finding import Range, bounds, equal
from domicile.sdk.records import Record
from domicile.sdk.tables import Table

R = TypeVar("R", bound=Record)


class AbroadRow(Generic[R]):
    """One record of a class seen from abroad: its fields by name, personal ones Withheld. It cannot be put anywhere."""

    __slots__ = ("_values", "id", "jurisdiction")

    def __init__(self, jurisdiction: str, id: UUID, values: dict[str, Any]) -> None:  # noqa: A002
        self.jurisdiction = jurisdiction
        self.id = id
        self._values = values

    def __getattr__(self, name: str) -> Any:
        try:
            return object.__getattribute__(self, "_values")[name]
        except KeyError:
            raise AttributeError(name) from None

    @property
    def shareable(self) -> R:
        """The same row, typed as its class, for a checker to read: ``row.shareable.plan``.

        A personal field raises UnsupportedQuery there, so that nothing is read that is not of the type it says.
        """
        return cast("R", _Typed(self))

    def __repr__(self) -> str:
        return f"AbroadRow({', '.join(f'{name}={value!r}' for name, value in self._values.items())})"

    def __reduce__(self) -> NoReturn:
        raise UnsupportedQuery("a view from abroad is not kept", remedy="take the fields that you need")


class _Typed:
    __slots__ = ("_row",)

    def __init__(self, row: AbroadRow[Any]) -> None:
        self._row = row

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._row, name)
        if isinstance(value, Withheld):
            value._refuse()
        return value


@dataclass(frozen=True)
class AbroadPage(Generic[R]):
    """Some records in their order. ``next`` leads to those after them; None where there are no more."""

    rows: list[AbroadRow[R]]
    next: str | None


def _text(checked: Any) -> str:
    """As PostgreSQL reads a value of its type."""
    match checked:
        case bool():
            return str(checked).lower()
        case bytes():
            return f"\\x{checked.hex()}"
        case date():  # a datetime is one too
            return checked.isoformat()
    return str(checked)


def _asked(table: Table, name: str, what: str) -> None:
    column = table.by_name.get(name)
    if name != "id" and (column is None or column.personal):
        raise UnsupportedQuery(
            f"{what} a field that stays at home", where=table.name, remedy="shareable fields only, and id"
        )


def _conditions(kind: type[Record], wanted: Mapping[str, Any]) -> dict[str, str]:
    """As the gateway takes them. Raises UnsupportedQuery, and InvalidInput for a value that its field doesn't take."""
    table = kind.domicile_table
    conditions: dict[str, str] = {}
    for name, value in wanted.items():
        _asked(table, name, "a condition on")
        where = f"{table.name}.{name}"
        if value is None:
            raise UnsupportedQuery("None is not a value to find", where=where)
        if name == "id":
            if not isinstance(value, UUID):
                raise InvalidInput("an id is a UUID", where=where)
            conditions[name] = str(value)
        elif isinstance(value, Range):
            given = bounds(kind, where, table.by_name[name], value)
            conditions |= {f"{name}.{bound}": _text(each) for bound, each in given}
        else:
            conditions[name] = _text(equal(kind, table.by_name[name], value))
    return conditions


def _row(kind: type[R], jurisdiction: str, row: Mapping[str, Any]) -> AbroadRow[R]:
    table = kind.domicile_table
    try:
        key = UUID(row["id"])
    except (KeyError, ValueError, TypeError, AttributeError):
        raise InvalidInput("an answer without keys", where="gateway", remedy="compare versions") from None
    values: dict[str, Any] = {}
    for column in table.columns:
        if column.personal:
            values[column.name] = Withheld(column.field.category, jurisdiction)
        else:
            given = row.get(column.name)
            values[column.name] = None if given is None else column.kind.load(json.dumps(given).encode())
    if table.about is not None:
        values[table.about.name] = Withheld(table.about.field.category, jurisdiction)
    return AbroadRow(jurisdiction, key, values)


class Source(Protocol):
    """Whoever answers for a home's cell: its gateway, or a cell of a test's own."""

    async def abroad(self, key: SubjectKey, table: str, query: Mapping[str, str]) -> AbroadRows:
        """What ``AbroadQuery.parse`` reads of ``query``."""
        ...


class Abroad:
    """Reads of one subject by way of its home's gateway. ``jurisdiction`` and ``cell`` are the home's.

    Methods raise UnsupportedQuery for a condition on, or an order by, anything but shareable fields and ``id``, before
    anything is sent; UnknownSubject or a Misdirected error where the subject has moved on; Unavailable.
    """

    def __init__(self, source: Source, jurisdiction: str, cell: str, key: SubjectKey) -> None:
        self.jurisdiction = jurisdiction
        self.cell = cell
        self._source = source
        self._key = key

    async def get(self, kind: type[R], id: UUID) -> AbroadRow[R] | None:  # noqa: A002 - the field's name
        """The record with this id as seen from here, or None."""
        found = await self._all(kind, {"id": id})
        return found[0] if found else None

    async def all(self, kind: type[R]) -> list[AbroadRow[R]]:
        """Every record of a class, in the order of their ids, fetched page by page."""
        return await self._all(kind, {})

    async def find(self, kind: type[R], **conditions: Any) -> list[AbroadRow[R]]:
        """Every record that meets all conditions, in the order of their ids, fetched page by page.

        A condition is a value to equal, or a ``Range``. Raises UnsupportedQuery for None, and for no condition at all.
        """
        if not conditions:
            raise UnsupportedQuery("no condition", where=kind.__name__, remedy="use all()")
        return await self._all(kind, conditions)

    async def _all(self, kind: type[R], conditions: Mapping[str, Any]) -> list[AbroadRow[R]]:
        rows: list[AbroadRow[R]] = []
        page = await self.page(kind, conditions, size=MAX_ABROAD)
        rows += page.rows
        while page.next is not None:
            page = await self.page(kind, conditions, size=MAX_ABROAD, after=page.next)
            rows += page.rows
        return rows

    async def page(
        self,
        kind: type[R],
        conditions: Mapping[str, Any] | None = None,
        *,
        size: int = 50,
        order_by: str | None = None,
        after: str | None = None,
    ) -> AbroadPage[R]:
        """Some of the records that meet conditions as those of ``find``, and a cursor that leads to the next ones.

        ``size``: 1 to 100. ``order_by``: a shareable field, with ``-`` before it for the last first; equal ones come by
        their ids, None last. ``after``: ``next`` of the page before. Raises InvalidInput for a cursor of another
        question.
        """
        if not 1 <= size <= MAX_ABROAD:
            raise InvalidInput(f"a page from abroad has 1 to {MAX_ABROAD} records, not {size}")
        table = kind.domicile_table
        if order_by is not None:
            _asked(table, order_by.removeprefix("-"), "an order by")
        asked = AbroadQuery(_conditions(kind, conditions or {}), size, order_by, after)
        answer = await self._source.abroad(self._key, table.name, asked.spelled())
        return AbroadPage([_row(kind, answer.jurisdiction, row) for row in answer.rows], answer.next)
