"""The border's ledger: lines a second that are durable before anything crosses, beside bare inserts of the same text.

Both commit to the same PostgreSQL over its Unix socket. ``asked at once``: how many crossings wait at a time, as many
answers to applications abroad would. The peer inserts each line by a commit of its own, and keeps no tree.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final

import asyncpg
from domicile_testing import Trust, running_storage
from domicile_testing.cell import superuser
from domicile_testing.ledgers import crossing

from domicile.cells.ledger.appending import Ledger
from domicile.cells.ledger.storage import POOL_SIZE, USER, LedgerStore
from domicile.model import Endpoint
from domicile.model.crossings import Crossing
from domicile.sdk.store import apply_schema
from domicile.sdk.store.pool import session_options
from loadtests.cases import Case

LINES: Final = 2_000
AT_ONCE: Final = (1, 100)
ROUNDS: Final = 5
BARE: Final = "INSERT INTO bench_lines (line) VALUES ($1)"


def cases() -> Iterator[Case]:
    with tempfile.TemporaryDirectory() as folder:
        yield from _appending(Path(folder))


async def _rate(append: Callable[[Crossing], Awaitable[object]], at_once: int) -> float:
    count = LINES if at_once > 1 else LINES // 10
    left = iter(range(count))

    async def some() -> None:
        for number in left:
            await append(crossing(number % 1000))

    started = time.perf_counter()
    await asyncio.gather(*(some() for _ in range(at_once)))
    return count / (time.perf_counter() - started)


def _appending(folder: Path) -> Iterator[Case]:
    trust = Trust.create(folder)
    with (
        running_storage(trust, folder / "pg", Endpoint.CELL_STORAGE, "eu", "eu-1.fra", None) as storage,
        asyncio.Runner() as runner,
    ):
        stack = AsyncExitStack()

        async def pool(user: str) -> asyncpg.Pool[Any]:
            opened = await asyncpg.create_pool(
                host=str(storage.folder), user=user, database="domicile", min_size=1, max_size=POOL_SIZE,
                **session_options(),
            )  # fmt: skip
            assert opened is not None
            stack.callback(opened.terminate)
            return opened

        async def start() -> tuple[Ledger, asyncpg.Pool[Any]]:
            async with superuser(storage) as connection:
                await apply_schema(connection, "eu-1", "eu", [])
                await connection.execute("CREATE TABLE bench_lines (id bigint GENERATED ALWAYS AS IDENTITY, line text)")
            ledger = Ledger(LedgerStore(await pool(USER)))
            stack.push_async_callback(ledger.close, asyncio.create_task(ledger.run()))
            return ledger, await pool("postgres")

        ledger, bare = runner.run(start())

        async def insert(line: Crossing) -> object:
            return await bare.execute(BARE, line.line())

        try:
            for at_once in AT_ONCE:
                yield Case(
                    f"ledger: durable lines, {at_once} asked at once",
                    "lines/s",
                    lambda at_once=at_once: runner.run(_rate(ledger.append, at_once)),  # type: ignore[misc]
                    lambda at_once=at_once: runner.run(_rate(insert, at_once)),  # type: ignore[misc]
                    "bare asyncpg, one insert and commit each",
                    rounds=ROUNDS,
                )
        finally:
            runner.run(stack.aclose())
