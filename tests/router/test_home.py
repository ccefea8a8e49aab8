"""A known subject's request reaches the home cell, whole and cleaned, and nobody else's does."""

from __future__ import annotations

import asyncio

import pytest
from aiohttp import web
from domicile_testing.routing import World, pin, subject
from yarl import URL


async def test_a_subject_is_served_by_the_home_cell_with_its_pin_in_the_headers(world: World) -> None:
    world.directory.place(pin("alice", "eu-2", 7))
    async with world.router() as client, client.get("/notes?q=1", headers=world.bearer("alice")) as response:
        assert response.status == 200
        assert await response.json() == {"served": True}
    (seen,) = world.seen
    assert (seen.place, seen.target) == ("eu-2.ams/app", "/notes?q=1")
    assert seen.headers["Domicile-Subject-Key"] == str(subject("alice"))
    assert (seen.headers["Domicile-Cell"], seen.headers["Domicile-Epoch"]) == ("eu-2", "7")
    assert "Domicile-Observed-Country" not in seen.headers


async def test_paths_of_the_gateway_go_to_the_gateway(world: World) -> None:
    world.directory.place(pin("alice", "eu-2"))
    async with world.router() as client:
        await client.get("/.domicile/v1/records", headers=world.bearer("alice"))
    assert [seen.place for seen in world.seen] == ["eu-2.ams/gateway"]


async def test_a_known_subject_costs_the_directory_one_question(world: World) -> None:
    world.directory.place(pin("alice", "eu-1"))
    async with world.router() as client:
        for _ in range(3):
            async with client.get("/notes", headers=world.bearer("alice")) as response:
                assert response.status == 200
    assert len(world.directory.asked) == 1


async def test_many_first_requests_at_once_share_one_question(world: World) -> None:
    world.directory.place(pin("alice", "eu-1"))
    world.directory.gate.clear()
    async with world.router() as client:
        requests = [asyncio.create_task(client.get("/notes", headers=world.bearer("alice"))) for _ in range(8)]
        await world.directory.reached.wait()
        await asyncio.wait(requests, timeout=0.2)  # let the others arrive behind the first
        world.directory.gate.set()
        assert [response.status for response in await asyncio.gather(*requests)] == [200] * 8
    assert len(world.directory.asked) == 1


async def test_an_unknown_subject_is_404_and_asked_for_once(world: World) -> None:
    async with world.router() as client:
        for _ in range(2):
            async with client.get("/notes", headers=world.bearer("nobody")) as response:
                assert response.status == 404
                assert response.content_type == "application/problem+json"
                assert (await response.json())["code"] == "unknown-subject"
    assert len(world.directory.asked) == 1
    assert not world.seen


async def test_a_subject_that_signs_up_is_known_at_once(world: World) -> None:
    async with world.router() as client:
        async with client.get("/notes", headers=world.bearer("carol")) as response:
            assert response.status == 404
        async with client.post("/signup", headers=world.bearer("carol"), json={}) as response:
            assert response.status == 200
        world.directory.place(pin("carol", "eu-1"))
        async with client.get("/notes", headers=world.bearer("carol")) as response:
            assert response.status == 200


async def test_nobody_on_a_pinned_path_is_401(world: World) -> None:
    async with world.router() as client, client.get("/notes") as response:
        assert response.status == 401
        assert response.headers["WWW-Authenticate"] == "Bearer"
        assert (await response.json())["code"] == "unauthenticated"
    assert not world.seen


async def test_unpinned_requests_are_spread_over_the_open_cells_of_this_jurisdiction(world: World) -> None:
    async with world.router() as client:
        for _ in range(6):
            async with client.get("/about") as response:
                assert response.status == 200
    cells = [seen.place.partition(".")[0] for seen in world.seen]
    assert sorted(cells) == ["eu-1"] * 3 + ["eu-2"] * 3
    assert all("Domicile-Subject-Key" not in seen.headers for seen in world.seen)


async def test_an_unpinned_request_of_a_local_subject_goes_home(world: World) -> None:
    world.directory.place(pin("alice", "eu-2", 3))
    async with world.router() as client:
        for _ in range(3):
            await client.get("/about", headers=world.bearer("alice"))
    assert {seen.place for seen in world.seen} == {"eu-2.ams/app"}
    assert {seen.headers["Domicile-Epoch"] for seen in world.seen} == {"3"}


async def test_an_unpinned_request_of_a_foreign_or_unknown_subject_stays_here(world: World) -> None:
    world.directory.place(pin("bob", "us-1"))
    async with world.router() as client:
        for name in ("bob", "nobody"):
            async with client.get("/support/x", headers=world.bearer(name)) as response:
                assert response.status == 200
    assert all(seen.place.startswith("eu-") and "Domicile-Subject-Key" not in seen.headers for seen in world.seen)


async def test_the_observed_country_comes_from_the_trusted_hop_and_only_on_unpinned_paths(world: World) -> None:
    world.directory.place(pin("alice", "eu-1"))
    forwarded = {"X-Forwarded-For": "193.99.144.80, 8.8.8.8", "Domicile-Observed-Country": "FR"}
    async with world.router() as client:
        await client.post("/signup", headers=forwarded)
        await client.get("/notes", headers=world.bearer("alice") | forwarded)
        await client.post("/signup", headers={"Domicile-Observed-Country": "FR"})
    countries = [seen.headers.get("Domicile-Observed-Country") for seen in world.seen]
    assert countries == ["US", None, None]
    assert all("X-Forwarded-For" not in seen.headers for seen in world.seen)


async def test_forged_and_hop_by_hop_headers_end_at_the_router(world: World) -> None:
    world.directory.place(pin("alice", "eu-1"))
    forged = {
        "Domicile-Subject-Key": str(subject("bob")),
        "domicile-cell": "us-1",
        "Domicile-Anything": "x",
        "X-Forwarded-Host": "evil.example",
        "Forwarded": "for=1.2.3.4",
        "X-Real-IP": "1.2.3.4",
        "Connection": "keep-alive, X-Secret",
        "X-Secret": "s",
        "Keep-Alive": "timeout=5",
        "Proxy-Authorization": "Basic x",
        "TE": "trailers",
        "X-Kept": "yes",
        "Cookie": "a=1; __Host-domicile=junk; b=2",
        "Host": "eu.acme.example",
    }
    async with world.router() as client:
        await client.get("/notes", headers=world.bearer("alice") | forged)
    (seen,) = world.seen
    names = {name.lower() for name in seen.headers}
    assert seen.headers.getall("Domicile-Subject-Key") == [str(subject("alice"))]
    assert seen.headers.getall("Domicile-Cell") == ["eu-1"]
    assert not names & {
        "domicile-anything", "x-forwarded-host", "forwarded", "x-real-ip", "x-secret", "keep-alive", "te",
        "proxy-authorization",
    }  # fmt: skip
    assert seen.headers["X-Kept"] == "yes"
    assert seen.headers["Cookie"] == "a=1; b=2"
    assert seen.headers["Host"] == "eu.acme.example"
    assert seen.headers["Authorization"].startswith("Bearer ")


async def test_what_an_application_says_to_routers_does_not_reach_clients(world: World) -> None:
    async def talkative(_: web.BaseRequest) -> web.StreamResponse:
        headers = {"Domicile-Epoch": "3", "Domicile-Guard": "x", "X-Kept": "yes", "Connection": "X-Hop", "X-Hop": "1"}
        return web.Response(status=418, reason="Short and Stout", text="tea", headers=headers)

    world.answers(talkative)
    async with world.router() as client, client.get("/about") as response:
        assert (response.status, response.reason, await response.text()) == (418, "Short and Stout", "tea")
        assert response.headers["X-Kept"] == "yes"
        assert not {"domicile-epoch", "domicile-guard", "x-hop"} & {name.lower() for name in response.headers}


@pytest.mark.parametrize("target", ["/support/../notes", "/support/%2e%2e/notes", "/support/..%2Fnotes", "/a/./b"])
async def test_a_path_with_two_meanings_is_400(world: World, target: str) -> None:
    async with world.router() as client:
        url = URL(f"https://{world.manifest.routers['fra'].public}{target}", encoded=True)
        async with client.get(url, headers=world.bearer("alice")) as response:
            assert response.status == 400
            assert (await response.json())["code"] == "bad-request"
    assert not world.seen
