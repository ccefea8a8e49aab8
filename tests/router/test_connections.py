"""Connections on both sides, byte by byte: order, limits, times, interim answers, trailers, and who closes when."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from email.utils import parsedate_to_datetime

import pytest
from aiohttp import web
from domicile_testing.conditions import until, until_still
from domicile_testing.dialling import OK, answer_of, dialled, head_of, request, scripted
from domicile_testing.requests import OTHERWISE, REFUSED
from domicile_testing.routing import World, pin


@pytest.fixture(autouse=True)
def _placed(world: World) -> None:
    world.directory.place(pin("alice", "eu-2"))


async def test_what_is_refused_is_a_problem_document_and_ends_the_connection(world: World) -> None:
    cases = [(raw, 400) for raw in REFUSED.values()] + [case for case in OTHERWISE.values() if case[1] in (405, 431)]
    async with world.router():
        for raw, status in cases:
            if not raw.startswith((b"POST", b"\x16")) or b"\r\n\r\n" not in raw[:-4]:
                async with dialled(world) as (reader, writer):
                    writer.write(raw)
                    head, body = await answer_of(reader)
                    assert head.startswith(b"HTTP/1.1 %d " % status), raw
                    assert b"Connection: close" in head
                    assert b"application/problem+json" in head
                    assert b'"status":%d' % status in body
    assert not world.seen


async def test_what_is_refused_says_when_and_what_would_be_allowed(world: World) -> None:
    async with world.router(), dialled(world) as (reader, writer):
        writer.write(b"TRACE / HTTP/1.1\r\nHost: a\r\n\r\n")
        head, _ = await answer_of(reader)
        assert head.startswith(b"HTTP/1.1 405 ")
        fields = dict(line.split(b": ", 1) for line in head.split(b"\r\n")[1:] if line)
        assert b"TRACE" not in fields[b"Allow"]
        assert b"GET" in fields[b"Allow"]
        assert parsedate_to_datetime(fields[b"Date"].decode()).tzinfo is not None


async def test_nothing_behind_what_was_refused_is_read(world: World) -> None:
    async with world.router(), dialled(world) as (reader, writer):
        writer.write(b"nonsense\r\n\r\n" + request(world))
        assert (await answer_of(reader))[0].startswith(b"HTTP/1.1 400 ")
        writer.write(request(world))
        assert await reader.read() == b""
    assert not world.seen


async def test_requests_that_are_sent_ahead_are_answered_in_their_order(world: World) -> None:
    release = asyncio.Event()

    async def slow_first(seen: web.BaseRequest) -> web.StreamResponse:
        if seen.raw_path == "/0":
            await release.wait()
        return web.Response(text=seen.raw_path)

    world.answers(slow_first)
    async with world.router(), dialled(world) as (reader, writer):
        ahead = [request(world, f"GET /{number}") for number in range(20)]
        ahead[3] = request(world, "POST /3", "Content-Length: 3", body=b"abc")
        ahead[5] = request(world, "POST /5", "Transfer-Encoding: chunked", body=b"3\r\nabc\r\n0\r\n\r\n")
        writer.write(b"".join(ahead))
        await world.app("eu-2.ams").arrived.wait()
        release.set()
        assert [(await answer_of(reader))[1] for _ in ahead] == [f"/{number}".encode() for number in range(20)]
    assert [seen.target for seen in world.seen] == [f"/{number}" for number in range(20)]
    assert [seen.body for seen in world.seen if seen.body] == [b"abc", b"abc"]


async def test_what_is_sent_ahead_is_not_read_without_bound(world: World) -> None:
    release = asyncio.Event()

    async def slow(_: web.BaseRequest) -> web.StreamResponse:
        await release.wait()
        return web.Response(text="ok")

    world.answers(slow)
    async with world.router(), dialled(world) as (reader, writer):
        writer.transport.set_write_buffer_limits(high=0)
        count = 0
        while True:
            writer.write(request(world, "GET /notes", *["X: " + "x" * 7_000] * 3) * 20)
            count += 20
            try:
                async with asyncio.timeout(0.5):
                    await writer.drain()
            except TimeoutError:
                break
            assert count < 2_000, "the router reads on"
        release.set()
        for _ in range(count):
            assert (await answer_of(reader))[1] == b"ok"


async def test_a_client_that_sends_ahead_and_does_not_read_gets_no_further_answers(world: World) -> None:
    async def large(_: web.BaseRequest) -> web.StreamResponse:
        return web.Response(body=bytes(1_000_000))

    world.answers(large)
    async with world.router(), dialled(world) as (reader, writer):
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        for _ in range(60):
            writer.write(request(world))
        assert await until_still(lambda: len(world.seen)) < 30
        writer.transport.resume_reading()  # type: ignore[attr-defined]
        for _ in range(60):
            assert len((await answer_of(reader))[1]) == 1_000_000


async def test_an_answer_without_content_says_nothing_of_a_body(world: World) -> None:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await head_of(reader)
            writer.write(b"HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n")

    async with scripted(world, script), world.router(), dialled(world) as (reader, writer):
        for _ in range(2):
            writer.write(request(world))
            head = await head_of(reader)
            assert head.startswith(b"HTTP/1.1 204 ")
            assert b"transfer-encoding" not in head.lower()
            assert b"content-length" not in head.lower()


async def test_a_slow_client_gets_the_end_of_an_answer_that_closes(world: World) -> None:
    async def large(_: web.BaseRequest) -> web.StreamResponse:
        return web.Response(body=bytes(3_000_000))

    world.answers(large)
    async with world.router(), dialled(world) as (reader, writer):
        writer.write(request(world, "GET /notes", "Connection: close"))
        assert b"Connection: close" in await head_of(reader)
        size = 0
        loop = asyncio.get_running_loop()
        began = loop.time()
        while data := await reader.read(30_000):
            size += len(data)
            if size > 2_500_000:  # what is left lies in buffers: it takes longer than an idle close would be given
                await until(lambda read=size: loop.time() - began > (read - 2_500_000) / 150_000)  # type: ignore[misc]
        assert size == 3_000_000


async def test_a_head_that_does_not_come_in_time_is_408(world: World) -> None:
    async with world.router(head_seconds=0.2), dialled(world) as (reader, writer):
        writer.write(request(world))
        await answer_of(reader)
        writer.write(b"GET / HTTP/1.1\r\nHo")
        head, body = await answer_of(reader)
        assert head.startswith(b"HTTP/1.1 408 ")
        assert b"slow-request" in body
        assert await reader.read() == b""


async def test_a_head_that_comes_drop_by_drop_is_408_all_the_same(world: World) -> None:
    async with world.router(head_seconds=0.3), dialled(world) as (reader, writer):
        answer = asyncio.create_task(head_of(reader))
        for byte in request(world, "GET /notes", "X: " + "x" * 1000):
            writer.write(bytes([byte]))
            await asyncio.wait({answer}, timeout=0.01)
            if answer.done():
                break
        assert (await answer).startswith(b"HTTP/1.1 408 ")
    assert not world.seen


async def test_a_connection_that_says_nothing_is_closed_without_an_answer(world: World) -> None:
    async with world.router(head_seconds=0.2), dialled(world) as (reader, _):
        assert await reader.read() == b""


async def test_a_connection_that_waits_for_long_is_closed(world: World) -> None:
    async with world.router(keepalive_seconds=0.2), dialled(world) as (reader, writer):
        writer.write(request(world))
        await answer_of(reader)
        assert await reader.read() == b""


async def test_a_client_that_does_not_read_is_given_up(world: World) -> None:
    gone = asyncio.Event()

    async def endless(seen: web.BaseRequest) -> web.StreamResponse:
        answer = web.StreamResponse()
        await answer.prepare(seen)
        try:
            while True:
                await answer.write(bytes(100_000))
        finally:
            gone.set()

    world.answers(endless)
    async with world.router(idle_seconds=0.5), dialled(world) as (_, writer):
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(request(world))
        await asyncio.wait_for(gone.wait(), 15)


async def test_an_answer_that_does_not_begin_in_time_is_502(world: World) -> None:
    async def silent(_: web.BaseRequest) -> web.StreamResponse:
        await asyncio.Event().wait()
        raise AssertionError

    world.answers(silent)
    async with world.router(answer_seconds=0.2), dialled(world) as (reader, writer):
        writer.write(request(world, "POST /notes", "Content-Length: 0"))
        head, body = await answer_of(reader)
        assert head.startswith(b"HTTP/1.1 502 ")
        assert b"answer-lost" in body


async def test_a_home_that_does_not_read_a_body_is_given_up(world: World) -> None:
    async def deaf(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        await asyncio.Event().wait()

    async with scripted(world, deaf), world.router(idle_seconds=0.5), dialled(world) as (reader, writer):
        writer.write(request(world, "POST /notes", "Content-Length: 50000000"))
        writer.write(bytes(50_000_000))
        assert (await head_of(reader)).startswith(b"HTTP/1.1 502 ")


async def test_interim_answers_pass_and_100_does_not(world: World) -> None:
    async def hints(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await head_of(reader)
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\nDomicile-X: 1\r\n\r\n")
        writer.write(b"HTTP/1.1 102 Processing\r\n\r\n" + OK)
        await reader.read()

    async with scripted(world, hints), world.router(), dialled(world) as (reader, writer):
        writer.write(request(world))
        assert await head_of(reader) == b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
        assert await head_of(reader) == b"HTTP/1.1 102 Processing\r\n\r\n"
        assert (await answer_of(reader))[1] == b"ok"


async def test_trailers_pass_to_clients_and_end_on_the_way_home(world: World) -> None:
    asked = asyncio.get_running_loop().create_future()

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await head_of(reader)
        asked.set_result(await reader.readuntil(b"\r\n0\r\n\r\n"))
        writer.write(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"2;x=y\r\nok\r\n0\r\nX-Sum: 2\r\nDomicile-X: 1\r\n\r\n"
        )
        await reader.read()

    async with scripted(world, script), world.router(), dialled(world) as (reader, writer):
        body = b"1\r\na\r\n0\r\nX-Sum: 1\r\n\r\n"
        writer.write(request(world, "POST /notes", "Transfer-Encoding: chunked", body=body))
        assert b"Transfer-Encoding: chunked" in await head_of(reader)
        assert await reader.readuntil(b"\r\n\r\n") == b"2\r\nok\r\n0\r\nX-Sum: 2\r\n\r\n"
        assert await asked == b"1\r\na\r\n0\r\n\r\n"
        writer.write(request(world, "GET /again"))  # the connection is still good


async def test_a_trailer_is_no_field_of_the_next_request(world: World) -> None:
    """As it would be to aiohttp's server, which reads the last one when the next head begins."""
    async with world.router(), dialled(world) as (reader, writer):
        body = b"1\r\na\r\n0\r\nX-Role: admin\r\n\r\n"
        writer.write(request(world, "POST /notes", "Transfer-Encoding: chunked", body=body))
        await answer_of(reader)
        writer.write(request(world, "GET /again"))
        await answer_of(reader)
    assert [(seen.method, "X-Role" in seen.headers) for seen in world.seen] == [("POST", False), ("GET", False)]


async def test_a_client_of_http_1_0_gets_no_chunks_and_a_closed_connection(world: World) -> None:
    async def chunks(seen: web.BaseRequest) -> web.StreamResponse:
        answer = web.StreamResponse()
        await answer.prepare(seen)
        await answer.write(b"one,")
        await answer.write(b"two")
        return answer

    world.answers(chunks)
    async with world.router(), dialled(world) as (reader, writer):
        writer.write(request(world).replace(b"HTTP/1.1", b"HTTP/1.0"))
        head = await head_of(reader)
        assert head.startswith(b"HTTP/1.1 200 OK\r\n")
        assert b"chunked" not in head
        assert b"Connection: close" in head
        assert await reader.read() == b"one,two"


async def test_an_answer_that_ends_with_its_connection_is_passed_on_in_chunks(world: World) -> None:
    async def old(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await head_of(reader)
        writer.write(b"HTTP/1.0 200 OK\r\n\r\nhello")
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    async with scripted(world, old), world.router(), dialled(world) as (reader, writer):
        for _ in range(2):
            writer.write(request(world))
            assert b"Transfer-Encoding: chunked" in await head_of(reader)
            assert await reader.readuntil(b"\r\n0\r\n\r\n") == b"5\r\nhello\r\n0\r\n\r\n"


async def test_what_follows_an_answer_is_nobodys(world: World) -> None:
    """A home's surplus never becomes the answer to the next request: its connection is given up."""
    connections = 0

    async def surplus(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        await head_of(reader)
        writer.write(OK + OK.replace(b"ok", b"no"))
        await reader.read()

    async with scripted(world, surplus), world.router(), dialled(world) as (reader, writer):
        for _ in range(3):
            writer.write(request(world))
            assert (await answer_of(reader))[1] == b"ok"
    assert connections == 3


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 40_000,
        b"nonsense\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n",
    ],
)
async def test_an_answer_that_has_no_one_meaning_is_502(world: World, answer: bytes) -> None:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await head_of(reader)
        writer.write(answer)
        await reader.read()

    async with scripted(world, script), world.router(), dialled(world) as (reader, writer):
        for first in ("POST /notes", "GET /notes"):
            writer.write(request(world, first))
            head, body = await answer_of(reader)
            assert head.startswith(b"HTTP/1.1 502 ")
            assert b"answer-lost" in body


async def test_more_clients_than_may_be_are_turned_away_until_one_goes(world: World) -> None:
    async def served() -> bool:
        try:
            async with dialled(world) as (reader, writer):
                writer.write(request(world))
                await answer_of(reader)
                return True
        except (asyncio.IncompleteReadError, OSError):
            return False

    async with world.router(clients=1):
        async with dialled(world) as (reader, writer):
            writer.write(request(world))
            await answer_of(reader)
            assert not await served()
        async with asyncio.timeout(5):
            while not await served():
                continue


async def test_a_drain_finishes_what_is_asked_and_closes_what_is_idle(world: World) -> None:
    release = asyncio.Event()

    async def slow(_: web.BaseRequest) -> web.StreamResponse:
        await release.wait()
        return web.Response(text="ok")

    async with AsyncExitStack() as stack:
        running = world.router(drain_seconds=10.0)
        await running.__aenter__()
        idle = await stack.enter_async_context(dialled(world))
        busy = await stack.enter_async_context(dialled(world))
        idle[1].write(request(world))
        await answer_of(idle[0])
        world.answers(slow)
        world.app("eu-2.ams").arrived.clear()
        busy[1].write(request(world) + request(world))
        await world.app("eu-2.ams").arrived.wait()
        ending = asyncio.create_task(running.__aexit__(None, None, None))
        assert await idle[0].read() == b""
        release.set()
        head, body = await answer_of(busy[0])
        assert b"Connection: close" in head
        assert body == b"ok"
        assert await busy[0].read() == b""
        await ending
