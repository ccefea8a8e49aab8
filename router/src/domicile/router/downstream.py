"""One client's connection: requests in, one at a time and in their order, however many are sent ahead.

A head has to come in within its time and its size. While a request is answered, what the client sends beyond it
is kept up to a bound, and the connection isn't read past that.
"""

from __future__ import annotations

import asyncio
from typing import Final, Protocol, cast

from domicile.model import DomicileError, Identity
from domicile.router.connection import HIGH_WATER_BYTES
from domicile.router.deadline import Deadline
from domicile.router.decide import Listener
from domicile.router.errors import SlowRequest
from domicile.router.exchange import Exchange
from domicile.router.front import Front
from domicile.router.head import find_end, read_request

LINGER_SECONDS: Final = 2.0
MAX_AHEAD_BYTES: Final = 64 * 1024


class Client(Protocol):
    """A connection that a listener has accepted."""

    transport: asyncio.Transport

    def drain(self) -> None: ...


class Clients:
    """The open connections of one listener."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._open: set[Client] = set()
        self._draining = False
        self._none = asyncio.Event()
        self._none.set()

    def opened(self, client: Client) -> bool:
        """Whether it may stay."""
        if len(self._open) >= self._limit or self._draining:
            return False
        self._open.add(client)
        self._none.clear()
        return True

    def closed(self, client: Client) -> None:
        self._open.discard(client)
        if not self._open:
            self._none.set()

    async def drain(self, seconds: float) -> None:
        """Close what is idle now, and the rest when it is answered, or when the time is over."""
        self._draining = True
        for client in list(self._open):
            client.drain()
        try:
            async with asyncio.timeout(seconds):
                await self._none.wait()
        except TimeoutError:
            for client in list(self._open):
                client.transport.abort()


class Downstream(asyncio.Protocol):
    """Its protocol, from the handshake's end on."""

    transport: asyncio.Transport

    def __init__(self, front: Front, listener: Listener, clients: Clients) -> None:
        self.listener = listener
        self.router: Identity | None = None
        """Who is at the other end, on the internal listener."""
        self.peer: str | None = None
        """The address that the connection comes from."""
        self.counts = front.requests[listener]
        self.draining = False
        self.deadline = Deadline(asyncio.get_running_loop(), self._late)
        self._front = front
        self._clients = clients
        self._exchange: Exchange | None = None
        self._buffer = b""
        self._holds: set[str] = set()
        self._head_began = self._reading = self._ending = self._full = False

    # --- asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.transport.set_write_buffer_limits(HIGH_WATER_BYTES)
        name = self.transport.get_extra_info("peername")
        self.peer = str(name[0]) if name else None
        if self._clients.opened(self):
            self.deadline.set(self._front.settings.head_seconds)
        else:
            self._ending = True
            self.transport.abort()

    def data_received(self, data: bytes) -> None:
        if self._exchange is not None:
            self._exchange.more(data)
        elif not self._ending:
            self._buffer = self._buffer + data if self._buffer else data
            self._read()

    def connection_lost(self, error: Exception | None) -> None:
        self.deadline.close()
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.gone()
        self._clients.closed(self)

    def pause_writing(self) -> None:
        self._full = True
        if self._exchange is not None:
            self._exchange.client_full(True)

    def resume_writing(self) -> None:
        self._full = False
        if self._exchange is not None:
            self._exchange.client_full(False)
        else:
            self.hold("answers", False)
            self._read()

    # --- the exchange's side

    @property
    def held(self) -> bool:
        """Whether the client is kept from sending."""
        return bool(self._holds)

    def write(self, data: bytes) -> None:
        if not self.transport.is_closing():
            self.transport.write(data)

    def write_all(self, pieces: list[bytes]) -> None:
        if not self.transport.is_closing():
            self.transport.writelines(pieces)

    def hold(self, why: str, held: bool) -> None:
        """Read no more for as long as there is any reason to."""
        before = bool(self._holds)
        if held:
            self._holds.add(why)
        else:
            self._holds.discard(why)
        if before != bool(self._holds) and not self.transport.is_closing():
            if self._holds:
                self.transport.pause_reading()
            else:
                self.transport.resume_reading()

    def keep(self, data: bytes) -> None:
        """What came beyond the request that is being answered."""
        self._buffer += data
        if len(self._buffer) > MAX_AHEAD_BYTES:
            self.hold("ahead", True)

    def relay(self) -> None:
        """From here on the client speaks another protocol."""
        self.hold("ahead", False)
        data, self._buffer = self._buffer, b""
        if self._exchange is not None:
            self._exchange.more(data)

    def finished(self, *, closes: bool, unread: bool) -> None:
        """The answer is written. ``unread``: some of the request's body isn't read, nor wanted any more."""
        self._exchange = None
        if self._holds:
            for why in tuple(self._holds):
                self.hold(why, False)
        if closes or self.draining:
            self._end(linger=unread)
        else:
            self._head_began = False
            settings = self._front.settings
            self.deadline.set(settings.idle_seconds if self._full else settings.keepalive_seconds)
            if self._full:
                self.hold("answers", True)  # who doesn't take them isn't heard any further
            elif self._buffer:
                self._read()

    # --- the listener's side

    def drain(self) -> None:
        """Close when what is in flight is answered."""
        self.draining = True
        if self._exchange is None and not self._ending:
            self._close()

    # --- its own

    def _read(self) -> None:
        """Heads, until one isn't whole or can't be answered at once. A client that doesn't take its answers gets no
        further ones."""
        if self._reading:
            return
        self._reading = True
        try:
            while self._buffer and self._exchange is None and not self._ending and not self._full:
                end = find_end(self._buffer)
                if not end:
                    if not self._head_began:
                        self._head_began = True
                        self.deadline.set(self._front.settings.head_seconds)
                    return
                raw, data = self._buffer[:end], self._buffer[end:]
                self._buffer = b""
                exchange = self._exchange = Exchange(self._front, self, read_request(raw))
                exchange.begin(data)
        except DomicileError as error:
            self._refuse(error)
        finally:
            self._reading = False

    def _refuse(self, error: DomicileError) -> None:
        """What was sent isn't a request, so that nothing behind it can be one."""
        self.counts.add("", error.status, 0.0)
        self.write(self._front.refusal(error, None).encode(method="", closes=True))
        self._end(linger=True)

    def _end(self, *, linger: bool) -> None:
        """Close. ``linger``: not before the client has read the answer, which a reset would take from it."""
        self._ending = True
        self._buffer = b""
        if linger and not self.transport.is_closing():
            self.deadline.set(LINGER_SECONDS)
        else:
            self._close()

    def _close(self) -> None:
        """Once all is sent that was written, or when the client hasn't taken it for too long."""
        self.transport.close()
        self.deadline.set(self._front.settings.idle_seconds)

    def _late(self) -> None:
        if self._exchange is not None:
            self._exchange.late()
        elif self.transport.is_closing() or self._full:
            self.transport.abort()
        elif self._ending or not self._buffer:
            self._close()
        else:
            self._refuse(SlowRequest(f"no head within {self._front.settings.head_seconds:g} s"))
