"""``/v1/decide``: who may ask, what an edge is told and for how long, and that nothing else happens."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import jwt
import pytest
import requests
from domicile_testing import generated
from domicile_testing.directories import NAMES
from domicile_testing.routing import TRAVELLER_PATHS, World, pin, routing_world, subject
from yarl import URL

from domicile.identity import Signer
from domicile.model import GLOBAL, Endpoint, Identity, PinState, Role, may
from domicile.model.wire import DECIDE_ANSWER_PATH as ANSWER
from domicile.model.wire import DECIDE_ROUTE_PATH as ROUTE
from domicile.model.wire import TOKEN_COOKIE
from domicile.router.decisions import DECISION_SECONDS, METHODS, kept_for
from domicile.router.serve import serve


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    def change(data: dict[str, Any]) -> None:
        data["jurisdictions"]["eu"]["traveller_paths"] = TRAVELLER_PATHS
        for router in data["routers"].values():
            tenant = {"by": "header", "name": "X-Tenant", "networks": ["127.0.0.0/8"]}
            router["rules"] += [{"by": "jwt"}, {"by": "jwt", "cookie": "session"}, tenant, {"by": "token"}]

    async with routing_world(tmp_path, change=change) as running:
        running.directory.place(
            pin("alice", "eu-1", 7), pin("uncle", "us-1"), pin("mover", "eu-2", 3, PinState.MOVING),
            pin("gone", "eu-1", 9, PinState.ERASED), pin("alien", "us-1", 1),
        )  # fmt: skip
        yield running


class Edge:
    """What a proxy of its own jurisdiction asks."""

    def __init__(self, session: aiohttp.ClientSession, address: str) -> None:
        self._session = session
        self._address = address

    async def ask(
        self, form: str, target: str, headers: dict[str, str] | None = None, *, method: str = "GET"
    ) -> tuple[int, dict[str, str], Any]:
        url = URL(f"https://{self._address}{form}{target}", encoded=True)
        sent = {"Host": "eu.acme.example", **(headers or {})}
        async with self._session.request(method, url, headers=sent, allow_redirects=False) as answer:
            told = {name: value for name, value in answer.headers.items() if name not in ("Date", "Server")}
            return answer.status, told, await answer.json(content_type=None) if await answer.read() else None


@asynccontextmanager
async def edge_of(world: World, zone: str) -> AsyncIterator[Edge]:
    router = world.manifest.routers[zone]
    home = world.manifest.jurisdiction_of(router.country) or ""
    context = world.trust.credentials(home, Role.EDGE, zone).client(home, [Role.ROUTER])
    connector = aiohttp.TCPConnector(ssl=context)
    async with (
        serve(world.settings(zone)),
        aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar()) as session,
    ):
        yield Edge(session, router.internal)


async def test_an_edge_is_told_the_cell_and_what_its_guard_wants_to_know(world: World) -> None:
    async with edge_of(world, "fra") as edge:
        for form in (ROUTE, ANSWER):
            status, told, body = await edge.ask(form, "/notes?q=1", world.bearer("alice"))
            assert (status, body) == (200, None)
            assert {name: told[name] for name in told if name.startswith("Domicile-")} == {
                "Domicile-Decision": "cell",
                "Domicile-Subject-Key": subject("alice").hex(),
                "Domicile-Cell": "eu-1",
                "Domicile-Epoch": "7",
            }
            assert told["Cache-Control"] == f"max-age={DECISION_SECONDS}"
            assert "Set-Cookie" not in told
    assert world.seen == []


@pytest.mark.parametrize("form", [ROUTE, ANSWER])
@pytest.mark.parametrize(
    ("who", "target", "method", "way", "status", "code"),
    [
        ("uncle", "/notes", "GET", "cell", None, None),
        ("alice", "/notes?q=%2F", "GET", "redirect", 307, "cross-border-access"),
        ("alice", "/export/1", "GET", "refuse", 451, "cross-border-access"),
        ("alice", "/live/1", "GET", "router", None, None),
        ("alice", "/login", "POST", "router", None, None),
        ("uncle", "/login", "POST", "router", None, None),
        ("uncle", "/.domicile/records", "GET", "router", None, None),
        ("uncle", "/notes", "PURGE", "cell", None, None),
        ("nobody", "/notes", "GET", "refuse", 404, "unknown-subject"),
        ("gone", "/notes", "GET", "refuse", 404, "unknown-subject"),
        ("uncle", "/a/%2e%2e/b", "GET", "refuse", 400, "bad-request"),
        (None, "/notes", "GET", "refuse", 401, "unauthenticated"),
        (None, "/login", "GET", "router", None, None),
    ],
)
async def test_every_decision_has_its_answer(
    world: World, form: str, who: str | None, target: str, method: str, way: str, status: int | None, code: str | None
) -> None:
    async with edge_of(world, "iad") as edge:
        headers = world.bearer(who) if who is not None else {}
        answered, told, body = await edge.ask(form, target, headers, method=method)
    assert told["Domicile-Decision"] == way
    if way != "cell":
        assert told["Cache-Control"] == "no-store"
        assert not {"Domicile-Cell", "Domicile-Subject-Key", "Domicile-Epoch"} & set(told)
        assert "eu-1" not in str((told, body))
        assert subject(who or "anybody").hex() not in str((told, body))
    if form == ROUTE:
        assert (answered, body) == (200 if way == "cell" else 204, None)
        assert told.get("Domicile-Status") == (None if status is None else str(status))
    else:
        assert answered == (status or 200)
        assert (body or {}).get("code") == code
    assert told.get("Location") == (f"https://eu.acme.example{target}" if way == "redirect" else None)
    assert ("Link" in told) is (status == 451 and form == ANSWER)
    assert world.seen == []


async def test_the_writes_of_whoever_moves_are_left_to_the_router_that_waits(world: World) -> None:
    async with edge_of(world, "fra") as edge:
        status, told, _ = await edge.ask(ROUTE, "/notes", world.bearer("mover"))
        assert (status, told["Cache-Control"]) == (200, "no-store")
        status, told, _ = await edge.ask(ROUTE, "/notes", world.bearer("mover"), method="POST")
        assert (status, told["Domicile-Decision"]) == (204, "router")


async def test_a_decision_is_kept_no_longer_than_the_proof_it_stands_on(world: World) -> None:
    now = time.time()
    signer = Signer.load_or_create(world.settings("fra").state / "token.key")
    old = signer.residency_token(pin("alice", "eu-1", 7), "acme", clock=lambda: now - 800)
    left = jwt.decode(old, options={"verify_signature": False})["exp"] - now
    async with edge_of(world, "fra") as edge:
        for headers, longest in (
            ({"Authorization": f"Bearer {world.jwt('alice', exp=now + 20)}"}, 20.0),
            ({"Cookie": f"session={world.jwt('alice', exp=now + 9)}"}, 9.0),
            (world.bearer("alice") | {"Cookie": f"{TOKEN_COOKIE}={old}"}, left),
        ):
            status, told, _ = await edge.ask(ROUTE, "/notes", headers)
            assert status == 200
            assert int(told["Cache-Control"].removeprefix("max-age=")) <= longest


@pytest.mark.parametrize(("left", "kept"), [(-5.0, 0), (0.9, 0), (9.9, 9), (59.0, 59), (900.0, 60), (float("inf"), 60)])
def test_how_long(left: float, kept: int) -> None:
    assert kept_for(pin("alice", "eu-1"), 1000.0 + left, 1000.0) == kept
    assert kept_for(pin("alice", "eu-1", 1, PinState.MOVING), 1000.0 + left, 1000.0) == 0


async def test_two_proofs_of_two_people_are_refused_and_a_header_of_the_clients_proves_nothing(world: World) -> None:
    async with edge_of(world, "fra") as edge:
        headers = world.bearer("alice") | {"Cookie": f"session={world.jwt('mover')}"}
        status, told, body = await edge.ask(ANSWER, "/notes", headers)
        assert (status, body["code"], told["Domicile-Decision"]) == (400, "identities-disagree", "refuse")
        for forged in (
            {"X-Tenant": "alice"},
            {"Domicile-Subject-Key": subject("alice").hex(), "Domicile-Cell": "eu-1"},
        ):
            status, _, body = await edge.ask(ANSWER, "/notes", forged)
            assert (status, body["code"]) == (401, "unauthenticated")


@pytest.mark.parametrize("role", Role)
async def test_the_matrix_holds_for_deciding(world: World, role: Role) -> None:
    callee = Identity("acme", "eu", Role.ROUTER, "fra")
    url = f"https://{world.manifest.routers['fra'].internal}{ROUTE}/notes"
    async with serve(world.settings("fra")):
        for jurisdiction in ("eu", "us", GLOBAL):
            name = NAMES.get(role, "fra")
            allowed = may(Identity("acme", jurisdiction, role, name), callee, Endpoint.DECIDE)
            assert allowed is (role is Role.EDGE and jurisdiction == "eu")
            context = world.trust.credentials(jurisdiction, role, name).client("eu", [Role.ROUTER])
            async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)) as session:
                if role not in (Role.OPERATOR, Role.ROUTER, Role.EDGE):
                    with pytest.raises(aiohttp.ClientError):
                        await session.get(url, headers=world.bearer("alice"))
                    continue
                async with session.get(url, headers=world.bearer("alice")) as answer:
                    # to a router every path is a request that another router passes on, to an application
                    assert ("Domicile-Decision" in answer.headers) is allowed, (jurisdiction, answer.status)
                    assert role is Role.ROUTER or (answer.status == 200) is allowed
    assert {each.headers.get("Domicile-Cell") for each in world.seen} <= {"eu-1"}


async def test_an_edge_may_neither_explain_nor_look_at_health_nor_hairpin(world: World) -> None:
    context = world.trust.credentials("eu", Role.EDGE, "fra").client("eu", [Role.ROUTER])
    base = f"https://{world.manifest.routers['fra'].internal}"
    session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context))
    async with serve(world.settings("fra")), session:
        for method, path, status in (("POST", "/v1/explain", 403), ("GET", "/metrics", 403), ("GET", "/notes", 404)):
            async with session.request(method, base + path, headers=world.bearer("alice")) as answer:
                assert answer.status == status
        async with session.get(base + "/openapi.json") as answer:
            described = (await answer.json())["paths"]
    assert set(described[f"{ROUTE}/{{target}}"]) == {method.lower() for method in METHODS}
    assert world.seen == []


async def test_generated_requests_are_answered_as_described(world: World) -> None:
    async with edge_of(world, "fra") as edge:
        credentials = world.trust.credentials("eu", Role.EDGE, "fra")
        _, _, document = await edge.ask("/openapi.json", "")

        def client_for(_: str, path: str) -> requests.Session:
            client = generated.session(credentials, "eu")
            if not path.endswith("json"):
                client.headers.update(world.bearer("alice"))
            return client

        address = world.manifest.routers["fra"].internal
        health = {"/healthz", "/readyz", "/metrics"}
        told = await asyncio.to_thread(generated.storm, address, document, client_for, 12, without=health)
    assert told > 100
