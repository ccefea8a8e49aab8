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


async def test_a_process_that_hangs_with_open_connections_is_found_out(world: World) -> None:
    """As if it were stopped: what is open stays open, its kernel takes connections, and nobody answers."""
    world.directory.place(pin("alice", "eu-1"))
    place, alice = world.app("eu-1.fra"), world.bearer("alice")
    gate = asyncio.Barrier(4)

    async def together(_: web.BaseRequest) -> web.StreamResponse:
        await gate.wait()
        return web.Response(text="ok")

    async def hang(_: web.BaseRequest) -> web.StreamResponse:
        await asyncio.Event().wait()
        raise AssertionError

    world.answers(together, "eu-1.fra")
    async with world.router(connect_seconds=0.5) as client:

        async def ask(method: str) -> int:
            async with client.request(method, "/notes", headers=alice) as response:
                return response.status

        assert await asyncio.gather(*(ask("GET") for _ in range(4))) == [200] * 4  # so many connections are open
        place.handler = hang
        world.seen.clear()
        with await place.silent():
            write = asyncio.create_task(ask("POST"))
            async with asyncio.timeout(20):
                assert await asyncio.gather(*(ask("GET") for _ in range(2))) == [200] * 2, "by the other zone"
                assert await ask("POST") == 200, "which is tried first now"
            assert not write.done(), "whether it took effect is not known"
            write.cancel()
    assert sorted((seen.place, seen.method) for seen in world.seen) == [
        ("eu-1.fra/app", "GET"), ("eu-1.fra/app", "GET"), ("eu-1.fra/app", "POST"),
        ("eu-1.par/app", "GET"), ("eu-1.par/app", "GET"), ("eu-1.par/app", "POST"),
    ]  # fmt: skip


async def test_an_application_that_takes_its_time_is_left_to_it(world: World) -> None:
    world.directory.place(pin("alice", "eu-1"))
    connections: set[object] = set()
    slow = asyncio.Event()

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        connections.add(request.transport)
        if request.path == "/slow":
            await slow.wait()
        return web.Response(text="ok")

    world.answers(answer)
    async with world.router(connect_seconds=0.5) as client:
        waiting = asyncio.create_task(client.get("/slow", headers=world.bearer("alice")))
        async with asyncio.timeout(20):
            while len(connections) < 2:  # the proof has been made, and is used for this
                async with client.get("/quick", headers=world.bearer("alice")) as response:
                    assert response.status == 200
                assert not waiting.done()
        slow.set()
        async with await waiting as response:
            assert response.status == 200
    assert {seen.place for seen in world.seen} == {"eu-1.fra/app"}
