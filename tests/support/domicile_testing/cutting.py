"""A relay that cuts connections after so many bytes of the answer, wherever in a record or a word that is."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress

from domicile_testing.databases import free_port

HANDSHAKE_BYTES = 4_000
"""About what a server says before the first byte of its answer."""


class Relay:
    """Passes bytes, TLS unopened, to any of several addresses of one host; ``cuts`` counts what it has broken off."""

    def __init__(self, targets: Sequence[str], limit: Callable[[], float], chance: random.Random) -> None:
        self._targets = targets
        self._limit = limit
        self._chance = chance
        self.address = f"127.0.0.1:{free_port()}"
        self.cuts = 0
        self._under_way: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        host, _, port = self.address.rpartition(":")
        server = await asyncio.start_server(self._accept, host, int(port))
        async with server:
            yield
        for task in self._under_way:
            task.cancel()
        await asyncio.gather(*self._under_way, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._relay(reader, writer))
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, _, port = self._chance.choice(self._targets).rpartition(":")
        try:
            upstream, onward = await asyncio.open_connection(host, int(port))
        except OSError:
            writer.transport.abort()
            return
        back = asyncio.create_task(_pass(reader, onward, float("inf")))
        try:
            if await _pass(upstream, writer, self._limit()):
                self.cuts += 1
        finally:
            back.cancel()
            with suppress(asyncio.CancelledError):
                await back
            for side in (writer, onward):
                side.transport.abort()


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, limit: float) -> bool:
    """Whether it stopped because ``limit`` bytes had passed."""
    passed = 0
    with suppress(ConnectionError):
        while chunk := await reader.read(1 << 16):
            if passed + len(chunk) >= limit:
                writer.write(chunk[: int(limit) - passed])
                await writer.drain()
                return True
            passed += len(chunk)
            writer.write(chunk)
            await writer.drain()
    return False


def anywhere(chance: random.Random, most: int) -> Callable[[], float]:
    """Inside the handshake, inside an answer's first events, or anywhere in its first ``most`` bytes."""

    def limit() -> float:
        if chance.random() < 0.15:
            return chance.randint(1, HANDSHAKE_BYTES)
        return HANDSHAKE_BYTES + chance.choice([10 ** chance.uniform(1, 4.7), chance.uniform(0, most)])

    return limit
