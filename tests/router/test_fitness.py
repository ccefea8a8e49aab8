"""When a router should get no traffic for its replica's sake, and when it should although the directory is gone."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import aiohttp
import pytest
from domicile_testing.conditions import until, until_ready
from domicile_testing.replicas import SIZE, at, home
from domicile_testing.routing import HOSTS, World

from domicile.client import Change
from domicile.identity.probe import ask
from domicile.model import Address, Pin, Position, Role, SubjectKey, Unavailable
from domicile.model.snapshot import SnapshotReader, SnapshotWriter
from domicile.router.follow import LAG_SECONDS, TALKS_SECONDS, Follower, fit_to_serve, require_fit
from domicile.router.replica import Replica, ReplicaFull
from domicile.telemetry import REPLICA_LAG

NEVER = float("inf")


@pytest.mark.parametrize(
    ("loaded", "staleness", "silence", "fit"),
    [
        (False, NEVER, NEVER, False),
        (False, NEVER, 0.0, False),
        (True, 0.0, 0.0, True),
        (True, LAG_SECONDS, 0.0, True),
        (True, LAG_SECONDS + 1, 0.0, False),
        (True, NEVER, 0.0, False),
        (True, LAG_SECONDS + 1, TALKS_SECONDS, True),  # the directory is gone: static stability
        (True, NEVER, NEVER, True),
    ],
)
def test_a_silent_directory_makes_no_router_unready(loaded: bool, staleness: float, silence: float, fit: bool) -> None:
    assert (fit_to_serve(loaded=loaded, staleness=staleness, silence=silence) is None) is fit


class Source:
    """A directory of nothing that says what it is told to say."""

    def __init__(self) -> None:
        self.says: asyncio.Queue[list[Change]] = asyncio.Queue()

    @asynccontextmanager
    async def snapshot(self, after: bytes = b"") -> AsyncIterator[SnapshotReader]:
        writer = SnapshotWriter()
        stream = asyncio.StreamReader()
        stream.feed_data(writer.head(at(0)) + writer.end())
        yield SnapshotReader(stream.readexactly)

    async def follow(self, after: Position) -> AsyncGenerator[list[Change], None]:
        while True:
            yield await self.says.get()

    def forget_unknown(self, key: SubjectKey) -> None: ...


class Stuck(Replica):
    """A replica whose disk is full after the load."""

    full = False

    def apply(self, pins: object, position: Position) -> None:
        if self.full:
            raise ReplicaFull("no room")
        super().apply(pins, position)  # type: ignore[arg-type]


@pytest.fixture
async def replica(tmp_path: Path) -> AsyncIterator[Stuck]:
    opened = Stuck(tmp_path / "pins", SIZE)
    yield opened
    opened.close()


@asynccontextmanager
async def following(replica: Replica, source: Source) -> AsyncIterator[None]:
    task = asyncio.create_task(Follower(replica, source).run())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def changes(*pins: Pin, first: int = 1) -> list[Change]:
    told = [Change(at(number), pin) for number, pin in enumerate(pins, first)]
    return [*told, Change(at(first + len(pins) - 1))]


def aged(replica: Replica, name: str, seconds: float) -> None:
    moment = time.time() - seconds
    os.utime(replica._folder / name, (moment, moment))


async def test_a_replica_that_cannot_take_what_it_is_told_lags_and_is_not_fit(replica: Stuck) -> None:
    source = Source()
    with pytest.raises(Unavailable, match="never loaded"):
        require_fit(replica)
    async with following(replica, source):
        source.says.put_nowait(changes(home(1), home(2)))
        await until(lambda: replica.count() == 2 and replica.staleness() < 5)
        assert REPLICA_LAG._value.get() == 0
        require_fit(replica)
        replica.full = True
        source.says.put_nowait(changes(home(3), home(4), home(5), first=3))
        await until(lambda: REPLICA_LAG._value.get() == 3)
        require_fit(replica)
        aged(replica, "heard", LAG_SECONDS + 1)
        with pytest.raises(Unavailable, match="falls behind"):
            require_fit(replica)
        replica.full = False
        source.says.put_nowait(changes(home(3), home(4), home(5), first=3))
        await until(lambda: replica.count() == 5 and replica.staleness() < 5)
        assert REPLICA_LAG._value.get() == 0
        require_fit(replica)
    aged(replica, "heard", 10 * LAG_SECONDS)
    aged(replica, "told", TALKS_SECONDS + 1)
    require_fit(replica)


async def test_a_router_is_ready_when_its_map_is_loaded_and_stays_so_without_a_directory(world: World) -> None:
    credentials = world.trust.credentials("eu", Role.OPERATOR, "root", (HOSTS["fra"],))
    context = credentials.client("eu", [Role.ROUTER])
    operator = aiohttp.ClientSession(
        f"https://{world.manifest.routers['fra'].internal}", connector=aiohttp.TCPConnector(ssl=context)
    )
    async with world.router(), operator:
        await until_ready(operator)
        own = world.trust.credentials("eu", Role.ROUTER, "fra")
        internal = Address(world.manifest.routers["fra"].internal)
        assert await asyncio.to_thread(ask, own, internal, "/readyz") == 200, "a probe has the router's own certificate"
        await world.directory.stop()
        async with operator.get("/readyz") as response:
            assert response.status == 200
    async with (
        world.router() as _,
        aiohttp.ClientSession(
            f"https://{world.manifest.routers['fra'].internal}", connector=aiohttp.TCPConnector(ssl=context)
        ) as again,
        again.get("/readyz") as response,
    ):
        assert response.status == 200, "booted from its disk"
