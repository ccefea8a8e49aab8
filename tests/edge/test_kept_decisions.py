"""Edges that ask a router whom a request is for keep its answer: for no longer than it holds, and with no proof."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import jwt
import pytest
from aiohttp import web
from domicile_testing.conditions import until
from domicile_testing.edges import KINDS, Edge, Kind
from domicile_testing.routing import World, pin, routing_world, subject

from domicile.model import PinState

BEFORE, AFTER = pin("alice", "eu-1", 2), pin("alice", "eu-2", 4)
SESSION = "session"
UNCHECKED: Any = {"verify_signature": False}


pytestmark = pytest.mark.parametrize(
    "kind",
    [
        pytest.param(name, marks=pytest.mark.full if kind.rare else ())
        for name, kind in KINDS.items()
        if kind.asks and name.partition("-")[0] != "envoy"
    ],
    indirect=True,
)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    def change(data: dict[str, Any]) -> None:
        tenant = {"by": "header", "name": "X-Tenant", "networks": ["127.0.0.0/8"]}
        data["routers"]["fra"]["rules"] += [
            {"by": "jwt"}, {"by": "jwt", "cookie": SESSION}, {"by": "token"}, tenant,
            {"by": "path", "pattern": "/t/{subject}/*"}, {"by": "host", "pattern": "{subject}.app.acme.example"},
        ]  # fmt: skip

    async with routing_world(tmp_path, change=change) as running:
        running.directory.place(BEFORE, pin("bob", "us-1"), pin("carol", "eu-2", 3))
        yield running


def proofs(edge: Edge) -> dict[str, dict[str, str]]:
    token = edge.token(BEFORE)
    return {
        "header": {"Domicile-Token": token},
        "cookie": {"Cookie": f"a=1; __Host-domicile={token}"},
        "bearer": edge.world.bearer("alice"),
        "session": {"Cookie": f"{SESSION}={edge.world.jwt('alice')}; a=1"},
    }


async def warm(edge: Edge, client: aiohttp.ClientSession, headers: dict[str, str]) -> None:
    async with client.get("/notes", headers=headers) as response:
        assert response.status == 200, await response.text()
    assert edge.world.seen[-1].place.startswith("eu-1")


@asynccontextmanager
async def before(world: World, kind: Kind) -> AsyncIterator[tuple[AsyncExitStack, Edge, aiohttp.ClientSession]]:
    """A router that can be ended, by ``aclose`` of the first, with the edge before it and a client."""
    async with AsyncExitStack() as router:
        await router.enter_async_context(world.router("fra"))
        async with kind.run(world, "fra") as edge, edge.client() as client:
            yield router, edge, client


async def test_the_known_are_served_without_a_router_and_of_the_others_nobody(world: World, kind: Kind) -> None:
    async with before(world, kind) as (router, edge, client):
        known = proofs(edge)
        for headers in known.values():
            await warm(edge, client, headers)
        await router.aclose()
        world.seen.clear()
        for headers in known.values():
            async with client.post("/notes", headers=headers, data=b"text") as response:
                assert response.status == 200
        assert {each.headers["Domicile-Subject-Key"] for each in world.seen} == {str(subject("alice"))}
        assert not [each for each in world.seen if "Via" in each.headers]
        served = len(world.seen)
        forged = world.jwt("alice")[:-4] + "AAAA"
        for headers in ({}, world.bearer("carol"), {"Authorization": f"Bearer {forged}"}):
            async with client.get("/notes", headers=headers) as response:
                assert response.status == 503
                assert int(response.headers["Retry-After"]) > 0
        assert len(world.seen) == served


async def test_what_is_kept_names_nobody_and_proves_nothing(edge: Edge) -> None:
    known = proofs(edge)
    async with edge.client() as client:
        for headers in known.values():
            await warm(edge, client, headers)
        async with client.get("/notes", headers=edge.world.bearer("nobody")) as response:
            assert response.status == 404
    secrets = [edge.token(BEFORE), edge.world.jwt("alice"), edge.world.jwt("nobody")]
    files = [path for path in edge.folder.rglob("*") if path.is_file()]
    assert files
    for path in files:
        text = path.read_bytes()
        for secret in secrets:
            assert secret.encode() not in text, path
            assert secret.rpartition(".")[2].encode() not in text, path
        assert b"127.0.0.1" not in text or path.name.endswith((".conf", ".cfg")), path


@pytest.mark.parametrize(
    ("carrier", "method"), [("header", "GET"), ("cookie", "POST"), ("bearer", "POST"), ("session", "GET")]
)
async def test_after_a_move_whoever_was_known_is_served_at_the_new_home(
    edge: Edge, world: World, carrier: str, method: str
) -> None:
    headers = proofs(edge)[carrier]
    body = b"x" * 60_000 if method == "POST" else None
    async with edge.client() as client:
        await warm(edge, client, headers)
        moved(world)
        for _ in range(2):
            async with client.request(method, "/notes?q=1", headers=headers, data=body) as response:
                assert (response.status, await response.json()) == (200, {"served": True})
            last = world.seen[-1]
            assert (last.place, last.target, last.body) == ("eu-2.ams/app", "/notes?q=1", body or b"")


def moved(world: World) -> None:
    async def stale(_: web.BaseRequest) -> web.StreamResponse:
        return web.Response(status=421, headers={"Domicile-Guard": "stale-epoch", "Domicile-Epoch": "4"})

    world.directory.place(AFTER)
    world.answers(stale, "eu-1.fra", "eu-1.par")


async def test_after_an_erasure_whoever_was_known_is_unknown(edge: Edge, world: World) -> None:
    headers = proofs(edge)["bearer"]
    async with edge.client() as client:
        await warm(edge, client, headers)
        moved(world)
        world.directory.place(pin("alice", "eu-1", 5, PinState.ERASED))
        async with client.get("/notes", headers=headers) as response:
            assert (response.status, (await response.json())["code"]) == (404, "unknown-subject")


@pytest.mark.parametrize("chunked", [False, True])
async def test_what_cannot_be_sent_twice_is_503_and_nothing_of_it_is_on_disk(
    edge: Edge, world: World, chunked: bool
) -> None:
    async def parts() -> AsyncIterator[bytes]:
        for _ in range(30):
            yield b"personal!!" * 1000

    headers = proofs(edge)["bearer"]
    async with edge.client() as client:
        await warm(edge, client, headers)
        moved(world)
        data = parts() if chunked else b"personal!!" * 30_000
        async with client.post("/notes", headers=headers, data=data) as response:
            assert response.status == 503
            assert int(response.headers["Retry-After"]) > 0
            assert (await response.json())["code"] == "unavailable"
    assert not [path for path in edge.folder.rglob("*") if path.is_file() and b"personal!!" in path.read_bytes()]


async def test_a_decision_ends_with_its_proof(world: World, kind: Kind) -> None:
    async with before(world, kind) as (router, edge, client):
        short = {"Authorization": f"Bearer {world.jwt('alice', exp=int(time.time()) + 3)}"}
        for headers in (short, world.bearer("alice")):
            await warm(edge, client, headers)
        await router.aclose()

        async def served(headers: dict[str, str]) -> bool:
            async with client.get("/notes", headers=headers) as response:
                return response.status == 200

        async with asyncio.timeout(20):
            while await served(short):
                pass
        assert time.time() > float(jwt.decode(short["Authorization"].split()[1], options=UNCHECKED)["exp"]) - 1
        assert await served(world.bearer("alice"))


@pytest.mark.parametrize(
    "two",
    [
        {"Cookie": "session={alice}", "Authorization": "Bearer {carol}"},
        {"Cookie": "session={alice}; session={carol}"},
        {"Cookie": "__Host-domicile={token}", "Authorization": "Bearer {carol}"},
        {"Cookie": "__Host-domicile={token}; session={carol}"},
    ],
)
async def test_a_known_proof_beside_anothers_is_refused(edge: Edge, world: World, two: dict[str, str]) -> None:
    values = {"alice": world.jwt("alice"), "carol": world.jwt("carol"), "token": edge.token(BEFORE)}
    async with edge.client() as client:
        for headers in proofs(edge).values():
            await warm(edge, client, headers)
        count = len(world.seen)
        headers = {name: value.format(**values) for name, value in two.items()}
        async with client.get("/notes", headers=headers) as response:
            assert response.status in (400, 401)
            assert (await response.json())["code"] in ("identities-disagree", "token-invalid")
    assert len(world.seen) == count


async def test_what_names_a_subject_another_way_is_a_routers(edge: Edge, world: World) -> None:
    async with edge.client(**world.bearer("alice")) as client:
        for path, host in (("/t/alice/x", "eu.acme.example"), ("/notes", "alice.app.acme.example")):
            async with client.get(path, headers={"Host": host}) as response:
                assert response.status == 200
            assert "Via" in world.seen[-1].headers
            others, where = {"Host": host.replace("alice", "carol")}, path.replace("alice", "carol")
            async with client.get(where, headers=others) as response:
                assert (response.status, (await response.json())["code"]) == (400, "identities-disagree")
    async with edge.client() as client, client.get("/notes", headers={"X-Tenant": "alice"}) as response:
        assert response.status == 401, "a router would believe it of the edge"


async def test_what_an_application_itself_answers_421_happens_once(edge: Edge, world: World) -> None:
    async def misdirected(_: web.BaseRequest) -> web.StreamResponse:
        return web.Response(status=421, text="mine")

    async with edge.client() as client:
        await warm(edge, client, world.bearer("alice"))
        world.answers(misdirected)
        for body in (b"small", bytes(200_000)):
            world.seen.clear()
            async with client.post("/notes", headers=world.bearer("alice"), data=body) as response:
                assert response.status == 421
            assert [seen.place for seen in world.seen] == ["eu-1.fra/app"]


@pytest.mark.parametrize("status", [502, 503])
async def test_an_applications_own_failure_keeps_its_status(edge: Edge, world: World, status: int) -> None:
    async def failing(_: web.BaseRequest) -> web.StreamResponse:
        return web.Response(status=status, text="mine")

    async with edge.client() as client:
        await warm(edge, client, world.bearer("alice"))
        world.answers(failing)
        async with client.get("/notes", headers=world.bearer("alice")) as response:
            assert response.status == status
    await until(lambda: len(world.seen) == 2)
