"""A transaction whose COMMIT is never cancelled.

Where PostgreSQL's COMMIT waits for a synchronous standby, a cancelled wait becomes a local commit that is answered
like any other, with a warning beside it (manual, "Synchronous Replication"), and that everybody reads from then on.
A driver cancels by itself when a time is up or its caller has gone. So the wait for COMMIT is bounded on this side,
and a connection whose COMMIT has no answer is abandoned: the server goes on waiting, and shows nothing to anybody
before it is done. An answer with a warning is none.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final, TypeAlias

import asyncpg

from domicile.model import Unavailable
from domicile.telemetry import UNANSWERED_COMMITS, warn

Connection: TypeAlias = "asyncpg.pool.PoolConnectionProxy[asyncpg.Record] | asyncpg.Connection[asyncpg.Record]"
_NEVER: Final = 86_400.0
"""Seconds until the driver would cancel a COMMIT: long after it was abandoned."""


@asynccontextmanager
async def transaction(
    connection: Connection, seconds: float, unanswered: Callable[[], None] = lambda: None
) -> AsyncIterator[None]:
    """Committed on leaving, undone by an error.

    Raises Unavailable where COMMIT has no answer within ``seconds``, after ``unanswered`` was called: it may still
    come to be. Raises the driver's errors.
    """
    try:
        await connection.execute("BEGIN")
        yield
    except BaseException:
        await _roll_back(connection)
        raise
    await _commit(connection, seconds, unanswered)


async def _roll_back(connection: Connection) -> None:
    try:
        await connection.execute("ROLLBACK")
    except Exception:
        connection.terminate()  # the server undoes it; what is told is why it came to this, a cancellation above all
    except BaseException:
        connection.terminate()
        raise


async def _commit(connection: Connection, seconds: float, unanswered: Callable[[], None]) -> None:
    warnings: list[str] = []

    def hear(_: Any, message: Any) -> None:
        warnings.append(message.sqlstate)

    connection.add_log_listener(hear)
    answer = asyncio.ensure_future(connection.execute("COMMIT", timeout=_NEVER))
    try:
        done, _ = await asyncio.wait({answer}, timeout=seconds)
    except asyncio.CancelledError:
        _abandon(connection, answer, unanswered)
        raise
    if not done:
        _abandon(connection, answer, unanswered)
        raise Unavailable("the database has not answered COMMIT: it may come to be done, and may be asked for again")
    answer.result()
    connection.remove_log_listener(hear)
    if warnings:
        warn("commit-warned", code=warnings[0])
        raise Unavailable("COMMIT stopped waiting for a standby: it is done in one zone, and may be asked for again")


def _abandon(connection: Connection, answer: asyncio.Future[Any], unanswered: Callable[[], None]) -> None:
    UNANSWERED_COMMITS.inc()
    warn("commit-unanswered")
    unanswered()
    connection.terminate()
    answer.add_done_callback(_take_note)


def _take_note(answer: asyncio.Future[Any]) -> None:
    if not answer.cancelled():
        answer.exception()
