"""A router's two sides, byte by byte: a client that writes what it likes, and a home that is a script."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from domicile_testing.routing import World

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@asynccontextmanager
async def dialled(world: World) -> AsyncIterator[Streams]:
    """A connection to the public listener."""
    host, _, port = world.manifest.routers["fra"].public.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port), ssl=world.public_context("eu"))
    try:
        async with asyncio.timeout(20):
            yield reader, writer
    finally:
        writer.transport.abort()


@asynccontextmanager
async def scripted(world: World, script: Script) -> AsyncIterator[None]:
    """The application of alice's home, as a script for each connection."""
    place = world.app("eu-2.ams")
    await place.stop()
    host, _, port = place.address.rpartition(":")
    running: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        running.add(task)
        try:
            await script(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError, ssl.SSLError):
            pass
        finally:
            running.discard(task)
            writer.transport.abort()

    server = await asyncio.start_server(serve, host, int(port), ssl=place.context)
    try:
        yield
    finally:
        server.close()
        for task in running:
            task.cancel()


def request(world: World, first: str = "GET /notes", *fields: str, body: bytes = b"") -> bytes:
    lines = [f"{first} HTTP/1.1", "Host: a", f"Authorization: Bearer {world.jwt('alice')}", *fields, "", ""]
    return "\r\n".join(lines).encode() + body


async def head_of(reader: asyncio.StreamReader) -> bytes:
    return await reader.readuntil(b"\r\n\r\n")


async def answer_of(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    """Head and body of an answer with a length."""
    head = await head_of(reader)
    length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
    return head, await reader.readexactly(int(length.partition(b":")[2]))
