"""A cell's database that was restored: closed before anybody can use it, and what became of its fences since."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import NamedTuple

import asyncpg

from domicile.identity import Credentials
from domicile.model.access import Role
from domicile.model.errors import DomicileError, Unavailable
from domicile.model.ids import SubjectKey
from domicile.model.manifest import Address
from domicile.sdk.store.failures import untold
from domicile.sdk.store.pool import CONNECT_SECONDS, DATABASE
from domicile.sdk.store.queries import query, script

_PAGE = 10_000


class Restore(NamedTuple):
    """The last restore of a cell. ``upto``: of the last commit that is here; counts are of fences, but ``rows_gone``.

    ``reopened``: at home here as before; ``behind``: at home here at a later epoch than these rows are from; ``moved``
    and ``erased``: retired, with their rows; ``unclear``: left closed, since the directory can't say what they are;
    ``remaining``: not settled yet, the unclear ones among them.
    """

    restored_at: datetime
    upto: datetime | None
    fences: int
    reopened: int
    behind: int
    moved: int
    erased: int
    unclear: int
    rows_gone: int
    ended: datetime | None
    remaining: int


async def begin_restored(connection: asyncpg.Connection, upto: datetime | None) -> int:
    """Close every fence and begin another incarnation, as a superuser; how many fences are to be settled."""
    async with connection.transaction():
        await connection.execute(script("system"))  # the backup may be from before there were restores
        closed: int = await connection.fetchval(query("begin_restored"), upto)
    return closed


async def last_restore(connection: asyncpg.Connection) -> Restore | None:
    row = await untold(connection.fetchrow(query("last_restore")))
    return None if row is None else Restore(*row)


async def held_keys(connection: asyncpg.Connection) -> set[SubjectKey]:
    """Every subject that the cell holds, whatever state its fence is in."""
    found: set[SubjectKey] = set()
    after = b""
    while rows := await untold(connection.fetch(query("held_keys"), after, _PAGE)):
        found.update(SubjectKey(row["subject_key"]) for row in rows)
        after = rows[-1]["subject_key"]
    return found


@asynccontextmanager
async def operating(
    credentials: Credentials, addresses: Sequence[str], jurisdiction: str, cell: str
) -> AsyncIterator[asyncpg.Connection]:
    """The cell's storage as its superuser, by an operator's certificate: the first address that serves."""
    refused: DomicileError = Unavailable("no address of its storage is known", where=cell)
    for place in map(Address, addresses):
        try:
            connection = await untold(
                asyncpg.connect(
                    host=place.host,
                    port=place.port,
                    user="postgres",
                    database=DATABASE,
                    ssl=credentials.client(jurisdiction, [Role.STORAGE], cell=cell),
                    timeout=CONNECT_SECONDS,
                )
            )
        except DomicileError as error:
            refused = error
            continue
        try:
            yield connection
            return
        finally:
            await connection.close(timeout=CONNECT_SECONDS)
    raise refused
