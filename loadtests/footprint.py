"""What a subject, a row and a change take, measured on real databases: half of ``costs.yaml``."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import aiohttp
import asyncpg
from domicile_testing import Trust, running_storage
from domicile_testing.directories import any_key
from domicile_testing.erasing import Plan, Running, erasing

from domicile.model import GLOBAL, Endpoint, Role
from domicile.model.wire import ClaimRequest
from domicile.sample import Note
from loadtests.scaling import COSTS

SUBJECTS: Final = 2_000
ROWS: Final = 4_000
CHANGES: Final = 500
AT_ONCE: Final = 8
BY: Final = "python -m loadtests.scaling --measure"


async def measured() -> str:
    """``costs.yaml`` with what was measured in it."""
    found = await _measure()
    lines = []
    for line in COSTS.read_text().splitlines():
        name = line.partition(":")[0]
        lines.append(f'{name}: {{value: {found[name]:.4g}, from: "{BY}"}}' if name in found else line)
    return "\n".join(lines) + "\n"


async def _measure() -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        place = Path(folder)
        trust = Trust.create(place / "trust")
        cell, keys, directory = (
            stack.enter_context(running_storage(trust, place / name, endpoint, jurisdiction, who, owner))
            for name, endpoint, jurisdiction, who, owner in (
                ("cell", Endpoint.CELL_STORAGE, "eu", "eu-1.fra", None),
                ("keys", Endpoint.KEY_STORAGE, "eu", "fra", "domicile_keys"),
                ("directory", Endpoint.DIRECTORY_STORAGE, GLOBAL, "fra", "domicile_directory"),
            )
        )
        async with erasing(Plan.of(trust, cell, keys, directory), place) as world:
            found = await _subjects(world)
            found |= await _rows(world)
            found |= await _changes(world)
        await asyncio.to_thread(stack.close)
    return found


async def _all(count: int, call: Callable[[int], Awaitable[object]]) -> None:
    left = iter(range(count))

    async def some() -> None:
        for number in left:
            await call(number)

    await asyncio.gather(*(some() for _ in range(AT_ONCE)))


async def _bytes(database: asyncpg.Connection) -> int:
    """Of tables with their indexes and what lies out of line, without the pages that are only empty."""
    await database.execute("VACUUM")
    size: int = await database.fetchval(
        "SELECT sum(pg_total_relation_size(c.oid))::bigint FROM pg_class c "
        "JOIN pg_namespace n ON n.oid = c.relnamespace "
        "WHERE c.relkind = 'r' AND n.nspname IN ('public', 'domicile', 'keys', 'directory')"
    )
    return size


async def _subjects(world: Running) -> dict[str, float]:
    databases = {"cell": world.cell, "keys": world.keys_store, "directory": world.pins}
    before = {name: await _bytes(database) for name, database in databases.items()}
    await _all(SUBJECTS, lambda number: world.sign_up(f"user-{number}"))
    return {
        f"subject_{name}_bytes": (await _bytes(database) - before[name]) / SUBJECTS
        for name, database in databases.items()
    }


async def _rows(world: Running) -> dict[str, float]:
    home = await world.residency.home("user-1")
    before, wal = await _bytes(world.cell), await world.cell.fetchval("SELECT pg_current_wal_lsn()")

    async def put(_: int) -> None:
        await home.put(home.new(Note, text="as long as a note mostly is, which is not very long", topic="general"))

    await _all(ROWS, put)
    after = await world.cell.fetchval("SELECT pg_current_wal_lsn()")
    return {"row_bytes": (await _bytes(world.cell) - before) / ROWS, "put_wal_bytes": (after - wal) / ROWS}


async def _changes(world: Running) -> dict[str, float]:
    """Bytes of one change on a stream, and what a claim takes of one processor or less: they come one after another."""
    credentials = world.plan.trust.credentials("eu", Role.ROUTER, "fra")
    connector = aiohttp.TCPConnector(ssl=credentials.client(GLOBAL, [Role.DIRECTORY]))
    row = await world.pins.fetchrow("SELECT generation, sequence FROM directory.clock")
    assert row is not None
    where = f"https://{world.plan.directory.bind}/v1/changes?after={row[0]}:{row[1]}"
    client, keys = world.residency._directory, [any_key() for _ in range(CHANGES)]
    async with aiohttp.ClientSession(connector=connector) as session, session.get(where) as stream:
        assert stream.status == 200, await stream.text()
        started = time.perf_counter()
        for key in keys:
            await client.claim(key, ClaimRequest(residence="DE"))
        took = (time.perf_counter() - started) / CHANGES * 1e6
        size = left = 0
        wanted = {str(key).encode() for key in keys}
        rest = b""
        async for chunk in stream.content.iter_any():
            *events, rest = (rest + chunk).split(b"\n\n")
            for event in events:
                if any(key in event for key in wanted):
                    size, left = size + len(event) + 2, left + 1
            if left == CHANGES:
                break
    return {"change_bytes": size / CHANGES, "claim_us": took}
