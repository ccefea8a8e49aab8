"""The shell around a service: listeners, who may call each route, health, metrics, and a graceful end.

A service declares routes with the endpoint of the matrix that each belongs to; a route without one can't be
declared. ``/healthz`` says that the process runs, ``/readyz`` that it can do its work, ``/metrics`` how it
does. On SIGTERM or SIGINT a service is unready at once, takes no new connections, and gives what is in
flight ``drain_seconds``.
"""

from __future__ import annotations

import asyncio
import signal
import ssl
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any, Final, TypeVar

import uvloop
from aiohttp import web
from aiohttp.hdrs import METH_ALL
from aiohttp.typedefs import Handler
from pydantic import BaseModel

from domicile.identity import peer_of
from domicile.model.access import Endpoint, Identity, Role, require
from domicile.model.errors import DomicileError, Forbidden, InvalidInput, Unavailable
from domicile.model.manifest import Address
from domicile.model.wire import MAX_HEAD_BYTES
from domicile.service.openapi import Described, Operation, Schema, document
from domicile.service.problems import problem_middleware
from domicile.service.settings import ProcessSettings
from domicile.telemetry import BORDER, DURATION, REQUESTS, configure_logs, log, place_of, render_metrics, warn

MAX_BODY_BYTES: Final = 1 << 20
PEER: Final = web.RequestKey("domicile_peer", Identity)
OPERATION: Final = web.RequestKey("domicile_operation", Operation)
Ready = Callable[[], Awaitable[Mapping[str, str] | None]]
"""Raises where it is not; may tell more of how it is, which ``/readyz`` then says."""
Rendered = Callable[[], Awaitable[tuple[bytes, str]]]
Describe = Callable[[Mapping[str, Any]], Awaitable[Mapping[str, Any]]]
"""Exposition text and content type."""
Body = TypeVar("Body", bound=BaseModel)


async def read_body(request: web.Request, model: type[Body]) -> Body:
    """The request's JSON body as ``model``; pydantic's ValidationError becomes 422 without the input.

    Where the route is described, no other model than the one in its description is read.
    """
    operation = request.get(OPERATION)
    assert operation is None or operation.body is model, "a body that is not described"
    return model.model_validate_json(await request.read())


def json_response(body: BaseModel, *, status: int = 200, **headers: str) -> web.Response:
    return web.Response(
        status=status,
        body=body.model_dump_json(by_alias=True, exclude_none=True).encode(),
        content_type="application/json",
        headers={name.replace("_", "-"): value for name, value in headers.items()},
    )


def _admit(peer: Identity, server: Identity, endpoint: Endpoint) -> None:
    """As ``require``; who is refused is on the record."""
    try:
        require(peer, server, endpoint)
    except Forbidden:
        if peer.jurisdiction != server.jurisdiction:
            BORDER.labels(peer.jurisdiction, server.jurisdiction, str(endpoint), "refused").inc()
        warn(
            "peer-refused",
            endpoint=str(endpoint),
            peer_role=str(peer.role),
            from_jurisdiction=peer.jurisdiction,
            to_jurisdiction=server.jurisdiction,
        )
        raise


@web.middleware
async def _measure(request: web.Request, handler: Handler) -> web.StreamResponse:
    started = time.perf_counter()
    route = request.match_info.route.resource
    name = route.canonical if route is not None else "unmatched"
    status = 499
    try:
        response = await handler(request)
        status = response.status
        return response
    finally:
        elapsed = time.perf_counter() - started
        method = request.method if request.method in METH_ALL else "other"
        REQUESTS.labels(name, method, str(status)).inc()
        DURATION.labels(name).observe(elapsed)


def cannot_listen(
    address: Address, error: OSError, remedy: str = "free the port, or bind another with DOMICILE_BIND"
) -> InvalidInput:
    return InvalidInput(f"cannot listen: {error.strerror or 'address unusable'}", where=str(address), remedy=remedy)


class Service:
    """One process's HTTP service: ``route`` declares, ``listen`` serves."""

    def __init__(
        self,
        settings: ProcessSettings,
        ready: Ready,
        *,
        max_body: int = MAX_BODY_BYTES,
        rendered: Rendered | None = None,
    ) -> None:
        """``rendered``: the metrics, where they are not this process's alone."""
        self._rendered = rendered
        self.settings = settings
        self.identity = settings.credentials.identity
        if self.identity.deployment != settings.deployment:
            raise InvalidInput(
                f"the certificate is for deployment {self.identity.deployment}, not {settings.deployment}",
                where=str(settings.certificate),
            )
        self._ready = ready
        self._draining = False
        self.app = web.Application(middlewares=[_measure, problem_middleware], client_max_size=max_body)
        self._described: list[Described] = []
        health = [
            ("healthz", Endpoint.HEALTH, "Whether the process runs", self._healthz),
            ("readyz", Endpoint.READY, "Whether it can work", self._readyz),
        ]
        for name, endpoint, summary, handler in health:
            self.route("GET", f"/{name}", endpoint, handler, Operation(summary, {200: "application/json"}))
        metrics = Operation("How it does (Prometheus text)", {200: "text/plain"})
        self.route("GET", "/metrics", Endpoint.HEALTH, self._metrics, metrics)

    def route(
        self,
        method: str,
        path: str,
        endpoint: Endpoint,
        handler: Callable[[web.Request], Awaitable[Any]],
        operation: Operation | None = None,
    ) -> None:
        """Serve ``path`` to those whom the matrix lets use ``endpoint``; ``operation`` describes it."""
        if operation is not None:
            self._described.append(Described(method, path, endpoint, operation))

        async def checked(request: web.Request) -> web.StreamResponse:
            peer = peer_of(request.transport)
            _admit(peer, self.identity, endpoint)
            request[PEER] = peer
            if operation is not None:
                request[OPERATION] = operation
            response: web.StreamResponse = await handler(request)
            return response

        self.app.router.add_route(method, path, checked)

    def describe(
        self, title: str, endpoint: Endpoint, parameters: Mapping[str, Schema], more: Describe | None = None
    ) -> None:
        """Serve ``/openapi.json``: every route with an operation, this one too. Called after all others.

        ``more``: makes of that what is answered, for what is known only when somebody asks.
        """
        self._more = more
        own = Operation("This description", {200: "application/json"})
        self.route("GET", "/openapi.json", endpoint, self._openapi, own)
        self._document = document(title, self._described, parameters)

    async def _openapi(self, _: web.Request) -> web.Response:
        return web.json_response(self._document if self._more is None else await self._more(self._document))

    async def _healthz(self, _: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    async def _readyz(self, _: web.Request) -> web.Response:
        if self._draining:
            raise Unavailable("draining", remedy="another instance takes over")
        told = await self._ready()
        return web.json_response({"status": "ready", **(told or {})})

    async def _metrics(self, _: web.Request) -> web.Response:
        body, content_type = render_metrics() if self._rendered is None else await self._rendered()
        return web.Response(body=body, headers={"Content-Type": content_type})

    @asynccontextmanager
    async def listen(
        self,
        address: Address,
        context: ssl.SSLContext,
        app: web.Application | None = None,
    ) -> AsyncIterator[None]:
        """Serve on ``address`` inside the context; on leaving it, drain and close."""
        runner = web.AppRunner(
            app or self.app,
            access_log=None,
            handle_signals=False,
            shutdown_timeout=self.settings.drain_seconds,
            max_line_size=MAX_HEAD_BYTES // 2,
            max_field_size=MAX_HEAD_BYTES // 2,
            handler_cancellation=True,
        )
        await runner.setup()
        try:
            site = web.TCPSite(runner, address.host, address.port, ssl_context=context)
            try:
                await site.start()
            except OSError as error:
                raise cannot_listen(address, error) from None
            log("listening", address=str(address), role=str(self.identity.role))
            yield
        finally:
            self._draining = True
            await runner.cleanup()

    def internal_context(self, roles: list[Role], jurisdictions: list[str] | None = None) -> ssl.SSLContext:
        """A server context for our own processes; operators may always ask for health."""
        credentials = self.settings.credentials
        known = credentials.known_jurisdictions()
        return credentials.server(jurisdictions or known, [*roles, Role.OPERATOR])


Main = Callable[[], AbstractAsyncContextManager[None]]


async def _until_told(main: Main) -> None:
    told = asyncio.Event()
    loop = asyncio.get_running_loop()
    starting = asyncio.current_task()

    def tell() -> None:
        told.set()
        if starting is not None:
            starting.cancel()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, tell)
    async with AsyncExitStack() as stack:
        try:
            await stack.enter_async_context(main())
        except asyncio.CancelledError:
            if told.is_set():  # before it was ready: what it had opened is closed, nothing is in flight
                return
            raise
        starting = None
        log("ready")
        await told.wait()
        log("draining")


def run(settings: ProcessSettings, main: Main) -> None:
    """Run a service until SIGTERM or SIGINT.

    A refusal, or a file that can't be used, is one line and exit status 1. So is an unforeseen error, of
    which only the class and the place are told: its text may hold what a log may not.
    """
    configure_logs(settings.process, settings.log_level)
    try:
        uvloop.run(_until_told(main))
    except DomicileError as error:
        warn("refused-to-start", code=error.code)
        print(f"{settings.process}: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    except Exception as error:
        warn("ended-by-error", error=type(error).__name__, place=place_of(error))
        print(f"{settings.process}: {_outline(error)}", file=sys.stderr)
        raise SystemExit(1) from None
    log("stopped")


def _outline(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {(error.strerror or type(error).__name__).lower()} (mend the path or its rights)"
    return f"unforeseen {type(error).__name__} at {place_of(error)}"
