"""However long a body is, in either direction, a router holds no more of it than its buffers take.

The router is a process of its own, so that its memory is its own. A gibibyte each way in `make test-full`.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from aiohttp import web
from domicile_testing.conditions import until_still
from domicile_testing.routers import running
from domicile_testing.routing import World, pin

from domicile.model import Address

PIECE = bytes(1 << 16)
MIB = 1 << 20
BOUND = 32 * MIB
Way = Callable[[int, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def peak(pid: int) -> int:
    """The most memory that a process has had at a time, in bytes (Linux, proc(5): VmHWM)."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no VmHWM")


async def upload(size: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"Content-Length: %d\r\n\r\n" % size)
    for _ in range(size // len(PIECE)):
        writer.write(PIECE)
        await writer.drain()
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")


async def upload_in_chunks(size: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"Transfer-Encoding: chunked\r\n\r\n")
    for _ in range(size // len(PIECE)):
        writer.write(b"%x\r\n" % len(PIECE) + PIECE + b"\r\n")
        await writer.drain()
    writer.write(b"0\r\n\r\n")
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")


async def download(size: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Read slower than the home writes: all that lies between them has to wait."""
    writer.write(b"X-Send: %d\r\n\r\n" % size)
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
    left = size
    while left:
        left -= len(await reader.read(1 << 15))


async def home(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Reads bodies, or sends as many bytes as it is asked for."""
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            told = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:] if line)
            if b"transfer-encoding" in told:
                while (size := int(await reader.readuntil(b"\r\n"), 16)) > 0:
                    await reader.readexactly(size + 2)
                await reader.readexactly(2)
            left = int(told.get(b"content-length", b"0"))
            while left:
                left -= len(await reader.read(min(left, 1 << 18)))
            left = int(told.get(b"x-send", b"0"))
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % left)
            for _ in range(left // len(PIECE)):
                writer.write(PIECE)
                await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError, ssl.SSLError):
        writer.transport.abort()


async def passing(world: World, size: int) -> None:
    world.directory.place(pin("alice", "eu-2"))
    place = world.app("eu-2.ams")
    await place.stop()
    address = Address(place.address)
    server = await asyncio.start_server(home, address.host, address.port, ssl=place.context)
    public = Address(world.manifest.routers["fra"].public)
    try:
        async with running(world.settings("fra", max_body=size)) as process:

            async def one(way: Way, length: int) -> None:
                reader, writer = await asyncio.open_connection(public.host, public.port, ssl=world.public_context("eu"))
                first = f"POST /blob HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {world.jwt('alice')}\r\n"
                writer.write(first.encode())
                try:
                    await way(length, reader, writer)
                finally:
                    writer.transport.abort()

            ways = (upload, upload_in_chunks, download)
            for way in ways:
                await one(way, MIB)
            before = peak(process.pid)
            for way in ways:
                await one(way, size)
            assert peak(process.pid) - before < BOUND
    finally:
        server.close()


async def test_a_client_that_does_not_take_its_answers_is_not_heard_any_further(world: World) -> None:
    """Answers that come whole, so that it is between two of them that no more is taken."""

    async def small(_: web.BaseRequest) -> web.StreamResponse:
        return web.Response(body=bytes(10_000))

    world.directory.place(pin("alice", "eu-2"))
    world.answers(small)
    public = Address(world.manifest.routers["fra"].public)
    async with running(world.settings("fra")) as process:
        _, writer = await asyncio.open_connection(public.host, public.port, ssl=world.public_context("eu"))
        request = f"GET /notes HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {world.jwt('alice')}\r\n\r\n".encode()
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(request * 3_000)
        assert await until_still(lambda: len(world.seen)) < 3_000
        before = peak(process.pid)

        async def until_it_has_grown() -> None:
            while peak(process.pid) - before < BOUND:
                writer.write(PIECE)
                await writer.drain()

        with pytest.raises(TimeoutError):
            await asyncio.wait_for(until_it_has_grown(), 5)
        writer.transport.abort()


async def test_long_bodies_pass_in_bounded_memory(world: World) -> None:
    await passing(world, 96 * MIB)


@pytest.mark.full
@pytest.mark.timeout(600)
async def test_a_gibibyte_passes_in_bounded_memory(world: World) -> None:
    await passing(world, 1024 * MIB)
