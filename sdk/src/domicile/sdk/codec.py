"""Between records and rows of one subject: what is sealed, what is indexed, and how a row becomes a record again."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any, Final, Protocol, TypeVar
from uuid import UUID

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from domicile.model.errors import InvalidInput, UnsupportedQuery, WrongJurisdiction
from domicile.model.wire import DataKey
from domicile.sdk.records import Record
from domicile.sdk.sealing import Sealer, blind_index
from domicile.sdk.store.port import NewRow, Once, StoredRow
from domicile.sdk.tables import Column, Table

R = TypeVar("R", bound=Record)
MAX_KEY_BYTES: Final = 256


class Keys(Protocol):
    """The key service, as a home needs it. Raises NotFound for a key that was destroyed, Unavailable for no service."""

    async def data_key(self, subject: UUID, principal: UUID, *, create: bool = False) -> DataKey: ...

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

    async def secret(self, column: Column, *, create: bool = False) -> bytes:
        """Under which the column's blind index is. Raises NotFound for a subject that never had a key."""
        if column.find == "cell":
            return await self._keys.cell_index_key()
        return (await self.key(create=create)).index_key

    async def cursor_secret(self, *, personal: bool) -> bytes:
        """``personal``: of a cursor that holds a personal value, which ends with the subject's own key."""
        return (await self.key(create=True)).index_key if personal else await self._keys.cell_index_key()

    def _sealer(self, key: DataKey) -> Sealer:
        """Kept for as long as the key service's client answers with an equal key, which it makes anew each time."""
        if self._opened is None or (self._opened[0] is not key and self._opened[0] != key):
            sealer = Sealer(self.cell, self.jurisdiction, key.subject, key.principal, AESGCM(key.key))
            self._opened = (key, sealer)
        return self._opened[1]

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
        return NewRow(record.id, await self.encode(table, record.id, columns))

    async def encode(self, table: Table, row: UUID, columns: Mapping[Column, Any]) -> dict[str, Any]:
        """Values as they lie at rest, blind indexes among them."""
        values: dict[str, Any] = {}
        sealer: Sealer | None = None
        for column, value in columns.items():
            if value is None and not column.nullable:
                raise InvalidInput("no value", where=f"{table.name}.{column.name}")
            spelled: bytes | None = None
            if value is None or not column.sealed:
                values[column.name] = None if value is None else column.clear(value)
            else:
                sealer = sealer or self._sealer(await self.key(create=True))
                spelled = column.kind.dump(value)
                values[column.name] = sealer.seal(table.name, column.name, row, spelled)
            if column.find is not None:
                values[column.index] = (
                    None
                    if spelled is None
                    else blind_index(await self.secret(column, create=True), table.name, column.name, spelled)
                )
        return values

    async def once(self, records: Iterable[Record], idempotency_key: str) -> Once:
        """What the store keeps of a request: neither its key nor its values can be read from it.

        Raises InvalidInput for a key that is empty or too long.
        """
        raw = idempotency_key.encode("utf-8", "surrogatepass")
        if not 1 <= len(raw) <= MAX_KEY_BYTES:
            raise InvalidInput(f"an idempotency key has 1 to {MAX_KEY_BYTES} bytes, not {len(raw)}")
        secret = (await self.key(create=True)).index_key
        request = hashlib.sha256()
        for record in records:
            for column in record.domicile_table.columns:
                value = getattr(record, column.name)
                spelled = b"" if value is None else column.kind.dump(value)
                request.update(b"%b %d %b" % (record.id.bytes, len(spelled), spelled))
        key = hashlib.blake2b(raw, key=secret, digest_size=32, person=b"domicile/once").digest()
        return Once(key, blind_index(secret, "", "", request.digest()))

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
                values[column.name] = column.kind.load(sealer.open(table.name, column.name, row.id, raw))
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
