"""Bodies, streams and upgrades pass an edge in both directions as they pass a router."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator
from http import HTTPStatus

import pytest
from aiohttp import web
from domicile_testing.edges import Edge
from domicile_testing.routing import World, asked_for_body, pin, two_events
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve

ALICE = pin("alice", "eu-2", 7)
HOME = "eu-2.ams"


@pytest.fixture(autouse=True)
def _placed(world: World) -> None:
    world.directory.place(ALICE)


async def test_large_bodies_pass_whole_both_ways(edge: Edge, world: World) -> None:
    sent = bytes(range(256)) * 8000

    async def parts() -> AsyncIterator[bytes]:
        for start in range(0, len(sent), 100_000):
            yield sent[start : start + 100_000]

    world.app(HOME).reads_body = False
    received = bytearray()

    async def collect(request: web.BaseRequest) -> web.StreamResponse:
        async for chunk in request.content.iter_any():
            received.extend(chunk)
        return web.Response(body=bytes(3_000_000))

    world.answers(collect)
    async with edge.of(ALICE) as client, client.put("/blob", data=parts()) as response:
        assert await response.read() == bytes(3_000_000)
    assert bytes(received) == sent


async def test_compressed_bodies_are_not_touched(edge: Edge, world: World) -> None:
    packed = gzip.compress(b"x" * 10_000)

    async def zipped(_: web.BaseRequest) -> web.StreamResponse:
        return web.Response(body=packed, headers={"Content-Encoding": "gzip"})

    world.answers(zipped)
    encoding = {"Content-Encoding": "gzip"}
    async with edge.of(ALICE) as client, client.post("/blob", headers=encoding, data=packed) as response:
        assert await response.read() == packed
        assert response.headers["Content-Encoding"] == "gzip"
    assert world.seen[0].body == packed
    assert world.seen[0].headers["Content-Encoding"] == "gzip"


async def test_answers_without_a_body_stay_without(edge: Edge, world: World) -> None:
    async def sized(request: web.BaseRequest) -> web.StreamResponse:
        status = int(request.path.strip("/"))
        return web.Response(status=status, headers={"ETag": '"1"'}, body=b"12345" if status == 200 else None)

    world.answers(sized)
    async with edge.of(ALICE) as client:
        async with client.head("/200") as response:
            assert (response.status, response.headers["Content-Length"], await response.read()) == (200, "5", b"")
        for status in (204, 304):
            async with client.get(f"/{status}") as response:
                assert (response.status, response.headers["ETag"], await response.read()) == (status, '"1"', b"")
    assert [seen.method for seen in world.seen] == ["HEAD", "GET", "GET"]


async def test_events_arrive_while_the_answer_is_still_open(edge: Edge, world: World) -> None:
    more = asyncio.Event()
    world.answers(two_events(more))
    async with edge.of(ALICE) as client, client.get("/events") as response:
        assert await response.content.readany() == b"data: 1\n\n"
        more.set()
        assert await response.content.read() == b"data: 2\n\n"


async def test_an_early_answer_does_not_wait_for_the_rest_of_the_body(edge: Edge, world: World) -> None:
    async def hasty(_: web.BaseRequest) -> web.StreamResponse:
        return web.Response(status=HTTPStatus.CONFLICT, text="no")

    world.answers(hasty)
    world.app(HOME).reads_body = False
    done = asyncio.Event()

    async def parts() -> AsyncIterator[bytes]:
        yield b"begin"
        await done.wait()

    async with edge.of(ALICE) as client, client.post("/notes", data=parts()) as response:
        assert (response.status, await response.text()) == (409, "no")
        done.set()


@pytest.mark.parametrize(("whose", "last"), [("eu-2", b"200"), ("us-1", b"307")])
async def test_a_body_is_asked_for_by_whoever_takes_it(edge: Edge, world: World, whose: str, last: bytes) -> None:
    """Who decides on the head alone answers before ``100 Continue``."""
    world.directory.place(ALICE, pin("bob", "us-1"))
    token = edge.token(ALICE if whose == "eu-2" else pin("bob", "us-1"))
    head = (
        f"POST /notes HTTP/1.1\r\nHost: eu.acme.example\r\nDomicile-Token: {token}\r\n"
        "Content-Length: 10\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n"
    )
    answer = await asked_for_body(edge.address, world.public_context("eu"), head.encode(), b"0123456789")
    statuses = [line.split()[1] for line in answer.split(b"\r\n") if line.startswith(b"HTTP/1.1 ")]
    assert statuses == ([b"100", last] if whose == "eu-2" else [last])
    assert [seen.body for seen in world.seen] == ([b"0123456789"] if whose == "eu-2" else [])


async def test_a_websocket_passes_both_ways(edge: Edge, world: World) -> None:
    place = world.app(HOME)
    await place.stop()
    asked: list[tuple[str, str | None, str | None]] = []

    async def talk(connection: ServerConnection) -> None:
        assert connection.request is not None
        headers = connection.request.headers
        asked.append((connection.request.path, headers.get("Domicile-Cell"), headers.get("Domicile-Token")))
        async for message in connection:
            await connection.send(message)

    host, _, port = place.address.rpartition(":")
    async with (
        serve(talk, host, int(port), ssl=place.context, max_size=None),
        connect(
            f"wss://{edge.address}/live?x=1",
            ssl=world.public_context("eu"),
            additional_headers={"Domicile-Token": edge.token(ALICE)},
            proxy=None,
            max_size=None,
        ) as live,
    ):
        for message in ("grüße", b"\0" * 10, "x" * 3_000_000):
            await live.send(message)
            assert await live.recv() == message
    assert asked == [("/live?x=1", "eu-2", None)]
