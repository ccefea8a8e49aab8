"""Rows of one subject, as ``domicile_app`` reads and writes them: fenced at BEGIN, committed without a cut.

- A write holds the subject's fence FOR SHARE from BEGIN on; the trigger on each row asks for it again.
- A read takes rows and fence in one snapshot, so that what it answers was current while the fence was open.
- COMMIT is never cancelled. Whoever is cancelled while it is unanswered leaves the connection behind: it is
  ended, not used again, and PostgreSQL decides alone. Cancelling it would make it return before its standby
  has it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from enum import Enum, auto
from functools import lru_cache
from typing import Any, Final
from uuid import UUID

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from domicile.model.errors import Conflict, FenceRefused, InvalidInput, Unavailable
from domicile.model.ids import SubjectKey
from domicile.sdk.store.failures import FAILURES, Renamed, translate, untold
from domicile.sdk.tables import Table

COMMIT_SECONDS: Final = 15.0
Connection = PoolConnectionProxy


@dataclass(frozen=True, slots=True)
class StoredRow:
    """A row as it lies: sealed values sealed. ``version`` counts its writes, from 1."""

    id: UUID
    version: int
    values: dict[str, Any]


class Write(Enum):
    """Whether a row must be absent, may be there, or must be there at a version."""

    NEW = auto()
    PUT = auto()
    REPLACE = auto()


@lru_cache(maxsize=256)
def write(table: Table, mode: Write) -> str:
    """One statement that answers the row's new version, or nothing where the mode does not apply.

    $1 jurisdiction, $2 subject, $3 principal, $4 id, $5 epoch, then the columns, then the version to replace.
    None of the modes makes an error of a row that is or isn't there, which would fail the transaction.
    """
    name = f'public."{table.name}" AS t'
    columns = {f'"{column}"': f"${number}" for number, (column, _, _) in enumerate(table.stored, start=6)}
    changes = "epoch = $5, version = t.version + 1, updated_at = clock_timestamp()"
    changes += "".join(f", {column} = {mark}" for column, mark in columns.items())
    if mode is Write.REPLACE:
        return (
            f"UPDATE {name} SET {changes} WHERE t.jurisdiction = $1 AND t.subject_key = $2 "  # noqa: S608 - checked names
            f"AND t.principal_key = $3 AND t.id = $4 AND t.version = ${6 + len(columns)} RETURNING t.version"
        )
    present = f"UPDATE SET {changes}" if mode is Write.PUT else "NOTHING"
    names, marks = "".join(f", {column}" for column in columns), "".join(f", {mark}" for mark in columns.values())
    return (
        f"INSERT INTO {name} (jurisdiction, subject_key, principal_key, id, epoch{names}) "  # noqa: S608 - the same
        f"VALUES ($1, $2, $3, $4, $5{marks}) ON CONFLICT (subject_key, id) DO {present} RETURNING t.version"
    )


@lru_cache(maxsize=256)
def select(table: Table, conditions: tuple[str, ...]) -> str:
    """Rows and fence in one snapshot; one row without an id where no row matches. $1 is the subject."""
    columns = "".join(f', r."{column.name}"' for column in table.columns)
    wheres = "".join(f' AND r."{name}" = ${number}' for number, name in enumerate(conditions, start=2))
    return (
        f"SELECT f.subject_key AS fence_key, f.epoch AS fence_epoch, f.state AS fence_state, r.id, r.version{columns} "  # noqa: S608
        f'FROM domicile.read_fence($1) f LEFT JOIN public."{table.name}" r ON r.subject_key = $1{wheres} '
        f"ORDER BY r.created_at, r.id"
    )


def limits(key: SubjectKey, epoch: int) -> str:
    """Whose rows the transaction sees; a key is hexadecimal and an epoch a number, so nothing needs quoting."""
    return f"SET LOCAL domicile.subject = '{key}'; SET LOCAL domicile.epoch = '{epoch:d}'"


def begin(key: SubjectKey, epoch: int, *, writes: bool) -> str:
    """BEGIN for one subject, fenced."""
    if not writes:
        return f"BEGIN READ ONLY; {limits(key, epoch)}"
    return f"BEGIN; {limits(key, epoch)}; SELECT domicile.hold_fence('\\x{key}', {epoch:d})"


async def _begin(connection: Connection, key: SubjectKey, epoch: int, *, writes: bool) -> SubjectKey:
    """The subject's key in this transaction: another than ``key`` where its pepper was rotated meanwhile."""
    statement = begin(key, epoch, writes=writes)
    while True:
        try:
            await untold(connection.execute(statement))
        except Renamed as renamed:
            key = renamed.key
            statement = f"ROLLBACK; {begin(key, epoch, writes=writes)}"
        else:
            return key


class Work:
    """One transaction of one subject."""

    def __init__(self, connection: Connection, jurisdiction: str, key: SubjectKey, epoch: int) -> None:
        self._connection = connection
        self._jurisdiction = jurisdiction
        self._key = key
        self._epoch = epoch

    async def put(self, table: Table, row: UUID, values: dict[str, Any], version: int | None) -> int:
        """Write a row, whose principal is the subject, and answer its new version.

        ``version``: the one that must be there (0: none); Conflict where it isn't. None: whatever is there.
        """
        arguments: list[Any] = [self._jurisdiction, self._key, self._key, row, self._epoch]
        arguments += [values[name] for name, _, _ in table.stored]
        mode = Write.PUT if version is None else Write.REPLACE if version else Write.NEW
        if mode is Write.REPLACE:
            arguments.append(version)
        written = await untold(self._connection.fetchval(write(table, mode), *arguments))
        if written is None:
            raise Conflict("the row is not at the version expected", where=table.name, remedy="read it again")
        return int(written)

    async def select(self, table: Table, conditions: dict[str, Any]) -> list[StoredRow]:
        """Rows that equal every condition, in the order of their creation; FenceRefused for a closed fence."""
        statement, values = select(table, tuple(conditions)), conditions.values()
        rows = await untold(self._connection.fetch(statement, self._key, *values))
        while rows and (key := SubjectKey(rows[0]["fence_key"])) != self._key:
            self._key = key  # the rows are named by it too; they were looked for by the one before
            await untold(self._connection.execute(limits(key, self._epoch)))
            rows = await untold(self._connection.fetch(statement, key, *values))
        if not rows or (rows[0]["fence_state"], rows[0]["fence_epoch"]) != ("open", self._epoch):
            raise FenceRefused("this cell does not hold the subject open at this epoch", where="storage")
        return [
            StoredRow(
                UUID(int=row["id"].int),
                row["version"],
                {column.name: row[column.name] for column in table.columns},
            )
            for row in rows
            if row["id"] is not None
        ]

    async def delete(self, table: Table, row: UUID) -> bool:
        """Whether there was such a row; a fence that refuses is an error and never False."""
        statement = f'DELETE FROM public."{table.name}" WHERE subject_key = $1 AND id = $2'  # noqa: S608 - a checked name
        return bool(await untold(self._connection.execute(statement, self._key, row)) == "DELETE 1")


async def _commit(connection: Connection) -> None:
    commit = asyncio.ensure_future(connection.execute("COMMIT", timeout=2 * COMMIT_SECONDS))
    try:
        # wait() leaves the task alone when its caller is cancelled
        await asyncio.wait({commit}, timeout=COMMIT_SECONDS)
    finally:
        if not commit.done():
            commit.add_done_callback(lambda task: task.cancelled() or task.exception())
            connection.terminate()
    error = commit.exception() if commit.done() and not commit.cancelled() else TimeoutError()
    if isinstance(error, asyncpg.PostgresError):
        raise translate(error)
    if error is not None:
        raise Unavailable("COMMIT was not answered: whether it holds is unknown", where="storage")
    if commit.result() != "COMMIT":
        raise Conflict("the transaction had failed and was rolled back", where="storage")


async def _roll_back(connection: Connection) -> None:
    try:
        await connection.execute("ROLLBACK")
    except FAILURES:
        _abandon(connection)


def _abandon(connection: Connection) -> None:
    """End a connection, unless the pool has taken it back because it was lost."""
    with suppress(asyncpg.InterfaceError):
        connection.terminate()


class RowStore:
    """Transactions as ``domicile_app`` in one cell."""

    def __init__(self, pool: asyncpg.Pool, jurisdiction: str) -> None:
        self._pool = pool
        self._jurisdiction = jurisdiction

    @asynccontextmanager
    async def work(self, key: SubjectKey, epoch: int, *, writes: bool) -> AsyncIterator[Work]:
        """A transaction that commits when its block ends well and is rolled back otherwise.

        Raises FenceRefused where the fence isn't open at ``epoch``, Unavailable where the storage can't be
        reached, or where a COMMIT was not answered.
        """
        if epoch < 1:
            raise InvalidInput("an epoch is a positive number")
        connection: Connection = await untold(self._pool.acquire())
        try:
            try:
                key = await _begin(connection, key, epoch, writes=writes)
                yield Work(connection, self._jurisdiction, key, epoch)
            except Exception:
                await _roll_back(connection)
                raise
            except BaseException:
                _abandon(connection)
                raise
            await _commit(connection)
        finally:
            await self._release(connection)

    async def _release(self, connection: Connection) -> None:
        try:
            await self._pool.release(connection)
        except FAILURES:
            _abandon(connection)
