"""Readers that take nothing of what the stream has for them cost the directory no memory, and others no time."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from uuid import UUID

import aiohttp
import asyncpg
import psutil
import pytest
from aiohttp.connector import AddrInfoType
from domicile_testing import Storage, Trust
from domicile_testing.directories import any_key, forget_marks
from domicile_testing.directory_processes import Site, directory_site

from domicile.identity import Signer
from domicile.model import GLOBAL, Position, Role
from domicile.model.wire import ClaimRequest

MANY = (
    "INSERT INTO directory.pins (subject_key, jurisdiction, cell, epoch, state)"
    " SELECT '\\x01' || uuid_send(gen_random_uuid()), 'eu', 'eu-1', 1, 'active' FROM generate_series(1, $1::int)"
)
READER_BYTES, SPARE_BYTES = 2 << 20, 16 << 20
"""What each may cost: a batch and its buffers, far from the log that it does not take; and what any work leaves."""


@pytest.fixture
async def site(
    trust: Trust, storage: Storage, operator: Signer, database: asyncpg.Connection, tmp_path: Path
) -> AsyncIterator[Site]:
    await database.execute("DROP SCHEMA IF EXISTS directory CASCADE")
    forget_marks(trust)
    async with directory_site(trust, storage, operator, tmp_path, ("fra",)) as running:
        await running.only(0).publish(1)
        yield running


async def start(database: asyncpg.Connection) -> Position:
    generation: UUID = await database.fetchval("SELECT generation FROM directory.clock")
    return Position(generation=generation, sequence=0)


async def open_stream(site: Site, stack: AsyncExitStack, after: Position) -> aiohttp.ClientResponse:
    """A reader that has been answered, and of whose answer nothing is read but what its client's buffer takes."""
    credentials = site.trust.credentials("eu", Role.ROUTER, "fra")
    connector = aiohttp.TCPConnector(ssl=credentials.client(GLOBAL, [Role.DIRECTORY]), socket_factory=_narrow)
    session = await stack.enter_async_context(aiohttp.ClientSession(connector=connector))
    address = site.processes[0].settings.bind
    response = await session.get(f"https://{address}/v1/changes", params={"after": str(after)})
    stack.push_async_callback(_close, response)
    assert response.status == 200
    return response


def _narrow(address: AddrInfoType) -> socket.socket:
    """The kernel takes little for a reader that does not read: what it took would hide what the directory keeps."""
    family, kind, protocol, _, _ = address
    opened = socket.socket(family, kind, protocol)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
    opened.setblocking(False)
    return opened


async def _close(response: aiohttp.ClientResponse) -> None:
    response.close()


async def sequences(response: aiohttp.ClientResponse, last: int) -> list[int]:
    """The numbers of all changes up to ``last``."""
    found: list[int] = []
    number = 0
    async for line in response.content:
        if line.startswith(b"id: "):
            number = int(line.rpartition(b":")[2])
        elif line == b"event: pin\n":
            found.append(number)
            if number >= last:
                break
    return found


async def everything(
    site: Site, stack: AsyncExitStack, begun: Position, response: aiohttp.ClientResponse, last: int
) -> bool:
    """Whether each change up to ``last`` comes once. A stream may end, as in a crowd at the database: then again."""
    found = await sequences(response, last)
    while not found or found[-1] < last:
        after = begun.model_copy(update={"sequence": found[-1] if found else begun.sequence})
        found += await sequences(await open_stream(site, stack, after), last)
    return found == list(range(begun.sequence + 1, last + 1))


async def check(site: Site, database: asyncpg.Connection, changes: int, readers: int) -> None:
    begun = await start(database)
    process = psutil.Process(site.processes[0].pid)
    async with AsyncExitStack() as stack:
        await database.execute(MANY, changes)
        assert len(await sequences(await open_stream(site, stack, begun), 2_000)) == 2_000
        before = process.memory_info().rss
        slow = [await open_stream(site, stack, begun) for _ in range(readers)]
        # by the time that somebody who reads has got everything, the others have been given what they take
        async with asyncio.timeout(120):
            assert await everything(site, stack, begun, await open_stream(site, stack, begun), changes)
        grown = process.memory_info().rss - before
        assert grown < readers * READER_BYTES + SPARE_BYTES, f"{grown >> 20} MiB for {readers} readers"
        await site.client("eu", Role.APP).claim(any_key(), ClaimRequest(residence="DE"))
        async with asyncio.timeout(120):
            for response in slow[:2]:
                assert await everything(site, stack, begun, response, changes + 1), "who reads late has missed nothing"


async def test_slow_readers_cost_no_memory(site: Site, database: asyncpg.Connection) -> None:
    await check(site, database, changes=40_000, readers=12)


@pytest.mark.full
async def test_many_slow_readers_of_a_long_log_cost_no_memory(site: Site, database: asyncpg.Connection) -> None:
    await check(site, database, changes=200_000, readers=60)
