"""A cell that hangs holds a bounded part of the router, and the others are served meanwhile."""

from __future__ import annotations

import asyncio

from aiohttp import web
from domicile_testing.routing import World, pin

WAITING = 5


async def test_a_hanging_cell_is_bounded_and_does_not_hold_up_another(world: World) -> None:
    world.directory.place(pin("alice", "eu-1"), pin("bob", "eu-2"))
    release = asyncio.Event()

    async def hang(_: web.BaseRequest) -> web.StreamResponse:
        await release.wait()
        return web.Response(text="late")

    world.answers(hang, "eu-1.fra", "eu-1.par")
    async with world.router(waiting=WAITING) as client:
        alice, bob = world.bearer("alice"), world.bearer("bob")
        stuck = [asyncio.create_task(client.get("/notes", headers=alice)) for _ in range(WAITING)]
        while len(world.seen) < WAITING:
            await world.app("eu-1.fra").arrived.wait()
            world.app("eu-1.fra").arrived.clear()
        async with client.get("/notes", headers=alice) as response:
            assert response.status == 503
            assert response.headers["Retry-After"] == "1"
        for _ in range(3 * WAITING):
            async with client.get("/notes", headers=bob) as response:
                assert response.status == 200
        release.set()
        for response in await asyncio.gather(*stuck):
            assert response.status == 200
        async with client.get("/notes", headers=alice) as response:
            assert response.status == 200


async def test_open_streams_are_no_waiting_requests(world: World) -> None:
    """Server-sent events: the head has come, and the rest may take for ever."""
    world.directory.place(pin("alice", "eu-1"))
    release = asyncio.Event()

    async def stream(request: web.BaseRequest) -> web.StreamResponse:
        answer = web.StreamResponse()
        await answer.prepare(request)
        await answer.write(b"data: 1\n\n")
        await release.wait()
        return answer

    world.answers(stream)
    async with world.router(waiting=WAITING, places=WAITING) as client:
        streams = [await client.get("/events", headers=world.bearer("alice")) for _ in range(3 * WAITING)]
        assert {response.status for response in streams} == {200}
        release.set()
        for response in streams:
            await response.read()
