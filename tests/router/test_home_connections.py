"""Connections to homes: used again, waited for, and found closed."""

from __future__ import annotations

import asyncio

import pytest
from aiohttp import web
from domicile_testing.dialling import OK, answer_of, dialled, head_of, request, scripted
from domicile_testing.routing import World, pin


@pytest.fixture(autouse=True)
def _placed(world: World) -> None:
    world.directory.place(pin("alice", "eu-2"))


async def test_an_idle_connection_that_the_home_closed_costs_no_request(world: World) -> None:
    connections = 0

    async def once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        await head_of(reader)
        writer.write(OK)
        await head_of(reader)  # the next request comes, and the connection goes

    async with scripted(world, once), world.router(), dialled(world) as (reader, writer):
        for _ in range(3):
            writer.write(request(world))
            assert (await answer_of(reader))[1] == b"ok"
    assert connections == 3


async def test_connections_to_a_home_are_used_again(world: World) -> None:
    connections = 0

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        while True:
            await head_of(reader)
            writer.write(OK)

    async with scripted(world, script), world.router(), dialled(world) as (reader, writer):
        for _ in range(5):
            writer.write(request(world))
            assert (await answer_of(reader))[1] == b"ok"
    assert connections == 1


async def test_a_home_with_all_its_connections_in_use_is_waited_for_and_then_503(world: World) -> None:
    release = asyncio.Event()

    async def slow(_: web.BaseRequest) -> web.StreamResponse:
        await release.wait()
        return web.Response(text="ok")

    world.answers(slow)
    async with world.router(connections=1, connect_seconds=0.3), dialled(world) as one, dialled(world) as two:
        one[1].write(request(world))
        await world.app("eu-2.ams").arrived.wait()
        two[1].write(request(world))
        head, _ = await answer_of(two[0])
        assert head.startswith(b"HTTP/1.1 503 ")
        assert b"Retry-After" in head
        two[1].write(request(world))
        release.set()
        assert (await answer_of(one[0]))[1] == b"ok"
        assert (await answer_of(two[0]))[1] == b"ok", "it got the connection that the other was done with"


async def test_a_request_takes_the_connection_that_is_free_before_its_own_is_made(world: World) -> None:
    release = asyncio.Event()

    async def slow(_: web.BaseRequest) -> web.StreamResponse:
        await release.wait()
        return web.Response(text="ok")

    world.answers(slow)
    place = world.app("eu-2.ams")
    async with (
        world.router(connect_seconds=60),
        dialled(world) as one,
        dialled(world) as two,
        asyncio.timeout(20),
    ):
        one[1].write(request(world))
        await place.arrived.wait()
        with await place.silent() as backlog:
            two[1].write(request(world))
            being_made, _ = await asyncio.get_running_loop().run_in_executor(None, backlog.accept)
            with being_made:
                release.set()
                assert (await answer_of(one[0]))[1] == b"ok"
                assert (await answer_of(two[0]))[1] == b"ok"


async def test_whoever_waits_for_a_connection_is_told_at_once_that_none_can_be_made(world: World) -> None:
    await world.app("eu-2.ams").stop()

    async def refused() -> bytes:
        async with dialled(world) as (reader, writer):
            writer.write(request(world))
            return (await answer_of(reader))[0]

    async with world.router(connections=1, connect_seconds=60), asyncio.timeout(20):
        heads = await asyncio.gather(*(refused() for _ in range(8)))
    assert all(head.startswith(b"HTTP/1.1 503 ") for head in heads)
