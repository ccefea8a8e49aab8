"""A zone that is gone, drains or hangs costs its cell's subjects nothing, and no request leaves its cell for it."""

from __future__ import annotations

import asyncio
import gc

import pytest
from aiohttp import web
from domicile_testing.conditions import until
from domicile_testing.edges import IDLE_SECONDS, Edge
from domicile_testing.routing import World, pin

from domicile.model import Role

ALICE = pin("alice", "eu-1", 2)
BOB = pin("bob", "eu-2", 2)


@pytest.fixture(autouse=True)
def _placed(world: World) -> None:
    world.directory.place(ALICE, BOB)


async def test_the_next_zone_of_the_same_cell_takes_over(edge: Edge, world: World) -> None:
    await world.app("eu-1.fra").stop()
    async with edge.of(ALICE) as client:
        for _ in range(3):
            async with client.post("/notes", data=b"text") as response:
                assert response.status == 200
    assert [(seen.place, seen.body) for seen in world.seen] == [("eu-1.par/app", b"text")] * 3


async def test_without_any_zone_of_the_home_it_is_503_and_no_other_cell_sees_it(edge: Edge, world: World) -> None:
    await world.app("eu-1.fra").stop()
    await world.app("eu-1.par").stop()
    async with edge.of(ALICE) as client:
        for _ in range(3):
            async with client.get("/notes") as response:
                assert response.status == 503
                assert int(response.headers["Retry-After"]) > 0
                assert response.content_type == "application/problem+json"
                assert (await response.json())["code"] == "unavailable"
        assert not world.seen
    async with edge.of(BOB) as client, client.get("/notes") as response:
        assert response.status == 200


@pytest.mark.filterwarnings(
    # asyncio leaves a handshake that its client ends to the collector
    "ignore:Exception ignored in. <function _SSLProtocolTransport:pytest.PytestUnraisableExceptionWarning"
)
async def test_whoever_else_answers_at_a_zones_address_gets_nothing(edge: Edge, world: World) -> None:
    place = world.app("eu-1.fra")
    others = [
        ("us", Role.APP, "us-1.iad"),
        ("eu", Role.APP, "eu-2.ams"),
        ("eu", Role.APP, "eu-11.fra"),
        ("eu", Role.GATEWAY, "eu-1.fra"),
        ("eu", Role.ROUTER, "fra"),
    ]
    async with edge.of(ALICE) as client:
        for jurisdiction, role, name in others:
            await place.stop()
            credentials = world.trust.credentials(jurisdiction, role, name, ("127.10.1.1",))
            place.context = credentials.server(["eu"], [Role.ROUTER, Role.EDGE])
            await place.start()
            async with client.get("/notes") as response:
                assert response.status == 200
        await place.stop()
    gc.collect()  # now, while this is expected
    assert [seen.place for seen in world.seen] == ["eu-1.par/app"] * len(others)


async def test_a_zone_that_drains_is_left_without_an_answer_lost(edge: Edge, world: World) -> None:
    """``/readyz`` says 503 while what comes is still served; then, not before, the zone goes."""
    served: list[int] = []
    going = True

    async def ask() -> None:
        async with edge.of(ALICE) as client:
            while going:
                async with client.post("/notes", data=b"text") as response:
                    served.append(response.status)

    clients = [asyncio.create_task(ask()) for _ in range(4)]
    await until(lambda: len(served) > 20)
    world.app("eu-1.fra").ready = False
    await until(lambda: world.seen[-1].place == "eu-1.par/app")
    left = len(world.seen)
    await until(lambda: len(world.seen) > left + 40)
    assert {seen.place for seen in world.seen[left + 4 :]} == {"eu-1.par/app"}
    await world.app("eu-1.fra").stop()
    left = len(served)
    await until(lambda: len(served) > left + 40)
    going = False
    await asyncio.gather(*clients)
    assert set(served) == {200}


async def test_a_hanging_zone_is_passed_by_for_what_can_be_sent_twice(edge: Edge, world: World) -> None:
    release = asyncio.Event()

    async def hang(_: web.BaseRequest) -> web.StreamResponse:
        await release.wait()
        return web.Response(text="late")

    world.answers(hang, "eu-1.fra")
    async with edge.of(ALICE) as client, edge.of(BOB) as other, asyncio.timeout(20 * IDLE_SECONDS):
        async with client.get("/notes") as response:
            assert (response.status, await response.json()) == (200, {"served": True})
        async with client.post("/notes", data=b"text") as response:
            assert response.status in (200, 503, 504)
        async with other.post("/notes", data=b"text") as response:
            assert response.status == 200
        release.set()
    writes = [seen.place for seen in world.seen if seen.method == "POST" and seen.place.startswith("eu-1")]
    assert len(writes) == 1, "a write is not sent twice"
