"""Requests at a fixed rate, whether or not earlier ones were answered (an open loop), and how long each took.

wrk sends the next request when the last one was answered, so that a proxy that stalls is asked less while it
does, and its stall hides. Here a request's time runs from the moment at which it is due, waiting for a free
connection included. What the loader itself is late by is left out: the next ones stay where they were due.
"""

from __future__ import annotations

import asyncio
import math
import ssl
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from loadtests.cases import Unmeasured

CONNECTIONS: Final = 32
PATIENCE_SECONDS: Final = 2.0
"""For one answer; a request that waits longer is given up and its connection closed."""


@dataclass(slots=True)
class Stream:
    """Requests to send in turn, ``rate`` a second; ``times`` are those of the answers, in milliseconds.

    ``hangs``: answers are not expected, and each request is waited for until the round ends.
    """

    requests: Sequence[bytes]
    rate: float
    hangs: bool = False
    times: list[float] = field(default_factory=list)
    failures: int = 0

    def percentile(self, part: float) -> float:
        """By the nearest rank. Raises Unmeasured where a request failed: a time without them would flatter."""
        if self.failures or not self.times:
            raise Unmeasured(f"{self.failures} of {self.failures + len(self.times)} requests at a fixed rate failed")
        ordered = sorted(self.times)
        return ordered[math.ceil(part * len(ordered)) - 1]


class _Connection(asyncio.Protocol):
    """One request at a time; answers have a Content-Length, which is all that the proxies here pass on."""

    def __init__(self, idle: Callable[[_Connection], None]) -> None:
        self._idle = idle
        self._answer: asyncio.Future[int] | None = None
        self._received = bytearray()
        self._wanted = 0
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def ask(self, request: bytes) -> asyncio.Future[int]:
        """The status of the whole answer; ConnectionError where the connection ends before."""
        assert self._transport is not None
        answer = self._answer = asyncio.get_running_loop().create_future()
        if self._transport.is_closing():
            answer.set_exception(ConnectionResetError())
        else:
            self._received.clear()
            self._wanted = 0
            self._transport.write(request)
        return answer

    def data_received(self, data: bytes) -> None:
        self._received += data
        if not self._wanted:
            end = self._received.find(b"\r\n\r\n")
            if end < 0:
                return
            head = bytes(self._received[:end]).lower() + b"\r\n"
            _, _, length = head.partition(b"\r\ncontent-length:")
            self._wanted = end + 4 + int(length.partition(b"\r\n")[0])
        if len(self._received) >= self._wanted and self._answer is not None and not self._answer.done():
            self._answer.set_result(int(self._received[9:12]))
            self._idle(self)

    def connection_lost(self, error: Exception | None) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(ConnectionResetError())

    def close(self) -> None:
        assert self._transport is not None
        self._transport.abort()


class _Pool:
    """Connections, of the idle ones the last first; requests beyond them wait in their order."""

    def __init__(self, address: str, context: ssl.SSLContext | None) -> None:
        self._address = address
        self._context = context
        self._idle: deque[_Connection] = deque()
        self._waiting: deque[asyncio.Future[_Connection]] = deque()
        self._opened: set[_Connection] = set()

    def freed(self, connection: _Connection) -> None:
        while self._waiting:
            if not (waiter := self._waiting.popleft()).done():
                waiter.set_result(connection)
                return
        self._idle.append(connection)

    async def open(self) -> _Connection:
        host, _, port = self._address.rpartition(":")
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(
            lambda: _Connection(self.freed), host, int(port), ssl=self._context
        )
        self._opened.add(connection)
        return connection

    async def fill(self, count: int) -> None:
        self._idle.extend([await self.open() for _ in range(count)])

    async def take(self) -> _Connection:
        if self._idle:
            return self._idle.pop()
        waiter: asyncio.Future[_Connection] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        return await waiter

    async def replace(self, connection: _Connection) -> None:
        self._opened.discard(connection)
        connection.close()
        self.freed(await self.open())

    def close(self) -> None:
        for connection in self._opened:
            connection.close()


async def _one(pool: _Pool, stream: Stream, request: bytes) -> None:
    loop = asyncio.get_running_loop()
    due = loop.time()
    connection = await pool.take()
    try:
        async with asyncio.timeout(None if stream.hangs else PATIENCE_SECONDS):
            status = await connection.ask(request)
    except (TimeoutError, ConnectionError):
        stream.failures += 1
        await pool.replace(connection)
        return
    if status == 200:
        stream.times.append((loop.time() - due) * 1e3)
    else:
        stream.failures += 1


async def _flow(pool: _Pool, stream: Stream, seconds: float, begun: float) -> None:
    loop = asyncio.get_running_loop()
    sent = []
    async with asyncio.TaskGroup() as under_way:
        for number in range(int(seconds * stream.rate)):
            if (wait := begun + number / stream.rate - loop.time()) > 0:
                await asyncio.sleep(wait)
            sent.append(under_way.create_task(_one(pool, stream, stream.requests[number % len(stream.requests)])))
        if stream.hangs:
            for task in sent:
                task.cancel()


async def pace(address: str, context: ssl.SSLContext | None, seconds: float, *streams: Stream) -> None:
    """Send the streams side by side for ``seconds``, each over connections of its own, and fill in their times.

    ``context``: for TLS to ``address`` (host:port); None for a plain connection.
    """
    pools = [_Pool(address, context) for _ in streams]
    try:
        for pool, stream in zip(pools, streams, strict=True):
            await pool.fill(int(stream.rate * seconds) if stream.hangs else CONNECTIONS)
        begun = asyncio.get_running_loop().time()
        async with asyncio.TaskGroup() as flows:
            for pool, stream in zip(pools, streams, strict=True):
                flows.create_task(_flow(pool, stream, seconds, begun))
    except* OSError:
        raise Unmeasured(f"{address} cannot be reached") from None
    finally:
        for pool in pools:
            pool.close()
