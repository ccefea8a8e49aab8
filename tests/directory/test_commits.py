"""What a transaction tells when its connection is lost under it: why it came to this, and not how it was undone."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest
from domicile_testing import Storage
from domicile_testing.cell import superuser
from domicile_testing.databases import until

from domicile.service.commits import transaction


@pytest.mark.parametrize("reason", [asyncio.CancelledError, ValueError])
async def test_a_lost_connection_hides_no_reason(
    storage: Storage, database: asyncpg.Connection, reason: type[BaseException]
) -> None:
    async with superuser(storage) as connection:
        pid = connection.get_server_pid()

        async def lose() -> None:
            async with transaction(connection, 1.0):
                await database.execute("SELECT pg_terminate_backend($1)", pid)
                await until(closed, "the connection is known to be lost")
                raise reason

        async def closed() -> bool:
            return bool(connection.is_closed())

        with pytest.raises(reason):
            await lose()
