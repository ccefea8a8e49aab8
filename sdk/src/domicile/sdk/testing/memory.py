"""A cell's storage and its key service in memory, by the same port as the real ones.

It holds what ``rows`` promises (fences, versions, order, a transaction that nobody reads before it commits, nothing of
one that failed), and takes no SQL: what ``tx.sql`` answers only PostgreSQL knows.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Hashable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import cmp_to_key
from itertools import count
from typing import Any, Final
from uuid import UUID, uuid4

from domicile.model.errors import KeyDestroyed, NotFound, UnsupportedQuery
from domicile.model.ids import KEY_BYTES, SubjectKey
from domicile.model.key_wire import CellIndexKey, DataKey
from domicile.sdk.codec import Codec
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
    in_the_way,
    kept_for_life,
    no_table,
    refused,
    stored_principal,
)
from domicile.sdk.store.turns import Turns, in_turn
from domicile.sdk.tables import PRINCIPAL, ReferenceTable, Table

LOCK_SECONDS: Final = 5.0
"""How long a write waits for a row that another transaction has written, as ``lock_timeout`` of sql/system.sql."""
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
        self._index = CellIndexKey(key=os.urandom(32))

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

    async def cell_index_key(self) -> CellIndexKey:
        return self._index

    def forget_index(self) -> None:
        """As ``forget``."""

    def lend_to(self, borrower: Codec) -> None:
        """As ``forget``."""

    def shred(self, home: Home, principal: UUID | None = None) -> None:
        """No sealed value of the home's subject opens from now on; with a principal, none that is about that one."""
        self._destroyed.add((home.internal_id, principal))


@dataclass(frozen=True)
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
    locks: dict[Hashable, _Transaction] = field(default_factory=dict)


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

    def fence(self, key: SubjectKey) -> Fence | None:
        held = self._subjects.get(key)
        return None if held is None or held.fence.state != "open" else held.fence

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

    def alone(self, key: SubjectKey, epoch: int, stale: float | None = None) -> Rows:
        """Nothing here is ever out of date."""
        return _Alone(self, key, epoch)

    @asynccontextmanager
    async def work(self, key: SubjectKey, epoch: int) -> AsyncIterator[Work]:
        self.subject(key, epoch)
        work = _Transaction(self, key, epoch)
        try:
            with work.turns.block():
                yield work
            work.commit()
        finally:
            work.end()


class _Transaction:
    """What it writes is its own until it commits; the rows are locked for as long."""

    def __init__(self, store: MemoryStore, key: SubjectKey, epoch: int) -> None:
        self._store = store
        self._key = key
        self._epoch = epoch
        self._written: dict[tuple[str, UUID], _Held | None] = {}
        self._answered: dict[bytes, tuple[bytes, list[int]]] = {}
        self._locked: dict[Hashable, _Subject] = {}
        self._ended = asyncio.Event()
        self.turns = Turns()

    def commit(self) -> None:
        subject = self._subject()
        for (table, row), held in self._written.items():
            rows = subject.tables.setdefault(table, {})
            rows.pop(row, None)
            if held is not None:
                rows[row] = held
        subject.answers |= self._answered

    def end(self) -> None:
        for name, subject in self._locked.items():
            del subject.locks[name]
        self._ended.set()

    def _subject(self) -> _Subject:
        with self.turns.statement():
            return self._store.subject(self._key, self._epoch)

    async def _lock(self, name: Hashable) -> None:
        """Raises Unavailable where another transaction has it for longer than the time-out, this one's caller's too."""
        await asyncio.sleep(0)  # as a round trip, during which others go on
        locks = self._subject().locks
        with self.turns.statement():
            try:
                async with asyncio.timeout(LOCK_SECONDS):
                    while (holder := locks.get(name, self)) is not self:
                        await holder._ended.wait()
            except TimeoutError:
                raise in_the_way() from None
        subject = self._subject()
        subject.locks[name] = self
        self._locked[name] = subject

    def _row(self, table: Table, row: UUID) -> _Held | None:
        name = (table.name, row)
        return self._written[name] if name in self._written else self._subject().tables.get(table.name, {}).get(row)

    def _rows(self, table: Table) -> dict[UUID, _Held]:
        """Those that are committed, and what this transaction made of them."""
        own = {row: held for (name, row), held in self._written.items() if name == table.name}
        both = {**self._subject().tables.get(table.name, {}), **own}
        return {row: held for row, held in both.items() if held is not None}

    async def _recall(self, once: Once | None) -> list[int] | None:
        if once is None:
            return None
        await self._lock(once.key)
        request, answer = {**self._subject().answers, **self._answered}.get(once.key, (once.request, None))
        if request != once.request:
            with self.turns.statement():
                raise another_request()
        return answer

    def _remember(self, once: Once | None, said: list[int]) -> None:
        if once is not None:
            self._answered[once.key] = (once.request, said)

    @in_turn
    async def put(self, table: Table, row: NewRow, version: int | None, once: Once | None = None) -> int:
        if (said := await self._recall(once)) is not None:
            return said[0]
        await self._lock((table.name, row.id))
        written = self._put(table, row, version)
        self._remember(once, [written])
        return written

    def _put(self, table: Table, row: NewRow, version: int | None) -> int:
        held = self._row(table, row.id)
        if version is not None and version != (held.version if held else 0):
            raise another_version(table)
        if held is not None and held.principal != row.principal:
            if version:
                raise another_version(table)
            with self.turns.statement():
                raise kept_for_life()
        written = _Held(held.version + 1 if held else 1, self._store.now(), {**row.values}, row.principal)
        self._written[table.name, row.id] = replace(written, created=held.created) if held else written
        return written.version

    @in_turn
    async def put_many(self, table: Table, rows: Sequence[NewRow], once: Once | None = None) -> list[int]:
        if (said := await self._recall(once)) is not None:
            return said
        names = sorted({row.id for row in rows})
        if len(names) < len(rows):
            raise given_twice(table)
        for name in names:  # an order that all writers keep
            await self._lock((table.name, name))
        versions = [self._put(table, row, None) for row in rows]
        self._remember(once, versions)
        return versions

    @in_turn
    async def update(self, table: Table, row: NewRow, version: int, once: Once | None = None) -> int:
        if (said := await self._recall(once)) is not None:
            return said[0]
        await self._lock((table.name, row.id))
        held = self._row(table, row.id)
        if held is None or (held.version, held.principal) != (version, row.principal):
            raise another_version(table)
        written = replace(held, version=held.version + 1, values={**held.values, **row.values})
        self._written[table.name, row.id] = written
        self._remember(once, [written.version])
        return written.version

    @in_turn
    async def delete(self, table: Table, id: UUID, version: int | None) -> bool:  # noqa: A002
        await self._lock((table.name, id))
        held = self._row(table, id)
        if held is None:
            return False
        if version is not None and held.version != version:
            raise another_version(table)
        self._written[table.name, id] = None
        return True

    @in_turn
    async def select(self, table: Table, selection: Selection) -> list[StoredRow]:
        await asyncio.sleep(0)
        rows = self._rows(table)
        found = [name for name, held in rows.items() if all(_meets(name, held, c) for c in selection.conditions)]

        def place(name: UUID) -> Place:
            held = rows[name]
            own = {CREATED: held.created, "id": name}
            return Place(name, own[selection.order] if selection.order in own else held.values[selection.order])

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

    @in_turn
    async def look_up(self, table: ReferenceTable, conditions: Sequence[Condition]) -> list[dict[str, Any]]:
        return await self._store.look_up(table, conditions)

    @in_turn
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
