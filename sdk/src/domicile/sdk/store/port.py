"""What a home needs of a store of rows: one narrow port, behind PostgreSQL (``rows``) and in memory (``testing``).

What both refuse, they refuse in the same words. Nothing here shows a value, or whom a row is about, where it is
represented.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, NamedTuple, Protocol
from uuid import UUID

from domicile.model.errors import Conflict, DomicileError, FenceRefused, Forbidden, InvalidInput, Unavailable
from domicile.model.ids import SubjectKey
from domicile.sdk.tables import ReferenceTable, Table

CREATED: Final = "created_at"
"""The order in which rows were first written: of every table, and no field of a record."""


class Operator(StrEnum):
    """How a column is compared with a value."""

    EQUAL = "="
    AT_LEAST = ">="
    ABOVE = ">"
    AT_MOST = "<="
    BELOW = "<"
    AMONG = "= ANY"
    """Of several values: of a blind index, one for each generation of keys."""


BOUNDS: Final = {
    "at_least": Operator.AT_LEAST,
    "above": Operator.ABOVE,
    "at_most": Operator.AT_MOST,
    "below": Operator.BELOW,
}


class Condition(NamedTuple):
    """``value`` as it lies in the column; for a blind index, the index; for ``PRINCIPAL``, None is the subject.

    ``newest``: of a subject's blind index, the newest generation of keys that ``value`` was made for; else 0.
    ``newest_index``: the same of an index across subjects, by generations of the cell's secret.
    """

    column: str
    operator: Operator
    value: Any
    newest: int = 0
    newest_index: int = 0

    def __repr__(self) -> str:
        return f"Condition({self.column} {self.operator} ...)"


class Place(NamedTuple):
    """A place in an order: what a row there is, or was, ordered by, and its id."""

    id: UUID
    value: Any

    def __repr__(self) -> str:
        return f"Place({self.id})"


@dataclass(frozen=True, slots=True)
class Selection:
    """Which rows, in which order: all that meet every condition, NULL last, equal ones by their ids.

    ``after``: the place after which to begin, whether or not there is a row at it. ``limit``: at most so many; None
    for all.
    """

    conditions: tuple[Condition, ...] = ()
    order: str = CREATED
    descending: bool = False
    limit: int | None = None
    after: Place | None = None


@dataclass(frozen=True, slots=True)
class StoredRow:
    """A row as it lies: sealed values sealed. ``version`` counts its writes, from 1.

    ``place``: the value by which it was ordered. ``principal``: who it is about, where that is not the subject.
    """

    id: UUID
    version: int
    values: Mapping[str, Any] = field(repr=False)
    place: Any = field(default=None, repr=False)
    principal: UUID | None = field(default=None, repr=False)


class NewRow(NamedTuple):
    """A row to be written: each of the table's stored columns by name, or those that change.

    ``principal``: who it is about, where that is not the subject; it stays so for as long as the row is there.
    ``keys``: the generation that sealed it; 0 where nothing is sealed. ``index_keys``: the cell's secret of its
    indexes across subjects; 0 where there are none.
    """

    id: UUID
    values: Mapping[str, Any]
    principal: UUID | None = None
    keys: int = 0
    index_keys: int = 0

    def __repr__(self) -> str:
        return f"NewRow({self.id}, {sorted(self.values)})"


def made_with(rows: Iterable[NewRow]) -> str:
    """The oldest keys that any of the rows was made with, as the trigger on each table reads it."""
    listed = list(rows)
    return f"{oldest(row.keys for row in listed)}/{oldest(row.index_keys for row in listed)}"


def oldest(generations: Iterable[int]) -> int:
    """0 stands for none."""
    return min((each for each in generations if each), default=0)


@dataclass(frozen=True, slots=True)
class Once:
    """A request that is carried out once: hashes of its idempotency key (32 bytes) and of itself (16).

    ``other``: the same under keys of another generation, by which it may have been answered while the keys are turned.
    """

    key: bytes
    request: bytes
    other: Once | None = None


class OutdatedKeys(Unavailable):
    """The subject's keys, or the cell's index secret, were replaced since they were asked for; nothing was done.

    Ask for them, and try again.
    """

    def __init__(self) -> None:
        super().__init__("there are newer keys", where="storage", retry_after=1)


class Lookups(Protocol):
    """What belongs to no subject, and needs no fence."""

    async def look_up(self, table: ReferenceTable, conditions: Sequence[Condition]) -> list[dict[str, Any]]:
        """Rows that meet every condition, in the order of their key. Raises InvalidInput where there is no table."""
        ...


class Rows(Protocol):
    """One subject's rows at one epoch. Every method raises FenceRefused where the fence isn't open at it."""

    async def put(self, table: Table, row: NewRow, version: int | None, once: Once | None = None) -> int:
        """Write a row and answer its new version. ``version``: the one that must be there (0: none), else Conflict.

        Raises Forbidden where a row about another principal is there; Conflict, where a version was named.
        """
        ...

    async def put_many(self, table: Table, rows: Sequence[NewRow], once: Once | None = None) -> list[int]:
        """Write rows, all of them or none, whatever is there; their new versions in the same order."""
        ...

    async def update(self, table: Table, row: NewRow, version: int, once: Once | None = None) -> int:
        """Change some columns of the row that is at ``version``, else Conflict; the new version."""
        ...

    async def delete(self, table: Table, id: UUID, version: int | None) -> bool:  # noqa: A002
        """Whether there was such a row. ``version``: the one that must be there, else Conflict."""
        ...

    async def select(self, table: Table, selection: Selection) -> list[StoredRow]:
        """Rows and fence in one snapshot. Raises OutdatedKeys where rows may lie under newer keys than a condition
        knows."""
        ...


class Work(Rows, Lookups, Protocol):
    """The same, inside a transaction, which lets through what ``turns`` does."""

    async def query(self, statement: str, arguments: Sequence[Any]) -> list[dict[str, Any]]:
        """One statement that was admitted; its rows by column name."""
        ...


class Store(Lookups, Protocol):
    """The rows of one cell."""

    def alone(self, key: SubjectKey, epoch: int, stale: float | None = None) -> Rows:
        """Each call is a transaction of its own. ``stale``: for how many seconds what is read may be out of date."""
        ...

    def work(self, key: SubjectKey, epoch: int) -> AbstractAsyncContextManager[Work]:
        """A transaction that commits when its block ends well, and is rolled back otherwise.

        It reads what is committed, and what it wrote; nobody else writes a row that it wrote before it ends. Who waits
        for that in vain, for the lock's time-out, gets Unavailable.
        """
        ...


class Alone:
    """Each call is a transaction of its own; a store may have a shorter way for some of them."""

    def __init__(self, store: Store, key: SubjectKey, epoch: int) -> None:
        self._store = store
        self._key = key
        self._epoch = epoch

    async def put(self, table: Table, row: NewRow, version: int | None, once: Once | None = None) -> int:
        async with self._store.work(self._key, self._epoch) as work:
            return await work.put(table, row, version, once)

    async def put_many(self, table: Table, rows: Sequence[NewRow], once: Once | None = None) -> list[int]:
        async with self._store.work(self._key, self._epoch) as work:
            return await work.put_many(table, rows, once)

    async def update(self, table: Table, row: NewRow, version: int, once: Once | None = None) -> int:
        async with self._store.work(self._key, self._epoch) as work:
            return await work.update(table, row, version, once)

    async def delete(self, table: Table, id: UUID, version: int | None) -> bool:  # noqa: A002
        async with self._store.work(self._key, self._epoch) as work:
            return await work.delete(table, id, version)


def refused() -> FenceRefused:
    return FenceRefused("this cell does not hold the subject open at this epoch", where="storage")


def no_table() -> InvalidInput:
    return InvalidInput("no such table", where="storage", remedy="run `domicile schema apply`")


def in_the_way() -> Unavailable:
    return Unavailable("another transaction was in the way", where="storage", retry_after=1)


def kept_for_life() -> Forbidden:
    return Forbidden("a row keeps its subject, principal, key and jurisdiction for life", where="storage")


def stored_principal(principal: UUID | None) -> bytes | None:
    """As it lies in ``PRINCIPAL``: 17 bytes, the first of which is no pepper's version; None for the subject's key."""
    return None if principal is None else b"\0" + principal.bytes


def principal_of(raw: bytes | None) -> UUID | None:
    """What ``stored_principal`` wrote. Raises DomicileError for what it cannot have written."""
    if raw is None:
        return None
    if len(raw) != 17 or raw[0] != 0:
        raise DomicileError("a principal that is named by no id", where="storage")
    return UUID(bytes=raw[1:])


def another_version(table: Table) -> Conflict:
    return Conflict("the row is not at the version expected", where=table.name, remedy="read it again")


def another_request() -> Conflict:
    return Conflict(
        "another request was made under this idempotency key",
        where="storage",
        remedy="home.new(..., idempotency_key=...) gives a record that is made again its id",
    )


def given_twice(table: Table) -> InvalidInput:
    return InvalidInput("one row is given twice", where=table.name, remedy="put the last one of each id")
