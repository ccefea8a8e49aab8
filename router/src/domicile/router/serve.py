"""One router process: its parts put together, its two listeners, and their graceful end (public first)."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

from domicile.client import DirectoryClient, Topology
from domicile.identity import Signer, public_server
from domicile.model import Address, Identity, InvalidInput, Manifest, Role, Router, Unavailable
from domicile.model.addresses import literal
from domicile.router.country import Countries
from domicile.router.decide import Listener
from domicile.router.follow import Follower
from domicile.router.front import Front
from domicile.router.identify import Identifier, Sessions
from domicile.router.keys import ApplicationKeys, ResidencyKeys
from domicile.router.listen import listening, operators
from domicile.router.replica import Pins, Replica
from domicile.router.settings import RouterSettings
from domicile.router.wire import Wire
from domicile.service import Service
from domicile.telemetry import warn


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


def _sessions(manifest: Manifest, settings: RouterSettings) -> Sessions | None:
    if manifest.identity is None:
        return None
    keys = ApplicationKeys(Path(manifest.identity.jwks))
    return Sessions(keys, manifest.identity, settings.load_pepper())


@asynccontextmanager
async def serve(settings: RouterSettings) -> AsyncIterator[None]:
    """Run a router: inside the context it serves; on leaving, the public listener drains, then the internal one.

    Raises Unavailable without a topology, InvalidInput for settings that do not fit it.
    """
    draining = False

    async def ready() -> None:
        if draining:
            raise Unavailable("draining", remedy="another router takes over")

    service = Service(settings, ready)
    credentials = settings.credentials
    async with AsyncExitStack() as stack:
        directory = DirectoryClient(credentials, settings.directory)
        stack.push_async_callback(directory.close)
        topology = Topology(directory, settings.deployment, settings.operator_keys(), settings.state / "topology.json")
        manifest = await topology.load()
        place = place_of(manifest, service.identity)
        replica = Replica(settings.state / "pins.lmdb", settings.replica_bytes)
        stack.callback(replica.close)
        countries = Countries(settings.countries, place.trusted_peers)
        stack.callback(countries.close)
        wire = Wire(credentials, settings)
        stack.callback(wire.close)
        signer = Signer.load_or_create(settings.state / "token.key")
        tokens = ResidencyKeys(directory, signer, settings.deployment, settings.state / "residency-keys.json")
        front = Front(
            settings,
            service.identity,
            manifest,
            place,
            identifier=Identifier(tokens, _sessions(manifest, settings)),
            pins=Pins(replica, directory),
            countries=countries,
            wire=wire,
            signer=signer,
        )
        for task in (tokens.publish(), Follower(replica, directory).run()):
            stack.push_async_callback(_ended, asyncio.create_task(task))
        internal_context = service.internal_context([Role.ROUTER])
        async with (
            operators(service) as handler,
            listening(front, Listener.INTERNAL, settings.address(), internal_context, others=handler),
            listening(front, Listener.PUBLIC, Address(settings.public_bind), _public_context(settings)),
        ):
            try:
                yield
            finally:
                draining = True


def _public_context(settings: RouterSettings) -> ssl.SSLContext | None:
    if settings.public_plain:
        ip = literal(settings.public_bind)
        if ip is None or not ip.is_loopback:
            raise InvalidInput("without TLS only a loopback address is listened on", where="DOMICILE_PUBLIC_BIND")
        warn("plain-listener")
        return None
    return public_server(settings.public_certificate, settings.public_key)


async def _ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
