"""A guard's 421 sends a request round once more, never twice, and never what cannot be sent again."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web
from domicile_testing.routing import Handler, World, pin, routing_world, subject


def guarding(kind: str, *, epoch: int | None = None, key: str | None = None, times: int = 1) -> Handler:
    """Refuses as a guard does, so many times, then serves."""
    left = times

    async def handler(_: web.BaseRequest) -> web.StreamResponse:
        nonlocal left
        left -= 1
        if left < 0:
            return web.json_response({"served": True})
        headers = {"Domicile-Guard": kind}
        if epoch is not None:
            headers["Domicile-Epoch"] = str(epoch)
        if key is not None:
            headers["Domicile-Subject-Key"] = key
        return web.Response(status=421, headers=headers)

    return handler


async def warm(world: World) -> None:
    world.directory.place(pin("alice", "eu-1", 1))


async def test_a_moved_subject_is_followed_with_its_body(world: World) -> None:
    await warm(world)
    async with world.router() as client:
        await client.get("/notes", headers=world.bearer("alice"))
        world.directory.place(pin("alice", "eu-2", 3))
        world.answers(guarding("stale-epoch", epoch=3), "eu-1.fra", "eu-1.par")
        async with client.post("/notes", headers=world.bearer("alice"), data=b"hello") as response:
            assert response.status == 200
        asked = len(world.directory.asked)
        async with client.get("/notes", headers=world.bearer("alice")) as response:
            assert response.status == 200
    assert [(seen.place, seen.body) for seen in world.seen[1:3]] == [
        ("eu-1.fra/app", b"hello"), ("eu-2.ams/app", b"hello"),
    ]  # fmt: skip
    assert world.seen[2].headers["Domicile-Epoch"] == "3"
    assert world.seen[3].place == "eu-2.ams/app"
    assert len(world.directory.asked) == asked, "the new pin is in the replica"


async def test_a_cell_that_is_behind_is_waited_for(world: World) -> None:
    world.directory.place(pin("alice", "eu-1", 5))
    world.answers(guarding("stale-epoch", epoch=4, times=3))
    async with (
        world.router() as client,
        client.post("/notes", data=b"text", headers=world.bearer("alice")) as response,
    ):
        assert response.status == 200
    assert [seen.body for seen in world.seen] == [b"text"] * 4
    assert len(world.directory.asked) == 1


async def test_a_cell_that_stays_behind_is_not_waited_for_for_ever(world: World) -> None:
    world.directory.place(pin("alice", "eu-1", 5))
    world.answers(guarding("stale-epoch", epoch=4, times=999))
    async with (
        world.router(move_seconds=0.2) as client,
        client.get("/notes", headers=world.bearer("alice")) as response,
    ):
        assert response.status == 503
        assert int(response.headers["Retry-After"]) > 0
    assert 2 <= len(world.seen) <= 5
    assert len(world.directory.asked) == 1


async def test_a_body_that_cannot_be_sent_again_is_not_waited_with(world: World) -> None:
    world.directory.place(pin("alice", "eu-1", 5))
    world.answers(guarding("stale-epoch", epoch=4))
    async with (
        world.router() as client,
        client.post("/notes", headers=world.bearer("alice"), data=bytes(100_000)) as response,
    ):
        assert response.status == 503
    assert len(world.seen) == 1


async def test_a_second_guard_ends_it(world: World) -> None:
    await warm(world)
    world.answers(guarding("stale-epoch", epoch=9, times=9))
    async with world.router() as client, client.get("/notes", headers=world.bearer("alice")) as response:
        assert response.status == 503
        assert "Retry-After" in response.headers
    assert len(world.seen) == 2


async def test_a_body_too_long_to_keep_is_not_replayed(world: World) -> None:
    await warm(world)
    world.answers(guarding("stale-epoch", epoch=2))
    async with (
        world.router() as client,
        client.post("/notes", headers=world.bearer("alice"), data=bytes(100_000)) as response,
    ):
        assert response.status == 503
        assert "Retry-After" in response.headers
    assert len(world.seen) == 1


async def test_an_early_guard_lets_the_rest_of_a_body_follow_the_replay(world: World) -> None:
    """The first cell refuses on the head, while the client is still sending: nothing is lost or sent twice."""
    await warm(world)

    async def parts() -> AsyncIterator[bytes]:
        yield b"one,"
        await world.app("eu-2.ams").arrived.wait()
        yield b"two"

    async with world.router() as client:
        await client.get("/notes", headers=world.bearer("alice"))
        world.directory.place(pin("alice", "eu-2", 2))
        first = world.app("eu-1.fra")
        first.handler, first.reads_body = guarding("stale-epoch", epoch=2), False
        async with client.post("/notes", headers=world.bearer("alice"), data=parts()) as response:
            assert response.status == 200
    assert [(seen.place, seen.body) for seen in world.seen[1:]] == [
        ("eu-1.fra/app", b""), ("eu-2.ams/app", b"one,two"),
    ]  # fmt: skip


async def test_an_applications_own_421_passes_through(world: World) -> None:
    await warm(world)

    async def misdirected(_: web.BaseRequest) -> web.StreamResponse:
        return web.Response(status=421, text="mine")

    world.answers(misdirected)
    async with world.router() as client, client.get("/notes", headers=world.bearer("alice")) as response:
        assert (response.status, await response.text()) == (421, "mine")
    assert len(world.seen) == 1


async def test_a_log_in_is_carried_to_the_sibling_cell_that_is_the_home(world: World) -> None:
    world.directory.place(pin("alice", "eu-2", 4))
    world.answers(guarding("wrong-cell", key=str(subject("alice")), times=9), "eu-1.fra", "eu-1.par")
    async with world.router() as client:
        for _ in range(2):  # one of the two turns begins at eu-1
            async with client.post("/login", data=b"secret") as response:
                assert response.status == 200
    served = [seen for seen in world.seen if seen.place.startswith("eu-2")]
    assert [seen.body for seen in served] == [b"secret", b"secret"]
    assert "eu-2" in [seen.headers.get("Domicile-Cell") for seen in served]


@pytest.mark.parametrize(("policy", "status"), [("redirect", 307), ("refuse", 451), ("hairpin", 200)])
async def test_a_log_in_of_a_subject_abroad_follows_the_traveller_policy(
    tmp_path: Path, policy: str, status: int
) -> None:
    async with routing_world(tmp_path, us=policy) as world:
        world.directory.place(pin("bob", "us-1", 1))
        world.answers(guarding("wrong-cell", key=str(subject("bob"))), "eu-1.fra", "eu-2.ams")
        async with (
            world.router("iad"),
            world.router("fra") as client,
            client.post("/login", data=b"secret", allow_redirects=False) as response,
        ):
            assert response.status == status
        assert [seen.body for seen in world.seen if seen.place.startswith("us-1")] == [b"secret"] * (status == 200)


@pytest.mark.parametrize(
    ("kind", "key"), [("wrong-cell", None), ("wrong-cell", "junk"), ("stale-epoch", None), ("made-up", None)]
)
async def test_a_guard_that_names_nobody_is_503(world: World, kind: str, key: str | None) -> None:
    world.answers(guarding(kind, key=key, times=9))
    async with world.router() as client, client.post("/login", data=b"x") as response:
        assert response.status == 503
    assert len(world.seen) == 1


async def test_a_cell_cannot_send_a_subjects_own_path_to_another_subject(world: World) -> None:
    world.directory.place(pin("alice", "eu-1", 2), pin("mallory", "eu-2", 2))
    world.answers(guarding("wrong-cell", key=str(subject("mallory"))), "eu-1.fra")
    async with world.router() as client, client.get("/notes", headers=world.bearer("alice")) as response:
        assert response.status == 200
    assert {seen.headers["Domicile-Subject-Key"] for seen in world.seen} == {str(subject("alice"))}


async def test_with_the_directory_gone_a_stale_pin_is_503(world: World) -> None:
    await warm(world)
    async with world.router() as client:
        await client.get("/notes", headers=world.bearer("alice"))
        await world.directory.stop()
        world.answers(guarding("stale-epoch", epoch=2))
        async with client.get("/notes", headers=world.bearer("alice")) as response:
            assert response.status == 503
            assert "Retry-After" in response.headers
