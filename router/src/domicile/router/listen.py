"""The router's two listeners. Other routers' requests may take any path on the internal one; operators find the
health routes there, which are the common service's, so that a certificate's role decides who answers."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final

from aiohttp import web

from domicile.model import Address, Manifest, Role
from domicile.model.wire import MAX_HEAD_BYTES
from domicile.router.decide import Listener
from domicile.router.downstream import Clients, Downstream
from domicile.router.files import raise_limit, share_out
from domicile.router.front import Front
from domicile.router.internal import Handler, Internal
from domicile.router.splice import Splicer, foreign_hosts
from domicile.service import Service, cannot_listen, ended
from domicile.telemetry import log, warn

HANDSHAKE_SECONDS: Final = 10.0
BACKLOG: Final = 1024


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
    splices: Manifest | None = None,
) -> AsyncIterator[None]:
    """Serve inside the context; on leaving it, take no more connections, and give what is in flight its time.

    ``others``: answers those on the internal listener who aren't routers. ``splices``: whose hosts of other
    jurisdictions are carried there unopened.
    """
    settings = front.settings
    bearable, unsorted = share_out(raise_limit())
    if bearable < settings.clients:
        warn("few-files", count=bearable)
    clients = Clients(min(settings.clients, bearable))
    loop = asyncio.get_running_loop()
    options: dict[str, Any] = {}
    if context is not None:
        # what is written last needs its time too
        options = {
            "ssl": context,
            "ssl_handshake_timeout": HANDSHAKE_SECONDS,
            "ssl_shutdown_timeout": settings.idle_seconds,
        }

    def accepted() -> asyncio.Protocol:
        return Internal(front, clients, others) if others is not None else Downstream(front, listener, clients)

    async def ours(connection: socket.socket) -> None:
        await loop.connect_accepted_socket(accepted, connection, **options)

    bound = _bound(address, shared=settings.workers > 1)
    try:
        async with AsyncExitStack() as stack:
            if splices is not None and context is not None and foreign_hosts(splices, front.vantage.jurisdiction):
                splicer = Splicer(splices, front.vantage.jurisdiction, settings, clients, ours, unsorted)
                stack.push_async_callback(_stopped, asyncio.create_task(splicer.run(bound)), bound)
            else:
                server = await loop.create_server(accepted, sock=bound, backlog=BACKLOG, **options)
                stack.callback(server.close)
            log("listening", address=str(address), role=str(Role.ROUTER))
            yield
    finally:
        await clients.drain(settings.drain_seconds)


def _bound(address: Address, *, shared: bool) -> socket.socket:
    """A listening socket, ``shared`` with other processes. Raises InvalidInput."""
    try:
        family, *_, place = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, socket.SOCK_STREAM)
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if shared:
                bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            bound.bind(place)
            bound.listen(BACKLOG)
            bound.setblocking(False)
        except BaseException:
            bound.close()
            raise
    except OSError as error:
        raise cannot_listen(address, error, "free the port, or name another address") from None
    return bound


async def _stopped(accepting: asyncio.Task[None], bound: socket.socket) -> None:
    await ended(accepting)
    bound.close()
