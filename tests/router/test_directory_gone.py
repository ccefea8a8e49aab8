"""The directory gone for ten minutes of injected time: nobody who has a pin notices, at a warm router or a cold one."""

from __future__ import annotations

import asyncio
import random
import re
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import pytest
from domicile_testing import Storage, running_storage
from domicile_testing.cell import superuser
from domicile_testing.certificates import DEPLOYMENT
from domicile_testing.clock import InjectedTime, injected_time
from domicile_testing.directory_processes import DirectoryProcess, Site, directory_site
from domicile_testing.long import full_seconds, seeded
from domicile_testing.routing import World, subject

from domicile.identity import Signer, sign_topology
from domicile.model import GLOBAL, Endpoint, Role
from domicile.model.wire import ClaimRequest
from domicile.telemetry import REPLICA_PINS

GONE_SECONDS = 600.0
PEOPLE = 60


@dataclass
class Outage:
    """A world whose directory is a process of its own over PostgreSQL, and who is pinned there."""

    world: World
    site: Site
    storage: Storage
    known: dict[str, int] = field(default_factory=dict)
    """Each subject's name, and the status that a reader in Frankfurt gets."""

    @property
    def process(self) -> DirectoryProcess:
        return self.site.processes[0]

    async def sign_up(self, name: str, country: str) -> None:
        await self.site.client("eu", Role.APP).claim(subject(name), ClaimRequest(residence=country))
        self.known[name] = 200 if country == "DE" else 307

    async def replicated(self) -> None:
        """Until the router in Frankfurt says that it holds everybody."""
        operator = self.world.trust.credentials("eu", Role.OPERATOR, "root").client("eu", [Role.ROUTER])
        address = self.world.manifest.routers["fra"].internal
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=operator)) as session:
            async with asyncio.timeout(30):
                while True:
                    async with session.get(f"https://{address}/metrics") as response:
                        found = re.search(r"^domicile_replica_pins (\S+)$", await response.text(), re.MULTILINE)
                    if found is not None and float(found[1]) == len(self.known):
                        return
                    await asyncio.sleep(0.02)


@pytest.fixture
async def outage(world: World, tmp_path: Path) -> AsyncIterator[Outage]:
    """Half of the people are Germans, half are Americans; one is in the middle of a move."""
    REPLICA_PINS.set(0)  # of the test before, in this same process
    operator = Signer.load_or_create(world.folder / "operator.key")
    address = world.manifest.directory.sites[0].address
    await world.directory.stop()
    arguments = (world.trust, tmp_path / "pg", Endpoint.DIRECTORY_STORAGE, GLOBAL, "fra", "domicile_directory")
    with running_storage(*arguments) as storage:
        async with directory_site(world.trust, storage, operator, tmp_path, ("fra",), bind=address) as site:
            topology = sign_topology(operator, DEPLOYMENT, 1, world.manifest.topology())
            await site.client(GLOBAL, Role.OPERATOR).publish_topology(topology)
            around = Outage(world, site, storage)
            for number in range(PEOPLE):
                await around.sign_up(f"person-{number}", "DE" if number % 2 else "US")
            yield around


async def status(client: aiohttp.ClientSession, world: World, name: str, method: str = "GET") -> int:
    async with client.request(method, "/notes", headers=world.bearer(name), allow_redirects=False) as response:
        await response.read()
        if response.status == 503:
            assert int(response.headers["Retry-After"]) > 0
        return response.status


async def ten_minutes(
    outage: Outage, clock: InjectedTime, client: aiohttp.ClientSession, chance: random.Random, steps: int, each: int
) -> None:
    """Traffic at every step: known subjects are served, newcomers are told to come back."""
    world, names = outage.world, list(outage.known)
    strangers: list[asyncio.Task[int]] = []
    for step in range(steps):
        strangers.append(asyncio.create_task(status(client, world, f"stranger-{step}")))
        asked = names if step in (0, steps - 1) else chance.choices(names, k=each)
        answers = await asyncio.gather(*(status(client, world, name) for name in asked))
        assert answers == [outage.known[name] for name in asked], f"after {step * GONE_SECONDS / steps} s"
        await clock.pass_by(GONE_SECONDS / steps)
    while not all(stranger.done() for stranger in strangers):
        await clock.pass_by(1)  # who waits for a silent directory waits longer than a short step
    assert {stranger.result() for stranger in strangers} == {503}


@asynccontextmanager
async def gone(process: DirectoryProcess, how: signal.Signals) -> AsyncIterator[None]:
    process.running.send_signal(how)
    if how is signal.SIGKILL:
        process.kill()
    yield
    if how is signal.SIGKILL:
        process.start()
        await process.ready()
    else:
        process.running.send_signal(signal.SIGCONT)


async def check_back(outage: Outage, clock: InjectedTime, client: aiohttp.ClientSession) -> None:
    """Newcomers are served again, and the replica follows, when the wait between two attempts is over."""
    await outage.sign_up("late", "DE")
    await clock.pass_by(15)
    assert await status(client, outage.world, "late") == 200
    for name in ("later", "latest"):
        await outage.sign_up(name, "US")
    await outage.replicated()


async def warm(outage: Outage, how: signal.Signals, steps: int, each: int) -> None:
    with injected_time() as clock:
        async with outage.world.router() as client:
            await outage.replicated()
            async with superuser(outage.storage) as database:
                moving = "UPDATE directory.pins SET state = 'moving', epoch = 2 WHERE subject_key = $1"
                await database.execute(moving, subject("person-1"))
            while await status(client, outage.world, "person-1", "POST") != 503:
                pass
            async with gone(outage.process, how):
                await ten_minutes(outage, clock, client, seeded(), steps, each)
                assert await status(client, outage.world, "person-1", "POST") == 503, "a move is waited for by writers"
            await check_back(outage, clock, client)


async def cold(outage: Outage, how: signal.Signals, steps: int, each: int) -> None:
    """Started from its disk with nobody to ask; whom it holds it has never served."""
    with injected_time() as clock:
        async with outage.world.router():
            await outage.replicated()
        async with gone(outage.process, how), outage.world.router() as client:
            await ten_minutes(outage, clock, client, seeded(), steps, each)
        async with outage.world.router() as client:
            await check_back(outage, clock, client)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP], ids=["dead", "silent"])
async def test_a_warm_router_serves_whom_it_knows_without_a_failure(outage: Outage, how: signal.Signals) -> None:
    await warm(outage, how, steps=40, each=10)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP], ids=["dead", "silent"])
async def test_a_cold_router_serves_from_its_disk_without_a_failure(outage: Outage, how: signal.Signals) -> None:
    await cold(outage, how, steps=40, each=10)


@pytest.mark.full
async def test_second_by_second(outage: Outage) -> None:
    """Each of the ten minutes' seconds, where there is time for it."""
    await warm(outage, signal.SIGSTOP, steps=int(min(GONE_SECONDS, 2 * full_seconds())), each=5)
