"""A client with a token that is older than its subject's home is served: it never gets to see a guard's 421."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import partial

import pytest
from aiohttp import web
from domicile_testing.conditions import until
from domicile_testing.edges import Edge
from domicile_testing.routing import Handler, World, pin, subject

from domicile.model import Pin, PinState, SubjectKey

CARRIERS = [("header", "GET"), ("cookie", "POST"), ("beside a session", "POST")]
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


@pytest.mark.parametrize(("carrier", "method"), CARRIERS)
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


async def test_a_body_that_cannot_be_sent_again_is_503(edge: Edge, world: World) -> None:
    async def parts() -> AsyncIterator[bytes]:
        for _ in range(30):
            yield bytes(10_000)

    async with edge.of(BEFORE) as client:
        for body in (parts(), bytes(300_000)):
            async with client.post("/notes", data=body) as response:
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


async def test_while_subjects_move_all_the_time_nobody_is_shown_a_421(edge: Edge, world: World) -> None:
    """A mover takes each of some subjects to and fro, and their clients keep the tokens of the beginning."""
    names = [f"mover-{number}" for number in range(4)]
    first = [pin(name, "eu-1", 1) for name in names]
    world.directory.place(*first)

    async def guarded(request: web.BaseRequest) -> web.StreamResponse:
        """The fence is where the directory says."""
        key = SubjectKey.parse(request.headers["Domicile-Subject-Key"])
        home = world.directory.pins[key]
        said = (request.headers["Domicile-Cell"], request.headers["Domicile-Epoch"])
        if said == (home.cell, str(home.epoch)):
            return web.json_response({"served": True})
        return web.Response(status=421, headers={"Domicile-Guard": "stale-epoch", "Domicile-Epoch": str(home.epoch)})

    world.answers(guarded)
    answers: list[int] = []
    again = 0
    going = True

    async def ask(who: Pin) -> None:
        nonlocal again
        async with edge.of(who) as client:
            while going:
                method = "GET" if len(answers) % 2 else "POST"
                async with client.request(method, "/notes", data=b"text" if method == "POST" else None) as response:
                    if response.status == 503:
                        assert int(response.headers["Retry-After"]) > 0
                        again += 1  # moved once more between two answers
                        continue
                    answers.append(response.status)

    clients = [asyncio.create_task(ask(who)) for who in first]

    def answered(count: int) -> bool:
        return len(answers) >= count or any(client.done() for client in clients)

    try:
        for number in range(1, 13):
            await until(partial(answered, len(answers) + 12))
            cell = ("eu-2", "eu-1")[number % 2]
            world.directory.place(*(pin(name, cell, 1 + 2 * number) for name in names))
    finally:
        going = False
        await asyncio.gather(*clients)
    assert set(answers) == {200}
    assert again <= len(answers) / 10
