"""What changes in a deployment reaches a running Envoy, and no request or connection is lost for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from domicile_testing.conditions import until
from domicile_testing.edges import (
    TUNING,
    Edge,
    envoy_command,
    equipment,
    require,
    started,
    trusted_signer,
    view,
)
from domicile_testing.routing import World, pin
from loadtests.programs import envoy

from domicile.identity import Signer
from domicile.model import Address, CellState, Manifest, Pin, parse_manifest
from domicile.ops.edge.envoy import Recipe, dynamic, follow
from domicile.ops.edge.envoy.bootstrap import CLUSTERS, ROUTE_TABLE
from domicile.ops.edge.envoy.watch import Folder
from domicile.ops.edge.source import Source

ALICE, BOB = pin("alice", "eu-1", 2), pin("bob", "eu-2", 2)
QUICK = TUNING.model_copy(
    update={"idle_seconds": 60.0, "topology_seconds": 0.1, "settle_seconds": 0.6, "linger_seconds": 1.0}
)


@pytest.fixture(autouse=True)
def _placed(world: World) -> None:
    require(envoy)
    world.directory.place(ALICE, BOB)


def changed(manifest: Manifest, **cells: dict[str, Any] | None) -> Manifest:
    """With some cells' members replaced, or some cells taken away."""
    data = manifest.topology()
    data["jurisdictions"]["eu"]["keys"]["service"] = ["127.10.2.1:1"]  # in a zone that no test takes away
    for name, members in cells.items():
        key = name.replace("_", "-")
        if members is None:
            del data["cells"][key]
        else:
            data["cells"][key] |= members
    return parse_manifest(data)


def zones(manifest: Manifest, cell: str, *names: str) -> dict[str, Any]:
    found = manifest.topology()["cells"][cell]["zones"]
    return {"zones": {name: found[name] for name in names}}


@asynccontextmanager
async def followed(world: World, place: Path) -> AsyncIterator[Edge]:
    """An Envoy that follows the files which are kept in step with the world's topology."""
    brought = equipment(world)
    source = Source(brought.own, [Address(world.manifest.directory.sites[0].address)], world.folder / "operators")
    said: list[str] = []
    watching = asyncio.create_task(follow(source, brought, place, Recipe(tuning=QUICK), told=said.append))
    try:
        await until(lambda: bool(said) or watching.done())
        signer = trusted_signer(world)
        async with started(envoy_command(place / "envoy.json"), place, brought.listen) as pid:
            yield Edge(world, brought.address, place, signer, pid)
    finally:
        watching.cancel()
        await asyncio.wait([watching])
    assert watching.cancelled()


@dataclass
class Load:
    """Clients that each ask without a pause over a connection of their own, and one answer that never ends."""

    edge: Edge
    statuses: list[int] = field(default_factory=list)
    connections: int = 0
    tokens: dict[str, str] = field(default_factory=dict)
    going: bool = True

    async def ask(self, who: Pin) -> None:
        trace = aiohttp.TraceConfig()

        async def connected(*_: object) -> None:
            self.connections += 1

        trace.on_connection_create_end.append(connected)
        name = str(who.subject_key)
        self.tokens[name] = self.edge.token(who)
        connector = aiohttp.TCPConnector(ssl=self.edge.world.public_context("eu"), limit=1)
        async with aiohttp.ClientSession(
            f"https://{self.edge.address}", connector=connector, trace_configs=[trace]
        ) as client:
            while self.going:
                headers = {"Domicile-Token": self.tokens[name]}
                async with client.post("/notes", data=b"text", headers=headers) as response:
                    await response.read()
                    self.statuses.append(response.status)

    async def more(self, count: int = 60) -> None:
        """Returns when so many more were answered."""
        wanted = len(self.statuses) + count
        await until(lambda: len(self.statuses) >= wanted)


@asynccontextmanager
async def load(edge: Edge) -> AsyncIterator[Load]:
    """Fails where an answer was not 200, a connection was lost, or the long answer was cut."""
    release = asyncio.Event()

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        if request.path != "/events":
            return web.json_response({"served": True})
        stream = web.StreamResponse()
        await stream.prepare(request)
        await stream.write(b"begin")
        await release.wait()
        await stream.write(b"end")
        return stream

    edge.world.answers(answer)
    made = Load(edge)
    async with edge.of(ALICE) as client, client.get("/events", timeout=aiohttp.ClientTimeout()) as long:
        assert await long.content.readany() == b"begin"
        clients = [asyncio.create_task(made.ask(who)) for who in (ALICE, ALICE, BOB, BOB)]
        try:
            await made.more(20)
            yield made
            await made.more()
        finally:
            made.going = False
            await asyncio.gather(*clients)
        release.set()
        assert await long.content.read() == b"end"
    assert set(made.statuses) == {200}
    assert made.connections == len(clients)


def by_routers(world: World, since: int) -> set[bool]:
    """Whether bob's requests since came by a router."""
    seen = [each for each in world.seen[since:] if each.headers["Domicile-Cell"] == "eu-2"]
    return {"Via" in each.headers for each in seen}


async def test_a_new_cell_is_served_directly_and_one_that_is_closed_by_the_routers(
    world: World, tmp_path: Path
) -> None:
    async with world.router("fra"):
        world.directory.publish(changed(world.manifest, eu_2=None))
        async with followed(world, tmp_path / "edge") as edge, load(edge) as running:
            await running.more()
            assert by_routers(world, 0) == {True}
            world.directory.publish(world.manifest)
            await until(lambda: "Via" not in world.seen[-1].headers and world.seen[-1].place.startswith("eu-2"))
            await running.more(10)
            since = len(world.seen)
            await running.more()
            assert by_routers(world, since) == {False}
            world.directory.publish(changed(world.manifest, eu_2={"state": CellState.CLOSED.value}))
            await until(lambda: "eu-2" not in (tmp_path / "edge" / CLUSTERS).read_text())
            await running.more(10)
            since = len(world.seen)
            await running.more()
            assert by_routers(world, since) == {True}, "the router's topology has it open"


async def test_a_zone_that_is_taken_away_and_given_back(world: World, tmp_path: Path) -> None:
    async with world.router("fra"), followed(world, tmp_path / "edge") as edge, load(edge) as running:

        def last_place(name: str) -> bool:
            return world.seen[-1].place == name

        def places(since: int) -> set[str]:
            return {each.place for each in world.seen[since:] if each.headers["Domicile-Cell"] == "eu-1"}

        assert places(0) == {"eu-1.fra/app"}
        for wanted, kept in (("eu-1.par/app", ("par",)), ("eu-1.fra/app", ("fra", "par"))):
            world.directory.publish(changed(world.manifest, eu_1=zones(world.manifest, "eu-1", *kept)))
            await until(partial(last_place, wanted))
            await running.more(10)
            since = len(world.seen)
            await running.more()
            assert places(since) == {wanted}


async def test_a_key_that_turns_is_known_before_it_signs_and_gone_when_nobody_needs_it(
    world: World, tmp_path: Path
) -> None:
    async with world.router("fra"), followed(world, tmp_path / "edge") as edge, load(edge) as running:
        following = Signer.load_or_create(world.folder / "following.key")
        reads = world.directory.residency_reads
        world.directory.keys[following.kid] = following.public("residency")
        await until(lambda: world.directory.residency_reads >= reads + 2)
        before, edge.signer = edge.signer, following
        for who in (ALICE, BOB):
            running.tokens[str(who.subject_key)] = edge.token(who)
        await running.more(10)
        del world.directory.keys[before.kid]
        reads = world.directory.residency_reads
        await until(lambda: world.directory.residency_reads >= reads + 2)
        since = len(world.seen)
        await running.more()
        assert {"Via" in each.headers for each in world.seen[since:]} == {False}


async def test_with_the_directory_gone_everything_stays(world: World, tmp_path: Path) -> None:
    async with world.router("fra"), followed(world, tmp_path / "edge") as edge, load(edge) as running:
        await world.directory.stop()
        since = len(world.seen)
        await running.more()
        assert {"Via" in each.headers for each in world.seen[since:]} == {False}
    place = tmp_path / "edge"
    files = dynamic(view(world), equipment(world), place)
    await Folder(place, QUICK).apply(files)


async def test_an_envoy_that_starts_while_the_directory_is_gone_leaves_it_to_the_routers(
    world: World, tmp_path: Path
) -> None:
    brought, place = equipment(world), tmp_path / "edge"
    edge = Edge(world, brought.address, place, trusted_signer(world))
    files = dynamic(view(world), brought, place, Recipe(tuning=QUICK))
    await Folder(place, QUICK).apply(files)
    async with world.router("fra") as router:
        async with router.get("/notes", headers=world.bearer("alice")) as response:
            assert response.status == 200
        await world.directory.stop()
        async with started(envoy_command(place / "envoy.json"), place, brought.listen), edge.of(ALICE) as client:
            async with client.get("/notes", headers=world.bearer("alice")) as response:
                assert response.status == 200
            assert "Via" in world.seen[-1].headers
            await world.directory.start()
            async with asyncio.timeout(20):
                while "Via" in world.seen[-1].headers:
                    async with client.get("/notes", headers=world.bearer("alice")) as response:
                        assert response.status == 200


async def test_an_older_topology_is_not_taken(world: World, tmp_path: Path) -> None:
    """Nor is one that no operator signed: what was believed stays."""
    place, brought = tmp_path / "edge", equipment(world)
    source = Source(brought.own, [Address(world.manifest.directory.sites[0].address)], world.folder / "operators")
    said: list[str] = []
    watching = asyncio.create_task(follow(source, brought, place, Recipe(tuning=QUICK), told=said.append))
    try:
        await until(lambda: len(said) == 1)
        table = (place / ROUTE_TABLE).read_text()
        stranger = Signer.load_or_create(tmp_path / "stranger.key")
        world.directory.publish(changed(world.manifest, eu_2=None), by=stranger)
        await until(lambda: len(said) == 2)
        assert "none of the known operators" in said[1]
        world.directory.publish(world.manifest)
        await until(lambda: len(said) == 3)
        world.directory.publish(changed(world.manifest, eu_2=None), revision=1)
        await until(lambda: len(said) == 4)
        assert "below" in said[3]
        assert (place / ROUTE_TABLE).read_text() == table
    finally:
        watching.cancel()
        await asyncio.wait([watching])
