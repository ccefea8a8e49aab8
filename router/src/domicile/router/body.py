"""A request's body on its way in: bounded, never stored, and its beginning kept for one replay.

A guard's 421 is made before any handler ran, so sending the same request again is safe whatever its method;
what limits a replay is memory. Up to 64 KiB are kept, and a longer body cannot be sent twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Final

from aiohttp import web

from domicile.model import DomicileError, TooLarge
from domicile.router.errors import SlowRequest

REPLAY_BYTES: Final = 64 * 1024
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"


class Body:
    """An asynchronous iterable that may be iterated again for as long as ``replayable`` holds.

    ``limit``: bytes accepted in all. ``idle``: seconds that the client may be silent. ``failure`` is what
    ended it early, since a transport wraps what it raises. Raises TooLarge at once for a declared length
    over the limit.
    """

    def __init__(self, request: web.BaseRequest, *, limit: int, idle: float) -> None:
        self._request = request
        self._limit = limit
        self._idle = idle
        self._kept: list[bytes] | None = []
        self._size = 0
        self._awaits_continue = request.headers.get("Expect", "").lower() == "100-continue"
        self.present = request.body_exists
        self.failure: DomicileError | None = None
        if (request.content_length or 0) > limit:
            raise self._too_large()

    @property
    def size(self) -> int:
        """Bytes read from the client so far."""
        return self._size

    @property
    def replayable(self) -> bool:
        return self._kept is not None

    @property
    def unread(self) -> bool:
        """Whether the client may still have to send some of it."""
        return self.present and not self._request.content.at_eof()

    def _too_large(self) -> TooLarge:
        return TooLarge(f"the body is larger than {self._limit} bytes")

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._chunks()

    async def _chunks(self) -> AsyncIterator[bytes]:
        position = 0
        while True:
            if self._kept is not None and position < len(self._kept):
                chunk = self._kept[position]
            elif not (chunk := await self._read()):
                return
            position += 1
            yield chunk

    async def _read(self) -> bytes:
        try:
            if self._awaits_continue:
                await self._say_continue()
            async with asyncio.timeout(self._idle):
                chunk = await self._request.content.readany()
        except TimeoutError:
            self.failure = SlowRequest(f"no more of the body within {self._idle:g} s")
            raise self.failure from None
        self._size += len(chunk)
        if self._size > self._limit:
            self.failure = self._too_large()
            raise self.failure
        if self._size > REPLAY_BYTES:
            self._kept = None
        elif self._kept is not None and chunk:
            self._kept.append(chunk)
        return chunk

    async def _say_continue(self) -> None:
        """Only now does the client learn that its body is wanted: everything before decides on the head."""
        self._awaits_continue = False
        writer = self._request.writer
        if writer.output_size == 0:  # else a final answer is on its way already
            await writer.write(_CONTINUE)
            writer.output_size = 0
