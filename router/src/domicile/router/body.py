"""A request's body on its way in: bounded, never stored, and its beginning kept for one replay.

A guard's 421 is made before any handler ran, so sending the same request again is safe whatever its method;
what limits a replay is memory. Up to 64 KiB are kept, and a longer body cannot be sent twice.
"""

from __future__ import annotations

from typing import Final

from domicile.model import TooLarge
from domicile.router.chunks import LAST_CHUNK, BadChunks, Chunks, chunk
from domicile.router.errors import BadRequest
from domicile.router.head import RequestHead

REPLAY_BYTES: Final = 64 * 1024


class Body:
    """What came in, framed as it goes out.

    ``complete``: nothing more of it comes. ``held``: bytes that no upstream was sent yet. ``limit``: bytes of
    body accepted in all; raises TooLarge at once for a declared length over it.
    """

    __slots__ = ("_chunks", "_kept", "_left", "_limit", "_sent", "_size", "complete", "held", "present")

    def __init__(self, head: RequestHead | None, limit: int) -> None:
        length = head.length or 0 if head is not None else 0
        chunked = head is not None and head.chunked
        if length > limit:
            raise _too_large(limit)
        self._limit = limit
        self._left = length
        self._chunks = Chunks() if chunked else None
        self._kept: list[bytes] | None = []
        self._size = 0
        self._sent = False
        self.held = 0
        self.present = chunked or length > 0
        self.complete = not self.present

    @property
    def size(self) -> int:
        """Bytes read from the client so far."""
        return self._size

    @property
    def replayable(self) -> bool:
        return self._kept is not None

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        """What of ``data`` goes to the upstream, and what follows the body. Raises TooLarge, BadRequest."""
        if self._chunks is None:
            piece, rest = data[: self._left], data[self._left :]
            self._left -= len(piece)
            self._size += len(piece)
            self.complete = self._left == 0
        else:
            piece, rest = self._unchunked(data)
        if self._kept is not None:
            self._kept.append(piece)
            if self._sent:
                self._trim()
        if not self._sent:
            self.held += len(piece)
        return piece, rest

    def _unchunked(self, data: bytes) -> tuple[bytes, bytes]:
        assert self._chunks is not None
        try:
            piece, rest = self._chunks.feed(data)
        except BadChunks:
            raise BadRequest("a chunked body that cannot be read") from None
        self._size += len(piece)
        if self._size > self._limit:
            raise _too_large(self._limit)
        if piece:
            piece = chunk(piece)
        if self._chunks.complete:
            self.complete = True
            # trailers end here (RFC 9110, 6.5.1): some servers take the last one for a field of the next request
            piece += LAST_CHUNK + b"\r\n"
        return piece, rest

    def begin(self) -> bytes:
        """All of it that came so far, to be sent now. Only while it is ``replayable``."""
        assert self._kept is not None
        data = b"".join(self._kept)
        self._sent = True
        self.held = 0
        self._trim()
        return data

    def again(self) -> None:
        """What comes in from now on is for an upstream that isn't chosen yet."""
        self._sent = False

    def _trim(self) -> None:
        if self._size > REPLAY_BYTES:
            self._kept = None


def _too_large(limit: int) -> TooLarge:
    return TooLarge(f"the body is larger than {limit} bytes")


def body_of(head: RequestHead, limit: int) -> Body:
    """A request's body; most have none, which is the same for all."""
    return Body(head, limit) if head.chunked or head.length else _NONE


_NONE: Final = Body(None, 0)
