"""Between records and rows of one subject: what is sealed, what is indexed, and how a row becomes a record again."""

from __future__ import annotations

import hashlib
from collections.abc import Container, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final, Protocol, TypeVar
from uuid import UUID

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from domicile.model.errors import (
    Conflict,
    DomicileError,
    InvalidInput,
    KeyDestroyed,
    NotFound,
    Unavailable,
    UnsupportedQuery,
    WrongJurisdiction,
)
from domicile.model.fields import Destroyed
from domicile.model.key_wire import CellIndexKey, DataKey
from domicile.sdk.records import Record
from domicile.sdk.sealing import Sealer, blind_index
from domicile.sdk.store.port import Condition, NewRow, Once, Operator, StoredRow, principal_of
from domicile.sdk.tables import PRINCIPAL, Column, Table

R = TypeVar("R", bound=Record)
MAX_KEY_BYTES: Final = 256
MAX_SEALERS: Final = 1_000
ATTEMPTS: Final = 3


def _raw_key(idempotency_key: str) -> bytes:
    raw = idempotency_key.encode("utf-8", "surrogatepass")
    if not 1 <= len(raw) <= MAX_KEY_BYTES:
        raise InvalidInput(f"an idempotency key has 1 to {MAX_KEY_BYTES} bytes, not {len(raw)}")
    return raw


def _framed(*parts: bytes) -> bytes:
    """Each with its length before it, so that no two lists of parts are spelled alike."""
    return b"".join(len(part).to_bytes(8, "big") + part for part in parts)


class Keys(Protocol):
    """The key service, as a home needs it. Raises NotFound for a key that was destroyed, Unavailable for no service."""

    async def data_key(self, subject: UUID, principal: UUID, *, create: bool = False) -> DataKey: ...

    async def data_keys(self, names: Sequence[tuple[UUID, UUID]], *, create: bool = False) -> list[DataKey]: ...

    def forget(self, subject: UUID) -> None:
        """Ask the service for the keys of this subject and its principals when they are wanted next."""
        ...

    async def cell_index_key(self) -> CellIndexKey: ...

    def forget_index(self) -> None:
        """The same of the cell's index secret."""
        ...

    def lend_to(self, borrower: Codec) -> None:
        """Tell it, for as long as somebody else keeps it, which keys are held no more."""
        ...


class Codec:
    """Of one subject. ``internal_id`` names it to the key service: as subject, and as the principal of its own rows.

    A principal is None where that is the subject. Blind indexes are under the subject's secret, whoever a row is about.
    ``across``: among rows of others, which are not lost with the subject's key, so that its own are ``Destroyed``, too.
    """

    def __init__(self, keys: Keys, cell: str, jurisdiction: str, internal_id: UUID, *, across: bool = False) -> None:
        self.cell = cell
        self.jurisdiction = jurisdiction
        self._keys = keys
        self._internal_id = internal_id
        self._sealers: dict[UUID, tuple[DataKey, Sealer]] = {}
        self._across = across
        self._destroyed: set[UUID | None] = set()
        keys.lend_to(self)

    def hold_only(self, held: Container[tuple[UUID, UUID]]) -> None:
        """A home may be kept for longer than a key may be held."""
        for principal in [each for each in self._sealers if (self._internal_id, each) not in held]:
            del self._sealers[principal]

    async def key(self, principal: UUID | None = None, *, create: bool = False) -> DataKey:
        return await self._keys.data_key(self._internal_id, principal or self._internal_id, create=create)

    def forget(self) -> None:
        """The subject's keys, or the cell's secret, were turned since they were asked for: ask again."""
        self._keys.forget(self._internal_id)
        self._keys.forget_index()

    async def condition(self, column: Column, table: Table, spelled: bytes) -> Condition:
        """What rows with this value meet, under either generation while the keys are turned.

        Raises NotFound for a subject, or a cell, that never had a key.
        """

        def index(secret: bytes) -> bytes:
            return blind_index(secret, table.name, column.name, spelled)

        def met(now: bytes, other: bytes | None) -> Condition:
            if other is None:
                return Condition(column.index, Operator.EQUAL, index(now))
            return Condition(column.index, Operator.AMONG, [index(now), index(other)])

        if column.find == "cell":
            cell = await self._keys.cell_index_key()
            return met(cell.key, None if cell.other is None else cell.other.key)._replace(newest_index=cell.newest)
        key = await self.key()
        return met(key.index_key, None if key.other is None else key.other.index_key)._replace(newest=key.newest)

    async def cursor_secrets(self, *, personal: bool) -> list[bytes]:
        """To make cursors with, and another that one may be of while keys are turned.

        ``personal``: of a cursor that holds a personal value, which ends with the subject's own key.
        """
        if personal:
            key = await self.key(create=True)
            return [key.index_key] if key.other is None else [key.index_key, key.other.index_key]
        cell = await self._keys.cell_index_key()
        return [cell.key] if cell.other is None else [cell.key, cell.other.key]

    def _sealer(self, key: DataKey) -> Sealer:
        """Kept for as long as the key service's client answers with an equal key, which it makes anew each time."""
        held = self._sealers.get(key.principal)
        if held is not None and (held[0] is key or held[0] == key):
            return held[1]
        if len(self._sealers) >= MAX_SEALERS:
            self._sealers.clear()
        other = None if key.other is None else AESGCM(key.other.key)
        sealer = Sealer(self.cell, self.jurisdiction, key.subject, key.principal, AESGCM(key.key), other)
        self._sealers[key.principal] = (key, sealer)
        return sealer

    def principal(self, record: Record) -> UUID | None:
        """Who a record is about, where that is not the subject."""
        about = record.domicile_table.about
        named: UUID | None = None if about is None else getattr(record, about.name)
        return None if named == self._internal_id else named

    def is_subject(self, principal: UUID) -> bool:
        return principal == self._internal_id

    def require_whole(self, record: Record) -> None:
        """Raises KeyDestroyed for a record that was read after a key of it was gone."""
        if record.destroyed:
            where = f"{record.domicile_table.name}.{min(record.destroyed)}"
            raise KeyDestroyed("was destroyed, and is not written again", where=where, remedy="delete the record")

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
        self.require_whole(record)
        table = record.domicile_table
        columns = {column: getattr(record, column.name) for column in table.columns}
        return await self.encode(table, record.id, columns, self.principal(record))

    async def encode(
        self, table: Table, row: UUID, columns: Mapping[Column, Any], principal: UUID | None = None
    ) -> NewRow:
        """Values as they lie at rest, blind indexes among them, all under keys of one generation.

        Raises KeyDestroyed where the principal's key was, Unavailable while the keys are turned again and again.
        """
        values: dict[str, Any] = {}
        cell: CellIndexKey | None = None
        sealer: Sealer | None = None
        generation, cell_generation = 0, 0
        for column, value in columns.items():
            if value is None and not column.nullable:
                raise InvalidInput("no value", where=f"{table.name}.{column.name}")
            spelled: bytes | None = None
            if value is None or not column.sealed:
                values[column.name] = None if value is None else column.clear(value)
            else:
                if sealer is None:
                    indexed = any(each.find == "subject" and columns[each] is not None for each in columns)
                    key, own = await self._pair(principal, indexed=indexed, create=True)
                    sealer, generation = self._sealer(key), key.generation
                spelled = column.kind.dump(value)
                values[column.name] = sealer.seal(table.name, column.name, row, spelled)
            if column.find is not None and spelled is None:
                values[column.index] = None
            elif column.find is not None and spelled is not None:
                secret = own
                if column.find == "cell":
                    cell = cell or await self._keys.cell_index_key()
                    secret, cell_generation = cell.key, cell.generation
                values[column.index] = blind_index(secret, table.name, column.name, spelled)
        return NewRow(row, values, principal, generation, cell_generation)

    async def _pair(self, principal: UUID | None, *, indexed: bool, create: bool = False) -> tuple[DataKey, bytes]:
        """A principal's key, and where ``indexed`` the secret of the subject's blind indexes, of one generation."""
        if principal is None or not indexed:
            key = await self.key(principal, create=create)
            return key, key.index_key
        names = [(self._internal_id, principal), (self._internal_id, self._internal_id)]
        for _ in range(ATTEMPTS):
            key, own = await self._keys.data_keys(names, create=create)
            if own.generation == key.generation:
                return key, own.index_key
            self.forget()  # one of them was asked for before the keys were turned
        raise Unavailable("the subject's keys are being turned", where="keys", retry_after=1)

    async def resealed(
        self,
        table: Table,
        row: UUID,
        values: Mapping[str, Any],
        principal: UUID | None,
        generation: int | None,
        index: int | None = None,
    ) -> NewRow | None:
        """A row's sealed values, and what is derived from them, under the keys of a generation; None where all are.

        ``generation``: of the subject's keys, ``index``: of the cell's secret; None for whichever is written with.
        Raises Conflict where it isn't the one to write with, DomicileError for a value that is not in its place,
        KeyDestroyed where the key of whom the row is about was.
        """
        sealed = [column for column in table.columns if column.sealed and values.get(column.name) is not None]
        if not sealed:
            return None
        key = await self.key(principal)
        try:
            key, secret = await self._pair(principal, indexed=any(column.find == "subject" for column in sealed))
        except KeyDestroyed:  # the subject's own, by whose secret nobody looks up any more
            secret = key.index_key
        cell = await self._keys.cell_index_key() if any(column.find == "cell" for column in sealed) else None
        if key.generation != (generation or key.generation) or (cell and cell.generation != (index or cell.generation)):
            raise Conflict("the keys were turned again meanwhile", where=table.name)
        both = self._sealer(key)
        new = replace(both, other=None)
        fresh: dict[str, Any] = {}
        stale = False
        for column in sealed:
            raw = values[column.name]
            spelled = both.open(table.name, column.name, row, raw)
            stale = stale or not new.opens(table.name, column.name, row, raw)
            fresh[column.name] = new.seal(table.name, column.name, row, spelled)
            if column.find == "subject":
                fresh[column.index] = blind_index(secret, table.name, column.name, spelled)
            elif cell is not None and column.find == "cell":
                fresh[column.index] = blind_index(cell.key, table.name, column.name, spelled)
                stale = stale or fresh[column.index] != values[column.index]
        if not stale:
            return None
        return NewRow(row, fresh, principal, key.generation, 0 if cell is None else cell.generation)

    def new_id(self, table: Table, idempotency_key: str) -> UUID:
        """The id of a record that is made under a key, the same each time, whatever became of keys meanwhile.

        Under the subject's internal id, which is random: to whoever does not have that, it tells nothing of the key.
        """
        named = _framed(table.name.encode(), _raw_key(idempotency_key))
        key = self._internal_id.bytes
        return UUID(bytes=hashlib.blake2b(named, key=key, digest_size=16, person=b"domicile/new").digest(), version=5)

    def _spelled(self, record: Record) -> bytes:
        """All that a request says of a record, and nothing that can be taken for something else.

        A field that is what it is by default says nothing: a request of before there was the field stays the same one.
        """
        self.require_whole(record)
        table, principal = record.domicile_table, self.principal(record)
        parts = [table.name.encode(), record.id.bytes, b"" if principal is None else principal.bytes]
        for column in table.columns:
            value = getattr(record, column.name)
            spelled = b"" if value is None else column.kind.dump(value)
            info = type(record).model_fields[column.name]
            if not info.is_required() and info.default_factory is None:
                default = b"" if info.default is None else column.kind.dump(info.default)
                if spelled == default:
                    continue
            parts += [column.name.encode(), spelled]
        return _framed(*parts)

    async def once(
        self, operation: str, records: Iterable[Record], idempotency_key: str, version: int | None = None
    ) -> Once:
        """What the store keeps of a request: neither its key nor its values can be read from it.

        Raises InvalidInput for a key that is empty or too long.
        """
        return await self._once(operation, map(self._spelled, records), idempotency_key, version)

    async def once_changed(
        self, record: Record, columns: Mapping[Column, Any], idempotency_key: str, version: int
    ) -> Once:
        """As ``once``, of a request that changes columns of a record, whatever the others are by now."""
        parts = [record.domicile_table.name.encode(), record.id.bytes]
        for column, value in columns.items():
            parts += [column.name.encode(), b"" if value is None else column.kind.dump(value)]
        return await self._once("update", [_framed(*parts)], idempotency_key, version)

    async def _once(self, operation: str, spelled: Iterable[bytes], idempotency_key: str, version: int | None) -> Once:
        raw = _raw_key(idempotency_key)
        request = hashlib.sha256(_framed(operation.encode(), b"" if version is None else b"%d" % version))
        for each in spelled:
            request.update(_framed(each))

        def under(secret: bytes, before: Once | None = None) -> Once:
            key = hashlib.blake2b(raw, key=secret, digest_size=32, person=b"domicile/once").digest()
            return Once(key, blind_index(secret, "", "", request.digest()), before)

        now = await self.key(create=True)
        return under(now.index_key, None if now.other is None else under(now.other.index_key))

    async def prepare(self, principals: Iterable[UUID | None]) -> None:
        """Have the keys of many people's rows unwrapped in one call."""
        others = set(principals) - {None}
        if len(others) > 1:
            with suppress(NotFound):  # destroyed, or never made where nothing is sealed: it turns out row by row
                await self._keys.data_keys([(self._internal_id, each) for each in others if each is not None])

    async def _opener(self, principal: UUID | None) -> Sealer | None:
        """None where the key was destroyed; the subject's own, only ``across``."""
        if principal in self._destroyed:
            return None
        try:
            return self._sealer(await self.key(principal))
        except KeyDestroyed:
            if principal is None and not self._across:
                raise
        self._destroyed.add(principal)
        return None

    async def record(self, kind: type[R], row: StoredRow) -> R:
        """Raises DomicileError for a value that is not in its place; NotFound, but ``across``, where the subject's key
        was destroyed."""
        table = kind.domicile_table
        values = dict(row.values)
        sealer: Sealer | None = None
        if table.about is not None:
            subject = None if table.about.nullable else self._internal_id
            values[table.about.name] = row.principal or subject
        for column in table.columns:
            raw = values[column.name]
            if raw is None:
                if not column.nullable:
                    values[column.name] = column.default  # written before there was such a field
                continue
            if column.sealed:
                sealer = sealer or await self._opener(row.principal)
                try:
                    spelled = None if sealer is None else sealer.open(table.name, column.name, row.id, raw)
                except DomicileError:  # what was written since the key was asked for may lie under a newer one
                    self.forget()
                    sealer = await self._opener(row.principal)
                    spelled = None if sealer is None else sealer.open(table.name, column.name, row.id, raw)
                destroyed = Destroyed(column.field.category)
                values[column.name] = destroyed if spelled is None else column.kind.load(spelled)
            elif column.kind.converts:
                values[column.name] = column.kind.plain(raw)
        return kind._stored({"jurisdiction": self.jurisdiction, "id": row.id, **values}, row.version)

    async def record_of(self, kind: type[R], row: Mapping[str, Any]) -> R:
        """From a row of raw SQL; raises UnsupportedQuery where it lacks a column of the class."""
        names = [column.name for column in kind.domicile_table.columns]
        about = {"subject_key", PRINCIPAL}
        needed = {"id", "version", *names} | (about if kind.domicile_table.about is not None else set())
        if missing := sorted(needed - row.keys()):
            raise UnsupportedQuery(
                f"a result without {', '.join(missing)}",
                where=kind.__name__,
                remedy=f"select {kind.domicile_table.name}.*",
            )
        others = about <= row.keys() and row["subject_key"] != row[PRINCIPAL]
        principal = principal_of(row[PRINCIPAL]) if others else None
        stored = StoredRow(
            UUID(int=row["id"].int), row["version"], {name: row[name] for name in names}, principal=principal
        )
        return await self.record(kind, stored)
