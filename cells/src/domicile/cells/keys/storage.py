"""The key service's own database: wrapped keys, once each, and the audit of their use.

It is no cell's database: a cell's rows, write-ahead log and backups never hold a key, wrapped or not.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Sequence
from contextlib import asynccontextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Final, NamedTuple, TypeAlias
from uuid import UUID

import asyncpg
from asyncpg.connect_utils import SessionAttribute

from domicile.identity import Credentials
from domicile.model import Address, Conflict, Forbidden, NotFound, Role, Unavailable
from domicile.model.key_domains import DEFAULT_DOMAIN
from domicile.model.key_wire import KeyRotation, KeyTurn

DATABASE: Final = "domicile"
USER: Final = "domicile_keys"
POOL_SIZE: Final = 8
WAIT_SECONDS: Final = 4.0
"""On each statement, connection and place in the pool; below the five seconds that callers wait."""
_START_LOCK: Final = 0x646F6D6B  # one number for all processes of this service
_SETTLES: Final = ContextVar("settles", default=False)
"""Whether this task is what others wait for."""
_SQL: Final = {path.stem: path.read_text() for path in (Path(__file__).parent / "sql").glob("*.sql")}

Name: TypeAlias = tuple[UUID, UUID]
"""(subject, principal), by their internal ids."""
Connection: TypeAlias = "asyncpg.pool.PoolConnectionProxy[asyncpg.Record]"


class DataKeyRow(NamedTuple):
    """A wrapped data key as it lies here; ``version``: of the key-encryption key of its ``domain``."""

    subject: UUID
    principal: UUID
    cell: str
    domain: str
    version: int
    wrapped: bytes
    check_value: bytes
    generation: int = 1

    @property
    def name(self) -> Name:
        return self.subject, self.principal


class IndexKeyRow(NamedTuple):
    """A cell's wrapped index secret."""

    cell: str
    domain: str
    version: int
    wrapped: bytes
    check_value: bytes
    generation: int = 1


class Shredded(NamedTuple):
    """``principals``: of what was asked for, those whose key is destroyed; ``now``: how many were by this call."""

    principals: list[UUID]
    now: int


class Found(NamedTuple):
    """What there is of the names asked for. ``others``: of another generation. ``domains``: of their subjects."""

    keys: dict[Name, DataKeyRow]
    others: dict[Name, DataKeyRow]
    destroyed: set[Name]
    domains: dict[UUID, str]


@asynccontextmanager
async def _reachable() -> AsyncIterator[None]:
    """The driver's errors that mean "try again later", as Unavailable; others are faults of ours and stay."""
    try:
        yield
    except (
        OSError,  # TimeoutError and the errors of TLS are among them
        asyncpg.PostgresConnectionError,
        asyncpg.OperatorInterventionError,
        asyncpg.InsufficientResourcesError,
        asyncpg.InvalidAuthorizationSpecificationError,
        asyncpg.TransactionRollbackError,
        asyncpg.ReadOnlySQLTransactionError,
        asyncpg.InterfaceError,
        asyncpg.InternalClientError,  # a statement on a connection that is just being lost
    ) as error:
        raise Unavailable(f"the key store cannot be used ({type(error).__name__})") from error


class KeyStore:
    """Each method is one transaction, committed before it returns. All raise Unavailable for no database."""

    def __init__(self) -> None:
        self._pool: asyncpg.Pool[asyncpg.Record]
        self._met = self._settled = ""
        self._settle: Callable[[], Awaitable[object]] | None = None
        self._settling = asyncio.Lock()

    async def on_return(self, settle: Callable[[], Awaitable[object]]) -> None:
        """Have this done now, and whenever another server answers, or the same one again: it may hold what a backup
        held. Until it is done nothing else is asked of it."""
        self._settle = settle
        await self.probe()

    async def _meet(self, connection: asyncpg.Connection[asyncpg.Record]) -> None:
        """A new connection. Those to a server end before what it holds is replaced."""
        self._met = await connection.fetchval(_SQL["incarnation"])

    @classmethod
    @asynccontextmanager
    async def connect(cls, credentials: Credentials, addresses: Sequence[Address]) -> AsyncIterator[KeyStore]:
        """Opened by mutual TLS at whichever address leads, as the only user that may; closed on leaving."""
        context = credentials.client(credentials.identity.jurisdiction, [Role.STORAGE])
        store = cls()
        async with _reachable():
            store._pool = await asyncpg.create_pool(
                host=[address.host for address in addresses],
                port=[address.port for address in addresses],
                target_session_attrs=SessionAttribute.primary,
                user=USER,
                database=DATABASE,
                ssl=context,
                min_size=1,
                max_size=POOL_SIZE,
                timeout=WAIT_SECONDS,
                command_timeout=WAIT_SECONDS,
                init=store._meet,
            )
        try:
            yield store
        finally:
            store._pool.terminate()

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[Connection]:
        async with _reachable():
            while True:
                async with self._pool.acquire(timeout=WAIT_SECONDS) as connection:
                    if self._settle is None or self._met == self._settled or _SETTLES.get():
                        async with connection.transaction():
                            yield connection
                        return
                await self._settle_met()

    async def _settle_met(self) -> None:
        async with self._settling:
            if self._settle is None or self._met == self._settled:
                return
            met, token = self._met, _SETTLES.set(True)
            try:
                await self._settle()
            finally:
                _SETTLES.reset(token)
            self._settled = met

    async def probe(self) -> None:
        await self.keks("")

    async def time(self) -> float:
        """What the database's clock says, in seconds since 1970."""
        async with self._transaction() as connection:
            now: float = await connection.fetchval(_SQL["time"])
        return now

    async def prepare(self) -> None:
        """Apply the schema, one process at a time."""
        async with self._transaction() as connection:
            await connection.execute("SELECT pg_advisory_xact_lock($1)", _START_LOCK)
            await connection.execute(_SQL["schema"])

    async def keks(self, domain: str) -> dict[int, bytes]:
        """The check value of each version of a domain's key-encryption key."""
        async with self._transaction() as connection:
            rows = await connection.fetch(_SQL["find_keks"], domain)
        return {row["version"]: row["check_value"] for row in rows}

    async def add_kek(self, domain: str, version: int, check_value: bytes) -> None:
        """Unless the version is there already."""
        async with self._transaction() as connection:
            await connection.execute(_SQL["add_kek"], domain, version, check_value)

    async def find(self, cell: str, names: Collection[Name], caller: str, *, default: str | None = None) -> Found:
        """The wrapped keys of ``cell``; each that is found is in the audit before it is handed out.

        ``default``: the key domain of subjects that are new, which are recorded; without it they are let be.
        Raises Forbidden, with nothing recorded but the refusal, where a subject belongs to another cell.
        """
        subjects = sorted({subject for subject, _ in names})
        async with self._transaction() as connection:
            if default is not None:
                await connection.execute(_SQL["add_subjects"], subjects, cell, default)
            rows = await connection.fetch(_SQL["find_subjects"], subjects)
            foreign = any(row["cell"] != cell for row in rows)
            if not foreign:
                found = await self._found(connection, names, {row["subject"]: row["domain"] for row in rows})
                await self._audit(connection, caller, cell, "unwrapped", found.keys)
                return found
        await self.record_refusal(cell, names, caller)
        raise Forbidden("a data key of another cell", where="key store")

    async def record_refusal(self, cell: str, names: Collection[Name], caller: str) -> None:
        async with self._transaction() as connection:
            await self._audit(connection, caller, cell, "refused", names)

    async def record(self, database: str, action: str, caller: str) -> None:
        """Into the audit: a key that is no subject's was made or unwrapped, for backups of a database."""
        async with self._transaction() as connection:
            await self._audit(connection, caller, database, action, [(None, None)])

    async def _found(self, connection: Connection, names: Collection[Name], domains: dict[UUID, str]) -> Found:
        columns = [name[0] for name in names], [name[1] for name in names]
        rows = await connection.fetch(_SQL["find_data_keys"], *columns)
        gone = {(row[0], row[1]) for row in await connection.fetch(_SQL["find_destroyed"], *columns)}
        keys: dict[Name, DataKeyRow] = {}
        others: dict[Name, DataKeyRow] = {}
        for *row, current in rows:
            key = DataKeyRow(*row)
            if key.name not in gone:
                (keys if current else others)[key.name] = key
        return Found(keys, others, gone, domains)

    async def _audit(
        self,
        connection: Connection,
        caller: str,
        cell: str,
        action: str,
        names: Iterable[tuple[UUID | None, UUID | None]],
    ) -> None:
        listed = list(names)
        columns = [name[0] for name in listed], [name[1] for name in listed]
        await connection.execute(_SQL["add_audit"], caller, cell, action, *columns)

    async def add(self, rows: Sequence[DataKeyRow], caller: str) -> Found:
        """Keep new keys of known subjects; the ones that there are then, whoever made them.

        A key of somebody whose keys were destroyed in the meantime is not kept.
        """
        names = [row.name for row in rows]
        async with self._transaction() as connection:
            await connection.execute(_SQL["share_subjects"], sorted({row.subject for row in rows}))
            before = await self._found(connection, names, {})
            fresh = [row for row in rows if row.name not in before.destroyed]
            ours = await self._add(connection, fresh, None)
            found = await self._found(connection, names, {})
            await self._audit(connection, caller, rows[0].cell, "made", ours)
            await self._audit(connection, caller, rows[0].cell, "unwrapped", found.keys.keys() - ours)
        return found

    async def _add(self, connection: Connection, rows: Sequence[DataKeyRow], generation: int | None) -> set[Name]:
        """Those that were not there; ``generation``: None for the one that their subject writes with."""
        if not rows:
            return set()
        made = await connection.fetch(
            _SQL["add_data_keys"],
            [row.subject for row in rows],
            [row.principal for row in rows],
            [row.domain for row in rows],
            [row.version for row in rows],
            [row.wrapped for row in rows],
            [row.check_value for row in rows],
            rows[0].cell,
            generation,
        )
        return {(row[0], row[1]) for row in made}

    async def _held_alone(self, connection: Connection, cell: str, subject: UUID, default: str) -> str:
        """The key domain of a subject, which nobody else changes until the transaction ends; ``default`` for a new one.

        Raises Forbidden where it belongs to another cell.
        """
        await connection.execute(_SQL["add_subjects"], [subject], cell, default)
        row = await connection.fetchrow(_SQL["lock_subject"], subject)
        assert row is not None
        if row["cell"] != cell:
            raise Forbidden("a subject of another cell", where="key store")
        domain: str = row["domain"]
        return domain

    async def assign(self, cell: str, subject: UUID, domain: str, caller: str) -> None:
        """Put a subject into a key domain; harmless to repeat.

        Raises Conflict where it has keys in another already, Forbidden where it belongs to another cell.
        """
        async with self._transaction() as connection:
            if await self._held_alone(connection, cell, subject, domain) == domain:
                return
            if await connection.fetchval(_SQL["has_keys"], subject):
                raise Conflict("has keys in another key domain already", remedy="assign it before its first record")
            await connection.execute(_SQL["set_domain"], subject, domain)

    async def index_keys(self, cell: str, caller: str) -> list[IndexKeyRow]:
        """The wrapped index secrets of ``cell``, the one to write with first, and two while it is turned."""
        async with self._transaction() as connection:
            rows = await connection.fetch(_SQL["find_index_keys"], cell)
            if rows:
                await self._audit(connection, caller, cell, "unwrapped", [(None, None)])
        return [IndexKeyRow(*row) for row in rows]

    async def add_index_key(self, row: IndexKeyRow, caller: str) -> list[IndexKeyRow]:
        """Keep a first one; those that there are then."""
        async with self._transaction() as connection:
            made = await connection.fetchval(_SQL["add_index_key"], *row[:5])
            await self._audit(connection, caller, row.cell, "made" if made else "unwrapped", [(None, None)])
            return [IndexKeyRow(*each) for each in await connection.fetch(_SQL["find_index_keys"], row.cell)]

    async def add_next_index_key(self, row: IndexKeyRow, caller: str) -> None:
        """Keep the next one, unless another call did. Raises Conflict where it isn't the one that is next."""
        async with self._index_turning(row.cell) as (connection, now):
            if now.generation >= row.generation:
                return
            if now.generation != row.generation - 1:
                raise Conflict("not the next index secret", remedy="ask how far the rotation is")
            if await connection.fetchval(_SQL["add_next_index_key"], *row):
                await self._audit(connection, caller, row.cell, "made", [(None, None)])

    async def turn_index_key(self, cell: str, generation: int) -> None:
        """Write with this generation from now on; harmless to repeat. Raises Conflict where it was not made."""
        async with self._index_turning(cell) as (connection, now):
            if (
                now.generation < generation
                and await connection.execute(_SQL["turn_index_key"], cell, generation) != "UPDATE 1"
            ):
                raise Conflict("no index secret of this generation was made", remedy="make it, and turn again")

    async def retire_index_keys(self, cell: str, generation: int, caller: str) -> None:
        """Destroy those before this generation; harmless to repeat. Raises Conflict where they are written with."""
        async with self._index_turning(cell) as (connection, now):
            if now.generation < generation:
                raise Conflict("this index secret is written with", remedy="turn first")
            if await connection.fetch(_SQL["retire_index_keys"], cell, generation):
                await self._audit(connection, caller, cell, "retired", [(None, None)])

    @asynccontextmanager
    async def _index_turning(self, cell: str) -> AsyncIterator[tuple[Connection, IndexKeyRow]]:
        """The index secret that a cell writes with, which nobody else turns until the transaction ends."""
        async with self._transaction() as connection:
            await connection.execute(_SQL["lock_index_keys"], cell)
            row = await connection.fetchrow(_SQL["find_index_keys"], cell)
            if row is None:
                raise NotFound("no index key was made")
            yield connection, IndexKeyRow(*row)

    async def check_owner(self, cell: str, subject: UUID) -> None:
        """Raises Forbidden where the subject belongs to another cell."""
        async with self._transaction() as connection:
            rows = await connection.fetch(_SQL["find_subjects"], [subject])
        if any(row["cell"] != cell for row in rows):
            raise Forbidden("a subject of another cell", where="key store")

    async def shred(self, cell: str, subject: UUID, principal: UUID | None, caller: str) -> Shredded:
        """Destroy the wrapped key of a principal, or all of a subject's.

        Waits for whoever makes one at that moment. Harmless to repeat. Raises Forbidden where the subject belongs
        to another cell.
        """
        async with self._transaction() as connection:
            await self._held_alone(connection, cell, subject, DEFAULT_DOMAIN)
            gone = list({each[0] for each in await connection.fetch(_SQL["delete_data_keys"], subject, principal)})
            await connection.execute(_SQL["add_shredded"], subject, gone if principal is None else [principal])
            if principal is None:
                await connection.execute(_SQL["destroy_subject"], subject)
            await self._audit(connection, caller, cell, "shredded", [(subject, each) for each in gone])
            rows = await connection.fetch(_SQL["find_shredded"], subject, principal)
        return Shredded([UUID(int=row[0].int) for row in rows], len(gone))

    async def rotation(self, cell: str, action: str) -> KeyRotation:
        """``status``, ``go`` or ``pause``. One that has nothing left to turn is over."""
        async with self._transaction() as connection:
            await connection.execute(_SQL["end_rotation"], cell)
            if action != "status":
                await connection.execute(_SQL["go_on" if action == "go" else "pause"], cell)
            row = await connection.fetchrow(_SQL["rotation_status"], cell)
        assert row is not None
        return KeyRotation(
            running=bool(row["running"]),
            started=row["started"],
            due=row["due"],
            turning=row["turning"],
            index=row["index"],
        )

    async def turns(self, cell: str, after: UUID | None, limit: int) -> list[KeyTurn]:
        """Subjects that are not done, after one; none where no rotation is running."""
        async with self._transaction() as connection:
            rows = await connection.fetch(_SQL["turns"], cell, after, limit)
        return [KeyTurn(subject=UUID(int=row["subject"].int), generation=row["generation"]) for row in rows]

    async def subject_keys(self, cell: str, subject: UUID) -> list[DataKeyRow]:
        """All of a subject's keys, of every generation. Raises Forbidden where it belongs to another cell."""
        await self.check_owner(cell, subject)
        async with self._transaction() as connection:
            return [DataKeyRow(*row) for row in await connection.fetch(_SQL["subject_data_keys"], subject)]

    async def add_next(self, cell: str, rows: Sequence[DataKeyRow], generation: int, caller: str) -> None:
        """Keep a subject's keys of the next generation, unless another call did, or they were destroyed meanwhile."""
        subject = rows[0].subject
        async with self._transaction() as connection:
            now = await self._turning(connection, cell, subject)
            there = {UUID(int=each[1].int) for each in await connection.fetch(_SQL["subject_data_keys"], subject)}
            if now == generation - 1:
                fresh = [row for row in rows if row.principal in there]
                await self._audit(connection, caller, cell, "made", await self._add(connection, fresh, generation))

    async def turn(self, cell: str, subject: UUID, generation: int) -> None:
        """Write with this generation from now on; harmless to repeat. Raises Conflict where a principal lacks it."""
        async with self._transaction() as connection:
            now = await self._turning(connection, cell, subject)
            rows = [DataKeyRow(*row) for row in await connection.fetch(_SQL["subject_data_keys"], subject)]
            if now >= generation:
                return
            ready = {row.principal for row in rows if row.generation == generation}
            if now != generation - 1 or not {row.principal for row in rows} <= ready:
                raise Conflict("not every key of this generation was made", remedy="make them, and turn again")
            await connection.execute(_SQL["set_generation"], subject, generation)

    async def retire(self, cell: str, subject: UUID, generation: int, caller: str) -> None:
        """Destroy the keys before this generation; harmless to repeat. Raises Conflict where they are written with."""
        async with self._transaction() as connection:
            if await self._turning(connection, cell, subject) < generation:
                raise Conflict("these keys are written with", remedy="turn first")
            gone = await connection.fetch(_SQL["retire_data_keys"], subject, generation)
            await self._audit(connection, caller, cell, "retired", [(subject, each[0]) for each in gone])

    async def _turning(self, connection: Connection, cell: str, subject: UUID) -> int:
        """The generation that a subject writes with, which nobody else changes until the transaction ends."""
        row = await connection.fetchrow(_SQL["lock_subject"], subject)
        if row is None:
            raise NotFound("no data key was made")
        if row["cell"] != cell:
            raise Forbidden("a subject of another cell", where="key store")
        generation: int = row["generation"]
        return generation

    async def stale(self, domain: str, version: int, limit: int) -> tuple[list[DataKeyRow], list[IndexKeyRow]]:
        """Some of a domain's keys under another version, ``limit`` of each kind at most."""
        async with self._transaction() as connection:
            keys = await connection.fetch(_SQL["stale_data_keys"], domain, version, limit)
            index_keys = await connection.fetch(_SQL["stale_index_keys"], domain, version, limit)
        return [DataKeyRow(*row) for row in keys], [IndexKeyRow(*row) for row in index_keys]

    async def count_stale(self, domain: str, version: int) -> int:
        async with self._transaction() as connection:
            count: int = await connection.fetchval(_SQL["count_stale"], domain, version)
        return count

    async def rewrap(
        self,
        keys: Sequence[tuple[DataKeyRow, int, bytes]],
        index_keys: Sequence[tuple[IndexKeyRow, int, bytes]],
    ) -> None:
        """Put re-wrapped keys (version, value) in the place of the rows that were read, where they still are so."""
        async with self._transaction() as connection:
            await connection.executemany(
                _SQL["rewrap_data_key"],
                [(row.subject, row.principal, row.wrapped, version, value) for row, version, value in keys],
            )
            await connection.executemany(
                _SQL["rewrap_index_key"],
                [(row.cell, row.wrapped, version, value) for row, version, value in index_keys],
            )

    async def prune_audit(self, days: int, limit: int) -> int:
        """Forget ``limit`` entries of the audit at most that are older than ``days``, the oldest first; how many."""
        async with self._transaction() as connection:
            gone: int = await connection.fetchval(_SQL["prune_audit"], days, limit)
        return gone
