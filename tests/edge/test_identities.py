"""Whom an edge sends to a cell itself, and whom it leaves to a router: a proof that isn't good opens nothing."""

from __future__ import annotations

from uuid import UUID

import pytest
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from domicile_testing.edges import Edge
from domicile_testing.routing import World, pin, subject
from multidict import CIMultiDict
from yarl import URL

from domicile.identity import Signer

ALICE = pin("alice", "eu-2", 7)


@pytest.fixture(autouse=True)
def _placed(world: World) -> None:
    world.directory.place(ALICE, pin("bob", "us-1"), pin("carol", "eu-1", 2))


@pytest.mark.parametrize("carrier", ["header", "cookie"])
async def test_a_valid_token_is_served_by_the_home_cell_and_no_router_sees_it(
    edge: Edge, world: World, carrier: str
) -> None:
    token = edge.token(ALICE)
    headers = {"Domicile-Token": token} if carrier == "header" else {"Cookie": f"a=1; __Host-domicile={token}; b=2"}
    async with edge.client() as client, client.get("/notes?q=1", headers=headers) as response:
        assert response.status == 200, await response.text()
        assert await response.json() == {"served": True}
    (seen,) = world.seen
    assert (seen.place, seen.target) == ("eu-2.ams/app", "/notes?q=1")
    assert seen.headers.getall("Domicile-Subject-Key") == [str(subject("alice"))]
    assert (seen.headers["Domicile-Cell"], seen.headers["Domicile-Epoch"]) == ("eu-2", "7")
    assert token not in str(seen.headers)
    assert seen.headers.get("Cookie") == ("a=1; b=2" if carrier == "cookie" else None)
    assert "Via" not in seen.headers, "a router says that it was there"
    assert edge.asks or world.directory.asked == []


async def test_of_the_cookies_the_token_alone_is_kept_from_the_application(edge: Edge, world: World) -> None:
    left = {
        "__Host-domicile={}": "",
        "__Host-domicile={}; b=2": "b=2",
        "a=1; __Host-domicile={}": "a=1",
        "a=1;__Host-domicile={};b=2": "a=1;b=2",
        "a=__Host-domicile; __Host-domicile={}": "a=__Host-domicile",
    }
    async with edge.client() as client:
        for cookies in left:
            async with client.get("/notes", headers={"Cookie": cookies.format(edge.token(ALICE))}) as response:
                assert response.status == 200
    assert [seen.headers.get("Cookie", "").replace(" ", "") for seen in world.seen] == list(left.values())
    assert [("Cookie" in seen.headers) for seen in world.seen] == [bool(rest) for rest in left.values()]


async def test_a_bad_token_is_refused_as_by_a_router(edge: Edge, world: World) -> None:
    grants = Signer(Ed25519PrivateKey.generate())
    world.directory.keys[grants.kid] = grants.public("pin-grant")
    bad = {
        "expired": edge.token(ALICE, age=3600),
        "forged": edge.token(ALICE, signer=Signer(Ed25519PrivateKey.generate())),
        "of another deployment": edge.token(ALICE, issuer="other"),
        "of another type": grants.pin_grant(ALICE, "acme", UUID(int=1)),
        "a session": world.jwt("alice"),
        "garbage": "not.a.jwt",
        "empty": "",
    }
    async with edge.client() as client:
        for name, token in bad.items():
            for headers in ({"Domicile-Token": token}, {"Cookie": f"__Host-domicile={token}"}):
                async with client.get("/notes", headers=headers) as response:
                    assert response.status == 401, name
                    assert (await response.json())["code"] in ("token-invalid", "unauthenticated"), name
    assert not world.seen


async def test_without_a_token_a_router_decides(edge: Edge, world: World) -> None:
    forged = {"Domicile-Token": edge.token(ALICE, signer=Signer(Ed25519PrivateKey.generate()))}
    async with edge.client() as client:
        async with client.get("/notes") as response:
            assert (response.status, (await response.json())["code"]) == (401, "unauthenticated")
        async with client.get("/notes", headers=world.bearer("nobody")) as response:
            assert response.status == 404
        for more in ({}, forged):
            async with client.get("/notes", headers=world.bearer("alice") | more) as response:
                assert response.status == 200
                assert "__Host-domicile" in response.headers["Set-Cookie"]
    assert {(seen.place, seen.headers["Domicile-Epoch"]) for seen in world.seen} == {("eu-2.ams/app", "7")}
    assert all("Via" in seen.headers for seen in world.seen)


async def test_what_a_client_says_of_itself_counts_for_nothing(edge: Edge, world: World) -> None:
    forged = {
        "Domicile-Subject-Key": str(subject("carol")),
        "DOMICILE-CELL": "eu-1",
        "domicile-epoch": "2",
        "Domicile-Observed-Country": "US",
        "Domicile-Tokens": "x",
        "Domicile-Tok": "x",
        "Domicile-": "x",
        "Domicile_Cell": "us-1",
        "Forwarded": "for=1.2.3.4",
        "X-Forwarded-For": "1.2.3.4",
        "X-Forwarded-Host": "evil.example",
        "X-Real-IP": "1.2.3.4",
        "X-Kept": "yes",
        "Host": "eu.acme.example",
    }
    async with edge.client() as client:
        async with client.get("/notes", headers=forged) as response:
            assert response.status == 401
        assert not world.seen
        async with client.get("/notes", headers=forged | {"Domicile-Token": edge.token(ALICE)}) as response:
            assert response.status == 200
        async with client.get("/notes", headers=forged | world.bearer("alice")) as response:
            assert response.status == 200
    for seen in world.seen:
        said = {name.lower(): value for name, value in seen.headers.items() if name.lower().startswith("domicile")}
        assert said == {
            "domicile-subject-key": str(subject("alice")), "domicile-cell": "eu-2", "domicile-epoch": "7"
        }  # fmt: skip
        names = {name.lower() for name in seen.headers}
        assert not names & {"forwarded", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-real-ip"}
        assert not [name for name in names if name.startswith("x-envoy")]
        assert (seen.headers["X-Kept"], seen.headers["Host"]) == ("yes", "eu.acme.example")


async def test_a_token_of_another_jurisdiction_follows_its_travellers_policy(edge: Edge, world: World) -> None:
    headers = {"Domicile-Token": edge.token(pin("bob", "us-1"))}
    async with edge.client() as client, client.get("/notes?a=b", headers=headers, allow_redirects=False) as response:
        assert response.status == 307
        assert response.headers["Location"] == "https://us.acme.example/notes?a=b"
    assert not world.seen


async def test_tokens_that_disagree_are_refused(edge: Edge, world: World) -> None:
    one, other = edge.token(ALICE), edge.token(pin("carol", "eu-1", 2))
    contradictions: list[list[tuple[str, str]]] = [
        [("Domicile-Token", one), ("Cookie", f"__Host-domicile={other}")],
        [("Domicile-Token", one), ("Domicile-Token", other)],
        [("Cookie", f"__Host-domicile={one}; __Host-domicile={other}")],
    ]
    async with edge.client() as client:
        for fields in contradictions:
            async with client.get("/notes", headers=CIMultiDict(fields)) as response:
                assert response.status in (400, 401), fields
                assert (await response.json())["code"] in ("identities-disagree", "token-invalid")
    assert not world.seen


async def test_a_path_that_belongs_to_nobody_is_a_routers(edge: Edge, world: World) -> None:
    token = {"Domicile-Token": edge.token(ALICE), "X-Forwarded-For": "193.99.144.80, 8.8.8.8"}
    async with edge.client() as client:
        for path in ("/about", "/about?x=1", "/support/x"):
            async with client.get(path, headers=token) as response:
                assert response.status == 200
        async with client.post("/signup", headers=token, data=b"{}") as response:
            assert response.status == 200
    assert all("Via" in seen.headers for seen in world.seen)
    assert world.seen[-1].headers["Domicile-Observed-Country"] == "US"
    assert "X-Forwarded-For" not in world.seen[-1].headers


async def test_paths_of_the_gateway_are_a_routers(edge: Edge, world: World) -> None:
    async with edge.of(ALICE) as client:
        await client.get("/.domicile/v1/records")
    assert [(seen.place, "Via" in seen.headers) for seen in world.seen] == [("eu-2.ams/gateway", True)]


async def test_a_path_with_two_meanings_is_400(edge: Edge, world: World) -> None:
    async with edge.of(ALICE) as client:
        async with client.get("/notes") as response:  # a warm edge decides by itself
            assert response.status == 200
        for target in (
            "/support/../notes",
            "/support/..;/notes",
            "/support/..;a=b/notes",
            "/support/.%2e%3b/notes",
            "/support/%2e%2e%3Ba/notes",
            "/support/%25%32%65%2e/notes",
            "/support/..;",
            "/notes/%2e%2e/x",
            "/a/..%2Fnotes",
            "/a/./b",
            "/a%5c..%5cb",
            "/a%00b",
            "/%252e%252e/b",
        ):
            async with client.get(URL(f"https://{edge.address}{target}", encoded=True)) as response:
                assert response.status == 400, target
        async with client.get("/notes/a..b?c=/../d") as response:
            assert response.status == 200
    assert [seen.target for seen in world.seen] == ["/notes", "/notes/a..b?c=/../d"]


async def test_what_an_application_says_to_routers_does_not_reach_clients(edge: Edge, world: World) -> None:
    async def talkative(_: web.BaseRequest) -> web.StreamResponse:
        headers = {"Domicile-Epoch": "3", "X-Kept": "yes", "Server": "tea/1"}
        return web.Response(status=418, text="tea", headers=headers)

    world.answers(talkative)
    async with edge.of(ALICE) as client, client.get("/notes") as response:
        assert (response.status, await response.text(), response.headers["Server"]) == (418, "tea", "tea/1")
        assert response.headers["X-Kept"] == "yes"
        assert not [name for name in response.headers if name.lower().startswith(("domicile-", "x-envoy-"))]
