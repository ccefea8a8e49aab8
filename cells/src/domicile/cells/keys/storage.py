"""The key service's own database: wrapped keys, once each, and the audit of their use.

It is no cell's database: a cell's rows, write-ahead log and backups never hold a key, wrapped or not.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, NamedTuple, TypeAlias
from uuid import UUID

import asyncpg
from asyncpg.connect_utils import SessionAttribute

from domicile.identity import Credentials
from domicile.model import Address, Forbidden, Role, Unavailable
from domicile.model.wire import DataKeyRef

DATABASE: Final = "domicile"
USER: Final = "domicile_keys"
POOL_SIZE: Final = 8
WAIT_SECONDS: Final = 4.0
"""On each statement, connection and place in the pool; below the five seconds that callers wait."""
_START_LOCK: Final = 0x646F6D6B  # one number for all processes of this service
_SQL: Final = {path.stem: path.read_text() for path in (Path(__file__).parent / "sql").glob("*.sql")}

Connection: TypeAlias = "asyncpg.pool.PoolConnectionProxy[asyncpg.Record]"


class WrappedKey(NamedTuple):
    subject: UUID
    principal: UUID
    wrapped: bytes


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

    def __init__(self, pool: asyncpg.Pool[asyncpg.Record]) -> None:
        self._pool = pool

    @classmethod
    @asynccontextmanager
    async def connect(cls, credentials: Credentials, addresses: Sequence[Address]) -> AsyncIterator[KeyStore]:
        """Opened by mutual TLS at whichever address leads, as the only user that may; closed on leaving."""
        context = credentials.client(credentials.identity.jurisdiction, [Role.STORAGE])
        async with _reachable():
            pool = await asyncpg.create_pool(
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
            )
        try:
            yield cls(pool)
        finally:
            pool.terminate()

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[Connection]:
        async with (
            _reachable(),
            self._pool.acquire(timeout=WAIT_SECONDS) as connection,
            connection.transaction(),
        ):
            yield connection

    async def probe(self) -> None:
        async with self._transaction() as connection:
            await connection.fetchval(_SQL["find_domain"], "")

    async def prepare(self, domain: str, settle: Callable[[bytes | None], bytes]) -> None:
        """Apply the schema and record the domain's check value, one process at a time.

        ``settle`` is given the recorded value, or None for a new domain, and returns the one in force; what it
        raises ends the start with nothing changed.
        """
        async with self._transaction() as connection:
            await connection.execute("SELECT pg_advisory_xact_lock($1)", _START_LOCK)
            await connection.execute(_SQL["schema"])
            recorded: bytes | None = await connection.fetchval(_SQL["find_domain"], domain)
            check_value = settle(recorded)
            if recorded is None:
                await connection.execute(_SQL["add_domain"], domain, check_value)

    async def data_keys(
        self,
        cell: str,
        domain: str,
        references: Sequence[DataKeyRef],
        make: Callable[[DataKeyRef], bytes] | None,
    ) -> list[WrappedKey]:
        """The wrapped keys of ``cell``, in no order; absent ones are made by ``make``, or left out without it.

        Of two calls that make the same key one wins, and both get that one. Raises Forbidden, with nothing made,
        where a key belongs to another cell.
        """
        wanted = {(reference.subject, reference.principal): reference for reference in references}
        async with self._transaction() as connection:
            found = await self._find(connection, cell, list(wanted))
            made: list[asyncpg.Record] = []
            missing = [name for name in wanted if name not in found]
            if make is not None and missing:
                subjects, principals = [name[0] for name in missing], [name[1] for name in missing]
                wrapped = [make(wanted[name]) for name in missing]
                made = await connection.fetch(_SQL["add_data_keys"], subjects, principals, wrapped, cell, domain)
                found |= await self._find(connection, cell, missing)
            await connection.execute(_SQL["add_audit"], cell, len(found), len(made))
        return list(found.values())

    async def _find(
        self, connection: Connection, cell: str, names: list[tuple[UUID, UUID]]
    ) -> dict[tuple[UUID, UUID], WrappedKey]:
        rows = await connection.fetch(_SQL["find_data_keys"], [name[0] for name in names], [name[1] for name in names])
        if any(row["cell"] != cell for row in rows):
            raise Forbidden("a data key of another cell", where="key store")
        keys = (WrappedKey(row["subject"], row["principal"], row["wrapped"]) for row in rows)
        return {(key.subject, key.principal): key for key in keys}

    async def index_key(self, cell: str, domain: str, make: Callable[[], bytes]) -> bytes:
        """The wrapped index secret of ``cell``, made by the first call that asks for it."""
        async with self._transaction() as connection:
            wrapped: bytes | None = await connection.fetchval(_SQL["find_index_key"], cell)
            made = None
            if wrapped is None:
                made = await connection.fetchval(_SQL["add_index_key"], cell, domain, make())
                wrapped = await connection.fetchval(_SQL["find_index_key"], cell)
            await connection.execute(_SQL["add_audit"], cell, 1, int(made is not None))
        assert wrapped is not None
        return wrapped
