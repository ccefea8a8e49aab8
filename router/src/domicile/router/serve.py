"""One router process: its parts put together, its two listeners, and their graceful end (public first).

The listeners are plain aiohttp servers, not the common shell's: a router must not decompress bodies, must
answer before ``100-continue``, and must take any path. Health for operators lives on the internal one.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Final

from aiohttp import web
from aiohttp.http_exceptions import LineTooLong
from aiohttp.typedefs import Handler

from domicile.client import DirectoryClient, Topology
from domicile.identity import Signer, peer_of, public_server
from domicile.model import (
    Address,
    Endpoint,
    Identity,
    InvalidInput,
    Manifest,
    Peppers,
    Role,
    Router,
    Unavailable,
    require,
)
from domicile.model.wire import MAX_HEAD_BYTES
from domicile.router.application_keys import KeyAddress, KeyFile, fetch_over_https
from domicile.router.atlas import Atlas
from domicile.router.country import Countries
from domicile.router.decide import Listener
from domicile.router.errors import HeadTooLarge
from domicile.router.explain import Explainer, explain_route
from domicile.router.follow import Follower, require_fit
from domicile.router.forward import Wire
from domicile.router.front import Front
from domicile.router.health import Health
from domicile.router.identify import Identifier
from domicile.router.keys import ResidencyKeys
from domicile.router.pins import Pins
from domicile.router.replica import Replica
from domicile.router.resolve import Resolver
from domicile.router.sessions import Sessions
from domicile.router.settings import RouterSettings
from domicile.router.shedding import Shedder
from domicile.service import Service, plain_problem, problem_response
from domicile.telemetry import REFUSALS, log
from domicile.telemetry.traces import otlp_exporter, start_tracing

LINGER_SECONDS: Final = 2.0
_SERVER: Final[dict[str, Any]] = {
    "access_log": None,
    "auto_decompress": False,
    "handler_cancellation": True,
    "lingering_time": LINGER_SECONDS,
    "max_line_size": MAX_HEAD_BYTES // 2,
    "max_field_size": MAX_HEAD_BYTES // 2,
}


class _PublicProtocol(web.RequestHandler):
    """What is no HTTP is refused like everything else, and logged without the client's address."""

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        if request.writer.output_size > 0:
            raise ConnectionResetError
        REFUSALS.labels("bad-request").inc()
        if isinstance(exc, LineTooLong):
            response = problem_response(HeadTooLarge("a line of the head is too long"))
        else:
            response = plain_problem(status, "bad-request", "not a request that this router understands")
        response.force_close()
        return response


class _PublicServer(web.Server):
    def __call__(self) -> web.RequestHandler:
        return _PublicProtocol(self, loop=self._loop, **self._kwargs)


def place_of(manifest: Manifest, identity: Identity) -> Router:
    """This router's entry in the manifest. Raises InvalidInput where certificate and manifest disagree."""
    router = manifest.routers.get(identity.zone)
    if router is None or manifest.jurisdiction_of(router.country) != identity.jurisdiction:
        raise InvalidInput(
            f"the topology has no router in zone {identity.zone} of {identity.jurisdiction}",
            where="routers",
            remedy="add it to the manifest, or issue the certificate that the manifest means",
        )
    return router


def _trace(stack: AsyncExitStack, manifest: Manifest, identity: Identity, settings: RouterSettings) -> None:
    """To this jurisdiction's own collector, if it has one; what is left is sent at the end."""
    collector = manifest.jurisdictions[identity.jurisdiction].collector
    if collector is None or settings.trace_share == 0:
        return
    exporter = otlp_exporter(collector, settings.collector_authorities)
    stop = start_tracing(settings.process, identity.jurisdiction, exporter, share=settings.trace_share)
    stack.push_async_callback(asyncio.to_thread, stop)


def _sessions(stack: AsyncExitStack, manifest: Manifest, settings: RouterSettings, peppers: Peppers) -> Sessions | None:
    identity = manifest.identity
    if identity is None:
        return None
    if not identity.by_address:
        return Sessions(KeyFile(Path(identity.jwks), identity.outage_seconds), identity, peppers)
    fetch = partial(fetch_over_https, context=settings.identity_context())
    keys = KeyAddress(identity, settings.state / "application-keys.json", fetch)
    keys.start()
    stack.push_async_callback(keys.close)
    return Sessions(keys, identity, peppers)


@asynccontextmanager
async def _started(runner: web.BaseRunner, address: Address, context: ssl.SSLContext) -> AsyncIterator[None]:
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, address.host, address.port, ssl_context=context).start()
        except OSError as error:
            raise InvalidInput(
                f"cannot listen: {error.strerror or 'address unusable'}",
                where=str(address),
                remedy="free the port, or name another address",
            ) from None
        log("listening", address=str(address), role=str(Role.ROUTER))
        yield
    finally:
        await runner.cleanup()


def _internal(service: Service, front: Front) -> None:
    """Other routers' requests take any path; operators find the health routes."""

    @web.middleware
    async def divert(request: web.Request, handler: Handler) -> web.StreamResponse:
        peer = peer_of(request.transport)
        if peer.role is not Role.ROUTER:
            return await handler(request)
        require(peer, service.identity, Endpoint.ROUTER_INTERNAL)
        return await front.handle(request, Listener.INTERNAL)

    service.app.middlewares.append(divert)


@asynccontextmanager
async def serve(settings: RouterSettings) -> AsyncIterator[None]:
    """Run a router: inside the context it serves; on leaving, the public listener drains, then the internal one.

    Raises Unavailable without a topology, InvalidInput for settings that do not fit it.
    """
    draining = False

    async def ready() -> None:
        if draining:
            raise Unavailable("draining", remedy="another router takes over")
        require_fit(replica)

    service = Service(settings, ready)
    credentials = settings.credentials
    async with AsyncExitStack() as stack:
        directory = DirectoryClient(credentials, settings.directory)
        stack.push_async_callback(directory.close)
        topology = Topology(directory, settings.deployment, settings.operator_keys(), settings.state / "topology.json")
        manifest = await topology.load()
        place = place_of(manifest, service.identity)
        _trace(stack, manifest, service.identity, settings)
        replica = Replica(settings.state / "pins.lmdb", settings.replica_bytes)
        stack.callback(replica.close)
        countries = Countries(settings.countries, place.trusted_peers)
        stack.callback(countries.close)
        health = Health(settings.waiting)
        wire = Wire(credentials, settings, health)
        stack.push_async_callback(wire.close)
        signer = Signer.load_or_create(settings.state / "token.key")
        tokens = ResidencyKeys(directory, signer, settings.deployment, settings.state / "residency-keys.json")
        stack.push_async_callback(tokens.close)
        peppers = settings.load_peppers()
        sessions = _sessions(stack, manifest, settings, peppers)
        atlas = Atlas(manifest, service.identity)
        identifier = Identifier(manifest, place, tokens, sessions, peppers)
        pins, shedder = Pins(replica, directory), Shedder(settings.places)
        resolver = Resolver(pins, service.identity, shedder)
        explain_route(service, Explainer(place, atlas, identifier, pins, resolver, health))
        front = Front(
            settings,
            service.identity,
            manifest,
            place,
            atlas,
            identifier=identifier,
            pins=pins,
            resolver=resolver,
            shedder=shedder,
            countries=countries,
            wire=wire,
            health=health,
            signer=signer,
        )
        _internal(service, front)
        for task in (tokens.publish(), Follower(replica, directory).run(), shedder.watch()):
            stack.push_async_callback(_ended, asyncio.create_task(task))
        drain = settings.drain_seconds
        internal = web.AppRunner(service.app, handle_signals=False, shutdown_timeout=drain, **_SERVER)
        public = web.ServerRunner(_PublicServer(front.public, **_SERVER), handle_signals=False, shutdown_timeout=drain)
        public_context = public_server(settings.public_certificate, settings.public_key)
        async with (
            _started(internal, settings.address(), service.internal_context([Role.ROUTER])),
            _started(public, Address(settings.public_bind), public_context),
        ):
            try:
                yield
            finally:
                draining = True


async def _ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
