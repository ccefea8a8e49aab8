"""A subject as seen from anywhere: shareable fields as they are, Withheld in place of personal ones.

The answer comes from the home cell's gateway, whose database role can select nothing else; nothing of it is
kept here. Asking at home gives the same view, so that code needn't know where it runs.
"""

from __future__ import annotations

import json
from datetime import date
from decimal import Decimal
from typing import Any, Generic, NoReturn, TypeVar
from uuid import UUID

from domicile.client import GatewayClient
from domicile.model.errors import InvalidInput, UnsupportedQuery
from domicile.model.fields import Withheld
from domicile.model.ids import SubjectKey
from domicile.model.wire import AbroadRows
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

    def __repr__(self) -> str:
        return f"AbroadRow({', '.join(f'{name}={value!r}' for name, value in self._values.items())})"

    def __reduce__(self) -> NoReturn:
        raise UnsupportedQuery("a view from abroad is not kept", remedy="take the fields that you need")


def _condition(table: Table, name: str, value: Any) -> str:
    if name == "id":
        return str(value)
    column = table.by_name.get(name)
    if column is None or column.personal:
        raise UnsupportedQuery(
            "a condition on a field that stays at home", where=table.name, remedy="conditions on shareable fields only"
        )
    checked = column.clear(value)
    match checked:
        case bool():
            return str(checked).lower()
        case date():  # a datetime is one too
            return checked.isoformat()
        case str() | int() | float() | UUID() | Decimal():
            return str(checked)
    raise UnsupportedQuery("a condition on a field of bytes", where=f"{table.name}.{name}")


def _rows(kind: type[R], answer: AbroadRows) -> list[AbroadRow[R]]:
    rows: list[AbroadRow[R]] = []
    table = kind.domicile_table
    for row in answer.rows:
        try:
            key = UUID(row["id"])
        except (KeyError, ValueError, TypeError, AttributeError):
            raise InvalidInput("an answer without keys", where="gateway", remedy="compare versions") from None
        values: dict[str, Any] = {}
        for column in table.columns:
            if column.personal:
                values[column.name] = Withheld(column.field.category, answer.jurisdiction)
            else:
                given = row.get(column.name)
                values[column.name] = None if given is None else column.kind.load(json.dumps(given).encode())
        if table.about is not None:
            values[table.about.name] = Withheld(table.about.field.category, answer.jurisdiction)
        rows.append(AbroadRow(answer.jurisdiction, key, values))
    return rows


class Abroad:
    """Reads of one subject by way of its home's gateway. ``jurisdiction`` and ``cell`` are the home's."""

    def __init__(
        self, gateway: GatewayClient, jurisdiction: str, cell: str, key: SubjectKey, purpose: str = ""
    ) -> None:
        self._purpose = purpose
        self.jurisdiction = jurisdiction
        self.cell = cell
        self._gateway = gateway
        self._key = key

    async def get(self, kind: type[R], id: UUID) -> AbroadRow[R] | None:  # noqa: A002 - the field's name
        """The record with this id as seen from here, or None."""
        found = await self.all(kind, id=id)
        return found[0] if found else None

    async def all(self, kind: type[R], **conditions: Any) -> list[AbroadRow[R]]:
        """A subject's records of a class, at most 100 in the order of their ids, that equal every condition.

        Raises UnsupportedQuery for a condition on anything but a shareable field, and InvalidInput for a purpose that
        is no code, before anything is sent;
        UnknownSubject or a Misdirected error where the subject has moved on; Unavailable.
        """
        table = kind.domicile_table
        wanted = {name: _condition(table, name, value) for name, value in conditions.items()}
        return _rows(kind, await self._gateway.abroad(self._key, table.name, wanted, self._purpose))
