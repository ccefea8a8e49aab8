"""The guard before an ASGI application's handlers (FastAPI, Starlette, Litestar), and how the application is served.

    app = FastAPI()
    app.add_middleware(Guard)      # what handlers raise becomes an answer; for Litestar there is passed_on
    run(app)                       # nothing reaches a handler that the guard doesn't admit

ASGI says nothing of a peer's certificate, and without it nobody knows a router from a forger. So ``run`` serves by
uvicorn with the deployment's mutual TLS, and puts the guard around the application, whether or not it asked for it.
What the guard decides is in ``domicile.sdk.guarding``.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, MutableMapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final, NoReturn

import uvicorn
from multidict import CIMultiDict, CIMultiDictProxy
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from domicile.identity import peer_of
from domicile.model.access import GLOBAL, Endpoint, Identity, Role, require
from domicile.model.errors import DomicileError, InvalidInput, Unauthenticated
from domicile.model.wire import GUARD_HEADER, PROBLEM_TYPE
from domicile.sdk.guarding import READY_PATH, Gate, Refusal, asks_for_health, country_in, same_subject
from domicile.sdk.home import Home
from domicile.sdk.residency import Residency
from domicile.service import ProcessSettings, cannot_listen, load_settings
from domicile.service import run as run_service
from domicile.service.problems import problem_of
from domicile.telemetry import render_metrics

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

_PEER: Final = "domicile.peer"
_RESIDENCY: Final = "domicile.residency"
_HOME: Final = "domicile.home"
_ADMITTED: Final = "domicile.admitted"
_OURS: Final = "domicile.ours"
_POLICY_VIOLATION: Final = 1008  # RFC 6455, 7.4.1


def home_of(scope: Mapping[str, Any], user: str | None = None) -> Home:
    """On a pinned path: the routed subject's home. Raises Unauthenticated on an unpinned one.

    ``user``: whom the application's own session names, by his id; raises IdentitiesDisagree where that is another.
    """
    home = scope.get(_HOME)
    if not isinstance(home, Home):
        raise Unauthenticated("this path is unpinned: no subject was routed", remedy="see the router's rules")
    return home if user is None else same_subject(home, residency_of(scope), user)


def residency_of(scope: Mapping[str, Any]) -> Residency:
    """The residency of the process that serves a request."""
    residency = scope.get(_RESIDENCY)
    if not isinstance(residency, Residency):
        raise InvalidInput("this application is not served by domicile.sdk.asgi", remedy="run(app)")
    return residency


def passed_on(_: object, error: Exception) -> NoReturn:
    """For a framework that answers what handlers raise before any middleware hears of it: leave that to the guard.

    Litestar is one: ``Litestar(..., exception_handlers={DomicileError: passed_on})``, and no middleware of ours.
    """
    raise error


def country_of(scope: Mapping[str, Any]) -> str | None:
    """The country from which the router saw the request come, on unpinned paths. A guess, never a proof."""
    return country_in(_headers(scope))


def _headers(scope: Mapping[str, Any]) -> CIMultiDictProxy[str]:
    pairs = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]]
    return CIMultiDictProxy(CIMultiDict(pairs))


def _target(scope: Mapping[str, Any]) -> str:
    path: bytes = scope.get("raw_path") or scope["path"].encode()
    query = b"?" + scope["query_string"] if scope.get("query_string") else b""
    return (path + query).decode("latin-1")


class Guard:
    """ASGI middleware (ASGI 3). What is raised through it becomes an answer, unless one was begun."""

    def __init__(self, app: Application) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        begun = False

        async def watched(message: Message) -> None:
            nonlocal begun
            begun = True
            if message["type"] in _HEADS and not scope.get(_OURS):
                kept = [(name, value) for name, value in message.get("headers", ()) if name.lower() != _GUARD]
                message = {**message, "headers": kept}
            await send(message)

        gate = Gate(residency_of(scope))
        try:
            refusal = None if scope.get(_ADMITTED) else await self._admit(gate, scope)
            if refusal is None:
                await self._app(scope, receive, watched)
                return
        except DomicileError as error:
            if begun:
                raise
            refusal = gate.answer_to(error, scope["path"], _target(scope), pinned=scope.get(_HOME) is not None)
        await _answer(scope, send, refusal)

    async def _admit(self, gate: Gate, scope: Scope) -> Refusal | None:
        scope[_ADMITTED] = True
        admitted = await gate.admit(scope[_PEER], scope["path"], _headers(scope))
        if isinstance(admitted, Refusal):
            return admitted
        scope[_HOME] = admitted
        return None


_HEADS: Final = frozenset({"http.response.start", "websocket.accept", "websocket.http.response.start"})
_GUARD: Final = GUARD_HEADER.lower().encode()


async def _answer(scope: Scope, send: Send, refusal: Refusal) -> None:
    scope[_OURS] = refusal.verdict is not None
    if refusal.location is not None:
        status, body, headers = 307, b"", {"Location": refusal.location, "Cache-Control": "no-store"}
    else:
        problem, given = problem_of(refusal.error)
        status, body = problem.status, problem.model_dump_json(exclude_none=True).encode()
        headers = {"Content-Type": PROBLEM_TYPE, **given, **refusal.headers}
    if scope["type"] == "websocket" and "websocket.http.response" not in scope.get("extensions", {}):
        await send({"type": "websocket.close", "code": _POLICY_VIOLATION})
        return
    await _respond(scope, send, status, body, headers)


async def _respond(scope: Scope, send: Send, status: int, body: bytes, headers: Mapping[str, str]) -> None:
    kind = "websocket.http.response" if scope["type"] == "websocket" else "http.response"
    pairs = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
    pairs.append((b"Content-Length", str(len(body)).encode()))
    await send({"type": f"{kind}.start", "status": status, "headers": pairs})
    await send({"type": f"{kind}.body", "body": body})


class _Protocol(HttpToolsProtocol):
    """Says by which certificate a connection came; the handshake has checked it."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.app_state = {**self.app_state, _PEER: peer_of(transport)}


class _Server(uvicorn.Server):
    """Signals are the process's own, not the server's."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _edge(app: Application, residency: Residency) -> Application:
    guarded = Guard(app)

    async def edge(scope: Scope, receive: Receive, send: Send) -> None:
        scope[_RESIDENCY] = residency
        if scope["type"] in ("http", "websocket"):
            peer: Identity = scope["state"].pop(_PEER)
            scope[_PEER] = peer
            if scope["type"] == "http" and _for_health(scope, peer, residency.identity):
                await _health(scope, send, residency, peer)
                return
        await guarded(scope, receive, send)

    return edge


def _for_health(scope: Scope, peer: Identity, own: Identity) -> bool:
    try:
        return asks_for_health(peer, own, scope["path"], _headers(scope))
    except DomicileError:
        return False  # headers that disagree: the guard says why


async def _health(scope: Scope, send: Send, residency: Residency, peer: Identity) -> None:
    try:
        ready = scope["path"] == READY_PATH
        require(peer, residency.identity, Endpoint.READY if ready else Endpoint.HEALTH)
        if ready:
            await residency.ready()
    except DomicileError as error:
        await _answer(scope, send, Refusal(error))
        return
    text, kind = json.dumps({"status": "ok"}).encode(), "application/json"
    if scope["path"] == "/metrics":
        text, kind = render_metrics()
    await _respond(scope, send, 200, text, {"Content-Type": kind})


@asynccontextmanager
async def serving(app: Application, settings: ProcessSettings) -> AsyncIterator[Residency]:
    """The application at the address of its settings, for the routers of its jurisdiction, inside the context.

    Raises what ``Residency.connect`` raises, and InvalidInput for an address that cannot be listened to.
    """
    async with Residency.connect(settings) as residency:
        context = settings.credentials.server([residency.jurisdiction, GLOBAL], [Role.ROUTER, Role.EDGE, Role.OPERATOR])
        config = uvicorn.Config(
            _edge(app, residency),
            http=_Protocol,
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=max(1, int(settings.drain_seconds)),
        )
        config.load()
        config.ssl = context
        with _listener(settings) as listener:
            server = _Server(config)
            task = asyncio.create_task(server.serve([listener]))
            try:
                await _started(server, task)
                yield residency
            finally:
                server.should_exit = True
                await asyncio.wait({task})
            task.result()


@contextmanager
def _listener(settings: ProcessSettings) -> Iterator[socket.socket]:
    address = settings.address()
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((address.host, address.port))
        except OSError as error:
            raise cannot_listen(address, error) from None
        listener.listen()
        yield listener


async def _started(server: _Server, task: asyncio.Task[None]) -> None:
    while not server.started:
        done, _ = await asyncio.wait({task}, timeout=0.01)  # uvicorn tells nobody
        if done:
            task.result()
            raise InvalidInput("the application's start-up failed", where="lifespan", remedy="see its log")


def run(app: Application) -> None:
    """Serve until SIGTERM; settings from the environment."""
    settings = load_settings(ProcessSettings)

    @asynccontextmanager
    async def main() -> AsyncIterator[None]:
        async with serving(app, settings):
            yield

    run_service(settings, main)
