"""Connections to upstreams: pooled for each, and made over mutual TLS.

A peer's certificate is checked inside the handshake, a name is resolved inside the upstream's networks only.

A process that hangs keeps its connections open, and its kernel takes new ones: each request on an open connection would
wait out its whole time. So while an answer is waited for, a new connection is made now and then, which an application
that only takes its time can do: where none comes about, those who wait may go elsewhere.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from domicile.client import JailedResolver
from domicile.identity import Credentials
from domicile.model import Address
from domicile.model.addresses import literal
from domicile.router.connection import Connection
from domicile.router.endpoints import Upstream
from domicile.router.settings import RouterSettings
from domicile.telemetry import warn

IDLE_SECONDS: Final = 30.0
SWEEP_SECONDS: Final = 1.0
LOOKS: Final = 2
"""Sweeps that find a request waiting for its answer, until its upstream has to make another connection."""
CLOSING_SECONDS: Final = 2.0


Hung = Callable[[Upstream], object]


class Busy(Exception):
    """The upstream is there, and as many connections to it are in use as may be."""


class Pool:
    """Connections to one upstream. ``take`` one that is idle, else ``connect``."""

    def __init__(self, upstream: Upstream, context: ssl.SSLContext, settings: RouterSettings, hung: Hung) -> None:
        self.upstream = upstream
        self._hung = hung
        self._proof: asyncio.Task[None] | None = None
        self._context = context
        self._settings = settings
        self._address = Address(upstream.address)
        self._literal = literal(upstream.address) is not None
        self._idle: list[Connection] = []
        self._open: set[Connection] = set()
        self._dials: set[asyncio.Task[None]] = set()
        self._waiting: deque[asyncio.Future[Connection]] = deque()
        self._loop = asyncio.get_running_loop()

    def take(self) -> Connection | None:
        """The connection that was used last, being the warmest."""
        while self._idle:
            connection = self._idle.pop()
            if not connection.transport.is_closing():
                return connection
        return None

    async def connect(self) -> Connection:
        """The first that comes: a new connection, or one that another is done with.

        While many connect at once, an answer often ends before a handshake does. Raises Busy, OSError, TimeoutError.
        """
        try:
            async with asyncio.timeout(self._settings.connect_seconds):
                while True:
                    connection = await self._next()
                    if not connection.transport.is_closing():
                        return connection
        except TimeoutError:
            if len(self._open) >= self._settings.connections:
                raise Busy from None
            raise

    async def _next(self) -> Connection:
        waiter: asyncio.Future[Connection] = self._loop.create_future()
        self._waiting.append(waiter)
        self._dial()
        try:
            return await waiter
        except asyncio.CancelledError:
            if waiter.cancelled():
                with suppress(ValueError):
                    self._waiting.remove(waiter)
            elif waiter.exception() is None:
                self._free(waiter.result())
            raise

    def _dial(self) -> None:
        """As many connections are being made as are waited for, where there is room for them."""
        while self._room() > 0 and len(self._dials) < len(self._waiting):
            dial = self._loop.create_task(self._dialled())
            self._dials.add(dial)
            dial.add_done_callback(self._dialled_out)

    def _dialled_out(self, dial: asyncio.Task[None]) -> None:
        self._dials.discard(dial)
        if not dial.cancelled():
            self._dial()

    def _room(self) -> int:
        return self._settings.connections - len(self._open) - len(self._dials) - (self._proof is not None)

    async def _dialled(self) -> None:
        try:
            async with asyncio.timeout(self._settings.connect_seconds):
                connection = await self._made()
        except TimeoutError:
            pass  # who has waited for as long knows it; who came later gets a time of its own
        except Exception as error:
            if (waiter := self._waiter()) is not None:
                waiter.set_exception(error)
        else:
            self._free(connection)

    async def _made(self) -> Connection:
        error: OSError | None = None
        for host in await self._hosts():
            try:
                _, connection = await self._loop.create_connection(
                    lambda: Connection(self._free, self._gone),
                    host,
                    self._address.port,
                    ssl=self._context,
                    server_hostname=self._address.host,
                    ssl_shutdown_timeout=CLOSING_SECONDS,
                )
            except OSError as failure:
                error = failure
                continue
            if connection.transport.is_closing():
                raise ConnectionResetError
            self._open.add(connection)
            return connection
        raise error or OSError(None, "the name has no address")

    async def _hosts(self) -> list[str]:
        if self._literal:
            return [self._address.host]
        resolver = JailedResolver(self.upstream.networks or None)
        found = await resolver.resolve(self._address.host, self._address.port, socket.AF_UNSPEC)
        return [place["host"] for place in found]

    def _waiter(self) -> asyncio.Future[Connection] | None:
        """Whoever waits longest, and waits no more."""
        while self._waiting:
            if not (waiter := self._waiting.popleft()).done():
                return waiter
        return None

    def _free(self, connection: Connection) -> None:
        if (waiter := self._waiter()) is not None:
            waiter.set_result(connection)
            return
        connection.since = self._loop.time()
        self._idle.append(connection)

    def _gone(self, connection: Connection) -> None:
        self._open.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)
        self._dial()

    def sweep(self) -> None:
        """Close what was idle for long: before the other side does, with a request on its way to it."""
        before = self._loop.time() - IDLE_SECONDS
        for connection in [each for each in self._idle if each.since < before]:
            connection.close()
        self._idle = [each for each in self._idle if each.since >= before]
        suspect = False
        for connection in self._open:
            if connection.waits:
                connection.looks += 1
                suspect = suspect or connection.looks % LOOKS == 0
        if suspect and self._proof is None and self._room() > 0:
            self._proof = asyncio.create_task(self._prove())

    async def _prove(self) -> None:
        """Make a connection, for whoever wants it next; where none comes about, tell all who wait here."""
        try:
            async with asyncio.timeout(self._settings.connect_seconds):
                self._free(await self._made())
        except (OSError, TimeoutError):
            upstream = self.upstream
            warn("upstream-hangs", jurisdiction=upstream.jurisdiction, cell=upstream.cell, zone=upstream.zone)
            self._hung(upstream)
            idle, self._idle = self._idle, []
            for connection in idle:
                connection.drop()
            for connection in [each for each in self._open if each.waits and each.looks >= LOOKS]:
                connection.hangs()
        finally:
            self._proof = None
            self._dial()

    def close(self) -> None:
        if self._proof is not None:
            self._proof.cancel()
        for dial in self._dials:
            dial.cancel()
        self._idle.clear()
        for connection in list(self._open):
            connection.close()


class Wire:
    """The pools, by upstream. ``hung``: told of one that makes no connections while it is waited for."""

    def __init__(self, credentials: Credentials, settings: RouterSettings, hung: Hung) -> None:
        self._hung = hung
        self._credentials = credentials
        self._settings = settings
        self._pools: dict[int, Pool] = {}
        self._loop = asyncio.get_running_loop()
        self._sweeper = self._loop.call_later(SWEEP_SECONDS, self._sweep)

    def pool(self, upstream: Upstream) -> Pool:
        # by identity: the atlas makes each upstream once, and the pool keeps it
        pool = self._pools.get(id(upstream))
        if pool is None:
            context = self._credentials.client(upstream.jurisdiction, [upstream.role], cell=upstream.cell)
            pool = self._pools[id(upstream)] = Pool(upstream, context, self._settings, self._hung)
        return pool

    def _sweep(self) -> None:
        for pool in self._pools.values():
            pool.sweep()
        self._sweeper = self._loop.call_later(SWEEP_SECONDS, self._sweep)

    def close(self) -> None:
        self._sweeper.cancel()
        for pool in self._pools.values():
            pool.close()
        self._pools.clear()
