"""One router process: its parts put together, its two listeners, and their graceful end (public first)."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Final

from domicile.client import DirectoryClient
from domicile.identity import Keyring, public_server
from domicile.model import Address, Identity, InvalidInput, Manifest, Peppers, Role, Router, Unavailable
from domicile.model.addresses import literal
from domicile.router.application_keys import KeyAddress, KeyFile, fetch_over_https
from domicile.router.atlas import Atlas
from domicile.router.carried import CarriedReporter, gateways
from domicile.router.country import Countries
from domicile.router.counts import Counts
from domicile.router.decide import Listener
from domicile.router.decisions import Decider, decide_routes
from domicile.router.ejection import Failure
from domicile.router.explain import Explainer, explain_route
from domicile.router.follow import Follower, require_fit
from domicile.router.front import Front
from domicile.router.health import Health
from domicile.router.identify import Identifier
from domicile.router.keys import ResidencyKeys
from domicile.router.listen import listening, operators
from domicile.router.pins import Pins
from domicile.router.replica import Replica
from domicile.router.resolve import Resolver
from domicile.router.sessions import Sessions
from domicile.router.settings import RouterSettings
from domicile.router.shedding import Shedder
from domicile.router.wire import Wire
from domicile.service import Service, ended
from domicile.telemetry import place_of as told_place
from domicile.telemetry import warn
from domicile.telemetry.traces import start_tracing

DAY_SECONDS: Final = 86_400.0
AGAIN_SECONDS: Final = 5.0


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
    from domicile.telemetry.collector import otlp_exporter

    exporter = otlp_exporter(
        collector, partial(manifest.may_collect, identity.jurisdiction), settings.collector_authorities
    )
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
async def serve(settings: RouterSettings, counts: Counts | None = None) -> AsyncIterator[None]:
    """Run a router: inside the context it serves; on leaving, the public listener drains, then the internal one.
    ``counts``: what it shares with the other workers.

    Raises Unavailable without a topology, InvalidInput for settings that do not fit it.
    """
    draining = False

    async def ready() -> None:
        if draining:
            raise Unavailable("draining", remedy="another router takes over")
        require_fit(replica)

    service = Service(settings, ready, rendered=None if counts is None else counts.render)
    credentials = settings.credentials
    async with AsyncExitStack() as stack:
        directory = DirectoryClient(credentials, settings.directory)
        stack.push_async_callback(directory.close)
        manifest = await settings.topology(directory).load()
        place = place_of(manifest, service.identity)
        _trace(stack, manifest, service.identity, settings)
        replica = Replica(settings.state / "pins.lmdb", settings.replica_bytes)
        stack.callback(replica.close)
        countries = Countries(settings.countries, place.trusted_peers)
        stack.callback(countries.close)
        health = Health(settings.waiting)
        wire = Wire(credentials, settings, partial(health.failed, failure=Failure.UNREACHED))
        stack.callback(wire.close)
        keyring = Keyring(settings.state / "token.key", "residency")
        tokens = ResidencyKeys(directory, keyring, settings.deployment, settings.state / "residency-keys.json")
        stack.push_async_callback(tokens.close)
        peppers = settings.load_peppers()
        sessions = _sessions(stack, manifest, settings, peppers)
        atlas = Atlas(manifest, service.identity)
        pins, shedder = Pins(replica, directory), Shedder(settings.places)
        identifier = Identifier(manifest, place, tokens, sessions, peppers, pins.known)
        resolver = Resolver(pins, service.identity, shedder)
        explain_route(service, Explainer(place, atlas, identifier, pins, resolver, health, countries))
        front = Front(
            settings,
            service.identity,
            manifest,
            atlas,
            identifier=identifier,
            pins=pins,
            resolver=resolver,
            shedder=shedder,
            countries=countries,
            wire=wire,
            health=health,
            keyring=keyring,
        )
        decide_routes(service, Decider(front, atlas))
        follower = Follower(replica, directory)
        own_gateways = gateways(credentials, manifest, service.identity.jurisdiction)
        for gateway in own_gateways:
            stack.push_async_callback(gateway.close)
        reporter = CarriedReporter(service.identity.zone, [gateway.carried for gateway in own_gateways])
        stack.push_async_callback(reporter.finish)
        works: list[Callable[[], Awaitable[None]]] = [
            reporter.run,
            partial(tokens.keep, settings.key_days * DAY_SECONDS),
            follower.run,
            shedder.watch,
        ]
        if counts is not None:
            works.append(counts.keep)
        for work in works:
            stack.push_async_callback(ended, asyncio.create_task(kept(work)))
        internal_context = service.internal_context([Role.ROUTER, Role.EDGE])
        async with (
            operators(service) as handler,
            listening(front, Listener.INTERNAL, settings.address(), internal_context, others=handler),
            listening(
                front, Listener.PUBLIC, Address(settings.public_bind), _public_context(settings), splices=manifest
            ),
        ):
            try:
                yield
            finally:
                draining = True


async def kept(work: Callable[[], Awaitable[None]], *, wait: float = AGAIN_SECONDS) -> None:
    """Without end: ``work``, begun again ``wait`` seconds after it failed. Nobody would miss a task that has died."""
    while True:
        try:
            await work()
        except Exception as error:
            warn("unforeseen", error=type(error).__name__, place=told_place(error))
        await asyncio.sleep(wait)


def _public_context(settings: RouterSettings) -> ssl.SSLContext | None:
    if settings.public_plain:
        ip = literal(settings.public_bind)
        if ip is None or not ip.is_loopback:
            raise InvalidInput("without TLS only a loopback address is listened on", where="DOMICILE_PUBLIC_BIND")
        warn("plain-listener")
        return None
    return public_server(settings.public_certificate, settings.public_key)
