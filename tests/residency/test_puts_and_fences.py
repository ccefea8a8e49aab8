"""Many writers of one subject, and a fence that closes among them: nothing after it, nothing lost before."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from uuid import uuid4

import asyncpg
import pytest
from domicile_testing import Storage, Trust
from domicile_testing.long import long_form

from domicile.model import FenceRefused, PinGrant, Role, SubjectKey, Unavailable
from domicile.sample import Note
from domicile.sdk.store import FenceStore, NewRow, RowStore, open_pool
from domicile.sdk.store.rows import begin

Somebody = Callable[[], tuple[str, SubjectKey]]
TABLE = Note.domicile_table
WRITERS = 100


async def grant(fences: FenceStore, key: SubjectKey, epoch: int = 1) -> PinGrant:
    now = int(time.time())
    values = {"iss": "acme", "sub": key, "jur": "us", "cell": "us-1", "epoch": epoch, "iat": now, "exp": now + 60}
    return PinGrant.model_validate({**values, "incarnation": await fences.incarnation()})


@pytest.fixture
async def rows(trust: Trust, us: Storage) -> AsyncIterator[RowStore]:
    credentials = trust.credentials("us", Role.APP, "us-1.iad")
    pool = await open_pool(credentials, [us.address], jurisdiction="us", cell="us-1", user="domicile_app", size=16)
    yield RowStore(pool, "us")
    pool.terminate()


def row() -> NewRow:
    return NewRow(uuid4(), {"text": b"\0", "topic": "t"})


class Writers:
    """Put until they are refused; by turns alone and in a transaction, one row or three."""

    def __init__(self, rows: RowStore, key: SubjectKey, epoch: int) -> None:
        self.acknowledged = 0
        self.refused = 0
        self.waiting: list[tuple[int, asyncio.Event]] = []
        self._rows, self._key, self._epoch = rows, key, epoch

    async def write(self, kind: int) -> None:
        while True:
            try:
                written = await self._once(kind)
            except (FenceRefused, Unavailable):
                self.refused += 1
                return
            self.acknowledged += written
            for count, event in self.waiting:
                if self.acknowledged >= count:
                    event.set()

    async def _once(self, kind: int) -> int:
        alone = self._rows.alone(self._key, self._epoch)
        if kind == 0:
            await alone.put(TABLE, row(), None)
            return 1
        if kind == 1:
            return len(await alone.put_many(TABLE, [row() for _ in range(3)]))
        async with self._rows.work(self._key, self._epoch) as work:
            await work.put(TABLE, row(), 0)
            await work.put(TABLE, row(), None)
        return 2

    async def until(self, count: int) -> None:
        event = asyncio.Event()
        self.waiting.append((count, event))
        await event.wait()


async def round_of(
    rows: RowStore, fences: FenceStore, root: asyncpg.Connection, key: SubjectKey, epoch: int, writers: int, count: int
) -> float:
    """One epoch: opened, written at, closed. How long closing took."""
    counted = "SELECT count(*) FROM notes WHERE subject_key = $1"
    before = await root.fetchval(counted, key)
    await fences.open(await grant(fences, key, epoch), {})
    running = Writers(rows, key, epoch)
    tasks = [asyncio.create_task(running.write(number % 3)) for number in range(writers)]
    await running.until(count)
    started = time.perf_counter()
    closed = await fences.close(key, epoch)
    took = time.perf_counter() - started
    assert closed.state == "closed"
    at_closing = await root.fetchval(counted, key)
    await asyncio.gather(*tasks)
    assert await root.fetchval(counted, key) == at_closing, "written after the fence was closed"
    assert running.acknowledged == at_closing - before, "acknowledged and lost, or the other way round"
    return took


async def test_rounds_of_puts_and_a_closing_fence(
    rows: RowStore, us_fences: FenceStore, us_root: asyncpg.Connection, somebody: Somebody
) -> None:
    _, key = somebody()
    for epoch in range(1, 26):
        await round_of(rows, us_fences, us_root, key, epoch, writers=5, count=epoch % 7)


@pytest.mark.full
async def test_a_thousand_rounds_of_puts_and_a_closing_fence(
    rows: RowStore, us_fences: FenceStore, us_root: asyncpg.Connection, somebody: Somebody
) -> None:
    goes_on = long_form(0.2)
    _, key = somebody()
    done = 0
    for epoch in range(1, 1001):
        await round_of(rows, us_fences, us_root, key, epoch, writers=5, count=epoch % 7)
        done = epoch
        if not goes_on():
            break
    print(f"{done} rounds")
    assert done >= 50


async def test_a_hundred_writers_of_one_subject_do_not_starve_the_one_who_closes(
    rows: RowStore, us_fences: FenceStore, us_root: asyncpg.Connection, somebody: Somebody
) -> None:
    _, key = somebody()
    took = await round_of(rows, us_fences, us_root, key, 1, writers=WRITERS, count=3 * WRITERS)
    print(f"closed among {WRITERS} writers after {took * 1e3:.0f} ms")
    assert took < 5, "it waits for those under way, not for those to come"


async def test_a_writer_that_does_not_end_keeps_its_fence_and_others_write_again(
    rows: RowStore, us_fences: FenceStore, us_root: asyncpg.Connection, somebody: Somebody
) -> None:
    _, key = somebody()
    await us_fences.open(await grant(us_fences, key), {})
    async with rows.work(key, 1) as work:
        await work.put(TABLE, row(), 0)
        with pytest.raises(Unavailable, match="in the way"):
            await us_fences.close(key, 1, seconds=0.2)
        await rows.alone(key, 1).put(TABLE, row(), 0)
        await work.put(TABLE, row(), 0)
    assert await us_root.fetchval("SELECT count(*) FROM notes WHERE subject_key = $1", key) == 3
    assert await us_root.fetchval("SELECT count(*) FROM domicile.intents") == 0
    for epoch in (0, 2):
        with pytest.raises(FenceRefused):
            await us_fences.close(key, epoch)


async def test_an_intent_holds_writers_up_for_as_long_as_it_says(
    rows: RowStore, us_fences: FenceStore, us_root: asyncpg.Connection, somebody: Somebody
) -> None:
    _, key = somebody()
    await us_fences.open(await grant(us_fences, key), {})
    assert await us_root.fetchval("SELECT domicile.intend($1, 1, 60)", key)
    with pytest.raises(Unavailable, match="about to move"):
        await rows.alone(key, 1).put(TABLE, row(), None)
    with pytest.raises(Unavailable, match="about to move"):
        async with rows.work(key, 1):
            pass
    await us_root.execute("UPDATE domicile.intents SET until = clock_timestamp()")
    assert await rows.alone(key, 1).put(TABLE, row(), None) == 1


@pytest.mark.parametrize(("script", "holds"), [("SAVEPOINT s; {held}", False), ("{held}; SAVEPOINT s; {held}", True)])
async def test_a_savepoint_that_is_rolled_back_lets_go_of_what_was_taken_after_it(
    us_app: asyncpg.Connection, us_fences: FenceStore, somebody: Somebody, script: str, holds: bool
) -> None:
    """Which is why a transaction holds its fence from BEGIN on."""
    _, key = somebody()
    await us_fences.open(await grant(us_fences, key), {})
    held = f"SELECT domicile.hold_fence('\\x{key}', 1)"
    assert begin(key, 1).endswith(held), "the SDK's BEGIN is of the second kind"
    await us_app.execute(f"BEGIN; {script.format(held=held)}; ROLLBACK TO SAVEPOINT s")
    try:
        if holds:
            with pytest.raises(Unavailable):
                await us_fences.close(key, 1, seconds=0.2)
        else:
            assert (await us_fences.close(key, 1, seconds=5)).state == "closed"
    finally:
        await us_app.execute("ROLLBACK")


async def test_a_cte_that_nobody_refers_to_writes_nothing_past_a_closed_fence(
    us_app: asyncpg.Connection, us_fences: FenceStore, us_root: asyncpg.Connection, somebody: Somebody
) -> None:
    """PostgreSQL leaves it out, and with it the look at the fence: the trigger looks by itself."""
    _, key = somebody()
    await us_fences.open(await grant(us_fences, key), {})
    await us_fences.close(key, 1)
    await us_app.execute("SELECT set_config('domicile.subject', $1, false)", str(key))
    statement = (
        "WITH held AS (SELECT domicile.hold_fence($1, 1)) INSERT INTO notes "
        "(jurisdiction, subject_key, principal_key, id, epoch, text, topic) VALUES ('us', $1, $1, $2, 1, '\\x00', 't')"
    )
    with pytest.raises(asyncpg.PostgresError) as refusal:
        await us_app.execute(statement, key, uuid4())
    assert refusal.value.sqlstate == "DM001"
    assert await us_root.fetchval("SELECT count(*) FROM notes WHERE subject_key = $1", key) == 0
