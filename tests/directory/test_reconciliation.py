"""A database that was put back to an earlier time: nothing is claimed, granted or denied until the cells have told."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta
from pathlib import Path
from uuid import UUID, uuid4

import asyncpg
import pytest
from domicile_testing import Storage, Trust, running_storage
from domicile_testing.cell import superuser
from domicile_testing.directories import RunningDirectory, any_key, directory_settings, forget_marks, serving
from domicile_testing.fences import CELLS, QUIET_IS_OVER, Cells, check_refuses, gateway

from domicile.directory import feed
from domicile.directory.history import Mark, MarkFile, Standing, furthest, has_lost, wait_seconds
from domicile.directory.transactions import SQL
from domicile.identity import Signer
from domicile.model import (
    GLOBAL,
    AliasKey,
    Conflict,
    Endpoint,
    InvalidInput,
    Pin,
    Position,
    Role,
    UnknownSubject,
)
from domicile.model.wire import ClaimRequest, FenceReport, FencesReport

GERMANY, AMERICA = ClaimRequest(residence="DE"), ClaimRequest(residence="US")
ONE, OTHER = UUID(int=1), UUID(int=2)


def standing(sequence: int, generation: UUID = ONE, *, current: bool = True, succeeded: bool = False) -> Standing:
    position = Position(generation=generation, sequence=sequence)
    return Standing(position, 0, current, reconciling=False, revision=7, succeeded=succeeded)


def mark(sequence: int, generation: UUID = ONE, revision: int = 7) -> Mark:
    return Mark(position=Position(generation=generation, sequence=sequence), revision=revision)


@pytest.mark.parametrize(
    ("seen", "found", "lost"),
    [
        pytest.param(None, standing(5), False, id="a new process"),
        pytest.param(None, standing(5, current=False), True, id="a new process, another history"),
        pytest.param(mark(5), standing(5), False, id="nothing happened"),
        pytest.param(mark(5), standing(9), False, id="others claimed"),
        pytest.param(mark(5), standing(5, current=False), False, id="promoted with everything"),
        pytest.param(mark(5), standing(4, current=False), True, id="promoted without the last"),
        pytest.param(mark(5), standing(4), True, id="an old copy put back"),
        pytest.param(mark(5, revision=8), standing(5), True, id="an older topology"),
        pytest.param(mark(5, OTHER), standing(9), True, id="a generation never heard of"),
        pytest.param(mark(5, OTHER), standing(9, succeeded=True), False, id="a generation that followed mine"),
    ],
)
def test_what_counts_as_lost(seen: Mark | None, found: Standing, lost: bool) -> None:
    assert has_lost(seen, found) is lost


def test_a_mark_goes_forward_within_a_generation() -> None:
    assert furthest(None, mark(5)) == mark(5)
    assert furthest(mark(7, revision=1), mark(5, revision=9)) == mark(7, revision=9)
    assert furthest(mark(7), mark(5, OTHER)) == mark(5, OTHER)


def test_reports_wait_for_grants_to_expire() -> None:
    assert [wait_seconds(age) for age in (None, 0.0, 60.2, 90.0, 1e6)] == [0, 90, 30, 0, 0]


def test_a_mark_is_kept_and_a_broken_one_is_refused(tmp_path: Path) -> None:
    marks = MarkFile(tmp_path / "mark.json")
    assert marks.read() is None
    marks.keep(mark(5))
    assert marks.read() == mark(5)
    (tmp_path / "mark.json").write_text("{")
    with pytest.raises(InvalidInput, match="not a mark"):
        marks.read()


class Rising:
    """A log that has come one change further whenever somebody looks."""

    sequence = 0

    async def standing(self, _: Mark | None) -> Standing:
        self.sequence += 1
        return standing(self.sequence)

    async def changes(self, after: int, limit: int) -> list[tuple[int, Pin]]:
        raise AssertionError

    async def trim_changes(self, keep: timedelta) -> None:
        raise AssertionError


async def test_many_who_look_at_once_keep_one_mark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "KEEP_SECONDS", 0.0)
    marks = MarkFile(tmp_path / "mark.json")
    looking = feed.Feed(Rising(), marks)
    for _ in range(10):
        await asyncio.gather(*(looking.settled() for _ in range(20)))
    assert marks.read() == standing(200).mark


async def test_a_disk_that_takes_no_mark_stops_no_reader(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    looking = feed.Feed(Rising(), MarkFile(tmp_path / "missing" / "mark.json"))
    assert (await looking.settled()).sequence == 1
    assert (await looking.settled()).sequence == 2
    assert [record.message for record in caplog.records] == ["mark-not-kept"], "once a second"


@contextmanager
def database_at(trust: Trust, folder: Path) -> Iterator[Storage]:
    arguments = (trust, folder, Endpoint.DIRECTORY_STORAGE, GLOBAL, "fra", "domicile_directory")
    with running_storage(*arguments) as storage:
        yield storage


@asynccontextmanager
async def directory_at(trust: Trust, folder: Path, operator: Signer) -> AsyncIterator[RunningDirectory]:
    with database_at(trust, folder) as storage:
        async with serving(directory_settings(trust, storage.address, operator), trust, operator) as directory:
            yield directory


@pytest.mark.parametrize("promoted", [False, True], ids=["copied back", "recovered to a point in time"])
async def test_a_database_restored_to_an_hour_ago(
    trust: Trust, operator: Signer, tmp_path: Path, *, promoted: bool
) -> None:
    forget_marks(trust)
    folder, cells = tmp_path / "pg", Cells()
    async with directory_at(trust, folder, operator) as directory:
        await directory.publish(1)
        early = [await directory.app.claim(any_key(), GERMANY) for _ in range(3)]
    shutil.copytree(folder, tmp_path / "backup", symlinks=True)
    async with directory_at(trust, folder, operator) as directory:
        late = [await directory.app.claim(any_key(), claim) for claim in (GERMANY, AMERICA, GERMANY)]
        email = AliasKey(any_key())
        await directory.client(late[1].jurisdiction, Role.APP, f"{late[1].cell}.fra").put_alias(
            "email", email, late[1].subject_key
        )
        position = MarkFile(directory.state / "mark.json")
        for pin in early + late:
            cells.hold(pin, {"email": email} if pin == late[1] else None)
    kept = position.read()
    assert kept is not None, "the mark is kept when a process ends"
    shutil.rmtree(folder)
    (tmp_path / "backup").rename(folder)
    if promoted:
        (folder / "data" / "standby.signal").touch()
        with database_at(trust, folder) as storage:
            async with superuser(storage) as connection:
                assert await connection.fetchval("SELECT pg_promote()")
    async with directory_at(trust, folder, operator) as directory:
        await check_refuses(directory, early[0])
        for name in CELLS:
            assert not (await gateway(directory, name).reconciliation()).cells
        await cells.report(directory)
        assert (await directory.client(GLOBAL, Role.OPERATOR).reconciliation()).wait_seconds > 60, "too early"
    with database_at(trust, folder) as storage:
        async with superuser(storage) as connection:
            await connection.execute(QUIET_IS_OVER)
        async with serving(directory_settings(trust, storage.address, operator), trust, operator) as directory:
            await cells.report(directory, "eu-1", "us-1")
            await check_refuses(directory, early[0])
            waiting = await directory.client(GLOBAL, Role.OPERATOR).reconciliation()
            assert waiting.waiting_for == ["eu-2"]
            await cells.report(directory, "eu-2")
            assert not (await directory.client(GLOBAL, Role.OPERATOR).reconciliation()).reconciling
            found = await directory.app.resolve([pin.subject_key for pin in early + late])
            assert found.pins == early + late, "no acknowledged pin is lost"
            assert await directory.app.alias("email", email) == late[1].subject_key
            again = await directory.app.claim(late[1].subject_key, AMERICA)
            assert again == late[1], "no second home"
            with pytest.raises(UnknownSubject):
                await directory.app.pin(any_key())
            assert (await directory.app.claim(any_key(), GERMANY)).epoch == 1


@pytest.fixture
async def reconciling(
    directory: RunningDirectory, database: asyncpg.Connection, trust: Trust, storage: Storage, operator: Signer
) -> AsyncIterator[RunningDirectory]:
    """A directory whose database fell short of the mark of a process that starts beside it."""
    settings = directory_settings(trust, storage.address, operator, name="iad")
    position = Position(generation=uuid4(), sequence=10**6)
    settings.state.mkdir(parents=True, exist_ok=True)
    MarkFile(settings.state / "mark.json").keep(Mark(position=position, revision=1))
    async with serving(settings, trust, operator):
        await database.execute(QUIET_IS_OVER)
        yield directory


async def test_two_cells_that_hold_one_subject_end_nothing(reconciling: RunningDirectory) -> None:
    cells, key = Cells(), any_key()
    for name in ("eu-1", "us-1"):
        cells.hold(Pin(subject_key=key, jurisdiction=CELLS[name], cell=name, epoch=4))
    await cells.report(reconciling)
    state = await reconciling.client(GLOBAL, Role.OPERATOR).reconciliation()
    assert state.reconciling
    assert {report.cell: report.contradictions for report in state.cells} == {"eu-1": 0, "eu-2": 0, "us-1": 1}
    cells.all["us-1"].hold(Pin(subject_key=key, jurisdiction="us", cell="us-1", epoch=4), state="retired")
    await cells.report(reconciling)
    assert not (await reconciling.client(GLOBAL, Role.OPERATOR).reconciliation()).reconciling
    assert (await reconciling.app.pin(key)).cell == "eu-1"


async def test_a_moved_subject_is_at_home_where_its_fence_is_higher(reconciling: RunningDirectory) -> None:
    cells, moved, gone = Cells(), any_key(), any_key()
    cells.hold(Pin(subject_key=moved, jurisdiction="us", cell="us-1", epoch=9))
    cells.all["eu-1"].hold(Pin(subject_key=moved, jurisdiction="eu", cell="eu-1", epoch=8), state="retired")
    cells.all["eu-1"].hold(Pin(subject_key=gone, jurisdiction="eu", cell="eu-1", epoch=3), state="retired")
    await cells.report(reconciling, "us-1", "eu-1", "eu-2")
    assert (await reconciling.app.pin(moved)).cell == "us-1"
    tombstone = await reconciling.app.pin(gone)
    assert (tombstone.state, tombstone.epoch) == ("erased", 3)


async def test_no_alias_comes_back_that_nobody_could_find_or_release(
    reconciling: RunningDirectory, database: asyncpg.Connection
) -> None:
    """Of a subject whose fence is retired, and by a pepper that was forgotten."""
    cells, gone, there = Cells(), any_key(), any_key()
    await database.execute("INSERT INTO directory.peppers VALUES (9, now())")
    email, phone, name = AliasKey(any_key()), AliasKey(b"\x09" + bytes(16)), AliasKey(any_key())
    pin = Pin(subject_key=gone, jurisdiction="eu", cell="eu-1", epoch=3)
    cells.all["eu-1"].hold(pin, state="retired", aliases={"email": email})
    cells.hold(pin.model_copy(update={"subject_key": there}), aliases={"phone": phone, "username": name})
    await cells.report(reconciling)
    rows = await database.fetch("SELECT kind, alias_key, subject_key FROM directory.aliases")
    assert [tuple(row) for row in rows] == [("username", name, there)]


async def test_whoever_was_erased_since_the_backup_is_erased_again(
    reconciling: RunningDirectory, database: asyncpg.Connection
) -> None:
    """A cell retires the fence at the tombstone's epoch, above that of the pin that the backup brought back."""
    cells, gone, there = Cells(), any_key(), any_key()
    async with database.transaction():
        await database.execute(SQL["allow_reconciling"])
        for key in (gone, there):
            await database.execute("INSERT INTO directory.pins VALUES ($1, 'eu', 'eu-1', 3, 'active')", key)
            await database.execute("INSERT INTO directory.aliases VALUES ('email', $1, $2)", any_key(), key)
    cells.all["eu-1"].hold(Pin(subject_key=gone, jurisdiction="eu", cell="eu-1", epoch=4), state="retired")
    cells.hold(Pin(subject_key=there, jurisdiction="eu", cell="eu-1", epoch=3))
    await cells.report(reconciling)
    tombstone = await reconciling.app.pin(gone)
    assert (tombstone.state, tombstone.epoch) == ("erased", 4)
    assert [row[0] for row in await database.fetch("SELECT subject_key FROM directory.aliases")] == [there]


async def test_a_key_that_is_told_twice_holds_nothing_up(reconciling: RunningDirectory) -> None:
    """As its own fence, and as the key before of another: the page would be refused each time it is told."""
    cells, before, key = Cells(), any_key(), any_key()
    cells.all["eu-1"].hold(Pin(subject_key=before, jurisdiction="eu", cell="eu-1", epoch=3), state="retired")
    fence = FenceReport(subject_key=key, previous_key=before, epoch=3, state="open")
    cells.all["eu-1"].fences[key] = fence
    await cells.report(reconciling)
    assert not (await reconciling.client(GLOBAL, Role.OPERATOR).reconciliation()).reconciling
    assert (await reconciling.app.pin(key)).state == "active"
    assert (await reconciling.app.pin(before)).epoch > fence.epoch


async def test_many_fences_come_page_by_page_and_an_odd_page_is_refused(reconciling: RunningDirectory) -> None:
    cells = Cells()
    for _ in range(2500):
        cells.hold(Pin(subject_key=any_key(), jurisdiction="eu", cell="eu-1", epoch=2))
    generation = (await gateway(reconciling, "eu-1").reconciliation()).generation
    odd = FencesReport(generation=generation, after=any_key(), fences=[], last=True)
    wrong = FencesReport(generation=uuid4(), fences=[], last=True)
    for report in (odd, wrong):
        with pytest.raises(Conflict):
            await gateway(reconciling, "eu-1").report_fences(report)
    await cells.report(reconciling)
    assert not (await gateway(reconciling, "eu-1").reconciliation()).reconciling
    keys = sorted(cells.all["eu-1"].fences)
    assert not (await reconciling.app.resolve(keys[:1000])).unknown
    assert not (await reconciling.app.resolve(keys[-1000:])).unknown


async def test_it_waits_for_the_topology_that_was_published(
    reconciling: RunningDirectory, database: asyncpg.Connection
) -> None:
    await database.execute("UPDATE directory.clock SET wanted_revision = 2")
    cells = Cells()
    await cells.report(reconciling)
    assert (await gateway(reconciling, "eu-1").reconciliation()).reconciling
    await reconciling.publish(2)
    await database.execute("UPDATE directory.reports SET done = false WHERE cell = 'eu-1'")
    await cells.report(reconciling, "eu-1")
    assert not (await gateway(reconciling, "eu-1").reconciliation()).reconciling


async def test_a_process_that_comes_back_late_begins_no_second_reconciliation(
    reconciling: RunningDirectory, trust: Trust, storage: Storage, operator: Signer
) -> None:
    await Cells().report(reconciling)
    pin = await reconciling.app.claim(any_key(), GERMANY)
    async with serving(directory_settings(trust, storage.address, operator, name="iad2"), trust, operator) as late:
        assert await late.app.claim(pin.subject_key, GERMANY) == pin
