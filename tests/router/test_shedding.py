"""Who is turned away first, and who last."""

from __future__ import annotations

import asyncio

import pytest
from aiohttp import web
from domicile_testing.conditions import until
from domicile_testing.routing import World, pin
from hypothesis import given
from hypothesis import strategies as st

from domicile.model import Unavailable
from domicile.router.shedding import LATE_SECONDS, Caller, Shedder

PLACES = 100


def admitted(shedder: Shedder) -> set[Caller]:
    found = set()
    for caller in Caller:
        try:
            shedder.admit(caller)
        except Unavailable as error:
            assert error.retry_after == 1  # noqa: PT017 - what each refusal says
        else:
            found.add(caller)
    return found


@pytest.mark.parametrize(
    ("taken", "who"),
    [
        (1, {Caller.KNOWN, Caller.UNPINNED, Caller.LOOK_UP}),
        (60, {Caller.KNOWN, Caller.UNPINNED, Caller.LOOK_UP}),
        (61, {Caller.KNOWN, Caller.UNPINNED}),
        (80, {Caller.KNOWN, Caller.UNPINNED}),
        (81, {Caller.KNOWN}),
        (100, {Caller.KNOWN}),
        (101, set()),
    ],
)
def test_the_last_places_are_for_the_known(taken: int, who: set[Caller]) -> None:
    shedder = Shedder(PLACES)
    for _ in range(taken):
        shedder.enter()
    assert admitted(shedder) == who
    for _ in range(taken):
        shedder.leave()
    assert admitted(shedder) == set(Caller)


def test_a_late_event_loop_turns_away_all_but_the_known_until_it_is_in_time_again() -> None:
    shedder = Shedder(PLACES)
    shedder.late(LATE_SECONDS)
    assert admitted(shedder) == set(Caller), "one late look is no verdict"
    for _ in range(10):
        shedder.late(2 * LATE_SECONDS)
    assert admitted(shedder) == {Caller.KNOWN}
    for _ in range(20):
        shedder.late(-0.01)
    assert admitted(shedder) == set(Caller)


@given(st.integers(0, 150), st.floats(0, 5))
def test_whoever_costs_less_is_never_turned_away_before_whoever_costs_more(taken: int, late: float) -> None:
    shedder = Shedder(PLACES)
    for _ in range(10):
        shedder.late(late)
    for _ in range(taken):
        shedder.enter()
    who = admitted(shedder)
    assert (Caller.LOOK_UP not in who) or (Caller.UNPINNED in who)
    assert (Caller.UNPINNED not in who) or (Caller.KNOWN in who)


async def test_a_full_router_serves_the_known_and_asks_the_directory_nothing(world: World) -> None:
    world.directory.place(pin("alice", "eu-1"), pin("bob", "eu-2"))
    release = asyncio.Event()

    async def slow(_: web.BaseRequest) -> web.StreamResponse:
        await release.wait()
        return web.Response(text="late")

    async with world.router(places=10) as client:
        alice = world.bearer("alice")
        async with client.get("/notes", headers=alice) as response:
            assert response.status == 200
        world.answers(slow)
        held = [asyncio.create_task(client.get("/notes", headers=alice)) for _ in range(8)]
        await until(lambda: len(world.seen) == 9)
        asked = len(world.directory.asked)
        for headers, path in ((world.bearer("bob"), "/notes"), ({}, "/about")):
            async with client.get(path, headers=headers) as response:
                assert response.status == 503
                assert response.headers["Retry-After"] == "1"
        assert len(world.directory.asked) == asked
        held.append(asyncio.create_task(client.get("/notes", headers=alice)))
        await until(lambda: len(world.seen) == 10)
        release.set()
        assert {response.status for response in await asyncio.gather(*held)} == {200}
        async with client.get("/notes", headers=world.bearer("bob")) as response:
            assert response.status == 200
