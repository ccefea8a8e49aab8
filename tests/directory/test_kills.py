"""kill -9 of directory processes and of their database in the middle of claims: what was acknowledged stands."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg
import pytest
from domicile_testing import Storage, Trust, running_storage
from domicile_testing.cell import superuser
from domicile_testing.directories import any_key, forget_marks
from domicile_testing.directory_processes import Site, directory_site
from domicile_testing.long import long_form, seeded

from domicile.identity import Signer
from domicile.model import GLOBAL, Endpoint, Pin, Role, SubjectKey, Unavailable
from domicile.model.wire import ClaimRequest

WISHES = [ClaimRequest(residence="DE"), ClaimRequest(residence="US")]
CLAIMERS = 8
RAISE = "UPDATE directory.pins SET epoch = epoch + 1 WHERE subject_key = $1 RETURNING epoch"
DRIVER_ERRORS = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)


@pytest.fixture
def storage(trust: Trust, tmp_path: Path) -> Iterator[Storage]:
    """A database of its own, since it is killed."""
    arguments = (trust, tmp_path / "pg", Endpoint.DIRECTORY_STORAGE, GLOBAL, "fra", "domicile_directory")
    with running_storage(*arguments) as running:
        yield running


@pytest.fixture
async def site(trust: Trust, storage: Storage, operator: Signer, tmp_path: Path) -> AsyncIterator[Site]:
    forget_marks(trust)
    async with directory_site(trust, storage, operator, tmp_path) as running:
        await running.only(0).publish(1)
        yield running


@dataclass
class Ledger:
    """What clients were told: of each subject its home, and the highest epoch that anybody has seen."""

    homes: dict[SubjectKey, str] = field(default_factory=dict)
    epochs: dict[SubjectKey, int] = field(default_factory=dict)
    claims: int = 0

    def told(self, pin: Pin, at_least: int) -> None:
        """``at_least``: the epoch that was known when the question was asked."""
        assert self.homes.setdefault(pin.subject_key, pin.cell) == pin.cell, "a second home"
        assert pin.epoch >= at_least, "an epoch fell"
        self.epochs[pin.subject_key] = max(pin.epoch, self.epochs.get(pin.subject_key, 0))


async def claim_on(site: Site, ledger: Ledger, chance: random.Random) -> None:
    """Newcomers, and now and then somebody who was there already. What fails is asked again, by the same wish."""
    client = site.client("eu", Role.APP)
    while True:
        known = bool(ledger.homes) and chance.random() < 0.3
        key = chance.choice(list(ledger.homes)) if known else any_key()
        wish = WISHES[key[-1] % 2]
        at_least = ledger.epochs.get(key, 1)
        while True:
            with suppress(Unavailable):
                ledger.told(await client.claim(key, wish), at_least)
                break
        ledger.claims += 1


async def move_on(storage: Storage, ledger: Ledger, chance: random.Random) -> None:
    """Epochs rise, as by moves; what was committed is known to have been."""
    while True:
        with suppress(*DRIVER_ERRORS):
            async with superuser(storage) as connection:
                while True:
                    if not ledger.homes:
                        await asyncio.sleep(0.01)
                        continue
                    key = chance.choice(list(ledger.homes))
                    epoch: int = await connection.fetchval(RAISE, key)
                    ledger.epochs[key] = max(epoch, ledger.epochs[key])
        await asyncio.sleep(0.05)


@asynccontextmanager
async def traffic(site: Site, storage: Storage, ledger: Ledger, chance: random.Random) -> AsyncIterator[None]:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(claim_on(site, ledger, chance)) for _ in range(CLAIMERS)]
        tasks.append(group.create_task(move_on(storage, ledger, chance)))
        yield
        for task in tasks:
            task.cancel()


async def goes_on(ledger: Ledger, claims: int = 60) -> None:
    """Until as many more claims were acknowledged."""
    wanted = ledger.claims + claims
    async with asyncio.timeout(60):
        while ledger.claims < wanted:  # noqa: ASYNC110 - the claimers tell nobody
            await asyncio.sleep(0.02)


async def check(storage: Storage, ledger: Ledger) -> None:
    """The database, by itself, against what clients were told."""
    async with superuser(storage) as database:
        rows = await database.fetch("SELECT subject_key, cell, epoch FROM directory.pins")
        found = {SubjectKey(row["subject_key"]): row for row in rows}
        for key, cell in ledger.homes.items():
            assert found[key]["cell"] == cell
            assert found[key]["epoch"] >= ledger.epochs[key]
        by_cell = await database.fetch("SELECT cell, count(*) AS placed FROM directory.pins GROUP BY 1")
        counted = await database.fetch(
            "SELECT key AS cell, (value ->> 'placed')::int AS placed FROM directory.rounds, jsonb_each(cells)"
        )
        assert {row["cell"]: row["placed"] for row in by_cell} == {
            row["cell"]: row["placed"] for row in counted if row["placed"]
        }
        log = "SELECT count(*), max(sequence), (SELECT sequence FROM directory.clock) FROM directory.changes"
        assert len(set(await database.fetchrow(log) or ())) == 1, "the log has a gap"


async def kill_and_go_on(site: Site, storage: Storage, ledger: Ledger, victim: str, chance: random.Random) -> None:
    await goes_on(ledger, chance.randint(20, 80))
    if victim == "database":
        storage.kill()
        storage.restart()
    else:
        process = next(each for each in site.processes if each.settings.process.endswith(victim))
        process.kill()
        await goes_on(ledger)  # by the other one alone
        process.start()
        await process.ready()
    await goes_on(ledger)


@pytest.mark.parametrize("victims", [("fra", "iad"), ("database",)], ids=["each process", "the database"])
async def test_killed_in_the_middle_of_claims(site: Site, storage: Storage, victims: tuple[str, ...]) -> None:
    await kill_one_after_the_other(site, storage, lambda: False, seeded(), victims)


@pytest.mark.full
async def test_killed_again_and_again(site: Site, storage: Storage) -> None:
    await kill_one_after_the_other(site, storage, long_form(0.12), seeded(), ("fra", "database", "iad", "database"))


async def kill_one_after_the_other(
    site: Site, storage: Storage, going_on: Callable[[], bool], chance: random.Random, victims: tuple[str, ...]
) -> None:
    ledger = Ledger()
    async with traffic(site, storage, ledger, chance):
        while True:
            for victim in victims:
                await kill_and_go_on(site, storage, ledger, victim, chance)
            if not going_on():
                break
    await check(storage, ledger)
    assert all(process.running.poll() is None for process in site.processes)
