"""A cell's storage and its key service in memory, by the same port as the real ones.

It holds what ``rows`` promises (fences, versions, order, one transaction at a time, nothing of one that failed), and
takes no SQL: what ``tx.sql`` answers only PostgreSQL knows.
"""

from __future__ import annotations

import asyncio
import copy
import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cmp_to_key
from itertools import count
from typing import Any
from uuid import UUID, uuid4

from domicile.model.errors import KeyDestroyed, NotFound, UnsupportedQuery
from domicile.model.ids import KEY_BYTES, SubjectKey
from domicile.model.wire import DataKey
from domicile.sdk.home import Home, Vault
from domicile.sdk.references import Ref
from domicile.sdk.store import Condition, Fence, NewRow, Once, Operator, Rows, Selection, StoredRow, Work, references
from domicile.sdk.store.port import (
    CREATED,
    Alone,
    Place,
    another_request,
    another_version,
    given_twice,
    kept_for_life,
    no_table,
    refused,
    stored_principal,
)
from domicile.sdk.tables import PRINCIPAL, ReferenceTable, Table

_COMPARED: Mapping[Operator, Callable[[Any, Any], bool]] = {
    Operator.EQUAL: lambda held, value: held == value,
    Operator.AT_LEAST: lambda held, value: held >= value,
    Operator.ABOVE: lambda held, value: held > value,
    Operator.AT_MOST: lambda held, value: held <= value,
    Operator.BELOW: lambda held, value: held < value,
    Operator.AMONG: lambda held, value: held in value,
}


class MemoryKeys:
    """A key service. ``shred`` is what an erasure does to a subject's keys, or to one principal's."""

    def __init__(self) -> None:
        self._keys: dict[tuple[UUID, UUID], DataKey] = {}
        self._destroyed: set[tuple[UUID, UUID | None]] = set()
        self._index = os.urandom(32)

    async def data_key(self, subject: UUID, principal: UUID, *, create: bool = False) -> DataKey:
        name = (subject, principal)
        if not self._destroyed.isdisjoint({name, (subject, None)}):
            raise KeyDestroyed("the data key was destroyed: what it sealed opens no more")
        if name not in self._keys:
            if not create:
                raise NotFound("no data key was made")
            self._keys[name] = DataKey(
                subject=subject, principal=principal, key=os.urandom(32), index_key=os.urandom(32)
            )
        return self._keys[name]

    def forget(self, subject: UUID) -> None:
        """None is held: each call asks."""

    async def data_keys(self, names: Sequence[tuple[UUID, UUID]], *, create: bool = False) -> list[DataKey]:
        return [await self.data_key(*name, create=create) for name in names]

    async def cell_index_key(self) -> bytes:
        return self._index

    def shred(self, home: Home, principal: UUID | None = None) -> None:
        """No sealed value of the home's subject opens from now on; with a principal, none that is about that one."""
        self._destroyed.add((home.internal_id, principal))


@dataclass
class _Held:
    version: int
    created: datetime
    values: dict[str, Any]
    principal: UUID | None


@dataclass
class _Subject:
    fence: Fence
    tables: dict[str, dict[UUID, _Held]] = field(default_factory=dict)
    answers: dict[bytes, tuple[bytes, list[int]]] = field(default_factory=dict)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class MemoryStore:
    """Rows by subject. Open a subject's fence before its rows can be used."""

    def __init__(self) -> None:
        self._subjects: dict[SubjectKey, _Subject] = {}
        self._references: dict[str, list[dict[str, Any]]] = {}
        self._clock = count(1)

    def open(self, key: SubjectKey, epoch: int = 1) -> Fence:
        """Open a fence, or raise it to a higher epoch."""
        held = self._subjects.get(key)
        fence = Fence(key, held.fence.internal_id if held else uuid4(), epoch, "open")
        if held is None:
            self._subjects[key] = _Subject(fence)
        else:
            held.fence = fence
        return fence

    def close(self, key: SubjectKey) -> None:
        """As when the subject moves away: from now on everything is refused."""
        held = self._subjects[key]
        held.fence = Fence(key, held.fence.internal_id, held.fence.epoch, "closed")

    def fill(self, kind: type[Ref], rows: Sequence[Ref]) -> None:
        """As a load by an operator: these are the table's rows from now on."""
        table = kind.domicile_reference
        names = [column.name for column in table.columns]
        self._references[table.name] = [dict(zip(names, row, strict=True)) for row in references.checked(table, rows)]

    async def look_up(self, table: ReferenceTable, conditions: Sequence[Condition]) -> list[dict[str, Any]]:
        if table.name not in self._references:
            raise no_table()
        rows = self._references[table.name]
        found = [dict(row) for row in rows if all(_compared(row[each.column], each) for each in conditions)]
        return sorted(found, key=lambda row: tuple(row[name] for name in table.key))

    def subject(self, key: SubjectKey, epoch: int) -> _Subject:
        held = self._subjects.get(key)
        if held is None or (held.fence.state, held.fence.epoch) != ("open", epoch):
            raise refused()
        return held

    def now(self) -> datetime:
        """A later time at each call."""
        return datetime.fromtimestamp(0, UTC) + timedelta(microseconds=next(self._clock))

    def alone(self, key: SubjectKey, epoch: int) -> Rows:
        return _Alone(self, key, epoch)

    @asynccontextmanager
    async def work(self, key: SubjectKey, epoch: int) -> AsyncIterator[Work]:
        held = self.subject(key, epoch)
        async with held.lock:
            self.subject(key, epoch)
            before = copy.deepcopy((held.tables, held.answers))
            try:
                yield _Transaction(self, key, epoch)
            except BaseException:
                held.tables, held.answers = before
                raise


class _Transaction:
    def __init__(self, store: MemoryStore, key: SubjectKey, epoch: int) -> None:
        self._store = store
        self._key = key
        self._epoch = epoch

    def _subject(self) -> _Subject:
        return self._store.subject(self._key, self._epoch)

    def _rows(self, table: Table) -> dict[UUID, _Held]:
        return self._subject().tables.setdefault(table.name, {})

    def _recall(self, once: Once | None) -> list[int] | None:
        request, answer = self._subject().answers.get(once.key, (None, None)) if once else (None, None)
        if once is not None and request is not None and request != once.request:
            raise another_request()
        return answer

    def _remember(self, once: Once | None, said: list[int]) -> None:
        if once is not None:
            self._subject().answers[once.key] = (once.request, said)

    async def put(self, table: Table, row: NewRow, version: int | None, once: Once | None = None) -> int:
        if (said := self._recall(once)) is not None:
            return said[0]
        rows = self._rows(table)
        held = rows.get(row.id)
        if version is not None and version != (held.version if held else 0):
            raise another_version(table)
        if held is not None and held.principal != row.principal:
            raise another_version(table) if version else kept_for_life()
        created = held.created if held else self._store.now()
        written = _Held((held.version if held else 0) + 1, created, {**row.values}, row.principal)
        rows[row.id] = written
        self._remember(once, [written.version])
        return written.version

    async def put_many(self, table: Table, rows: Sequence[NewRow], once: Once | None = None) -> list[int]:
        if (said := self._recall(once)) is not None:
            return said
        if len({row.id for row in rows}) < len(rows):
            raise given_twice(table)
        versions = [await self.put(table, row, None) for row in rows]
        self._remember(once, versions)
        return versions

    async def update(self, table: Table, row: NewRow, version: int) -> int:
        held = self._rows(table).get(row.id)
        if held is None or (held.version, held.principal) != (version, row.principal):
            raise another_version(table)
        held.values |= row.values
        held.version += 1
        return held.version

    async def delete(self, table: Table, id: UUID, version: int | None) -> bool:  # noqa: A002
        rows = self._rows(table)
        if id not in rows:
            return False
        if version is not None and rows[id].version != version:
            raise another_version(table)
        del rows[id]
        return True

    async def select(self, table: Table, selection: Selection) -> list[StoredRow]:
        rows = self._rows(table)
        found = [name for name, held in rows.items() if all(_meets(name, held, c) for c in selection.conditions)]

        def place(name: UUID) -> Place:
            held = rows[name]
            return Place(name, held.created if selection.order == CREATED else held.values[selection.order])

        sign = -1 if selection.descending else 1

        def compare(one: Place, other: Place) -> int:
            first, second = one.value, other.value
            if first is None or second is None:
                by_value = (first is None) - (second is None)  # last, whichever the direction
            else:
                by_value = sign * ((first > second) - (first < second))
            return by_value or sign * ((one.id > other.id) - (one.id < other.id))

        after = selection.after
        places = [place(name) for name in found]
        places = [each for each in places if after is None or compare(each, after) > 0]
        places.sort(key=cmp_to_key(compare))
        columns = [column.name for column in table.columns]
        return [
            StoredRow(
                each.id,
                rows[each.id].version,
                {name: rows[each.id].values[name] for name in columns},
                each.value,
                rows[each.id].principal,
            )
            for each in places[: selection.limit]
        ]

    async def look_up(self, table: ReferenceTable, conditions: Sequence[Condition]) -> list[dict[str, Any]]:
        return await self._store.look_up(table, conditions)

    async def query(self, statement: str, arguments: Sequence[Any]) -> list[dict[str, Any]]:
        raise UnsupportedQuery("SQL on a home in memory", remedy="the fixture domicile_postgres")


def _meets(name: UUID, held: _Held, condition: Condition) -> bool:
    if condition.column == PRINCIPAL:
        return bool(stored_principal(held.principal) == condition.value)
    value = name if condition.column == "id" else held.values[condition.column]
    return _compared(value, condition)


def _compared(value: Any, condition: Condition) -> bool:
    return value is not None and _COMPARED[condition.operator](value, condition.value)


class _Alone(Alone):
    _store: MemoryStore

    async def select(self, table: Table, selection: Selection) -> list[StoredRow]:
        return await _Transaction(self._store, self._key, self._epoch).select(table, selection)


def memory_home(
    jurisdiction: str, cell: str = "", *, store: MemoryStore | None = None, keys: MemoryKeys | None = None
) -> Home:
    """A new subject's home. Homes of one ``store`` and ``keys`` are in one cell; ``<jurisdiction>-1`` by default."""
    store, keys = store or MemoryStore(), keys or MemoryKeys()
    fence = store.open(SubjectKey(b"\1" + os.urandom(KEY_BYTES - 1)))
    return Home(Vault(store, keys, cell or f"{jurisdiction}-1", jurisdiction), fence)
