"""Connections to one cell's storage, and nothing else: its authority, its name, its addresses.

A connection that the cell's own storage does not answer ends inside the TLS handshake, before the first
byte of a statement. There is no time-out on the server's side for statements, because it would also cut a
COMMIT short; ``STATEMENT_SECONDS`` bounds every other wait from here, and COMMIT has a bound of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import asyncpg
from asyncpg.connect_utils import SessionAttribute

from domicile.identity import Credentials
from domicile.model.access import Role
from domicile.model.errors import InvalidInput
from domicile.model.manifest import Address

DATABASE: Final = "domicile"
CONNECT_SECONDS: Final = 5.0
STATEMENT_SECONDS: Final = 10.0
_SETTINGS: Final = {
    "application_name": "domicile",
    "search_path": "public",
    "lock_timeout": "5s",
    "idle_in_transaction_session_timeout": "30s",
}


async def open_pool(
    credentials: Credentials,
    addresses: Sequence[str],
    *,
    jurisdiction: str,
    cell: str,
    user: str,
    size: int = 8,
) -> asyncpg.Pool:
    """A pool of at most ``size`` connections as ``user``; the first one opens with the first statement.

    ``addresses`` are those of the cell's zones, tried in their order until one takes writes. Raises
    InvalidInput for none of them, or for an authority that isn't there.
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
        target_session_attrs=SessionAttribute.primary,
        min_size=0,
        max_size=size,
        timeout=CONNECT_SECONDS,
        command_timeout=STATEMENT_SECONDS,
        server_settings=_SETTINGS,
    )
    assert pool is not None
    return pool
