"""A subject's home: the only place where its records can be put, and where their personal values open.

What a record says of itself is checked before anything is connected to: the first of the three locks on a
write. The guard and the database ask again, each on its own.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar, cast
from uuid import UUID, uuid4

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from domicile.client import KeyClient
from domicile.model.errors import InvalidInput, NotFound, UnsupportedQuery, WrongJurisdiction
from domicile.model.ids import SubjectKey
from domicile.model.wire import DataKey
from domicile.sdk.records import Record
from domicile.sdk.sealing import Sealer, blind_index
from domicile.sdk.store import Fence, RowStore, StoredRow, Work
from domicile.sdk.tables import Column, Table

R = TypeVar("R", bound=Record)


@dataclass(frozen=True, slots=True)
class Vault:
    """What one cell's application stores with: its rows, its keys, and what it is."""

    rows: RowStore
    keys: KeyClient
    cell: str
    jurisdiction: str


class Records(ABC):
    """What can be done with one subject's records, in a transaction each or in one for all."""

    def __init__(self, vault: Vault, fence: Fence) -> None:
        self._vault = vault
        self._fence = fence

    @property
    def subject_key(self) -> SubjectKey:
        return self._fence.subject_key

    @property
    def jurisdiction(self) -> str:
        return self._vault.jurisdiction

    @property
    def cell(self) -> str:
        return self._vault.cell

    @property
    def epoch(self) -> int:
        return self._fence.epoch

    @abstractmethod
    def _work(self, *, writes: bool) -> AbstractAsyncContextManager[Work]: ...

    def new(self, kind: type[R], **fields: Any) -> R:
        """A record labelled with this home's jurisdiction, with a random ``id`` unless one is given.

        It is not stored yet: ``put`` it. Raises InvalidInput for fields that don't fit.
        """
        return kind(**{"jurisdiction": self.jurisdiction, "id": uuid4(), **fields})

    async def put(self, record: Record, *, version: int | None = None) -> int:
        """Store a record, or replace the one with its id; answers the row's version, which starts at 1.

        ``version``: the one that must be there, 0 for none; Conflict otherwise. Raises WrongJurisdiction,
        before any connection is used, for a record that isn't labelled with the home's jurisdiction;
        FenceRefused where the cell no longer holds the subject; Unavailable.
        """
        if record.jurisdiction != self.jurisdiction:
            raise WrongJurisdiction(
                f"a record that is not labelled {self.jurisdiction}, which is the home's jurisdiction",
                where=type(record).__name__,
                remedy="home.new(...) stamps the right one",
            )
        if version is not None and version < 0:
            raise InvalidInput("a version is 0 or more")
        table = record.domicile_table
        values = await self._encode(table, record)
        async with self._work(writes=True) as work:
            return await work.put(table, record.id, values, version)

    async def get(self, kind: type[R], id: UUID) -> R | None:  # noqa: A002 - the field's name
        """The record with this id, or None. Raises NotFound where its key was destroyed."""
        found = await self._select(kind, {"id": id})
        return found[0] if found else None

    async def all(self, kind: type[R]) -> list[R]:
        """Every record of a class, in the order of creation."""
        return await self._select(kind, {})

    async def find(self, kind: type[R], **conditions: Any) -> list[R]:
        """Records that equal every condition, in the order of creation.

        Conditions are on fields that are shareable, clear (``sealed=False``) or have ``find=``; raises
        UnsupportedQuery for any other, for None, and for no condition at all.
        """
        table = kind.domicile_table
        if not conditions:
            raise UnsupportedQuery("no condition", where=kind.__name__, remedy="use all()")
        columns = {name: _findable(kind, name, value) for name, value in conditions.items()}
        wanted: dict[str, Any] = {}
        for name, column in columns.items():
            value = conditions[name]
            if column.find is None:
                wanted[name] = column.clear(value)
            else:
                try:
                    secret = await self._secret(column)
                except NotFound:
                    return []
                wanted[column.index] = blind_index(secret, table.name, name, column.kind.dump(value))
        return await self._select(kind, wanted)

    async def delete(self, kind: type[Record], id: UUID) -> bool:  # noqa: A002 - the field's name
        """Delete the record with this id; whether there was one. FenceRefused is raised, never False."""
        async with self._work(writes=True) as work:
            return await work.delete(kind.domicile_table, id)

    async def _key(self, *, create: bool = False) -> DataKey:
        subject = self._fence.internal_id  # of the subject, and of the principal that it is itself
        return await self._vault.keys.data_key(subject, subject, create=create)

    async def _secret(self, column: Column) -> bytes:
        if column.find == "cell":
            return await self._vault.keys.cell_index_key()
        return (await self._key()).index_key

    def _sealer(self, key: DataKey) -> Sealer:
        return Sealer(self.cell, self.jurisdiction, key.subject, key.principal, AESGCM(key.key))

    async def _encode(self, table: Table, record: Record) -> dict[str, Any]:
        values: dict[str, Any] = {}
        sealer: Sealer | None = None
        for column in table.columns:
            value = getattr(record, column.name)
            if value is None and not column.nullable:
                raise InvalidInput("no value", where=f"{table.name}.{column.name}")
            if value is None or not column.sealed:
                values[column.name] = None if value is None else column.clear(value)
            else:
                sealer = sealer or self._sealer(await self._key(create=True))
                raw = column.kind.dump(value)
                values[column.name] = sealer.seal(table.name, column.name, record.id, raw)
            if column.find is not None:
                values[column.index] = (
                    None
                    if value is None
                    else blind_index(await self._secret(column), table.name, column.name, column.kind.dump(value))
                )
        return values

    async def _select(self, kind: type[R], conditions: dict[str, Any]) -> list[R]:
        table = kind.domicile_table
        async with self._work(writes=False) as work:
            rows = await work.select(table, conditions)
        return [await self._decode(kind, row) for row in rows]

    async def _decode(self, kind: type[R], row: StoredRow) -> R:
        table = kind.domicile_table
        values = dict(row.values)
        sealer: Sealer | None = None
        for column in table.columns:
            raw = values[column.name]
            if raw is None and not column.nullable:
                del values[column.name]  # written before there was such a field: its default
            elif column.sealed and raw is not None:
                sealer = sealer or self._sealer(await self._key())
                values[column.name] = column.kind.load(sealer.open(table.name, column.name, row.id, raw))
            elif column.kind.python is UUID and raw is not None:
                values[column.name] = UUID(int=raw.int)
        record = kind.model_construct(jurisdiction=self.jurisdiction, id=row.id, **values)
        record._version = row.version
        return cast("R", record)


def _findable(kind: type[Record], name: str, value: Any) -> Column:
    where = f"{kind.__name__}.{name}"
    column = kind.domicile_table.by_name.get(name)
    if column is None:
        raise UnsupportedQuery("no such field to find by", where=kind.__name__, remedy="get() takes an id")
    if column.sealed and column.find is None:
        raise UnsupportedQuery("a sealed field without a blind index", where=where, remedy="declare it with find=True")
    if value is None:
        raise UnsupportedQuery("None is not a value to find", where=where)
    return column


class Transaction(Records):
    """One transaction of one subject; what it wrote holds when its block ends without an error."""

    def __init__(self, vault: Vault, fence: Fence, work: Work) -> None:
        super().__init__(vault, fence)
        self._open = work

    @asynccontextmanager
    async def _work(self, *, writes: bool) -> AsyncIterator[Work]:
        yield self._open


class Home(Records):
    """A subject that is at home in this cell, at the epoch at which it was asked for.

    Each call is a transaction of its own. All of them raise FenceRefused when the subject has moved on.
    """

    def _work(self, *, writes: bool) -> AbstractAsyncContextManager[Work]:
        return self._vault.rows.work(self.subject_key, self.epoch, writes=writes)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Transaction]:
        """One subject, one cell, fenced at BEGIN: nobody moves the subject away before it ends.

        It commits at the end of the block, or is rolled back by an error in it. A task that is cancelled
        while it commits leaves the outcome to the database.
        """
        async with self._work(writes=True) as work:
            yield Transaction(self._vault, self._fence, work)
