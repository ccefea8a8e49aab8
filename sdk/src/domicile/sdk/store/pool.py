"""Connections to one cell's storage, and nothing else: its authority, its name, its addresses.

A connection that the cell's own storage does not answer ends inside the TLS handshake, before the first
byte of a statement. There is no time-out on the server's side for statements, because it would also cut a
COMMIT short; ``STATEMENT_SECONDS`` bounds every other wait from here, and COMMIT has a bound of its own.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Any, Final

import asyncpg
from asyncpg.connect_utils import SessionAttribute

from domicile.identity import Credentials
from domicile.model.access import Role
from domicile.model.errors import InvalidInput
from domicile.model.manifest import Address
from domicile.sdk.store import settings
from domicile.service import ProcessSettings

DATABASE: Final = "domicile"
CONNECT_SECONDS: Final = 5.0
LEADER_SECONDS: Final = 8.0
"""How long a caller waits for somebody to lead: a switchover takes less, a leader's unplanned end more."""
_LOOK_SECONDS: Final = 0.2
_NOBODY_LEADS: Final = (
    asyncpg.CannotConnectNowError,
    asyncpg.TargetServerAttributeNotMatched,
    asyncpg.ConnectionDoesNotExistError,  # its server went while this connected
    ConnectionResetError,
)
"""Not a refused connection: where no door is, nobody is about to lead."""
STATEMENT_SECONDS: Final = 10.0
CACHED_STATEMENTS: Final = 200
"""On each connection: a few for each record table."""


class AppConnection(asyncpg.Connection):
    """Nothing is set for longer than a transaction, so there is nothing to reset, and a round trip less."""

    def get_reset_query(self) -> str:
        return ""


async def connect_to_leader(*where: Any, **options: Any) -> asyncpg.Connection:
    """A connection to the one of the addresses that leads. Raises what the last attempt did."""
    deadline = time.monotonic() + LEADER_SECONDS
    while True:
        try:
            return await asyncpg.connect(*where, **options)
        except _NOBODY_LEADS:
            if time.monotonic() + _LOOK_SECONDS > deadline:
                raise
        await asyncio.sleep(_LOOK_SECONDS)


def session_options(*, pooler: bool = False, standby: bool = False) -> dict[str, Any]:
    """What a pool of asyncpg's is told of its sessions."""
    return {
        "connection_class": AppConnection,
        "server_settings": settings.of_session(pooler=pooler, standby=standby),
        "statement_cache_size": 0 if pooler else CACHED_STATEMENTS,
    }


async def open_pool(
    credentials: Credentials,
    addresses: Sequence[str],
    *,
    jurisdiction: str,
    cell: str,
    user: str,
    size: int = 8,
    pooler: bool = False,
    standby: bool = False,
) -> asyncpg.Pool:
    """A pool of at most ``size`` connections as ``user``; the first one opens with the first statement.

    ``pooler``: there is one in transaction mode before the storage (PgBouncer), so that no statement may be prepared
    for longer than it runs. What a session needs to have set it states itself, as far as the pooler lets it.

    ``addresses`` are those of the cell's zones, tried in their order until one takes writes; with ``standby``, until
    one takes none, and nobody is waited for. Raises InvalidInput for none of them, or for an authority that isn't
    there.
    """
    if not addresses:
        raise InvalidInput(f"no address of {cell}'s storage", remedy="see the manifest")
    places = [Address(address) for address in addresses]
    pool: asyncpg.Pool | None = await asyncpg.create_pool(
        host=[place.host for place in places],
        port=[place.port for place in places],
        user=user,
        database=DATABASE,
        ssl=credentials.client(jurisdiction, [Role.STORAGE], cell=cell),
        target_session_attrs=SessionAttribute.standby if standby else SessionAttribute.primary,
        min_size=0,
        max_size=size,
        timeout=CONNECT_SECONDS,
        command_timeout=STATEMENT_SECONDS,
        connect=asyncpg.connect if standby else connect_to_leader,
        **session_options(pooler=pooler, standby=standby),
    )
    assert pool is not None
    return pool


async def open_own(stack: AsyncExitStack, settings: ProcessSettings, user: str, *, size: int = 8) -> asyncpg.Pool:
    """A pool of the cell's own database, as ``open_pool`` makes it, ended with the stack. Raises InvalidInput."""
    identity = settings.credentials.identity
    assert identity.cell is not None
    pool = await open_pool(
        settings.credentials,
        settings.storage,
        jurisdiction=identity.jurisdiction,
        cell=identity.cell,
        user=user,
        pooler=settings.storage_pooler,
        size=size,
    )
    stack.callback(pool.terminate)
    return pool
