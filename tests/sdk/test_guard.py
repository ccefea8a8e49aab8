"""The guard alone: a request that isn't for this cell at this epoch never reaches a handler.

The handlers here write nothing and the database would take everything, so that what refuses is the guard.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import aiohttp
import asyncpg
import litestar
import pytest
from aiohttp import web
from domicile_testing import Trust
from domicile_testing.homes import Surroundings
from litestar import Request as LitestarRequest
from litestar import Response as LitestarResponse
from litestar.exceptions import HTTPException as LitestarException
from litestar.response import Stream
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.websockets import WebSocket

from domicile.model import GLOBAL, Endpoint, Role, SubjectKey, Unauthenticated
from domicile.sdk import DomicileError, Residency, asgi
from domicile.sdk.aiohttp import SUBJECT, guard, home_of, observed_country
from domicile.service import ProcessSettings, Service

Somebody = Callable[[], tuple[str, SubjectKey]]


@dataclass
class App:
    """A guarded application, and what its handlers saw."""

    trust: Trust
    residency: Residency
    address: str
    seen: list[str] = field(default_factory=list)

    async def ask(
        self,
        path: str,
        headers: Any = None,
        *,
        method: str = "GET",
        peer: tuple[str, Role, str] = ("eu", Role.ROUTER, "fra"),
    ) -> tuple[int, Mapping[str, str], dict[str, Any]]:
        context = self.trust.credentials(*peer).client("eu", [Role.APP])
        connector = aiohttp.TCPConnector(ssl=context)
        async with (
            aiohttp.ClientSession(connector=connector) as session,
            session.request(
                method, f"https://{self.address}{path}", headers=headers, allow_redirects=False
            ) as response,
        ):
            text = await response.text()
            body = json.loads(text) if text.startswith("{") else {}
            return response.status, response.headers, body


def named(key: SubjectKey | str, *, cell: str = "eu-1", epoch: object = 1) -> dict[str, str]:
    return {"Domicile-Subject-Key": str(key), "Domicile-Cell": cell, "Domicile-Epoch": str(epoch)}


@asynccontextmanager
async def on_aiohttp(served: App, settings: ProcessSettings) -> AsyncIterator[None]:
    residency = served.residency
    service = Service(settings, residency.ready)

    async def plain(request: web.Request) -> web.StreamResponse:
        served.seen.append(request.path)
        home = request.get(SUBJECT)
        body = {"subject": str(home.subject_key) if home else None, "country": observed_country(request)}
        return web.json_response(body, headers={"Domicile-Guard": "stale-epoch"})

    async def stream(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(status=421, headers={"Domicile-Guard": "wrong-cell"})
        await response.prepare(request)
        await response.write(b"{}")
        return response

    async def raised(request: web.Request) -> web.StreamResponse:
        raise web.HTTPMisdirectedRequest(headers={"Domicile-Guard": "wrong-cell"}, text="{}")

    async def look_for(request: web.Request) -> web.StreamResponse:
        await residency.home(request.query["user"])
        return web.json_response({})

    async def mine(request: web.Request) -> web.StreamResponse:
        home = home_of(request, request.query["user"])
        served.seen.append(request.path)
        return web.json_response({"subject": str(home.subject_key)})

    async def talk(request: web.Request) -> web.StreamResponse:
        served.seen.append(request.path)
        talking = web.WebSocketResponse()
        await talking.prepare(request)
        async for message in talking:
            await talking.send_str(message.data)
        return talking

    for method, path, handler in (
        ("GET", "/talk", talk),
        ("GET", "/data", plain),
        ("POST", "/data", plain),
        ("GET", "/about", plain),
        ("GET", "/stream", stream),
        ("GET", "/raised", raised),
        ("GET", "/home", look_for),
        ("GET", "/mine", mine),
        ("GET", "/support/mine", mine),
        ("POST", "/signup", look_for),
        ("POST", "/support/enrol", look_for),
    ):
        service.route(method, path, Endpoint.APP_REQUESTS, handler)
    guard(service.app, residency)
    context = service.internal_context([Role.ROUTER, Role.EDGE, Role.LOAD])
    async with service.listen(settings.address(), context):
        yield


@asynccontextmanager
async def on_asgi(served: App, settings: ProcessSettings) -> AsyncIterator[None]:
    async def plain(request: Request) -> Response:
        served.seen.append(request.url.path)
        try:
            subject = str(asgi.home_of(request.scope).subject_key)
        except Unauthenticated:
            subject = None
        body = {"subject": subject, "country": asgi.country_of(request.scope)}
        return JSONResponse(body, headers={"Domicile-Guard": "stale-epoch"})

    async def stream(request: Request) -> Response:
        return StreamingResponse(iter(["{", "}"]), 421, headers={"Domicile-Guard": "wrong-cell"})

    async def raised(request: Request) -> Response:
        raise HTTPException(421, headers={"Domicile-Guard": "wrong-cell"})

    async def look_for(request: Request) -> Response:
        await asgi.residency_of(request.scope).home(request.query_params["user"])
        return JSONResponse({})

    async def mine(request: Request) -> Response:
        home = asgi.home_of(request.scope, request.query_params["user"])
        served.seen.append(request.url.path)
        return JSONResponse({"subject": str(home.subject_key)})

    async def talk(talking: WebSocket) -> None:
        served.seen.append(talking.url.path)
        await talking.accept(headers=[(b"domicile-guard", b"wrong-cell")])
        async for message in talking.iter_text():
            await talking.send_text(message)

    routes: list[BaseRoute] = [WebSocketRoute("/talk", talk)]
    routes += [Route("/data", plain, methods=["GET", "POST"]), Route("/about", plain), Route("/stream", stream)]
    routes += [Route("/raised", raised), Route("/home", look_for)]
    routes += [Route(path, mine) for path in ("/mine", "/support/mine")]
    routes += [Route(path, look_for, methods=["POST"]) for path in ("/signup", "/support/enrol")]
    app = Starlette(routes=routes, middleware=[Middleware(asgi.Guard)])
    async with asgi.serving(cast("asgi.Application", app), settings):
        yield


@asynccontextmanager
async def on_litestar(served: App, settings: ProcessSettings) -> AsyncIterator[None]:
    @litestar.route(["/data", "/about"], http_method=["GET", "POST"], status_code=200)
    async def plain(request: LitestarRequest[Any, Any, Any]) -> LitestarResponse[dict[str, str | None]]:
        served.seen.append(request.url.path)
        try:
            subject = str(asgi.home_of(request.scope).subject_key)
        except Unauthenticated:
            subject = None
        body = {"subject": subject, "country": asgi.country_of(request.scope)}
        return LitestarResponse(body, headers={"Domicile-Guard": "stale-epoch"})

    @litestar.get("/stream")
    async def stream() -> Stream:
        return Stream(iter(["{", "}"]), status_code=421, headers={"Domicile-Guard": "wrong-cell"})

    @litestar.get("/raised")
    async def raised() -> None:
        raise LitestarException(status_code=421, headers={"Domicile-Guard": "wrong-cell"})

    @litestar.route(["/home", "/signup", "/support/enrol"], http_method=["GET", "POST"], status_code=200)
    async def look_for(request: LitestarRequest[Any, Any, Any]) -> dict[str, str]:
        await asgi.residency_of(request.scope).home(request.query_params["user"])
        return {}

    @litestar.get(["/mine", "/support/mine"])
    async def mine(request: LitestarRequest[Any, Any, Any]) -> dict[str, str]:
        home = asgi.home_of(request.scope, request.query_params["user"])
        served.seen.append(request.url.path)
        return {"subject": str(home.subject_key)}

    @litestar.websocket("/talk")
    async def talk(socket: litestar.WebSocket[Any, Any, Any]) -> None:
        served.seen.append(socket.url.path)
        await socket.accept(headers={"domicile-guard": "wrong-cell"})
        async for message in socket.iter_data("text"):
            await socket.send_text(message)

    app = litestar.Litestar(
        [plain, stream, raised, look_for, mine, talk],
        exception_handlers={DomicileError: asgi.passed_on},
        openapi_config=None,
    )
    async with asgi.serving(cast("asgi.Application", app), settings):
        yield


@pytest.fixture(
    params=[on_aiohttp, on_asgi, pytest.param(on_litestar, marks=pytest.mark.full)], ids=["aiohttp", "asgi", "litestar"]
)
async def app(
    request: pytest.FixtureRequest, around: Surroundings, residency: Residency, trust: Trust, tmp_path: Path
) -> AsyncIterator[App]:
    settings: ProcessSettings = around.settings(state=tmp_path)
    served = App(trust, residency, settings.bind)
    async with request.param(served, settings):
        yield served


async def test_a_subject_at_home_reaches_its_handler(app: App, around: Surroundings, somebody: Somebody) -> None:
    _, key = somebody()
    around.directory.pin(key)
    status, headers, body = await app.ask("/data", named(key))
    assert (status, body["subject"]) == (200, str(key))
    assert "Domicile-Guard" not in headers
    assert around.directory.asked == 0  # the gateway asked, for the grant; the next request asks nobody
    del around.directory.pins[key]
    assert (await app.ask("/data", named(key)))[0] == 200


@pytest.mark.parametrize("cell", ["eu-2", "us-1", "nowhere", ""])
async def test_another_cell_is_told_to_the_router(
    app: App, around: Surroundings, somebody: Somebody, cell: str
) -> None:
    _, key = somebody()
    around.directory.pin(key)
    status, headers, body = await app.ask("/data", named(key, cell=cell), method="POST")
    assert (status, body["code"]) == (421, "wrong-cell")
    assert headers["Domicile-Guard"] == "wrong-cell"
    assert headers["Domicile-Subject-Key"] == str(key)
    assert app.seen == []


EDGE = ("eu", Role.EDGE, "fra")


async def test_an_edge_brings_subjects_and_nobody_else(app: App, around: Surroundings, somebody: Somebody) -> None:
    """On unpinned paths too: whoever has no home there comes by a router."""
    _, key = somebody()
    around.directory.pin(key)
    assert (await app.ask("/data", named(key), peer=EDGE))[0] == 200
    assert (await app.ask("/about", named(key), peer=EDGE))[2]["subject"] == str(key)
    for path in ("/data", "/about"):
        status, _, body = await app.ask(path, peer=EDGE)
        assert (status, body["code"]) == (400, "identities-disagree")
        assert (await app.ask(path, named(key, epoch=9), peer=EDGE))[0] == 421
    with contextlib.suppress(aiohttp.ClientError):  # refused in the handshake
        status, _, body = await app.ask("/data", named(key), peer=("us", Role.EDGE, "iad"))
        assert (status, body["code"]) == (403, "forbidden")
    assert app.seen == ["/data", "/about"]


async def test_an_edge_may_ask_whether_the_application_is_ready(app: App, somebody: Somebody) -> None:
    _, key = somebody()
    assert (await app.ask("/readyz", peer=EDGE))[0] == 200
    for path in ("/healthz", "/metrics"):
        assert (await app.ask(path, peer=EDGE))[0] == 400
    status, headers, _ = await app.ask("/readyz", named(key, cell="eu-2"), peer=EDGE)
    assert (status, headers["Domicile-Guard"]) == (421, "wrong-cell"), "a client's request, not the edge's own"


async def test_an_application_answers_its_own_probe_and_nothing_else(app: App, somebody: Somebody) -> None:
    _, key = somebody()
    own = ("eu", Role.APP, "eu-1.fra")
    assert (await app.ask("/readyz", peer=own))[0] == 200
    assert (await app.ask("/data", named(key), peer=own))[0] == 403
    assert app.seen == []


async def test_an_older_epoch_is_stale(app: App, around: Surroundings, somebody: Somebody) -> None:
    user, key = somebody()
    around.directory.pin(key, epoch=5)
    await app.residency.home(user)
    status, headers, body = await app.ask("/data", named(key, epoch=4))
    assert (status, body["code"]) == (421, "fence-refused")
    assert (headers["Domicile-Guard"], headers["Domicile-Epoch"]) == ("stale-epoch", "5")
    assert app.seen == []


async def test_a_newer_epoch_opens_the_fence_if_the_directory_says_so(
    app: App, around: Surroundings, somebody: Somebody
) -> None:
    user, key = somebody()
    around.directory.pin(key)
    await app.residency.home(user)
    status, headers, _ = await app.ask("/data", named(key, epoch=2))
    assert (status, headers["Domicile-Guard"], headers["Domicile-Epoch"]) == (421, "stale-epoch", "1")
    assert app.seen == []
    around.directory.pin(key, epoch=2)
    assert (await app.ask("/data", named(key, epoch=2)))[0] == 200
    assert (await app.ask("/data", named(key, epoch=1)))[1]["Domicile-Epoch"] == "2"


async def test_a_closed_fence_stays_closed(
    app: App, around: Surroundings, somebody: Somebody, eu_root: asyncpg.Connection
) -> None:
    user, key = somebody()
    around.directory.pin(key)
    await app.residency.home(user)
    await eu_root.execute("UPDATE domicile.fences SET state = 'closed' WHERE subject_key = $1", key)
    status, headers, _ = await app.ask("/data", named(key))
    assert (status, headers["Domicile-Guard"], headers["Domicile-Epoch"]) == (421, "stale-epoch", "1")
    assert app.seen == []


async def test_a_subject_that_is_not_at_home_is_not_let_in_by_headers(
    app: App, around: Surroundings, somebody: Somebody
) -> None:
    (_, nobody), (_, american) = somebody(), somebody()
    around.directory.pin(american, "us-1")
    for key in (nobody, american):
        status, headers, _ = await app.ask("/data", named(key))
        assert status == 421
        assert "Domicile-Guard" in headers
    assert app.seen == []


async def test_headers_that_disagree_or_lack_are_refused(app: App, somebody: Somebody) -> None:
    _, key = somebody()
    good = named(key)
    twice = [*good.items(), ("Domicile-Subject-Key", str(key))]
    attempts: list[tuple[Any, int]] = [
        ({}, 400),
        ({"Domicile-Subject-Key": str(key)}, 400),
        ({k: v for k, v in good.items() if k != "Domicile-Epoch"}, 400),
        (twice, 400),
        (named("zz"), 422),
        *((named(key, epoch=epoch), 422) for epoch in ("0", "-1", "1.5", "²", "one", 2**63)),
    ]
    for headers, expected in attempts:
        status, answered, body = await app.ask("/data", headers)
        assert status == expected, headers
        assert body["code"] in ("identities-disagree", "invalid-input")
        assert answered["Content-Type"].startswith("application/problem+json")
    assert app.seen == []


async def test_who_is_routed_is_whom_the_session_names_or_nobody(
    app: App, around: Surroundings, somebody: Somebody
) -> None:
    """Two proofs of one request that disagree: the router's token may be one user's, the session another's."""
    (user, key), (other, others) = somebody(), somebody()
    around.directory.pin(key)
    around.directory.pin(others)
    status, _, body = await app.ask(f"/mine?user={user}", named(key))
    assert (status, body["subject"]) == (200, str(key))
    for subject, said in ((key, other), (others, user), (key, "nobody-at-all")):
        status, headers, body = await app.ask(f"/mine?user={said}", named(subject))
        assert (status, body["code"]) == (400, "identities-disagree")
        assert said not in str(body)
        assert "Domicile-Guard" not in headers, "a handler ran: nobody is to send it again"
    status, _, body = await app.ask(f"/support/mine?user={user}", named(key))
    assert (status, body["code"]) == (401, "unauthenticated"), "an unpinned path opens nobody's home"
    assert app.seen == ["/mine"]


@pytest.mark.parametrize(
    "peer",
    [
        ("us", Role.ROUTER, "iad"),
        (GLOBAL, Role.ROUTER, "fra"),
        ("eu", Role.LOAD, "fra"),
        ("eu", Role.OPERATOR, "fra"),
        (GLOBAL, Role.OPERATOR, "fra"),
    ],
)
async def test_only_routers_of_the_jurisdiction_are_heard(
    app: App, around: Surroundings, somebody: Somebody, peer: tuple[str, Role, str]
) -> None:
    _, key = somebody()
    around.directory.pin(key)
    try:
        for path in ("/data", "/about", "/none"):
            status, _, body = await app.ask(path, named(key), peer=peer)
            assert (status, body["code"]) == (403, "forbidden")
        status, _, _ = await app.ask("/readyz", peer=peer)
        assert (status == 200) == (peer[1] is Role.OPERATOR)
    except aiohttp.ClientError:  # refused in the handshake
        assert peer[1] is not Role.OPERATOR
    assert app.seen == []


async def test_a_router_that_no_manifest_names_has_no_unpinned_paths(app: App) -> None:
    status, _, _ = await app.ask("/about", peer=("eu", Role.ROUTER, "par"))
    assert status == 400


async def test_the_applications_own_guard_header_never_leaves(
    app: App, around: Surroundings, somebody: Somebody
) -> None:
    _, key = somebody()
    around.directory.pin(key)
    for path, expected in (("/data", 200), ("/stream", 421), ("/raised", 421)):
        status, headers, _ = await app.ask(path, named(key))
        assert status == expected
        assert "Domicile-Guard" not in headers, path


async def test_an_unpinned_path_is_answered_here_whoever_asks(app: App, somebody: Somebody) -> None:
    _, key = somebody()
    headers = {**named(key, cell="us-1"), "Domicile-Observed-Country": "DE"}
    status, _, body = await app.ask("/about", headers)
    assert (status, body) == (200, {"subject": None, "country": "DE"})
    assert (await app.ask("/about", {"Domicile-Observed-Country": "Mars"}))[2]["country"] is None


@pytest.mark.parametrize("app", [on_aiohttp, on_asgi, on_litestar], indirect=True)
async def test_a_home_abroad_is_a_redirect_on_unpinned_paths_only(
    app: App, around: Surroundings, somebody: Somebody
) -> None:
    (user, key), (_, german) = somebody(), somebody()
    around.directory.pin(key, "us-1")
    around.directory.pin(german)
    status, headers, _ = await app.ask(f"/signup?user={user}", method="POST")
    assert (status, headers["Location"]) == (307, f"https://us.example/signup?user={user}")
    status, headers, body = await app.ask(f"/support/enrol?user={user}", method="POST")
    assert (status, body["code"]) == (451, "cross-border-access"), "the home's policy for this path"
    assert "Location" not in headers
    status, headers, body = await app.ask(f"/home?user={user}", named(german))
    assert (status, body["code"], body["jurisdiction"]) == (451, "cross-border-access", "us")
    assert "Location" not in headers


async def test_a_home_in_a_sibling_cell_is_told_to_the_router_on_unpinned_paths_only(
    app: App, around: Surroundings, somebody: Somebody
) -> None:
    (user, key), (_, german) = somebody(), somebody()
    around.directory.pin(key, "eu-2")
    around.directory.pin(german)
    status, headers, body = await app.ask(f"/signup?user={user}", method="POST")
    assert (status, headers["Domicile-Guard"]) == (421, "wrong-cell")
    assert (headers["Domicile-Subject-Key"], body["code"]) == (str(key), "wrong-cell")
    status, headers, _ = await app.ask(f"/home?user={user}", named(german))
    assert status == 421
    assert "Domicile-Guard" not in headers


async def test_without_the_directory_the_known_are_served_and_the_unknown_are_asked_to_wait(
    app: App, around: Surroundings, somebody: Somebody
) -> None:
    (user, key), (stranger, _) = somebody(), somebody()
    around.directory.pin(key)
    await app.residency.home(user)
    await around.stop("directory")
    assert (await app.ask("/data", named(key)))[0] == 200
    status, headers, body = await app.ask(f"/signup?user={stranger}", method="POST")
    assert (status, body["code"]) == (503, "unavailable")
    assert int(headers["Retry-After"]) > 0


async def test_an_application_that_forgot_the_guard_is_guarded(
    around: Surroundings, residency: Residency, trust: Trust, tmp_path: Path, somebody: Somebody
) -> None:
    settings: ProcessSettings = around.settings(state=tmp_path)
    served = App(trust, residency, settings.bind)

    async def bare(scope: asgi.Scope, receive: asgi.Receive, send: asgi.Send) -> None:
        if scope["type"] == "http":
            served.seen.append(scope["path"])
            await send({"type": "http.response.start", "status": 200, "headers": [(b"domicile-guard", b"x")]})
            await send({"type": "http.response.body", "body": b"{}"})

    _, key = somebody()
    around.directory.pin(key)
    async with asgi.serving(bare, settings):
        assert (await served.ask("/data"))[0] == 400
        assert (await served.ask("/data", named(key, cell="eu-2")))[0] == 421
        assert served.seen == []
        status, headers, _ = await served.ask("/data", named(key))
        assert status == 200
        assert "Domicile-Guard" not in headers


async def test_a_websocket_is_guarded_like_a_request(app: App, around: Surroundings, somebody: Somebody) -> None:
    (_, key), (_, nobody) = somebody(), somebody()
    around.directory.pin(key)
    context = app.trust.credentials("eu", Role.ROUTER, "fra").client("eu", [Role.APP])
    address = f"https://{app.address}/talk"
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)) as session:
        async with session.ws_connect(address, headers=named(key)) as talking:
            await talking.send_str("hello")
            assert await talking.receive_str() == "hello"
        assert app.seen == ["/talk"]
        for headers, status, verdict in (
            (named(key, cell="eu-2"), 421, "wrong-cell"),
            (named(key, epoch=9), 421, "stale-epoch"),
            (named(nobody), 421, "wrong-cell"),
            ({}, 400, None),
        ):
            with pytest.raises(aiohttp.WSServerHandshakeError) as refusal:
                await session.ws_connect(address, headers=headers)
            assert refusal.value.headers is not None
            assert (refusal.value.status, refusal.value.headers.get("Domicile-Guard")) == (status, verdict)
    assert app.seen == ["/talk"]
