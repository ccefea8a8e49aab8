"""PostgreSQL's errors as ours. Its texts quote rows, so none of them, nor the error itself, goes on.

``raise ... from None`` would keep the driver's error as ``__context__``, and with it the row; therefore
``untold`` leaves the handler before it raises.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Final, TypeVar

import asyncpg

from domicile.model.errors import (
    Conflict,
    DomicileError,
    FenceRefused,
    Forbidden,
    InvalidInput,
    KeyDestroyed,
    Unavailable,
    WrongJurisdiction,
)
from domicile.model.ids import SubjectKey
from domicile.sdk.store.port import OutdatedKeys, another_request, in_the_way, kept_for_life, no_table, refused

WAIT_SECONDS: Final = 20.0
_WHERE: Final = "storage"
_RENAMED: Final = "DM006"  # hold_fence of sql/system.sql
FAILURES: Final = (
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # a statement on a connection that is just being lost
    OSError,
    TimeoutError,
    EOFError,
)
Result = TypeVar("Result")


def _of_sqlstate(state: str) -> DomicileError:
    match state:
        case "DM001":
            return refused()
        case "DM002":
            return WrongJurisdiction("a row's label is not the jurisdiction of this cell", where=_WHERE)
        case "DM003":
            return kept_for_life()
        case "DM004":
            return Forbidden("synchronous_commit below on", where=_WHERE, remedy="leave it as the role has it")
        case "DM005":
            return FenceRefused("the grant is for another cell, or for another incarnation of it", where=_WHERE)
        case "DM007":
            return another_request()
        case "DM008":
            return Unavailable("the subject is about to move", where=_WHERE, retry_after=1)
        case "DM009":
            return OutdatedKeys()
        case "DM012":
            return KeyDestroyed("whom the row is about was shredded: it is not stored", where=_WHERE)
        case "DM011":
            return Conflict(
                "rows of a reference table that this cell does not take", where=_WHERE, remedy="compare the two schemas"
            )
        case "23505":
            return Conflict("such a row exists already", where=_WHERE)
        case "42501":
            return Forbidden("the database refuses this to this role", where=_WHERE)
        case "40001" | "40P01" | "55P03":
            return in_the_way()
        case "42P01":
            return no_table()
        case _ if state[:2] == "42":
            return InvalidInput(f"the database does not understand the statement (SQLSTATE {state})", where=_WHERE)
        case _ if state[:2] in ("22", "23"):
            return InvalidInput(f"the database does not take such a value (SQLSTATE {state})", where=_WHERE)
        case "57P01" | "57P02" | "57P03" | "25006" | "08003" | "08006" | "08000":
            return Lost(f"cannot serve now (SQLSTATE {state})", where=_WHERE)
        case _ if state[:2] in ("08", "25", "53", "57", "58") or state == "28000":
            return Unavailable(f"cannot serve now (SQLSTATE {state})", where=_WHERE)
        case _:
            return DomicileError(f"refused a statement (SQLSTATE {state})", where=_WHERE)


class Lost(Unavailable):
    """The connection ended under a statement, or its server leads no more: whether it was done is not known."""


class Renamed(FenceRefused):
    """The subject is named by another ``key`` since its pepper was rotated; nothing was done."""

    def __init__(self, key: SubjectKey) -> None:
        super().__init__("the subject has another key by now", where=_WHERE)
        self.key = key


def translate(error: BaseException) -> DomicileError:
    """The error of our tree that a driver's error stands for. Pure; carries no text of the database."""
    if isinstance(error, asyncpg.PostgresError):
        if error.sqlstate == _RENAMED and error.detail is not None:
            return Renamed(SubjectKey.parse(error.detail))
        return _of_sqlstate(error.sqlstate or "XX000")
    if isinstance(error, asyncpg.DataError):
        return InvalidInput("a value that does not fit its column", where=_WHERE)
    kind = Unavailable if isinstance(error, TimeoutError) else Lost
    return kind(f"cannot be reached ({type(error).__name__})", where=_WHERE)


async def untold(action: Awaitable[Result], *, seconds: float | None = WAIT_SECONDS) -> Result:
    """Await ``action``, ``seconds`` at most; what the driver raises becomes ours and stays here."""
    try:
        async with asyncio.timeout(seconds):
            return await action
    except FAILURES as error:
        refusal = translate(error)
    raise refusal
