"""A server that answers as a test wants, for what only sends requests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from domicile_testing.databases import free_port

Answer = Callable[[bytes], Awaitable[bytes]]
"""From a request's head to the bytes to send back."""


@asynccontextmanager
async def answering(answer: Answer) -> AsyncIterator[str]:
    """A keep-alive server of requests without bodies; gives its address."""

    serving: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        serving.add(task)
        try:
            while True:
                writer.write(await answer(await reader.readuntil(b"\r\n\r\n")))
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            writer.transport.abort()

    port = free_port()
    async with await asyncio.start_server(serve, "127.0.0.1", port):
        yield f"127.0.0.1:{port}"
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving)
