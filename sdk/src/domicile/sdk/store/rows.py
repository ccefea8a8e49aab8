"""Rows of one subject, as ``domicile_app`` reads and writes them: fenced, and committed without a cut.

- A statement that stands alone is one round trip: it finds the subject's fence, and the trigger on each row holds it
  FOR SHARE before the row is written.
- A transaction holds the fence from BEGIN on, so that no savepoint's end lets go of it. What has to look at a row
  before it writes (another version, a deletion) is one: a statement that waits for the fence itself would go by what
  it saw before it waited.
- A read takes rows and fence in one snapshot, so that what it answers was current while the fence was open.
- Who says how old an answer may be is answered by a standby, where one can (``standby``); nobody else is.
- What commits is never cancelled (``domicile.service.commits``).
- Behind a pooler in transaction mode nothing stands alone: each transaction states its settings (``settings.OPENING``).
- A read, and a write under an idempotency key, is done again by itself where its connection was lost (``again``);
  whether to repeat another write is its caller's to decide.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext, suppress
from functools import partial
from itertools import pairwise
from typing import Any, Final, TypeVar
from uuid import UUID

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from domicile.model.errors import Unavailable
from domicile.model.ids import SubjectKey
from domicile.sdk.store import references, settings, statements
from domicile.sdk.store.failures import FAILURES, Lost, Renamed, untold
from domicile.sdk.store.pool import LEADER_SECONDS
from domicile.sdk.store.port import (
    Alone,
    Condition,
    NewRow,
    Once,
    OutdatedKeys,
    Rows,
    Selection,
    StoredRow,
    Work,
    another_version,
    given_twice,
    made_with,
    oldest,
    principal_of,
    refused,
    stored_principal,
)
from domicile.sdk.store.queries import query
from domicile.sdk.store.standby import Question, Standby
from domicile.sdk.store.statements import Write
from domicile.sdk.store.turns import Turns, in_turn
from domicile.sdk.tables import ReferenceTable, Table
from domicile.service.commits import NEVER, commit, roll_back, transaction, uncut
from domicile.telemetry import STALE_READS

COMMIT_SECONDS: Final = 15.0
_AGAIN_SECONDS: Final = 0.1
Connection = PoolConnectionProxy
Answer = TypeVar("Answer")


def begin(key: SubjectKey, epoch: int, opening: str = "BEGIN") -> str:
    """BEGIN for one subject, fenced. A key is hexadecimal and an epoch a number, so nothing needs quoting."""
    limits = f"SET LOCAL domicile.subject = '{key}'; SET LOCAL domicile.epoch = '{epoch:d}'"
    return f"{opening}; {limits}; SELECT domicile.hold_fence('\\x{key}', {epoch:d})"


async def _asked(method: Callable[..., Awaitable[Answer]], statement: str, *arguments: Any) -> Answer:
    """A pool's connection that was lost meanwhile refuses the call itself: here, where the refusal is translated."""

    async def asked() -> Answer:
        return await method(statement, *arguments)

    return await untold(asked())


async def _begin(connection: Connection, key: SubjectKey, epoch: int, opening: str) -> SubjectKey:
    """The subject's key in this transaction: another than ``key`` where its pepper was rotated meanwhile."""
    statement = begin(key, epoch, opening)
    while True:
        try:
            await _asked(connection.execute, statement)
        except Renamed as renamed:
            key = renamed.key
            statement = f"ROLLBACK; {begin(key, epoch, opening)}"
        else:
            return key


def _written(table: Table, row: NewRow) -> list[Any]:
    values = (row.values[name] for name, _, _ in table.stored)
    return [row.id, stored_principal(row.principal), made_with([row]), *values]


class _Transaction:
    """One transaction of one subject, fenced since BEGIN."""

    def __init__(self, connection: Connection, jurisdiction: str, key: SubjectKey, epoch: int) -> None:
        self._connection = connection
        self._jurisdiction = jurisdiction
        self._key = key
        self._epoch = epoch
        self.turns = Turns()

    async def _ask(self, method: Callable[..., Awaitable[Answer]], statement: str, *arguments: Any) -> Answer:
        with self.turns.statement():
            return await _asked(method, statement, *arguments)

    async def _fetch(self, statement: str, *arguments: Any) -> list[asyncpg.Record]:
        return await self._ask(self._connection.fetch, statement, *arguments)

    @in_turn
    async def put(self, table: Table, row: NewRow, version: int | None, once: Once | None = None) -> int:
        if (said := await self._recall(once)) is not None:
            return said[0]
        if version:
            written = await self._replace(table, row, version)
        else:
            mode = Write.PUT if version is None else Write.NEW
            arguments = (self._jurisdiction, self._key, self._epoch, *_written(table, row))
            written = await self._ask(self._connection.fetchval, statements.write(table, mode), *arguments)
        if written is None:
            raise another_version(table)
        await self._remember(once, [written])
        return int(written)

    @in_turn
    async def put_many(self, table: Table, rows: Sequence[NewRow], once: Once | None = None) -> list[int]:
        if (said := await self._recall(once)) is not None:
            return said
        statement, arguments = many(table, rows, self._jurisdiction, self._key, self._epoch)
        found = await self._fetch(statement, *arguments)
        versions = in_order(rows, found)
        await self._remember(once, versions)
        return versions

    @in_turn
    async def update(self, table: Table, row: NewRow, version: int, once: Once | None = None) -> int:
        if (said := await self._recall(once)) is not None:
            return said[0]
        written = await self._replace(table, row, version)
        if written is None:
            raise another_version(table)
        await self._remember(once, [written])
        return int(written)

    async def _replace(self, table: Table, row: NewRow, version: int) -> Any:
        statement = statements.replace(table, tuple(row.values))
        who = stored_principal(row.principal)
        arguments = (version, self._key, self._epoch, row.id, who, made_with([row]), *row.values.values())
        return await self._ask(self._connection.fetchval, statement, *arguments)

    @in_turn
    async def delete(self, table: Table, id: UUID, version: int | None) -> bool:  # noqa: A002
        done = await self._ask(self._connection.execute, statements.delete(table), self._key, id, version)
        if done == "DELETE 1":
            return True
        if version is not None and await self._ask(self._connection.fetchval, statements.there(table), self._key, id):
            raise another_version(table)
        return False

    @in_turn
    async def select(self, table: Table, selection: Selection) -> list[StoredRow]:
        return await selected(self._fetch, table, selection, self._key, self._epoch)

    @in_turn
    async def query(self, statement: str, arguments: Sequence[Any]) -> list[dict[str, Any]]:
        return [dict(row) for row in await self._fetch(statement, *arguments)]

    @in_turn
    async def look_up(self, table: ReferenceTable, conditions: Sequence[Condition]) -> list[dict[str, Any]]:
        values = [each.value for each in conditions]
        return [dict(row) for row in await self._fetch(references.select(table, conditions), *values)]

    async def _recall(self, once: Once | None) -> list[int] | None:
        if once is None:
            return None
        if once.other is not None and (known := await self._recall(once.other)) is not None:
            return known
        arguments = (self._key, self._epoch, once.key, once.request)
        said: list[int] | None = await self._ask(self._connection.fetchval, query("recall"), *arguments)
        return said

    async def _remember(self, once: Once | None, said: list[int]) -> None:
        if once is not None:
            await self._ask(self._connection.fetchval, query("remember"), self._key, once.key, said)


def many(table: Table, rows: Sequence[NewRow], jurisdiction: str, key: SubjectKey, epoch: int) -> tuple[str, list[Any]]:
    """The statement for many rows and its arguments: in the order of their ids, which all writers keep. Pure.

    Two writers of the same rows would else wait for each other. They are created in the order in which they are given.
    Raises InvalidInput for a row that is given twice.
    """
    places = sorted(range(len(rows)), key=lambda place: rows[place].id)
    ordered = [rows[place] for place in places]
    if any(one.id == other.id for one, other in pairwise(ordered)):
        raise given_twice(table)
    columns = [[row.values[name] for row in ordered] for name, _, _ in table.stored]
    ids, who = [row.id for row in ordered], [stored_principal(row.principal) for row in ordered]
    return statements.write_many(table), [jurisdiction, key, epoch, ids, who, made_with(rows), places, *columns]


def in_order(rows: Sequence[NewRow], found: Sequence[asyncpg.Record]) -> list[int]:
    """The new versions in the order in which rows were given. Raises FenceRefused where none was written."""
    versions = {row["id"]: row["version"] for row in found}
    if len(versions) != len(rows):
        raise refused()
    return [versions[row.id] for row in rows]


async def selected(
    fetch: Callable[..., Awaitable[list[asyncpg.Record]]],
    table: Table,
    selection: Selection,
    key: SubjectKey,
    epoch: int,
) -> list[StoredRow]:
    """One statement, in a transaction or alone."""
    newest = oldest(condition.newest for condition in selection.conditions)
    newest_index = oldest(condition.newest_index for condition in selection.conditions)
    statement = statements.select(
        table,
        tuple((condition.column, condition.operator) for condition in selection.conditions),
        selection.order,
        descending=selection.descending,
        limited=selection.limit is not None,
        after=selection.after is not None,
        keyed=bool(newest),
        indexed=bool(newest_index),
    )
    arguments: list[Any] = [condition.value for condition in selection.conditions]
    if selection.after is not None:
        arguments += [selection.after.value, selection.after.id]
    if selection.limit is not None:
        arguments.append(selection.limit)
    rows = await fetch(statement, key, *arguments)
    if not rows or rows[0][:2] != (epoch, "open"):
        raise refused()
    if newest_index and rows[0][-1] > newest_index:
        raise OutdatedKeys
    if newest and rows[0][-2 if newest_index else -1] > newest:
        raise OutdatedKeys
    names = [column.name for column in table.columns]
    return [
        StoredRow(
            UUID(int=row[2].int),
            row[3],
            dict(zip(names, row[6 : 6 + len(names)], strict=True)),
            row[4],
            principal_of(row[5]),
        )
        for row in rows
        if row[2] is not None
    ]


async def again(attempt: Callable[[], Awaitable[Answer]]) -> Answer:
    """``attempt``, repeated where its connection ended under it, because a leader hands over or is killed.

    Only for what may be done twice: what reads, and what an idempotency key settles. Each attempt waits by itself until
    somebody leads; none begins later than ``LEADER_SECONDS`` after the first one was lost.
    """
    deadline: float | None = None
    while True:
        try:
            return await attempt()
        except Lost:
            deadline = deadline or time.monotonic() + LEADER_SECONDS
            if time.monotonic() > deadline:
                raise
        await asyncio.sleep(_AGAIN_SECONDS)


class _Settled(Alone):
    """A transaction for each write; a connection that was lost is told only where it matters to the caller."""

    _store: RowStore

    def __init__(self, store: RowStore, key: SubjectKey, epoch: int, stale: float | None) -> None:
        """``stale``: for how many seconds what is read may be out of date; a standby may answer then."""
        super().__init__(store, key, epoch)
        self._stale = stale

    async def put(self, table: Table, row: NewRow, version: int | None, once: Once | None = None) -> int:
        put = partial(super().put, table, row, version, once)
        return await (put() if once is None else again(put))

    async def put_many(self, table: Table, rows: Sequence[NewRow], once: Once | None = None) -> list[int]:
        put = partial(super().put_many, table, rows, once)
        return await (put() if once is None else again(put))

    async def select(self, table: Table, selection: Selection) -> list[StoredRow]:
        async def attempt(connection: Connection) -> list[StoredRow]:
            async with self._store.reading(connection):
                return await selected(connection.fetch, table, selection, self._key, self._epoch)

        if self._stale is not None:
            asked = partial(selected, table=table, selection=selection, key=self._key, epoch=self._epoch)
            if (found := await self._store.asked_of_standby(asked, self._stale)) is not None:
                return found
        return await again(partial(self._store.alone_with, attempt))


class _Alone(_Settled):
    """One statement where that is enough."""

    async def put(self, table: Table, row: NewRow, version: int | None, once: Once | None = None) -> int:
        if once is not None or version:
            return await super().put(table, row, version, once)
        statement = statements.write(table, Write.PUT if version is None else Write.NEW)
        arguments = (self._store.jurisdiction, self._key, self._epoch, *_written(table, row))

        async def attempt(connection: Connection) -> Any:
            written = connection.fetchval(statement, *arguments, timeout=NEVER)
            return await uncut(connection, written, COMMIT_SECONDS)

        written = await self._store.alone_with(attempt)
        if written is None:
            await self._tell_apart(table)
        return int(written)

    async def _tell_apart(self, table: Table) -> None:
        """Zero rows alone say nothing."""

        async def attempt(connection: Connection) -> Any:
            return await connection.fetchrow(query("read_fence"), self._key)

        if await self._store.alone_with(attempt) is None:
            raise refused()
        raise another_version(table)

    async def put_many(self, table: Table, rows: Sequence[NewRow], once: Once | None = None) -> list[int]:
        if once is not None:
            return await super().put_many(table, rows, once)
        statement, arguments = many(table, rows, self._store.jurisdiction, self._key, self._epoch)

        async def attempt(connection: Connection) -> list[asyncpg.Record]:
            written = connection.fetch(statement, *arguments, timeout=NEVER)
            return await uncut(connection, written, COMMIT_SECONDS)

        return in_order(rows, await self._store.alone_with(attempt))


class RowStore:
    """``domicile_app`` in one cell. Methods raise Unavailable where the storage can't be reached.

    ``pooler``: whether the pool's connections end at one in transaction mode; ``standby``: for who says how old what
    is read may be.
    """

    def __init__(
        self, pool: asyncpg.Pool, jurisdiction: str, *, pooler: bool = False, standby: Standby | None = None
    ) -> None:
        self._pool = pool
        self._pooler = pooler
        self._standby = standby
        self._opening = settings.OPENING if pooler else "BEGIN"
        self.jurisdiction = jurisdiction

    def alone(self, key: SubjectKey, epoch: int, stale: float | None = None) -> Rows:
        return (_Settled if self._pooler else _Alone)(self, key, epoch, stale)

    async def asked_of_standby(self, question: Question[Answer], stale: float) -> Answer | None:
        """None where the leader has to answer."""
        found = None if self._standby is None else await self._standby.ask(question, stale)
        STALE_READS.labels("leader" if found is None else "standby").inc()
        return found

    @asynccontextmanager
    async def work(self, key: SubjectKey, epoch: int) -> AsyncIterator[Work]:
        """Raises FenceRefused where the fence isn't open at ``epoch``, Unavailable where COMMIT was not answered."""
        connection = await self._acquire()
        try:
            try:
                key = await _begin(connection, key, epoch, self._opening)
                work = _Transaction(connection, self.jurisdiction, key, epoch)
                with work.turns.block():
                    yield work
            except BaseException:
                await roll_back(connection)
                raise
            await untold(commit(connection, COMMIT_SECONDS))
        finally:
            await self._release(connection)

    async def look_up(self, table: ReferenceTable, conditions: Sequence[Condition]) -> list[dict[str, Any]]:
        statement, values = references.select(table, conditions), [each.value for each in conditions]

        async def attempt(connection: Connection) -> list[asyncpg.Record]:
            async with self.reading(connection):
                return await connection.fetch(statement, *values)

        return [dict(row) for row in await again(partial(self.alone_with, attempt))]

    def reading(self, connection: Connection) -> AbstractAsyncContextManager[None]:
        """Around one statement that reads. It holds no fence, so that a subject that is about to move is read."""
        return transaction(connection, COMMIT_SECONDS, begin=self._opening) if self._pooler else nullcontext()

    async def alone_with(self, attempt: Callable[[Connection], Awaitable[Answer]]) -> Answer:
        """One statement on a connection of its own; again where the subject was given another key meanwhile."""
        while True:
            connection = await self._acquire()
            try:
                return await untold(attempt(connection))
            except Renamed:
                continue
            finally:
                await self._release(connection)

    async def _acquire(self) -> Connection:
        """Raises Unavailable, never Lost: nothing was begun, and whoever opens a connection has waited for a leader."""
        try:
            connection: Connection = await untold(self._pool.acquire())
        except Lost as error:
            raise Unavailable(error.what, where=error.where) from None
        return connection

    async def _release(self, connection: Connection) -> None:
        try:
            await self._pool.release(connection)
        except FAILURES:  # it was lost; why is in the caller's hands
            with suppress(asyncpg.InterfaceError):  # the pool has taken it back already
                connection.terminate()
