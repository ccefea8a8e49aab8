"""Between records and rows of one subject: what is sealed, what is indexed, and how a row becomes a record again."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, Final, Protocol, TypeVar
from uuid import UUID

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from domicile.model.errors import Conflict, DomicileError, InvalidInput, UnsupportedQuery, WrongJurisdiction
from domicile.model.wire import DataKey
from domicile.sdk.records import Record
from domicile.sdk.sealing import Sealer, blind_index
from domicile.sdk.store.port import Condition, NewRow, Once, Operator, StoredRow
from domicile.sdk.tables import Column, Table

R = TypeVar("R", bound=Record)
MAX_KEY_BYTES: Final = 256


class Keys(Protocol):
    """The key service, as a home needs it. Raises NotFound for a key that was destroyed, Unavailable for no service."""

    async def data_key(self, subject: UUID, principal: UUID, *, create: bool = False) -> DataKey: ...

    def forget(self, subject: UUID, principal: UUID) -> None:
        """Ask the service for this key when it is wanted next."""
        ...

    async def cell_index_key(self) -> bytes: ...


class Codec:
    """Of one subject, which is its own principal. ``internal_id`` names it to the key service."""

    def __init__(self, keys: Keys, cell: str, jurisdiction: str, internal_id: UUID) -> None:
        self.cell = cell
        self.jurisdiction = jurisdiction
        self._keys = keys
        self._internal_id = internal_id
        self._opened: tuple[DataKey, Sealer] | None = None

    async def key(self, *, create: bool = False) -> DataKey:
        return await self._keys.data_key(self._internal_id, self._internal_id, create=create)

    def forget(self) -> None:
        """The subject's keys were turned since they were asked for: ask again."""
        self._keys.forget(self._internal_id, self._internal_id)

    async def secret(self, column: Column, *, create: bool = False) -> bytes:
        """Under which the column's blind index is written. Raises NotFound for a subject that never had a key."""
        if column.find == "cell":
            return await self._keys.cell_index_key()
        return (await self.key(create=create)).index_key

    async def condition(self, column: Column, table: Table, spelled: bytes) -> Condition:
        """What rows with this value meet, under either generation while the keys are turned. Raises as ``secret``."""
        if column.find == "cell":
            index = blind_index(await self._keys.cell_index_key(), table.name, column.name, spelled)
            return Condition(column.index, Operator.EQUAL, index)
        key = await self.key()
        index = blind_index(key.index_key, table.name, column.name, spelled)
        if key.other is None:
            return Condition(column.index, Operator.EQUAL, index, key.newest)
        other = blind_index(key.other.index_key, table.name, column.name, spelled)
        return Condition(column.index, Operator.AMONG, [index, other], key.newest)

    async def cursor_secret(self, *, personal: bool) -> bytes:
        """``personal``: of a cursor that holds a personal value, which ends with the subject's own key."""
        return (await self.key(create=True)).index_key if personal else await self._keys.cell_index_key()

    def _sealer(self, key: DataKey) -> Sealer:
        """Kept for as long as the key service's client answers with an equal key, which it makes anew each time."""
        if self._opened is None or (self._opened[0] is not key and self._opened[0] != key):
            other = None if key.other is None else AESGCM(key.other.key)
            sealer = Sealer(self.cell, self.jurisdiction, key.subject, key.principal, AESGCM(key.key), other)
            self._opened = (key, sealer)
        return self._opened[1]

    async def _renewed(self, sealer: Sealer) -> Sealer:
        """By the keys that the service has now, where the sealer's are no longer these; else the same again."""
        before = self._opened
        self.forget()
        key = await self.key()
        return sealer if before is not None and before[0] == key else self._sealer(key)

    def require_home(self, record: Record) -> None:
        """Raises WrongJurisdiction for a record that isn't labelled with the home's."""
        if record.jurisdiction != self.jurisdiction:
            raise WrongJurisdiction(
                f"a record that is not labelled {self.jurisdiction}, which is the home's jurisdiction",
                where=type(record).__name__,
                remedy="home.new(...) stamps the right one",
            )

    async def row(self, record: Record) -> NewRow:
        """The whole record as it is stored."""
        table = record.domicile_table
        columns = {column: getattr(record, column.name) for column in table.columns}
        return await self.encode(table, record.id, columns)

    async def encode(self, table: Table, row: UUID, columns: Mapping[Column, Any]) -> NewRow:
        """Values as they lie at rest, blind indexes among them, all under keys of one generation."""
        values: dict[str, Any] = {}
        sealer: Sealer | None = None
        generation = 0
        for column, value in columns.items():
            if value is None and not column.nullable:
                raise InvalidInput("no value", where=f"{table.name}.{column.name}")
            spelled: bytes | None = None
            if value is None or not column.sealed:
                values[column.name] = None if value is None else column.clear(value)
            else:
                if sealer is None:
                    key = await self.key(create=True)
                    sealer, generation, own = self._sealer(key), key.generation, key.index_key
                spelled = column.kind.dump(value)
                values[column.name] = sealer.seal(table.name, column.name, row, spelled)
            if column.find is not None and spelled is None:
                values[column.index] = None
            elif column.find is not None and spelled is not None:
                secret = await self._keys.cell_index_key() if column.find == "cell" else own
                values[column.index] = blind_index(secret, table.name, column.name, spelled)
        return NewRow(row, values, generation)

    async def resealed(self, table: Table, row: UUID, values: Mapping[str, Any], generation: int) -> dict[str, Any]:
        """A row's sealed values, and what is derived from them, under the keys of a generation; none where all are.

        Raises Conflict where it isn't the one to write with, DomicileError for a value that is not in its place.
        """
        key = await self.key()
        if key.generation != generation:
            raise Conflict("the keys were turned again meanwhile", where=table.name)
        both = self._sealer(key)
        new = replace(both, other=None)
        fresh: dict[str, Any] = {}
        stale = False
        for column in table.columns:
            raw = values.get(column.name) if column.sealed else None
            if raw is None:
                continue
            spelled = both.open(table.name, column.name, row, raw)
            stale = stale or not new.opens(table.name, column.name, row, raw)
            fresh[column.name] = new.seal(table.name, column.name, row, spelled)
            if column.find == "subject":
                fresh[column.index] = blind_index(key.index_key, table.name, column.name, spelled)
        return fresh if stale else {}

    async def once(self, records: Iterable[Record], idempotency_key: str) -> Once:
        """What the store keeps of a request: neither its key nor its values can be read from it.

        Raises InvalidInput for a key that is empty or too long.
        """
        raw = idempotency_key.encode("utf-8", "surrogatepass")
        if not 1 <= len(raw) <= MAX_KEY_BYTES:
            raise InvalidInput(f"an idempotency key has 1 to {MAX_KEY_BYTES} bytes, not {len(raw)}")
        request = hashlib.sha256()
        for record in records:
            for column in record.domicile_table.columns:
                value = getattr(record, column.name)
                spelled = b"" if value is None else column.kind.dump(value)
                request.update(b"%b %d %b" % (record.id.bytes, len(spelled), spelled))

        def under(secret: bytes, before: Once | None = None) -> Once:
            key = hashlib.blake2b(raw, key=secret, digest_size=32, person=b"domicile/once").digest()
            return Once(key, blind_index(secret, "", "", request.digest()), before)

        now = await self.key(create=True)
        return under(now.index_key, None if now.other is None else under(now.other.index_key))

    async def record(self, kind: type[R], row: StoredRow) -> R:
        """Raises NotFound where the key was destroyed, DomicileError for a value that is not in its place."""
        table = kind.domicile_table
        values = dict(row.values)
        sealer: Sealer | None = None
        for column in table.columns:
            raw = values[column.name]
            if raw is None:
                if not column.nullable:
                    values[column.name] = column.default  # written before there was such a field
                continue
            if column.sealed:
                sealer = sealer or self._sealer(await self.key())
                try:
                    spelled = sealer.open(table.name, column.name, row.id, raw)
                except DomicileError:  # what was written since the key was asked for may lie under a newer one
                    sealer = await self._renewed(sealer)
                    spelled = sealer.open(table.name, column.name, row.id, raw)
                values[column.name] = column.kind.load(spelled)
            elif column.kind.python is UUID:
                values[column.name] = UUID(int=raw.int)
        return kind._stored({"jurisdiction": self.jurisdiction, "id": row.id, **values}, row.version)

    async def record_of(self, kind: type[R], row: Mapping[str, Any]) -> R:
        """From a row of raw SQL; raises UnsupportedQuery where it lacks a column of the class."""
        names = [column.name for column in kind.domicile_table.columns]
        if missing := sorted({"id", "version", *names} - row.keys()):
            raise UnsupportedQuery(
                f"a result without {', '.join(missing)}",
                where=kind.__name__,
                remedy=f"select {kind.domicile_table.name}.*",
            )
        stored = StoredRow(UUID(int=row["id"].int), row["version"], {name: row[name] for name in names})
        return await self.record(kind, stored)
