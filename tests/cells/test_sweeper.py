"""Rows whose time is over go, those of a subject that is moving don't, and everybody else's stay."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Annotated
from uuid import UUID, uuid4

import asyncpg
import pytest
from domicile_testing import Storage, Trust
from domicile_testing.cell import superuser
from domicile_testing.databases import until

from domicile.cells.gateway import sweeper
from domicile.cells.gateway.sweeper import Sweeper
from domicile.model import Role, SubjectKey
from domicile.sdk import Record, Shareable
from domicile.sdk.store import FenceStore, apply_schema, open_pool
from domicile.service import ended

HANS, GRETE = (SubjectKey(bytes([1]) + uuid4().bytes) for _ in range(2))


class Visit(Record, table="visits", keep=timedelta(days=30)):
    page: Annotated[str, Shareable("user.behavior.browsing_history")]


class Purchase(Record, table="purchases"):
    item: Annotated[str, Shareable("user.payment")]


@pytest.fixture
async def fences(trust: Trust, cell_storage: Storage, cell: asyncpg.Connection) -> AsyncIterator[FenceStore]:
    await apply_schema(cell, "eu-1", "eu", [Visit, Purchase])
    await cell.execute("TRUNCATE visits, purchases, domicile.intents")
    for key in (HANS, GRETE):
        await cell.execute("INSERT INTO domicile.fences (subject_key, epoch, state) VALUES ($1, 3, 'open')", key)
    credentials = trust.credentials("eu", Role.GATEWAY, "eu-1.fra")
    address = [cell_storage.address]
    pool = await open_pool(credentials, address, jurisdiction="eu", cell="eu-1", user="domicile_gateway", size=2)
    yield FenceStore(pool)
    pool.terminate()


async def put(cell: asyncpg.Connection, key: SubjectKey, count: int = 1, *, table: str = "visits") -> list[UUID]:
    column = "page" if table == "visits" else "item"
    ids = [uuid4() for _ in range(count)]
    await cell.executemany(
        f"INSERT INTO {table} (jurisdiction, subject_key, principal_key, id, epoch, {column}) "
        "VALUES ('eu', $1, $1, $2, 3, 'x')",
        [(key, row) for row in ids],
    )
    return ids


async def pass_over(cell: asyncpg.Connection, ids: list[UUID]) -> None:
    """A month goes by for these rows."""
    await cell.execute("UPDATE visits SET expires_at = expires_at - interval '30 days' WHERE id = ANY($1)", ids)


async def left(cell: asyncpg.Connection) -> set[UUID]:
    return {UUID(int=row[0].int) for row in await cell.fetch("SELECT id FROM visits UNION SELECT id FROM purchases")}


async def test_rows_go_when_their_time_is_over_and_not_before(cell: asyncpg.Connection, fences: FenceStore) -> None:
    over, fresh = await put(cell, HANS, 2 * sweeper.BATCH + 1), await put(cell, GRETE, 3)
    kept = await put(cell, HANS, table="purchases")
    await pass_over(cell, over)
    assert await Sweeper(fences).sweep() == len(over)
    assert await left(cell) == {*fresh, *kept}
    assert await Sweeper(fences).sweep() == 0


async def test_rows_of_a_subject_that_is_not_open_here_are_let_be(cell: asyncpg.Connection, fences: FenceStore) -> None:
    moved, moving = await put(cell, HANS), await put(cell, GRETE)
    await pass_over(cell, [*moved, *moving])
    await cell.execute("UPDATE domicile.fences SET state = 'closed' WHERE subject_key = $1", HANS)
    await cell.execute(
        "INSERT INTO domicile.intents (subject, epoch, until) "
        "SELECT internal_id, 4, clock_timestamp() + interval '1 hour' FROM domicile.fences WHERE subject_key = $1",
        GRETE,
    )
    assert await Sweeper(fences).sweep() == 0
    assert await left(cell) == {*moved, *moving}
    await cell.execute("TRUNCATE domicile.intents")
    assert await Sweeper(fences).sweep() == 1
    assert await left(cell) == {*moved}


async def test_sweepers_sweep_beside_each_other_and_beside_who_holds_a_row(
    cell: asyncpg.Connection, fences: FenceStore, cell_storage: Storage
) -> None:
    rows = await put(cell, HANS, 20)
    await pass_over(cell, rows)
    async with superuser(cell_storage) as reader, reader.transaction():
        await reader.execute("SELECT FROM visits WHERE id = $1 FOR SHARE", rows[0])
        counts = await asyncio.gather(*(Sweeper(fences).sweep() for _ in range(2)))
        assert sum(counts) == 19
    assert await left(cell) == {rows[0]}


async def test_answers_are_forgotten_a_week_after_they_were_last_asked_for(
    cell: asyncpg.Connection, fences: FenceStore, cell_storage: Storage
) -> None:
    """Whoever asks meanwhile is let be, and keeps it for another week; others sweep and ask beside each other."""
    asked, held, kept = uuid4().bytes * 2, uuid4().bytes * 2, uuid4().bytes * 2
    recall = "SELECT domicile.recall($1, 3, $2, '\\x00112233445566778899aabbccddeeff')"
    await cell.execute("TRUNCATE domicile.answers")
    for key in (asked, held, kept):
        assert await cell.fetchval(recall, HANS, key) is None
        await cell.execute("SELECT domicile.remember($1, $2, '{7}')", HANS, key)
    many = 2 * sweeper.BATCH
    await cell.execute(
        "INSERT INTO domicile.answers (subject, key, request, answer) SELECT gen_random_uuid(), $1, "
        "'\\x00112233445566778899aabbccddeeff', '{1}' FROM generate_series(1, $2)", asked, many
    )  # fmt: skip
    await cell.execute("UPDATE domicile.answers SET asked_at = asked_at - interval '7 days' WHERE key <> $1", kept)
    assert await cell.fetchval(recall, HANS, asked) == [7], "within the week"
    async with superuser(cell_storage) as replaying, replaying.transaction():
        assert await replaying.fetchval(recall, HANS, held) == [7]
        counts = await asyncio.gather(*(Sweeper(fences).sweep() for _ in range(2)))
        assert sum(counts) == many
    assert await Sweeper(fences).sweep() == 0
    there = {row[0] for row in await cell.fetch("SELECT key FROM domicile.answers")}
    assert there == {asked, held, kept}
    await cell.execute("UPDATE domicile.answers SET asked_at = asked_at - interval '7 days' WHERE key = $1", held)
    assert await Sweeper(fences).sweep() == 1
    assert await cell.fetchval(recall, HANS, held) is None, "a new request"


async def test_it_goes_on_by_itself(cell: asyncpg.Connection, fences: FenceStore) -> None:
    rows = await put(cell, HANS)
    sweeping = asyncio.create_task(Sweeper(fences, beat=0.05).run())
    try:
        await pass_over(cell, rows)

        async def swept() -> bool:
            return await left(cell) == set()

        await until(swept, "the sweep")
    finally:
        await ended(sweeping)
