"""The router's two listeners. Other routers' requests may take any path on the internal one; operators find the
health routes there, which are the common service's, so that a certificate's role decides who answers."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final, cast

from aiohttp import web

from domicile.identity import peer_of
from domicile.model import Address, DomicileError, Endpoint, InvalidInput, Role, require
from domicile.model.wire import MAX_HEAD_BYTES
from domicile.router.decide import Listener
from domicile.router.downstream import Clients, Downstream
from domicile.router.front import Front
from domicile.service import Service
from domicile.telemetry import log

HANDSHAKE_SECONDS: Final = 10.0
BACKLOG: Final = 1024
Handler = Callable[[], asyncio.Protocol]


class _Internal(Downstream):
    """Hands the connections of whoever isn't a router to the health routes."""

    def __init__(self, front: Front, clients: Clients, others: Handler) -> None:
        super().__init__(front, Listener.INTERNAL, clients)
        self._others = others

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        peer = peer_of(transport)
        if peer.role is Role.ROUTER:
            self.router = peer
            super().connection_made(transport)
            try:
                require(peer, self._front.vantage, Endpoint.ROUTER_INTERNAL)
            except DomicileError as error:
                self._refuse(error)
            return
        handler = self._others()
        cast("asyncio.Transport", transport).set_protocol(handler)
        handler.connection_made(transport)


@asynccontextmanager
async def operators(service: Service) -> AsyncIterator[Handler]:
    """Serves the common service's routes on connections that are handed to it."""
    runner = web.AppRunner(
        service.app,
        access_log=None,
        handle_signals=False,
        shutdown_timeout=service.settings.drain_seconds,
        max_line_size=MAX_HEAD_BYTES // 2,
        max_field_size=MAX_HEAD_BYTES // 2,
    )
    await runner.setup()
    assert runner.server is not None
    try:
        yield runner.server
    finally:
        await runner.cleanup()


@asynccontextmanager
async def listening(
    front: Front,
    listener: Listener,
    address: Address,
    context: ssl.SSLContext | None,
    *,
    others: Handler | None = None,
) -> AsyncIterator[None]:
    """Serve inside the context; on leaving it, take no more connections, and give what is in flight its time.

    ``others``: answers those on the internal listener who aren't routers.
    """
    settings = front.settings
    clients = Clients(settings.clients)

    def accepted() -> asyncio.Protocol:
        return _Internal(front, clients, others) if others is not None else Downstream(front, listener, clients)

    try:
        server = await asyncio.get_running_loop().create_server(
            accepted,
            address.host,
            address.port,
            ssl=context,
            backlog=BACKLOG,
            reuse_port=settings.workers > 1 or None,
            ssl_handshake_timeout=HANDSHAKE_SECONDS if context is not None else None,
            # what is written last needs its time too
            ssl_shutdown_timeout=settings.idle_seconds if context is not None else None,
        )
    except OSError as error:
        raise InvalidInput(
            f"cannot listen: {error.strerror or 'address unusable'}",
            where=str(address),
            remedy="free the port, or name another address",
        ) from None
    log("listening", address=str(address), role=str(Role.ROUTER))
    try:
        yield
    finally:
        server.close()
        await clients.drain(settings.drain_seconds)
