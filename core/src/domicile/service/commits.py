"""Statements that are never cancelled, because they commit.

Where PostgreSQL's COMMIT waits for a synchronous standby, a cancelled wait becomes a local commit that is answered
like any other, with a warning beside it (manual, "Synchronous Replication"), and that everybody reads from then on.
A driver cancels by itself when a time is up or its caller has gone. So the wait is bounded on this side, and a
connection whose COMMIT has no answer is abandoned: the server goes on waiting, and shows nothing to anybody before
it is done. An answer with a warning is none. A statement outside of a transaction commits by itself, and is held to
the same.

Not part of the facade: only modules that speak to a database use it, and it imports no driver.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any, Final, Protocol, TypeVar

from domicile.model.errors import Conflict, Unavailable
from domicile.telemetry import UNANSWERED_COMMITS, warn

NEVER: Final = 86_400.0
"""Seconds until the driver would cancel such a statement: long after it was abandoned."""
Answer = TypeVar("Answer")


class Connection(Protocol):
    """A connection, or a pool's hold of one, as asyncpg has them."""

    def execute(self, query: str, *, timeout: float | None = None) -> Coroutine[Any, Any, str]: ...

    def terminate(self) -> None: ...

    def add_log_listener(self, callback: Callable[[Any, Any], None]) -> None: ...

    def remove_log_listener(self, callback: Callable[[Any, Any], None]) -> None: ...


def _nobody() -> None:
    return None


@asynccontextmanager
async def transaction(
    connection: Connection, seconds: float, unanswered: Callable[[], None] = _nobody, *, begin: str = "BEGIN"
) -> AsyncIterator[None]:
    """Committed on leaving, undone by an error. ``begin``: the statements that begin it.

    Raises Unavailable where COMMIT has no answer within ``seconds``, after ``unanswered`` was called: it may still
    come to be. Raises Conflict where a statement had failed, so that COMMIT undid it all, and the driver's errors.
    """
    try:
        await connection.execute(begin)
        yield
    except BaseException:
        await roll_back(connection)
        raise
    await commit(connection, seconds, unanswered)


async def roll_back(connection: Connection) -> None:
    """Undo a transaction, by ending the connection where it does not answer."""
    try:
        await connection.execute("ROLLBACK")
    except Exception:
        _end(connection)  # the server undoes it; what is told is why it came to this, a cancellation above all
    except BaseException:
        _end(connection)
        raise


def _end(connection: Connection) -> None:
    with suppress(Exception):  # a pool has taken it back by itself where it was lost, and says so
        connection.terminate()


async def commit(connection: Connection, seconds: float, unanswered: Callable[[], None] = _nobody) -> None:
    """As ``transaction`` says of its end."""
    answer = await uncut(connection, connection.execute("COMMIT", timeout=NEVER), seconds, unanswered)
    if answer != "COMMIT":
        raise Conflict("the transaction had failed and was rolled back")


async def uncut(
    connection: Connection,
    statement: Coroutine[Any, Any, Answer],
    seconds: float,
    unanswered: Callable[[], None] = _nobody,
) -> Answer:
    """The answer of a statement that commits, which must run with the time-out ``NEVER``.

    Raises Unavailable for none within ``seconds``, and for one that came with a warning; the driver's errors.
    """
    warnings: list[str] = []

    def hear(_: Any, message: Any) -> None:
        warnings.append(message.sqlstate)

    connection.add_log_listener(hear)
    answer = asyncio.ensure_future(statement)
    try:
        done, _ = await asyncio.wait({answer}, timeout=seconds)
    except asyncio.CancelledError:
        _abandon(connection, answer, unanswered)
        raise
    if not done:
        _abandon(connection, answer, unanswered)
        raise Unavailable("the database has not answered COMMIT: it may come to be done, and may be asked for again")
    try:
        result = answer.result()
    finally:
        connection.remove_log_listener(hear)
    if warnings:
        warn("commit-warned", code=warnings[0])
        raise Unavailable("COMMIT stopped waiting for a standby: it is done in one zone, and may be asked for again")
    return result


def _abandon(connection: Connection, answer: asyncio.Future[Any], unanswered: Callable[[], None]) -> None:
    UNANSWERED_COMMITS.inc()
    warn("commit-unanswered")
    unanswered()
    _end(connection)
    answer.add_done_callback(_take_note)


def _take_note(answer: asyncio.Future[Any]) -> None:
    if not answer.cancelled():
        answer.exception()
