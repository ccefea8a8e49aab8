"""Reads from abroad without a gateway between: of a cell in memory, and of any store that answers such questions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from domicile.model.abroad import AbroadQuery
from domicile.model.errors import FenceRefused, InvalidInput, NotFound, UnknownSubject
from domicile.model.ids import SubjectKey
from domicile.model.wire import AbroadRows
from domicile.sdk.abroad import Abroad
from domicile.sdk.home import Home
from domicile.sdk.records import Record
from domicile.sdk.store import AbroadStore, Condition, Selection, ShareableRows
from domicile.sdk.store.abroad import KEY, Question
from domicile.sdk.store.port import refused
from domicile.sdk.tables import Kind, Table
from domicile.sdk.testing.memory import MemoryStore


def _value(kind: Kind, text: str) -> Any:
    """As PostgreSQL reads a value of a column's type that comes as text."""
    try:
        return bytes.fromhex(text.removeprefix("\\x")) if kind.python is bytes else kind.of_text(text)
    except (ValidationError, ValueError):
        pass
    raise InvalidInput("a value that its column does not take", where="storage")


class MemoryAbroadStore:
    """``AbroadStore`` over a store in memory, which knows tables by their classes alone."""

    def __init__(self, store: MemoryStore, tables: Mapping[str, Table]) -> None:
        self._store = store
        self._tables = tables

    async def rows(self, table: str, key: SubjectKey, asked: AbroadQuery) -> ShareableRows:
        if (known := self._tables.get(table)) is None:
            raise NotFound("no such table of records")
        types = {KEY: "uuid"} | {each.name: each.kind.sql for each in known.columns if not each.personal}
        withheld = {each.name: each.field.category for each in known.columns if each.personal}
        if known.about is not None:
            withheld[known.about.name] = known.about.field.category
        question = Question.of(table, types, asked)
        if (fence := self._store.fence(key)) is None:
            raise refused()
        conditions = tuple(
            Condition(column, operator, _value(question.kind(column), value))
            for (column, operator), value in zip(question.compared, question.values, strict=True)
        )
        after = None if asked.after is None else question.cursors(fence.internal_id).place(asked.after)
        selection = Selection(conditions, question.order, question.descending, question.size + 1, after)
        found = await self._store.alone(key, fence.epoch).select(known, selection)
        rows = [question.row({KEY: each.id, **each.values}) for each in found[: question.size]]
        if len(found) <= question.size:
            return ShareableRows(rows, withheld)
        last = found[question.size - 1]
        return ShareableRows(rows, withheld, question.next(fence.internal_id, last.id, last.place))


@dataclass(frozen=True)
class LocalSource:
    """As a gateway answers, without the record of what crossed."""

    store: AbroadStore | MemoryAbroadStore
    jurisdiction: str
    cell: str

    async def abroad(self, key: SubjectKey, table: str, query: Mapping[str, str]) -> AbroadRows:
        try:
            found = await self.store.rows(table, key, AbroadQuery.parse(query))
        except FenceRefused:
            raise UnknownSubject("no such subject is at home here") from None
        return AbroadRows.model_validate_json(found.answer(self.jurisdiction, self.cell).model_dump_json())


def abroad_from(home: Home, store: AbroadStore | MemoryAbroadStore) -> Abroad:
    """The home as another jurisdiction sees it."""
    return Abroad(LocalSource(store, home.jurisdiction, home.cell), home.jurisdiction, home.cell, home.subject_key)


def memory_abroad(home: Home, store: MemoryStore, *records: type[Record]) -> Abroad:
    """As another jurisdiction sees a home of ``memory_home(..., store=store)``, in records of these classes."""
    tables = {record.domicile_table.name: record.domicile_table for record in records}
    return abroad_from(home, MemoryAbroadStore(store, tables))
