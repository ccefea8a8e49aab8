"""Real restores, from an online base backup, under directory processes that live through them and go on asking.

``test_reconciliation`` tries what follows; here is how a database gets there, and that no claim slips in meanwhile.
"""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from pathlib import Path
from uuid import uuid4

import pytest
from domicile_testing import Storage, Trust, running_storage
from domicile_testing.cell import superuser
from domicile_testing.certificates import DEPLOYMENT
from domicile_testing.directories import any_key, directory_settings, forget_marks, serving
from domicile_testing.directory_processes import Site, directory_site
from domicile_testing.fences import CELLS, QUIET_IS_OVER, Cells, check_refuses, gateway

from domicile.directory import feed
from domicile.directory.history import MarkFile
from domicile.identity import Signer, Verifier
from domicile.model import GLOBAL, Conflict, Endpoint, Pin, Role, SubjectKey, Unavailable, WrongCell
from domicile.model.wire import ClaimRequest
from domicile.ops import postgres

CLAIMERS = 8
WISHES = [ClaimRequest(residence="DE"), ClaimRequest(residence="US")]
ARCHIVED = "SELECT coalesce(last_archived_wal >= pg_walfile_name($1::text::pg_lsn), false) FROM pg_stat_archiver"


@pytest.fixture
def storage(trust: Trust, tmp_path: Path) -> Iterator[Storage]:
    """A database that archives its log, as one must that is to be recovered to a point in time."""
    folder = tmp_path / "pg"
    postgres.create(folder, owner="domicile_directory")
    (folder / "archive").mkdir()
    with (folder / "data" / "postgresql.conf").open("a") as settings:
        settings.write("archive_mode = on\narchive_command = 'cp %p ../archive/%f'\n")
    with running_storage(trust, folder, Endpoint.DIRECTORY_STORAGE, GLOBAL, "fra", "domicile_directory") as running:
        yield running


def wish_of(key: SubjectKey) -> ClaimRequest:
    return WISHES[key[-1] % 2]


async def claims(site: Site, into: dict[SubjectKey, Pin], count: int) -> None:
    app = site.client("eu", Role.APP)
    keys = [any_key() for _ in range(count)]
    into |= zip(keys, await asyncio.gather(*(app.claim(key, wish_of(key)) for key in keys)), strict=True)


def back_up(storage: Storage, target: Path) -> None:
    """As an operator does, while the directory works; by the server's own socket: the door lets nobody replicate."""
    command = [str(postgres.binary("pg_basebackup")), "-h", str(storage.folder), "-U", "postgres", "-D", str(target)]
    subprocess.run([*command, "-X", "stream", "-c", "fast"], check=True, capture_output=True, timeout=60)


async def put_back(storage: Storage, backup: Path, moment: datetime | None) -> None:
    """The database dies, its disk is lost, and the backup takes its place; with ``moment`` it is recovered up to it."""
    await asyncio.to_thread(storage.kill)
    data = storage.folder / "data"
    await asyncio.to_thread(shutil.rmtree, data)
    backup.rename(data)
    if moment is not None:
        (data / "recovery.signal").touch()
        with (data / "postgresql.conf").open("a") as settings:
            settings.write(f"restore_command = 'cp ../archive/%f %p'\nrecovery_target_time = '{moment.isoformat()}'\n")
            settings.write("recovery_target_action = 'promote'\n")
    storage.start()
    async with asyncio.timeout(60):
        while not storage.ready:  # noqa: ASYNC110 - a file says so
            await asyncio.sleep(0.02)


@asynccontextmanager
async def insisting(site: Site, pins: dict[SubjectKey, Pin]) -> AsyncIterator[list[int]]:
    """Everybody asks for a home in the other jurisdiction, all the time: whoever is given one has two.

    Yields how often each of them was refused.
    """
    refused = [0] * CLAIMERS

    async def insist(number: int) -> None:
        app = site.only(number % len(site.processes)).app
        while True:
            for key in list(pins)[number::CLAIMERS]:
                with suppress(Unavailable, Conflict):
                    second = await app.claim(key, WISHES[1 - WISHES.index(wish_of(key))])
                    raise AssertionError(f"{pins[key]} and {second}")
                refused[number] += 1

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(insist(number)) for number in range(CLAIMERS)]
        yield refused
        for task in tasks:
            task.cancel()


async def check_grants(site: Site, pins: Iterable[Pin]) -> None:
    """The home's gateway gets a grant at each process, and whoever reads the key set at the other can verify it."""
    for number in range(len(site.processes)):
        directory = site.only(number)
        reader = site.only(1 - number).client("eu", Role.GATEWAY)
        for pin in pins:
            grant = await gateway(directory, pin.cell).grant(pin.subject_key, uuid4())
            statement = Verifier(DEPLOYMENT, await reader.keys()).pin_grant(grant)
            assert (statement.sub, statement.cell, statement.epoch) == (pin.subject_key, pin.cell, pin.epoch)
            for other in set(CELLS) - {pin.cell}:
                with pytest.raises(WrongCell):
                    await gateway(directory, other).grant(pin.subject_key, uuid4())


@pytest.mark.parametrize("recovered", [True, False], ids=["recovered to a point in time", "as the backup was"])
async def test_processes_that_live_through_a_restore_give_nobody_a_second_home(
    trust: Trust, operator: Signer, storage: Storage, tmp_path: Path, *, recovered: bool
) -> None:
    forget_marks(trust)
    early: dict[SubjectKey, Pin] = {}
    late: dict[SubjectKey, Pin] = {}
    async with directory_site(trust, storage, operator, tmp_path) as site:
        await site.only(0).publish(1)
        await claims(site, early, 20)
        meanwhile = asyncio.create_task(claims(site, early if recovered else late, 20))
        await asyncio.to_thread(back_up, storage, tmp_path / "backup")
        await meanwhile
        async with superuser(storage) as database:
            moment = await database.fetchval("SELECT clock_timestamp()")
        await claims(site, late, 30)
        await archived(storage)
        pins = early | late
        known = next(iter(early.values()))
        async with insisting(site, pins) as refused:
            await put_back(storage, tmp_path / "backup", moment if recovered else None)
            asked = list(refused)
            async with asyncio.timeout(60):
                for number in (0, 1):
                    operating = site.only(number).client(GLOBAL, Role.OPERATOR)
                    while not (await operating.reconciliation()).reconciling:
                        pass
                while any(now < before + 5 for now, before in zip(refused, asked, strict=True)):  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            cells = Cells()
            for pin in pins.values():
                cells.hold(pin)
            for number in (0, 1):
                await check_refuses(site.only(number), known)
            async with superuser(storage) as database:
                assert 0 < await database.fetchval("SELECT count(*) FROM directory.pins") < len(pins)
                await database.execute(QUIET_IS_OVER)
            await cells.report(site.only(0))
            assert not (await operating.reconciliation()).reconciling
        found = await site.client("eu", Role.APP).resolve(list(pins))
        assert (found.pins, found.unknown) == (list(pins.values()), [])
        await check_grants(site, [known, *list(late.values())[-3:]])


async def test_the_first_connection_to_a_restored_database_notices_not_the_next_beat(
    trust: Trust, operator: Signer, storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forget_marks(trust)
    settings = directory_settings(trust, storage.address, operator)
    async with serving(settings, trust, operator) as directory:
        await directory.publish(1)
        await asyncio.to_thread(back_up, storage, tmp_path / "backup")
        lost = [await directory.app.claim(any_key(), WISHES[0]) for _ in range(3)]
        marks = MarkFile(settings.state / "mark.json")
        async with asyncio.timeout(20):
            while (mark := marks.read()) is None or mark.position.sequence < len(lost):  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        monkeypatch.setattr(feed, "BEAT_SECONDS", 3600.0)
        await put_back(storage, tmp_path / "backup", None)
        for pin in lost:
            with pytest.raises(Unavailable, match="may have lost"):
                await directory.app.claim(pin.subject_key, WISHES[1])


async def archived(storage: Storage) -> None:
    """Until all that was committed is in the archive."""
    async with superuser(storage) as database:
        position = await database.fetchval("SELECT pg_switch_wal()::text")
        async with asyncio.timeout(20):
            while not await database.fetchval(ARCHIVED, position):
                pass
