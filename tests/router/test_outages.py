"""Zones, cells and the directory gone: what is known is served, the rest is told when to come back."""

from __future__ import annotations

import asyncio

import pytest
from aiohttp import web
from domicile_testing.routing import World, pin

from domicile.model import Role
from domicile.model.wire import SigningKey


async def dropped(request: web.BaseRequest) -> web.StreamResponse:
    """Takes the request and goes away."""
    assert request.transport is not None
    request.transport.abort()
    raise ConnectionResetError


async def test_the_next_zone_of_the_same_cell_takes_over(world: World) -> None:
    world.directory.place(pin("alice", "eu-1"))
    async with world.router() as client:
        await world.app("eu-1.fra").stop()
        for _ in range(2):
            async with client.post("/notes", headers=world.bearer("alice"), data=b"text") as response:
                assert response.status == 200
    assert [(seen.place, seen.body) for seen in world.seen] == [("eu-1.par/app", b"text")] * 2


async def test_without_any_zone_of_the_home_it_is_503_and_no_other_cell_sees_it(world: World) -> None:
    world.directory.place(pin("alice", "eu-1"))
    async with world.router() as client:
        await world.app("eu-1.fra").stop()
        await world.app("eu-1.par").stop()
        async with client.get("/notes", headers=world.bearer("alice")) as response:
            assert response.status == 503
            assert int(response.headers["Retry-After"]) > 0
            assert (await response.json())["code"] == "unavailable"
    assert not world.seen


@pytest.mark.parametrize(
    ("jurisdiction", "role", "name"),
    [("us", Role.APP, "us-1.iad"), ("eu", Role.APP, "eu-2.ams"), ("eu", Role.GATEWAY, "eu-1.fra")],
)
async def test_whoever_else_answers_at_a_zones_address_gets_nothing(
    world: World, jurisdiction: str, role: Role, name: str
) -> None:
    world.directory.place(pin("alice", "eu-1"))
    place = world.app("eu-1.fra")
    await place.stop()
    place.context = world.trust.credentials(jurisdiction, role, name, ("127.10.1.1",)).server(["eu"], [Role.ROUTER])
    await place.start()
    async with world.router() as client, client.get("/notes", headers=world.bearer("alice")) as response:
        assert response.status == 200
    assert [seen.place for seen in world.seen] == ["eu-1.par/app"]


async def test_a_lost_answer_is_asked_for_again_only_where_that_is_harmless(world: World) -> None:
    world.directory.place(pin("alice", "eu-1"))
    world.answers(dropped, "eu-1.fra")
    async with world.router() as client, client.post("/notes", headers=world.bearer("alice"), data=b"text") as response:
        assert response.status == 502
        assert (await response.json())["code"] == "answer-lost"
    assert [seen.place for seen in world.seen] == ["eu-1.fra/app"]
    world.seen.clear()
    async with world.router() as client, client.get("/notes", headers=world.bearer("alice")) as response:
        assert response.status == 200
    assert {seen.place for seen in world.seen} == {"eu-1.fra/app", "eu-1.par/app"}


async def test_a_home_that_never_answers_is_given_up(world: World) -> None:
    async def silent(_: web.BaseRequest) -> web.StreamResponse:
        await asyncio.Event().wait()
        raise AssertionError

    world.directory.place(pin("alice", "eu-2"))
    world.answers(silent)
    async with (
        world.router(idle_seconds=0.2) as client,
        client.post("/notes", headers=world.bearer("alice"), data=b"x") as response,
    ):
        assert response.status == 502


async def test_without_the_directory_known_subjects_are_served_and_new_ones_get_503(world: World) -> None:
    world.directory.place(pin("alice", "eu-1"), pin("dora", "eu-1"))
    async with world.router() as client:
        await client.get("/notes", headers=world.bearer("alice"))
        await world.directory.stop()
        async with client.get("/notes", headers=world.bearer("alice")) as response:
            assert response.status == 200
        async with client.get("/notes", headers=world.bearer("dora")) as response:
            assert response.status == 503
            assert int(response.headers["Retry-After"]) > 0
        async with client.get("/about", headers=world.bearer("dora")) as response:
            assert response.status == 200, "an unpinned path opens no home and needs no pin"
        await world.directory.start()
        async with client.get("/notes", headers=world.bearer("dora")) as response:
            assert response.status == 200


async def test_a_restart_without_the_directory_serves_whom_it_knew_by_session_and_by_token(world: World) -> None:
    world.directory.place(pin("alice", "eu-1"))
    async with world.router("iad"), world.router("fra") as client:
        async with client.get("/notes", headers=world.bearer("alice")) as response:
            token = response.headers["Set-Cookie"].partition(";")[0]
        async with (
            world.client("iad") as abroad,
            abroad.get("/notes", headers={"Cookie": token}, allow_redirects=False) as response,
        ):
            assert response.status == 307
    await world.directory.stop()
    world.seen.clear()
    async with world.router("iad"), world.router("fra") as client:
        for headers in (world.bearer("alice"), {"Cookie": token}):
            async with client.get("/notes", headers=headers) as response:
                assert response.status == 200
        async with (
            world.client("iad") as abroad,
            abroad.get("/notes", headers={"Cookie": token}, allow_redirects=False) as response,
        ):
            assert response.status == 307, "the other router's key is on this one's disk"
    assert len(world.seen) == 2


async def test_the_signing_key_is_published_when_the_directory_comes_back(world: World) -> None:
    async with world.router():
        pass  # a first start, for the topology on disk
    world.directory.keys.clear()
    await world.directory.stop()
    published = asyncio.Event()
    world.directory.keys = Noticed(published)
    async with world.router():
        assert not published.is_set()
        await world.directory.start()
        await asyncio.wait_for(published.wait(), 10)


class Noticed(dict[str, SigningKey]):
    """A dictionary that tells when something was put into it."""

    def __init__(self, event: asyncio.Event) -> None:
        super().__init__()
        self._event = event

    def __setitem__(self, key: str, value: SigningKey) -> None:
        super().__setitem__(key, value)
        self._event.set()
