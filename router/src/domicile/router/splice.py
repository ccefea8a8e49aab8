"""Hosts that name another jurisdiction, carried there by TCP wherever they arrive: their TLS is not opened here.

The host is looked up in the client's first message, which stays in the socket for whoever takes the connection.
Whoever hasn't sent it holds one of a bounded number of places, and loses it to a newcomer where all are taken.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, cast

from domicile.model import Address, Manifest
from domicile.router.connection import HIGH_WATER_BYTES
from domicile.router.deadline import Deadline
from domicile.router.downstream import Clients
from domicile.router.hello import MAX_HELLO_BYTES, Incomplete, server_name
from domicile.router.settings import RouterSettings
from domicile.telemetry import BORDER, BORDER_BYTES, warn

HELLO_SECONDS: Final = 10.0
ACCEPT_RETRY_SECONDS: Final = 0.1


def foreign_hosts(manifest: Manifest, here: str) -> dict[str, str]:
    """The jurisdiction of each public host but this one's, where it has routers."""
    return {
        place.public_host.partition(":")[0]: name
        for name, place in manifest.jurisdictions.items()
        if name != here and manifest.routers_of(name)
    }


class _Side(asyncio.Protocol):
    """One of two connections whose bytes are each other's."""

    transport: asyncio.Transport
    other: _Side
    lost = False

    def __init__(self, count: Callable[[int], object], deadline: Deadline, seconds: float) -> None:
        self._count = count
        self._deadline = deadline
        self._seconds = seconds

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.transport.set_write_buffer_limits(HIGH_WATER_BYTES)

    def data_received(self, data: bytes) -> None:
        self._deadline.set(self._seconds)
        self._count(len(data))
        if not self.other.transport.is_closing():
            self.other.transport.write(data)

    def pause_writing(self) -> None:
        if not self.other.transport.is_closing():
            self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        if not self.other.transport.is_closing():
            self.other.transport.resume_reading()

    def connection_lost(self, error: Exception | None) -> None:
        self.lost = True
        self.other.end()

    def end(self) -> None:
        self.transport.close()


class _Client(_Side):
    """The side that was accepted: it counts among the listener's clients."""

    def __init__(
        self, count: Callable[[int], object], deadline: Deadline, seconds: float, clients: Clients, upstream: _Side
    ) -> None:
        super().__init__(count, deadline, seconds)
        self._clients = clients
        self._made = False
        self.other = upstream
        upstream.other = self

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._made = True
        self._deadline.set(self._seconds)
        if not self._clients.opened(self) or self.other.lost:
            self.transport.abort()
        else:
            self.other.transport.resume_reading()

    def connection_lost(self, error: Exception | None) -> None:
        self._clients.closed(self)
        self._deadline.close()
        super().connection_lost(error)

    def end(self) -> None:
        if self._made:  # else it ends as soon as it is
            super().end()

    def drain(self) -> None:
        """What it carries ends by itself, or with the time that a drain has."""


class Splicer:
    """Sorts the connections of one listener. ``ours``: takes those that are this router's."""

    def __init__(
        self,
        manifest: Manifest,
        here: str,
        settings: RouterSettings,
        clients: Clients,
        ours: Callable[[socket.socket], Awaitable[object]],
        unsorted: int,
    ) -> None:
        """``unsorted``: connections that may be without a first message at a time."""
        self._manifest = manifest
        self._hosts: Mapping[str, str] = foreign_hosts(manifest, here)
        self._here = here
        self._settings = settings
        self._clients = clients
        self._ours = ours
        self._unsorted = unsorted
        self._silent: dict[asyncio.Task[None], None] = {}  # the oldest first
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self, listening: socket.socket) -> None:
        """Until cancelled; connections that are not sorted yet are closed then."""
        loop = asyncio.get_running_loop()
        try:
            while True:
                try:
                    accepted, _ = await loop.sock_accept(listening)
                except OSError as error:  # no file descriptor is left, most likely
                    warn("accept-failed", error=type(error).__name__)
                    await asyncio.sleep(ACCEPT_RETRY_SECONDS)
                    continue
                if len(self._silent) >= self._unsorted:
                    oldest = next(iter(self._silent))
                    del self._silent[oldest]
                    oldest.cancel()
                task = asyncio.create_task(self._sort(accepted))
                self._silent[task] = None
                self._tasks.add(task)
                task.add_done_callback(self._ended)
        finally:
            for task in self._tasks:
                task.cancel()

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._silent.pop(task, None)

    async def _sort(self, accepted: socket.socket) -> None:
        try:
            accepted.setblocking(False)
            async with asyncio.timeout(HELLO_SECONDS):
                host = await _asked_for(accepted)
            if (task := asyncio.current_task()) is not None:
                self._silent.pop(task, None)
            there = self._hosts.get(host) if host is not None else None
            if there is None:
                await self._ours(accepted)
            else:
                await self._carry(accepted, there)
        except (OSError, TimeoutError):  # a client that went away, or whose handshake failed, is no event
            accepted.close()
        except asyncio.CancelledError:
            accepted.close()
            raise

    async def _carry(self, accepted: socket.socket, there: str) -> None:
        loop = asyncio.get_running_loop()
        sent, got = (
            BORDER_BYTES.labels(*way) for way in ((self._here, there, "splice"), (there, self._here, "splice"))
        )
        seconds = self._settings.relay_seconds
        deadline = Deadline(loop, lambda: client.transport.abort())
        upstream = _Side(got.inc, deadline, seconds)
        client = _Client(sent.inc, deadline, seconds, self._clients, upstream)
        for router in self._manifest.routers_of(there).values():
            address = Address(router.public)
            try:
                async with asyncio.timeout(self._settings.connect_seconds):
                    await loop.create_connection(lambda: upstream, address.host, address.port)
            except (OSError, TimeoutError):
                continue
            upstream.transport.pause_reading()
            BORDER.labels(self._here, there, "traveller", "spliced").inc()
            try:
                await loop.connect_accepted_socket(lambda: client, accepted)
            except BaseException:
                upstream.transport.abort()
                raise
            return
        warn("splice-failed", from_jurisdiction=self._here, to_jurisdiction=there)
        accepted.close()


async def _asked_for(accepted: socket.socket) -> str | None:
    """The host of a connection's TLS, without taking anything from it. Raises OSError where no more comes."""
    seen = 0
    while True:
        await _readable(accepted)
        data = accepted.recv(MAX_HELLO_BYTES, socket.MSG_PEEK)
        if len(data) <= seen:
            raise ConnectionResetError  # readable without anything new: its end
        seen = len(data)
        try:
            host = server_name(data)
        except Incomplete:
            # what lies there already must not wake anybody again
            accepted.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, len(data) + 1)
            continue
        accepted.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)
        return host


async def _readable(accepted: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(accepted, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(accepted)
