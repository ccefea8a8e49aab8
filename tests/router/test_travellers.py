"""A subject whose home lies in another jurisdiction: redirected, carried or refused, as its home wants it."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from domicile_testing.conditions import until_ready
from domicile_testing.routing import World, asked_for_body, pin, routing_world, subject

from domicile.model import Address, Role


async def test_redirect_names_the_homes_host_and_keeps_path_and_query(world: World) -> None:
    world.directory.place(pin("bob", "us-1"))
    async with world.router() as client:
        request = client.get("/notes?q=a%20b&c", headers=world.bearer("bob"), allow_redirects=False)
        async with request as response:
            assert response.status == 307
            assert response.headers["Location"] == "https://us.acme.example/notes?q=a%20b&c"
            assert response.content_type == "application/problem+json"
            problem = await response.json()
            assert (problem["code"], problem["jurisdiction"]) == ("cross-border-access", "us")
            assert "Set-Cookie" not in response.headers
    assert not world.seen


async def test_a_redirect_is_answered_on_the_head_before_100_continue(world: World) -> None:
    world.directory.place(pin("bob", "us-1"))
    async with world.router():
        answer = await expect_continue(world, "bob", b"")
    assert answer.startswith(b"HTTP/1.1 307 ")
    assert b"100 Continue" not in answer


async def test_100_continue_is_said_when_the_body_is_wanted(world: World) -> None:
    world.directory.place(pin("alice", "eu-1"))
    async with world.router():
        answer = await expect_continue(world, "alice", b"x" * 10)
    assert answer.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 ")
    assert [seen.body for seen in world.seen] == [b"x" * 10]


async def expect_continue(world: World, name: str, body: bytes) -> bytes:
    head = (
        f"POST /notes HTTP/1.1\r\nHost: eu.acme.example\r\nAuthorization: Bearer {world.jwt(name)}\r\n"
        "Content-Length: 10\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n"
    )
    router = Address(world.manifest.routers["fra"].public)
    return await asked_for_body(router, world.public_context("eu"), head.encode(), body)


async def test_refuse_is_451_and_says_who_blocks(tmp_path: Path) -> None:
    async with routing_world(tmp_path, us="refuse") as world:
        world.directory.place(pin("bob", "us-1"))
        async with world.router() as client, client.get("/notes", headers=world.bearer("bob")) as response:
            assert response.status == 451
            assert response.headers["Link"] == '<https://eu.acme.example/>; rel="blocked-by"'
            assert (await response.json())["code"] == "cross-border-access"
    assert not world.seen


async def test_the_home_may_want_another_way_for_some_paths(tmp_path: Path) -> None:
    def change(data: dict[str, Any]) -> None:
        data["jurisdictions"]["us"]["traveller_paths"] = [
            {"path": "/export/*", "travellers": "refuse"},
            {"path": "/live/*", "travellers": "hairpin"},
        ]

    async with routing_world(tmp_path, change=change) as world:
        world.directory.place(pin("bob", "us-1"))
        async with world.router("iad"), world.router("fra") as client:
            for path, status in (("/notes", 307), ("/export/all", 451), ("/live/1", 200), ("/export", 307)):
                request = client.get(path, headers=world.bearer("bob"), allow_redirects=False)
                async with request as response:
                    assert response.status == status, path
                    assert ("Link" in response.headers) is (status == 451)
    assert [seen.target for seen in world.seen] == ["/live/1"]


async def test_hairpin_streams_through_a_router_of_the_home(tmp_path: Path) -> None:
    async with routing_world(tmp_path, us="hairpin") as world:
        world.directory.place(pin("bob", "us-1", 4))
        async with (
            world.router("iad"),
            world.router("fra") as client,
            client.post("/notes?x=1", headers=world.bearer("bob"), data=b"text") as response,
        ):
            assert response.status == 200
            assert "__Host-domicile" in response.headers["Set-Cookie"]
    (seen,) = world.seen
    assert (seen.place, seen.target, seen.body) == ("us-1.iad/app", "/notes?x=1", b"text")
    assert seen.headers["Domicile-Subject-Key"] == str(subject("bob"))
    assert seen.headers.getall("Domicile-Epoch") == ["4"]


async def test_hairpin_identifies_again_by_the_token_that_the_client_carries(tmp_path: Path) -> None:
    async with routing_world(tmp_path, us="hairpin") as world:
        world.directory.place(pin("bob", "us-1", 4))
        async with world.router("iad"), world.router("fra") as client:
            async with client.get("/notes", headers=world.bearer("bob")) as response:
                token = response.headers["Set-Cookie"].partition(";")[0]
            async with client.get("/notes", headers={"Cookie": token}) as response:
                assert response.status == 200
    assert [seen.place for seen in world.seen] == ["us-1.iad/app"] * 2
    assert "Cookie" not in world.seen[1].headers


async def test_without_a_router_of_the_home_hairpin_is_503(tmp_path: Path) -> None:
    async with routing_world(tmp_path, us="hairpin") as world:
        world.directory.place(pin("bob", "us-1"))
        async with world.router("fra") as client, client.get("/notes", headers=world.bearer("bob")) as response:
            assert response.status == 503
            assert "Retry-After" in response.headers


def internal(world: World, jurisdiction: str, role: Role, name: str) -> aiohttp.ClientSession:
    """A client of the us router's internal listener, with a certificate of that role."""
    context = world.trust.credentials(jurisdiction, role, name).client("us", [Role.ROUTER])
    base = f"https://{world.manifest.routers['iad'].internal}"
    return aiohttp.ClientSession(base, connector=aiohttp.TCPConnector(ssl=context))


async def test_the_internal_listener_refuses_a_subject_of_elsewhere_and_names_the_epoch(tmp_path: Path) -> None:
    async with routing_world(tmp_path, eu="hairpin", us="hairpin") as world:
        world.directory.place(pin("alice", "eu-1", 6))
        async with (
            world.router("fra"),
            world.router("iad"),
            internal(world, "eu", Role.ROUTER, "fra") as peer,
            peer.get("/notes", headers=world.bearer("alice")) as response,
        ):
            assert response.status == 421
            assert response.headers["Domicile-Guard"] == "stale-epoch"
            assert response.headers["Domicile-Epoch"] == "6"
            assert (await response.json())["code"] == "misdirected"
    assert not world.seen


async def test_the_internal_listener_believes_no_identity_of_its_peer(world: World) -> None:
    world.directory.place(pin("bob", "us-1"))
    async with (
        world.router("iad"),
        internal(world, "eu", Role.ROUTER, "fra") as peer,
        peer.get("/notes", headers={"Domicile-Subject-Key": str(subject("bob"))}) as response,
    ):
        assert response.status == 401
    assert not world.seen


async def test_a_pin_that_went_stale_abroad_is_mended_by_the_homes_refusal(tmp_path: Path) -> None:
    async with routing_world(tmp_path, us="hairpin") as world:
        world.directory.place(pin("bob", "us-1", 1))
        async with world.router("iad"), world.router("fra") as client:
            async with client.get("/about", headers=world.bearer("bob")) as response:
                assert response.status == 200  # fra's replica knows the pin now, iad's does not
            world.directory.place(pin("bob", "eu-2", 3))
            async with client.post("/notes", headers=world.bearer("bob"), data=b"text") as response:
                assert response.status == 200
    assert (world.seen[-1].place, world.seen[-1].body) == ("eu-2.ams/app", b"text")


@pytest.mark.parametrize(
    ("jurisdiction", "role", "name"),
    [("us", Role.APP, "us-1.iad"), ("eu", Role.GATEWAY, "eu-1.fra"), ("global", Role.DIRECTORY, "fra")],
)
async def test_only_routers_and_operators_reach_the_internal_listener(
    world: World, jurisdiction: str, role: Role, name: str
) -> None:
    async with world.router("iad"), internal(world, jurisdiction, role, name) as peer:
        with pytest.raises((aiohttp.ClientError, ssl.SSLError)):
            await peer.get("/healthz")


async def test_health_is_for_operators_and_its_paths_stay_free_for_applications(world: World) -> None:
    world.directory.place(pin("bob", "us-1"))
    async with world.router("iad"), internal(world, "us", Role.OPERATOR, "root") as operator:
        await until_ready(operator)
        for path in ("/healthz", "/metrics"):
            async with operator.get(path) as response:
                assert response.status == 200
        async with operator.get("/notes", headers=world.bearer("bob")) as response:
            assert response.status == 404
        assert not world.seen
        async with (
            internal(world, "eu", Role.ROUTER, "fra") as peer,
            peer.get("/healthz", headers=world.bearer("bob")) as response,
        ):
            assert response.status == 200
    assert [seen.target for seen in world.seen] == ["/healthz"]
