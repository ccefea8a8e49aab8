"""Reads that may be out of date: at a real standby, whose replay is held up, which is lost, and which comes to lead."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from domicile_testing import Storage, Trust, running_storage
from domicile_testing.cell import superuser
from domicile_testing.databases import until
from domicile_testing.standbys import copy_standby

from domicile.model import Endpoint, Role, SubjectKey
from domicile.sample import Note
from domicile.sdk import Home, InvalidInput, Residency
from domicile.sdk.store import RowStore, Standby, open_pool
from domicile.sdk.store.settings import of_session
from domicile.telemetry import STALE_READS

Somebody = Callable[[], tuple[str, SubjectKey]]
AN_HOUR = 3600


@contextmanager
def answered() -> Iterator[dict[str, float]]:
    """How many reads were answered by whom within the block."""

    def now() -> dict[str, float]:
        return {by: STALE_READS.labels(by)._value.get() for by in ("standby", "leader")}

    before, found = now(), {}  # type: tuple[dict[str, float], dict[str, float]]
    yield found
    found |= {by: value - before[by] for by, value in now().items()}


@pytest.fixture(scope="module")
def behind(trust: Trust, eu: Storage, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Storage]:
    folder = tmp_path_factory.mktemp("b") / "par"
    copy_standby(eu.folder, folder, "par")
    with running_storage(trust, folder, Endpoint.CELL_STORAGE, "eu", "eu-1.par", None) as running:
        yield running


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@asynccontextmanager
async def with_standby(home: Home, trust: Trust, eu: Storage, place: Storage, clock: Clock) -> AsyncIterator[Home]:
    """The home with both servers behind it."""
    credentials = trust.credentials("eu", Role.APP, "eu-1.fra")
    pools = [
        await open_pool(
            credentials,
            [eu.address, place.address],
            jurisdiction="eu",
            cell="eu-1",
            user="domicile_app",
            size=2,
            standby=standby,
        )
        for standby in (False, True)
    ]
    try:
        rows = RowStore(pools[0], "eu", standby=Standby(pools[1], clock))
        yield Home(replace(home._vault, rows=rows), home._fence)
    finally:
        for pool in pools:
            pool.terminate()


async def caught_up(eu: Storage, place: Storage) -> None:
    async with superuser(eu) as leader, superuser(place) as standby:
        at = await leader.fetchval("SELECT pg_current_wal_flush_lsn()")

        async def replayed() -> bool:
            return bool(await standby.fetchval("SELECT pg_last_wal_replay_lsn() >= $1", at))

        await until(replayed, "the replay")


@asynccontextmanager
async def held_up(place: Storage) -> AsyncIterator[None]:
    async with superuser(place) as standby:
        await standby.execute("SELECT pg_wal_replay_pause()")

        async def still() -> bool:
            return bool(await standby.fetchval("SELECT pg_get_wal_replay_pause_state() = 'paused'"))

        await until(still, "the pause")
        try:
            yield
        finally:
            await standby.execute("SELECT pg_wal_replay_resume()")


async def noted(home: Home, text: str) -> UUID:
    note = home.new(Note, text=text, topic="stale")
    await home.put(note)
    return note.id


async def test_a_standby_answers_and_every_way_to_read_is_there(
    residency: Residency, trust: Trust, eu: Storage, behind: Storage, somebody: Somebody
) -> None:
    home = await residency.claim(somebody()[0], residence="DE")
    async with with_standby(home, trust, eu, behind, Clock()) as there:
        id = await noted(there, "here and there")  # noqa: A001
        await caught_up(eu, behind)
        reader = there.stale(AN_HOUR)
        with answered() as by:
            assert (await reader.get(Note, id)) == (await there.get(Note, id))
            assert [note.id for note in await reader.all(Note)] == [id]
            assert [note.text for note in await reader.find(Note, topic="stale")] == ["here and there"]
            assert [note.id for note in (await reader.page(Note, size=1)).records] == [id]
        assert by == {"standby": 4, "leader": 0}


async def test_what_it_has_not_replayed_is_missing_and_nothing_older_than_was_said_is_answered(
    residency: Residency, trust: Trust, eu: Storage, behind: Storage, somebody: Somebody
) -> None:
    home = await residency.claim(somebody()[0], residence="DE")
    async with with_standby(home, trust, eu, behind, Clock()) as there:
        first = await noted(there, "first")
        await caught_up(eu, behind)
        async with held_up(behind):
            second = await noted(there, "second")
            assert [note.id for note in await there.stale(AN_HOUR).all(Note)] == [first], (
                "out of date, as was asked for"
            )

            async def too_old() -> bool:
                with answered() as by:
                    found = await there.stale(0.5).get(Note, second)
                assert (found is None) == (by["standby"] == 1), "only the standby misses it"
                return by["leader"] == 1

            await until(too_old, "an answer of the leader")
            with answered() as by:
                assert [note.id for note in await there.stale(0.5).all(Note)] == [first, second]
            assert by == {"standby": 0, "leader": 1}


async def test_who_came_since_is_read_at_the_leader(
    residency: Residency, trust: Trust, eu: Storage, behind: Storage, somebody: Somebody
) -> None:
    await caught_up(eu, behind)
    async with held_up(behind):
        home = await residency.claim(somebody()[0], residence="DE")
        async with with_standby(home, trust, eu, behind, Clock()) as there:
            id = await noted(there, "new")  # noqa: A001
            with answered() as by:
                assert await there.stale(AN_HOUR).get(Note, id) is not None
            assert by == {"standby": 0, "leader": 1}


async def test_without_a_standby_the_leader_answers_and_none_is_looked_for_all_the_time(
    residency: Residency, trust: Trust, eu: Storage, behind: Storage, somebody: Somebody
) -> None:
    home, clock = await residency.claim(somebody()[0], residence="DE"), Clock()
    async with with_standby(home, trust, eu, eu, clock) as there:  # both addresses lead to the leader
        id = await noted(there, "only here")  # noqa: A001
        with answered() as by:
            assert await there.stale(AN_HOUR).get(Note, id) is not None
            assert there._vault.rows._standby._not_before == 1.0  # type: ignore[attr-defined]
            assert await there.stale(AN_HOUR).get(Note, id) is not None
        assert by == {"standby": 0, "leader": 2}
    async with with_standby(home, trust, eu, behind, clock) as there:
        there._vault.rows._standby._not_before = 1.0  # type: ignore[attr-defined]
        await caught_up(eu, behind)
        for now, expected in ((0.9, "leader"), (1.0, "standby")):
            clock.now = now
            with answered() as by:
                assert await there.stale(AN_HOUR).get(Note, id) is not None
            assert by[expected] == 1


async def test_one_that_comes_to_lead_is_a_standby_no_more(
    residency: Residency, trust: Trust, eu: Storage, somebody: Somebody, tmp_path: Path
) -> None:
    home = await residency.claim(somebody()[0], residence="DE")
    copy_standby(eu.folder, tmp_path / "s", "lyo")
    with ExitStack() as stack:
        place = running_storage(trust, tmp_path / "s", Endpoint.CELL_STORAGE, "eu", "eu-1.par", None)
        heir = stack.enter_context(place)
        async with with_standby(home, trust, eu, heir, Clock()) as there:
            id = await noted(there, "before")  # noqa: A001
            await caught_up(eu, heir)
            with answered() as by:
                assert await there.stale(AN_HOUR).get(Note, id) is not None
            assert by["standby"] == 1
            async with superuser(heir) as root:
                await root.execute("SELECT pg_promote()")
                assert await root.fetchval("SELECT pg_is_in_recovery()") is False
            with answered() as by:
                for _ in range(2):
                    assert await there.stale(AN_HOUR).get(Note, id) is not None
            assert by == {"standby": 0, "leader": 2}
        await asyncio.to_thread(stack.close)


async def test_its_sessions_write_nothing(trust: Trust, eu: Storage, behind: Storage) -> None:
    """Not even where one of them is a leader's."""
    context = trust.credentials("eu", Role.APP, "eu-1.fra").client("eu", [Role.STORAGE], cell="eu-1")
    host, port = eu.address.rsplit(":", 1)
    connection = await asyncpg.connect(
        host=host,
        port=int(port),
        user="domicile_app",
        database="domicile",
        ssl=context,
        server_settings=of_session(standby=True),
    )
    try:
        with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
            await connection.execute("DELETE FROM notes")
    finally:
        await connection.close()


class Pretends:
    """A standby whose age is what the test says: its clock is another than the leader's."""

    def __init__(self, age: float) -> None:
        self.age = age

    @asynccontextmanager
    async def acquire(self) -> AsyncIterator[Pretends]:
        yield self

    async def fetchval(self, statement: str) -> float:
        return self.age

    async def fetch(self) -> list[Any]:
        return []


@pytest.mark.parametrize(
    ("age", "took", "believed"),
    [(0.0, 0, True), (-0.05, 0, True), (-0.2, 0, False), (0.85, 0, True), (0.95, 0, False), (0.5, 0.45, False)],
)
async def test_clocks_that_disagree_and_answers_that_take_long(age: float, took: float, believed: bool) -> None:
    clock = Clock()

    async def question(fetch: Any) -> str:
        clock.now += took
        return "answer"

    pool: Any = Pretends(age)
    standby = Standby(pool, clock)
    assert await standby.ask(question, 1.0) == ("answer" if believed else None)


async def test_a_time_that_makes_no_sense_is_refused(residency: Residency, somebody: Somebody) -> None:
    home = await residency.claim(somebody()[0], residence="DE")
    for seconds in (0, 0.1, -1, 3601, float("nan")):
        with pytest.raises(InvalidInput, match="stale for"):
            home.stale(seconds)
