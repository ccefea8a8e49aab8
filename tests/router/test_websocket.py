"""A WebSocket passes in both directions, by clients and servers that nobody here wrote."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from domicile_testing.conditions import until_still
from domicile_testing.routing import World, pin
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed, InvalidStatus

Talk = Callable[[ServerConnection], Awaitable[None]]


async def echo(connection: ServerConnection) -> None:
    async for message in connection:
        await connection.send(message)


@asynccontextmanager
async def application(world: World, talk: Talk = echo) -> AsyncIterator[None]:
    """A WebSocket server in the place of the application that is alice's home."""
    world.directory.place(pin("alice", "eu-2", 7))
    place = world.app("eu-2.ams")
    await place.stop()
    host, _, port = place.address.rpartition(":")
    async with serve(talk, host, int(port), ssl=place.context, max_size=None):
        yield


def dial(world: World, **more: object) -> connect:
    return connect(
        f"wss://{world.manifest.routers['fra'].public}/live?x=1",
        ssl=world.public_context("eu"),
        additional_headers=world.bearer("alice"),
        proxy=None,
        max_size=None,
        **more,  # type: ignore[arg-type]
    )


async def test_messages_pass_both_ways_with_the_pin_in_the_handshake(world: World) -> None:
    asked: list[tuple[str, str | None, str | None]] = []

    async def talk(connection: ServerConnection) -> None:
        assert connection.request is not None
        headers = connection.request.headers
        asked.append((connection.request.path, headers.get("Domicile-Cell"), headers.get("Domicile-Epoch")))
        await echo(connection)

    async with application(world, talk), world.router(), dial(world) as client:
        for message in ("grüße", b"\0" * 10, "x" * 3_000_000):
            await client.send(message)
            assert await client.recv() == message
        assert client.response is not None
        assert "__Host-domicile" in client.response.headers["Set-Cookie"]
    assert asked == [("/live?x=1", "eu-2", "7")]


async def test_what_the_server_says_first_arrives(world: World) -> None:
    async def talk(connection: ServerConnection) -> None:
        await connection.send("hello")

    async with application(world, talk), world.router(), dial(world) as client:
        assert await client.recv() == "hello"
        with pytest.raises(ConnectionClosed) as closed:
            await client.recv()
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1000


async def test_a_client_that_goes_away_ends_the_servers_connection(world: World) -> None:
    gone = asyncio.Event()

    async def talk(connection: ServerConnection) -> None:
        await connection.send("hello")
        await connection.wait_closed()
        gone.set()

    async with application(world, talk), world.router(), dial(world) as client:
        assert await client.recv() == "hello"
        client.transport.abort()
        await asyncio.wait_for(gone.wait(), 5)


async def test_a_server_that_goes_away_ends_the_clients_connection(world: World) -> None:
    async def talk(connection: ServerConnection) -> None:
        await connection.send("hello")
        connection.transport.abort()

    async with application(world, talk), world.router(), dial(world) as client:
        assert await client.recv() == "hello"
        with pytest.raises(ConnectionClosed):
            await client.recv()


async def test_silence_in_both_directions_ends_it(world: World) -> None:
    async with application(world), world.router(relay_seconds=0.2), dial(world, ping_interval=None) as client:
        await client.send("hello")
        assert await client.recv() == "hello"
        with pytest.raises(ConnectionClosed):
            await client.recv()


async def test_an_upgrade_that_the_application_refuses_is_an_ordinary_answer(world: World) -> None:
    world.directory.place(pin("alice", "eu-2"))
    async with world.router():
        with pytest.raises(InvalidStatus) as refused:
            await dial(world)
    assert refused.value.response.status_code == 200
    assert world.seen[0].headers["Upgrade"] == "websocket"


async def test_a_slow_reader_slows_the_writer_down(world: World) -> None:
    """The server can't send more than the buffers on the way take, as long as the client reads nothing."""
    sent = 0

    async def talk(connection: ServerConnection) -> None:
        nonlocal sent
        for _ in range(1000):
            await connection.send(bytes(100_000))
            sent += 1

    async with application(world, talk), world.router(), dial(world, max_queue=1, compression=None) as client:
        await client.recv()
        assert await until_still(lambda: sent) < 400
        received = 1
        async for _ in client:
            received += 1
        assert received == 1000


async def test_frames_that_are_sent_before_the_handshake_ends_wait_for_it(world: World) -> None:
    async with application(world), world.router():
        host, _, port = world.manifest.routers["fra"].public.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port), ssl=world.public_context("eu"))
        frame = b"\x81\x82\0\0\0\0hi"
        head = (
            f"GET /live HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {world.jwt('alice')}\r\nConnection: Upgrade\r\n"
            "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
        )
        writer.write(head.encode() + frame)
        answer = await reader.readuntil(b"\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 101 ")
        assert await reader.readexactly(4) == b"\x81\x02hi"
        writer.close()


async def test_a_client_that_cannot_upgrade_is_told_by_another_library_too(world: World) -> None:
    async with (
        application(world),
        world.router() as client,
        client.ws_connect("/live", headers=world.bearer("alice")) as live,
    ):
        await live.send_str("hi")
        assert (await live.receive()).data == "hi"
