"""A client with a token that is older than its subject's home is served: it never gets to see a guard's 421."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from aiohttp import web
from domicile_testing.edges import Edge
from domicile_testing.routing import Handler, World, pin, subject

from domicile.model import PinState

BEFORE, AFTER = pin("alice", "eu-1", 2), pin("alice", "eu-2", 4)


def guarding(kind: str, **more: str) -> Handler:
    """Refuses as a guard does whatever names an older epoch than 4."""

    async def handler(request: web.BaseRequest) -> web.StreamResponse:
        if int(request.headers.get("Domicile-Epoch", 0)) >= AFTER.epoch:
            return web.json_response({"served": True})
        return web.Response(status=421, headers={"Domicile-Guard": kind, "Domicile-Epoch": "4", **more})

    return handler


@pytest.fixture(autouse=True)
def _moved(world: World) -> None:
    world.directory.place(AFTER)
    world.answers(guarding("stale-epoch"), "eu-1.fra", "eu-1.par")


@pytest.mark.parametrize("carrier", ["header", "cookie", "beside a session"])
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_after_a_move_the_new_home_serves(edge: Edge, world: World, carrier: str, method: str) -> None:
    token = edge.token(BEFORE)
    cookie = {"Cookie": f"a=1; __Host-domicile={token}"}
    headers = {
        "header": {"Domicile-Token": token}, "cookie": cookie, "beside a session": cookie | world.bearer("alice")
    }[carrier]  # fmt: skip
    body = b"hello" if method == "POST" else None
    async with edge.client() as client, client.request(method, "/notes?q=1", headers=headers, data=body) as response:
        assert (response.status, await response.json()) == (200, {"served": True})
        assert "Domicile-Guard" not in response.headers
        # whoever proves who it is gets a token of the new home at once
        assert ("__Host-domicile" in response.headers.get("Set-Cookie", "")) is (carrier == "beside a session")
    last = world.seen[-1]
    assert (last.place, last.target, last.body) == ("eu-2.ams/app", "/notes?q=1", body or b"")
    assert last.headers["Domicile-Epoch"] == "4"
    assert token not in "".join(str(seen.headers) for seen in world.seen)
    assert {seen.headers.get("Cookie") for seen in world.seen} == {None if carrier == "header" else "a=1"}


async def test_a_sibling_cells_guard_is_followed_too(edge: Edge, world: World) -> None:
    key = {"Domicile-Subject-Key": str(subject("alice"))}
    world.answers(guarding("wrong-cell", **key), "eu-1.fra", "eu-1.par")
    async with edge.of(BEFORE) as client, client.post("/notes", data=b"text") as response:
        assert response.status == 200
    assert (world.seen[-1].place, world.seen[-1].body) == ("eu-2.ams/app", b"text")


async def test_after_a_move_abroad_the_travellers_policy_holds(edge: Edge, world: World) -> None:
    world.directory.place(pin("alice", "us-1", 4))
    async with edge.of(BEFORE) as client, client.get("/notes", allow_redirects=False) as response:
        assert (response.status, response.headers["Location"]) == (307, "https://us.acme.example/notes")


async def test_after_an_erasure_the_subject_is_unknown(edge: Edge, world: World) -> None:
    world.directory.place(pin("alice", "eu-1", 4, PinState.ERASED))
    async with edge.of(BEFORE) as client, client.get("/notes") as response:
        assert response.status == 404
        assert (await response.json())["code"] == "unknown-subject"


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_that_cannot_be_sent_again_is_503(edge: Edge, world: World, chunked: bool) -> None:
    async def parts() -> AsyncIterator[bytes]:
        for _ in range(30):
            yield bytes(10_000)

    async with edge.of(BEFORE) as client:
        async with client.post("/notes", data=parts() if chunked else bytes(300_000)) as response:
            assert response.status == 503
            assert int(response.headers["Retry-After"]) > 0
            assert response.content_type == "application/problem+json"
            assert (await response.json())["code"] == "unavailable"
        async with client.post("/notes", data=bytes(60_000)) as response:
            assert response.status == 200
    assert len(world.seen[-1].body) == 60_000


async def test_an_applications_own_421_passes_through(edge: Edge, world: World) -> None:
    async def misdirected(_: web.BaseRequest) -> web.StreamResponse:
        return web.Response(status=421, text="mine")

    world.answers(misdirected)
    async with edge.of(AFTER) as client, client.get("/notes") as response:
        assert (response.status, await response.text()) == (421, "mine")
    assert len(world.seen) == 1
