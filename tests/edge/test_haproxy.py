"""The map of an HAProxy follows the directory, denies by default, and is doubted where a guard knows better."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web
from domicile_testing.conditions import until, until_true
from domicile_testing.edges import KINDS, Edge, haproxy_edge, watched
from domicile_testing.routing import World, pin, subject
from loadtests.cases import Unmeasured
from yarl import URL

from domicile.client import DirectoryClient
from domicile.model import Address, Pin, PinState, Role, Unavailable
from domicile.ops.edge.haproxy.configuration import DOUBTS, SOCKET, SUBJECTS
from domicile.ops.edge.haproxy.runtime import Runtime
from domicile.ops.edge.haproxy.watch import Watcher, entry_of
from domicile.service import ended

ALICE = pin("alice", "eu-1", 2)
KEY = subject("alice").hex()


@pytest.fixture
async def edge(world: World) -> AsyncIterator[Edge]:
    try:
        KINDS["haproxy"].program()
    except Unmeasured as error:
        pytest.skip(str(error))
    world.directory.place(ALICE, pin("bob", "us-1"), pin("mover", "eu-2", 3, PinState.MOVING))
    async with world.router("fra"), haproxy_edge(world, "fra") as running:
        yield running


async def entry(edge: Edge, key: str, file: str = SUBJECTS) -> str | None:
    return await Runtime(edge.folder / SOCKET).get(edge.folder / file, key)


async def becomes(edge: Edge, value: str | None) -> None:
    async def reached() -> bool:
        return await entry(edge, KEY) == value

    await until_true(reached)


@pytest.mark.parametrize(
    ("told", "value"),
    [
        (ALICE, "eu-1/2"),
        (pin("alice", "us-1", 3), None),
        (pin("alice", "eu-1", 3, PinState.MOVING), None),
        (pin("alice", "eu-1", 3, PinState.ERASED), None),
    ],
)
def test_who_is_in_the_map(told: Pin, value: str | None) -> None:
    assert entry_of(told, "eu") == (KEY, value)


async def test_the_map_holds_whoever_is_at_home_here_and_follows(edge: Edge, world: World) -> None:
    assert await entry(edge, KEY) == "eu-1/2"
    assert await entry(edge, subject("bob").hex()) is None
    assert await entry(edge, subject("mover").hex()) is None
    for now, value in (
        (pin("alice", "eu-2", 3), "eu-2/3"),
        (pin("alice", "eu-2", 4, PinState.MOVING), None),
        (pin("alice", "eu-1", 5), "eu-1/5"),
        (pin("alice", "us-1", 6), None),
        (pin("alice", "eu-2", 7), "eu-2/7"),
        (pin("alice", "eu-2", 8, PinState.ERASED), None),
    ):
        world.directory.place(now)
        await becomes(edge, value)


async def test_whoever_is_not_in_the_map_is_a_routers(edge: Edge, world: World) -> None:
    async with edge.of(ALICE) as client:
        await client.get("/notes")
        assert "Via" not in world.seen[-1].headers
        await Runtime(edge.folder / SOCKET).clear(edge.folder / SUBJECTS)
        async with client.get("/notes") as response:
            assert response.status == 200
        assert "Via" in world.seen[-1].headers
        await becomes(edge, "eu-1/2")  # an empty map is one of a new HAProxy, and is filled again
        await client.get("/notes")
    assert "Via" not in world.seen[-1].headers


async def test_a_client_with_a_stale_entry_is_told_to_come_again_and_a_router_serves_it(
    edge: Edge, world: World
) -> None:
    async def stale(_: web.BaseRequest) -> web.StreamResponse:
        return web.Response(status=421, headers={"Domicile-Guard": "stale-epoch", "Domicile-Epoch": "4"})

    world.directory.pins[ALICE.subject_key] = pin("alice", "eu-2", 4)  # which the map has not heard of
    world.answers(stale, "eu-1.fra", "eu-1.par")
    cookie = {"Cookie": f"a=1; __Host-domicile={edge.token(ALICE)}"}
    async with edge.client(**cookie) as client:
        async with client.post("/notes?q=1", data=bytes(300_000), allow_redirects=False) as response:
            assert (response.status, response.headers["Location"]) == (307, "/notes?q=1")
            assert response.headers["Set-Cookie"].startswith("__Host-domicile=;")
            assert "Max-Age=0" in response.headers["Set-Cookie"]
            assert not [name for name in response.headers if name.lower().startswith("domicile-")]
        assert await entry(edge, KEY, DOUBTS) == "eu-1/2"
        async with client.post("/notes?q=1", data=bytes(300_000), allow_redirects=False) as response:
            assert response.status == 200
    assert (world.seen[-1].place, len(world.seen[-1].body)) == ("eu-2.ams/app", 300_000)
    world.directory.place(pin("alice", "eu-2", 4))
    await becomes(edge, "eu-2/4")
    async with edge.client(**cookie) as client, client.get("/notes", allow_redirects=False) as response:
        assert response.status == 200
    assert "Via" not in world.seen[-1].headers, "the doubt was about the entry of before"


async def test_no_answer_of_its_own_names_another_host(edge: Edge, world: World) -> None:
    async def stale(_: web.BaseRequest) -> web.StreamResponse:
        return web.Response(status=421, headers={"Domicile-Guard": "stale-epoch", "Domicile-Epoch": "4"})

    world.directory.pins[ALICE.subject_key] = pin("alice", "eu-2", 4)
    world.answers(stale, "eu-1.fra", "eu-1.par")
    async with edge.of(ALICE) as client:
        for target in ("//other.example/x", "///other.example/x", "/%5cother.example/x", "/\\other.example"):
            url = URL(f"https://{edge.address}{target}", encoded=True)
            async with client.get(url, allow_redirects=False) as response:
                assert "Location" not in response.headers, target


async def test_a_load_that_is_cut_short_leaves_no_version_behind(edge: Edge, world: World) -> None:
    class Failing(Runtime):
        """The socket of the running HAProxy, until the last step."""

        async def commit(self, file: Path, version: str) -> None:
            versions.append((file, version))
            raise Unavailable("cut short")

    versions: list[tuple[Path, str]] = []
    said: list[str] = []
    own = DirectoryClient(
        world.trust.credentials("eu", Role.EDGE, "fra"), [Address(world.manifest.directory.sites[0].address)]
    )
    watcher = Watcher(own, edge.folder, "eu", said.append)
    watcher._runtime = Failing(edge.folder / SOCKET)
    task = asyncio.ensure_future(watcher.run())
    try:
        await until(lambda: said == ["the map stays as it is: cut short"])
    finally:
        await ended(task)
        await own.close()
    ((file, version), *_) = versions
    assert (await Runtime(edge.folder / SOCKET).say(f"show map @{version} {file}")).strip() == ""
    assert await entry(edge, KEY) == "eu-1/2"


async def test_another_watcher_takes_over(edge: Edge, world: World) -> None:
    async with watched(world, edge, world.trust.credentials("eu", Role.EDGE, "fra")):
        world.directory.place(pin("alice", "eu-2", 9))
        await becomes(edge, "eu-2/9")
