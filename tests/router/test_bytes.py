"""Bodies pass unbuffered and unchanged in both directions, within limits, and a cut one never looks whole."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator

import aiohttp
import pytest
from aiohttp import web
from domicile_testing.routing import World, pin, two_events
from multidict import CIMultiDict


@pytest.fixture(autouse=True)
def _placed(world: World) -> None:
    world.directory.place(pin("alice", "eu-2"))


async def test_large_bodies_pass_whole_both_ways(world: World) -> None:
    sent = bytes(range(256)) * 8000

    async def parts() -> AsyncIterator[bytes]:
        for start in range(0, len(sent), 100_000):
            yield sent[start : start + 100_000]

    world.app("eu-2.ams").reads_body = False
    received = bytearray()

    async def collect(request: web.BaseRequest) -> web.StreamResponse:
        async for chunk in request.content.iter_any():
            received.extend(chunk)
        return web.Response(body=bytes(3_000_000))

    world.answers(collect)
    async with world.router() as client, client.put("/blob", headers=world.bearer("alice"), data=parts()) as response:
        assert await response.read() == bytes(3_000_000)
    assert bytes(received) == sent


async def test_compressed_bodies_are_not_touched(world: World) -> None:
    packed = gzip.compress(b"x" * 10_000)

    async def zipped(_: web.BaseRequest) -> web.StreamResponse:
        return web.Response(body=packed, headers={"Content-Encoding": "gzip"})

    world.answers(zipped)
    async with world.router() as client:
        headers = world.bearer("alice") | {"Content-Encoding": "gzip"}
        async with client.post("/blob", headers=headers, data=packed) as response:
            assert await response.read() == packed
            assert response.headers["Content-Encoding"] == "gzip"
    assert world.seen[0].body == packed
    assert world.seen[0].headers["Content-Encoding"] == "gzip"


async def test_head_carries_the_length_and_no_body(world: World) -> None:
    async def sized(_: web.BaseRequest) -> web.StreamResponse:
        return web.Response(body=b"12345")

    world.answers(sized)
    async with world.router() as client:
        async with client.head("/notes", headers=world.bearer("alice")) as response:
            assert (response.status, response.headers["Content-Length"], await response.read()) == (200, "5", b"")
        async with client.get("/notes", headers=world.bearer("alice")) as response:
            assert await response.read() == b"12345"
    assert [seen.method for seen in world.seen] == ["HEAD", "GET"]


@pytest.mark.parametrize("status", [204, 304])
async def test_answers_without_a_body_stay_without(world: World, status: int) -> None:
    async def empty(_: web.BaseRequest) -> web.StreamResponse:
        return web.Response(status=status, headers={"ETag": '"1"'})

    world.answers(empty)
    async with world.router() as client:
        for _ in range(2):
            async with client.get("/notes", headers=world.bearer("alice")) as response:
                assert (response.status, response.headers["ETag"], await response.read()) == (status, '"1"', b"")


async def test_redirects_and_cookies_of_the_application_are_the_clients(world: World) -> None:
    async def away(_: web.BaseRequest) -> web.StreamResponse:
        headers = [("Location", "/elsewhere"), ("Set-Cookie", "a=1"), ("Set-Cookie", "b=2")]
        return web.Response(status=302, headers=CIMultiDict(headers))

    world.answers(away)
    async with world.router() as client, client.get("/about", allow_redirects=False) as response:
        assert (response.status, response.headers["Location"]) == (302, "/elsewhere")
        assert response.headers.getall("Set-Cookie") == ["a=1", "b=2"]
    assert len(world.seen) == 1


async def test_events_arrive_while_the_answer_is_still_open(world: World) -> None:
    more = asyncio.Event()
    world.answers(two_events(more))
    async with world.router() as client, client.get("/events", headers=world.bearer("alice")) as response:
        assert await response.content.readany() == b"data: 1\n\n"
        more.set()
        assert await response.content.read() == b"data: 2\n\n"


async def test_an_early_answer_does_not_wait_for_the_rest_of_the_body(world: World) -> None:
    async def hasty(_: web.BaseRequest) -> web.StreamResponse:
        return web.Response(status=409, text="no")

    world.answers(hasty)
    world.app("eu-2.ams").reads_body = False
    done = asyncio.Event()

    async def parts() -> AsyncIterator[bytes]:
        yield b"begin"
        await done.wait()

    async with world.router() as client, client.post("/notes", headers=world.bearer("alice"), data=parts()) as response:
        assert (response.status, await response.text()) == (409, "no")
        done.set()


async def test_a_declared_body_over_the_limit_is_413_before_anything_is_sent(world: World) -> None:
    async with world.router(max_body=1000) as client:
        async with client.post("/notes", headers=world.bearer("alice"), data=bytes(1001)) as response:
            assert response.status == 413
            assert (await response.json())["code"] == "too-large"
        async with client.post("/notes", headers=world.bearer("alice"), data=bytes(1000)) as response:
            assert response.status == 200
    assert len(world.seen) == 1


async def test_an_undeclared_body_over_the_limit_is_413(world: World) -> None:
    async def parts() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield bytes(100)

    async with (
        world.router(max_body=1000) as client,
        client.post("/notes", headers=world.bearer("alice"), data=parts()) as response,
    ):
        assert response.status == 413


async def test_a_body_that_stops_coming_is_408(world: World) -> None:
    done = asyncio.Event()

    async def parts() -> AsyncIterator[bytes]:
        yield b"begin"
        await done.wait()

    async with (
        world.router(idle_seconds=0.2) as client,
        client.post("/notes", headers=world.bearer("alice"), data=parts()) as response,
    ):
        assert response.status == 408
        done.set()


async def test_a_head_over_the_limit_is_431(world: World) -> None:
    async with world.router() as client:
        headers = world.bearer("alice") | {f"X-{n}": "x" * 8000 for n in range(5)}
        async with client.get("/notes", headers=headers) as response:
            assert response.status == 431
            assert (await response.json())["code"] == "head-too-large"
    assert not world.seen


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"TRACE /about HTTP/1.1\r\nHost: a\r\n\r\n", 405),
        (b"CONNECT a:443 HTTP/1.1\r\nHost: a\r\n\r\n", 405),
        (b"GET /about HTTP/1.1\r\n\r\n", 400),
        (b"GET /about HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        (b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"POST /about HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (b"nonsense\r\n\r\n", 400),
        (b"GET /about HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 40_000 + b"\r\n\r\n", 431),
        (b"GET /notes HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer \xff\r\n\r\n", 401),
        (b"GET /notes HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer " + b"e30." * 3 + b"\r\n\r\n", 401),
    ],
)
async def test_what_has_no_one_meaning_is_refused_with_a_problem(world: World, head: bytes, status: int) -> None:
    host, _, port = world.manifest.routers["fra"].public.rpartition(":")
    async with world.router():
        reader, writer = await asyncio.open_connection(host, int(port), ssl=world.public_context("eu"))
        writer.write(head)
        answer = await reader.readuntil(b"\r\n\r\n")
        writer.close()
    assert answer.split()[1] == str(status).encode()
    assert b"application/problem+json" in answer
    assert not world.seen


async def test_a_client_that_goes_away_cancels_the_request_at_the_home(world: World) -> None:
    cancelled = asyncio.Event()

    async def slow(_: web.BaseRequest) -> web.StreamResponse:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        raise AssertionError

    world.answers(slow)
    async with world.router() as client:
        request = asyncio.create_task(client.get("/notes", headers=world.bearer("alice")))
        await world.app("eu-2.ams").arrived.wait()
        request.cancel()
        await asyncio.wait_for(cancelled.wait(), 5)


@pytest.mark.parametrize("declared", [True, False])
async def test_a_home_that_goes_away_in_the_middle_closes_the_clients_connection(world: World, declared: bool) -> None:
    async def cut(request: web.BaseRequest) -> web.StreamResponse:
        stream = web.StreamResponse(headers={"Content-Length": "100"} if declared else {})
        await stream.prepare(request)
        await stream.write(b"begin")
        assert request.transport is not None
        request.transport.abort()
        return stream

    world.answers(cut)
    async with world.router() as client:
        with pytest.raises(aiohttp.ClientError):
            async with client.get("/notes", headers=world.bearer("alice")) as response:
                await response.read()


async def test_a_home_that_falls_silent_in_the_middle_closes_the_clients_connection(world: World) -> None:
    async def silent(request: web.BaseRequest) -> web.StreamResponse:
        stream = web.StreamResponse()
        await stream.prepare(request)
        await stream.write(b"begin")
        await asyncio.Event().wait()
        return stream

    world.answers(silent)
    async with world.router(idle_seconds=0.2) as client:
        with pytest.raises(aiohttp.ClientError):
            async with client.get("/notes", headers=world.bearer("alice")) as response:
                await response.read()
