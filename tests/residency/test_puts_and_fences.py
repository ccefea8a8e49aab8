"""Many writers of one subject, and a fence that closes among them: nothing after it, nothing lost before."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from uuid import uuid4

import asyncpg
import pytest
from domicile_testing import Storage, Trust
from domicile_testing.databases import until
from domicile_testing.long import long_form

from domicile.model import FenceRefused, PinGrant, Role, SubjectKey, Unavailable
from domicile.sample import Note
from domicile.sdk.store import FenceStore, NewRow, RowStore, fences, open_pool
from domicile.sdk.store.rows import begin

Somebody = Callable[[], tuple[str, SubjectKey]]
TABLE = Note.domicile_table
WRITERS = 100
STRAGGLERS = 8


async def grant(store: FenceStore, key: SubjectKey, epoch: int = 1) -> PinGrant:
    now = int(time.time())
    values = {"iss": "acme", "sub": key, "jur": "us", "cell": "us-1", "epoch": epoch, "iat": now, "exp": now + 60}
    return PinGrant.model_validate({**values, "incarnation": await store.incarnation()})


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
    rows: RowStore, store: FenceStore, root: asyncpg.Connection, key: SubjectKey, epoch: int, writers: int, count: int
) -> float:
    """One epoch: opened, written at, closed. How long closing took."""
    counted = "SELECT count(*) FROM notes WHERE subject_key = $1"
    before = await root.fetchval(counted, key)
    await store.open(await grant(store, key, epoch), {})
    running = Writers(rows, key, epoch)
    tasks = [asyncio.create_task(running.write(number % 3)) for number in range(writers)]
    await running.until(count)
    started = time.perf_counter()
    closed = await store.close(key, epoch)
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
    rows: RowStore,
    us_fences: FenceStore,
    us_root: asyncpg.Connection,
    somebody: Somebody,
    record_property: Callable[[str, object], None],
) -> None:
    """All of them, unless the machine is so slow that its share of the time is over; the run says how many."""
    goes_on = long_form(0.2)
    _, key = somebody()
    done = 0
    for epoch in range(1, 1001):
        await round_of(rows, us_fences, us_root, key, epoch, writers=5, count=epoch % 7)
        done = epoch
        if not goes_on():
            break
    record_property("rounds of puts and a closing fence", done)
    assert done >= 50


async def test_a_hundred_writers_of_one_subject_do_not_starve_the_one_who_closes(
    rows: RowStore, us_fences: FenceStore, us_root: asyncpg.Connection, somebody: Somebody
) -> None:
    _, key = somebody()
    took = await round_of(rows, us_fences, us_root, key, 1, writers=WRITERS, count=3 * WRITERS)
    print(f"closed among {WRITERS} writers after {took * 1e3:.0f} ms")
    assert took < 5, "it waits for those under way, not for those to come"


async def test_writers_that_do_not_end_are_ended_among_a_hundred_others(
    rows: RowStore, us_fences: FenceStore, us_root: asyncpg.Connection, somebody: Somebody
) -> None:
    """They hold all connections of the pool but some; another subject's transaction is nobody's business."""
    (_, key), (_, other) = somebody(), somebody()
    for each in (key, other):
        await us_fences.open(await grant(us_fences, each), {})
    begun = asyncio.Semaphore(0)
    closed = asyncio.Event()

    async def straggle(subject: SubjectKey, number: int) -> None:
        async with rows.work(subject, 1) as work:
            await work.put(TABLE, row(), 0)
            begun.release()
            await closed.wait()
            await work.put(TABLE, row(), 0)

    stragglers = [asyncio.create_task(straggle(key, number)) for number in range(STRAGGLERS)]
    stranger = asyncio.create_task(straggle(other, 0))
    for _ in range(STRAGGLERS + 1):
        await begun.acquire()
    running = Writers(rows, key, 1)
    tasks = [asyncio.create_task(running.write(number % 3)) for number in range(WRITERS)]
    await running.until(WRITERS)
    started = time.perf_counter()
    assert (await us_fences.close(key, 1, seconds=0.3)).state == "closed"
    print(f"closed after {(time.perf_counter() - started) * 1e3:.0f} ms, {STRAGGLERS} of {WRITERS} writers ended")
    closed.set()
    ended = await asyncio.gather(*stragglers, return_exceptions=True)
    assert all(isinstance(error, Unavailable) for error in ended)
    await asyncio.gather(*tasks, stranger)
    counted = "SELECT count(*) FROM notes WHERE subject_key = $1"
    assert await us_root.fetchval(counted, key) == running.acknowledged, "what was undone, or acknowledged and lost"
    assert await us_root.fetchval(counted, other) == 2
    assert await us_root.fetchval("SELECT count(*) FROM domicile.intents") == 0


async def test_who_cannot_be_ended_keeps_the_fence_and_others_write_again(
    rows: RowStore,
    us_fences: FenceStore,
    us_root: asyncpg.Connection,
    somebody: Somebody,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fences, "END_SECONDS", 0.2)
    _, key = somebody()
    await us_fences.open(await grant(us_fences, key), {})
    async with us_root.transaction():
        await us_root.execute(begin(key, 1).removeprefix("BEGIN; "))
        with pytest.raises(Unavailable, match="in the way"):
            await us_fences.close(key, 1, seconds=0.1)
        assert await rows.alone(key, 1).put(TABLE, row(), 0) == 1
    assert await us_root.fetchval("SELECT count(*) FROM domicile.intents") == 0
    for epoch in (0, 2):
        with pytest.raises(FenceRefused):
            await us_fences.close(key, epoch)


async def test_nobody_is_ended_but_writers_in_the_way_of_a_gateway_that_closes(
    us: Storage, us_app: asyncpg.Connection, us_fences: FenceStore, us_root: asyncpg.Connection, somebody: Somebody
) -> None:
    _, key = somebody()
    await us_fences.open(await grant(us_fences, key), {})
    ends = "SELECT domicile.end_writers($1, $2, 0.1)"
    context = us.context(Role.GATEWAY, "us-1.iad")
    gateway = await asyncpg.connect(
        host=us.host, port=us.port, user="domicile_gateway", database="domicile", ssl=context
    )
    try:
        await us_app.execute(begin(key, 1))
        own, others = gateway.get_server_pid(), us_app.get_server_pid()
        assert await gateway.fetchval(ends, key, own) == 0, "nobody said that it is about to close"
        assert await us_root.fetchval("SELECT domicile.intend($1, 1, 60)", key)
        assert await gateway.fetchval(ends, key, own) == 0, "it waits for nobody"
        assert await gateway.fetchval(ends, key, others) == 0, "another's session"
        assert await us_app.fetchval("SELECT 1") == 1
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await us_app.fetchval(ends, key, others)
    finally:
        await us_app.execute("ROLLBACK")
        await us_root.execute("TRUNCATE domicile.intents")
        await gateway.close()


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
    us_app: asyncpg.Connection,
    us_fences: FenceStore,
    us_root: asyncpg.Connection,
    somebody: Somebody,
    script: str,
    holds: bool,
) -> None:
    """Which is why a transaction holds its fence from BEGIN on."""
    _, key = somebody()
    await us_fences.open(await grant(us_fences, key), {})
    held = f"SELECT domicile.hold_fence('\\x{key}', 1)"
    assert begin(key, 1).endswith(held), "the SDK's BEGIN is of the second kind"
    await us_app.execute(f"BEGIN; {script.format(held=held)}; ROLLBACK TO SAVEPOINT s")
    try:
        waits = "SELECT count(*) FROM pg_stat_activity WHERE cardinality(pg_blocking_pids(pid)) > 0"
        closing = asyncio.create_task(us_fences.close(key, 1))

        async def held_up() -> bool:
            return closing.done() or bool(await us_root.fetchval(waits))

        await until(held_up, "the closing")
        assert closing.done() is not holds
    finally:
        await us_app.execute("ROLLBACK")
    assert (await closing).state == "closed"


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
