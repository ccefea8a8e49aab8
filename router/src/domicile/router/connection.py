"""One connection to an upstream: a request out, its answer back, then the next one.

It reads no faster than its reader takes it, and is used again only after an answer that ended where it had said
it would.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, Protocol, cast

from domicile.model.wire import MAX_HEAD_BYTES
from domicile.router.chunks import BadChunks, Chunks
from domicile.router.head import END, AnswerHead, BadAnswer, read_answer

HIGH_WATER_BYTES: Final = 256 * 1024
"""Written and not sent yet, on either side: above this the other side waits, below a quarter of it no longer."""
SWITCHES: Final = 101
MISDIRECTED: Final = 421
"""RFC 9110, 15.5.20. As plain numbers: an enumeration looks for its members anew each time."""
_ALL: Final = -1
"""Left of a body that ends with its connection."""
_IN_CHUNKS: Final = -2


class Asker(Protocol):
    """Who sent the request, and hears of its answer. None of these raises."""

    method: str

    def informed(self, head: AnswerHead) -> None:
        """An interim answer (1xx)."""

    def whole(self, head: AnswerHead, data: bytes) -> None:
        """All of an answer at once, as most answers come. ``data``: its body, which may be empty."""

    def answered(self, head: AnswerHead) -> None:
        """The head. Who doesn't want the rest drops the connection."""

    def passed(self, data: bytes) -> None:
        """Some of the body, not empty."""

    def ended(self, trailers: bytes) -> None:
        """The answer is whole."""

    def flush(self) -> None:
        """Nothing more of it is there for now."""

    def broken(self, reason: str) -> None:
        """The connection is gone, and the answer isn't whole. ``reason``: an exception's class."""

    def home_full(self, full: bool) -> None:
        """Whether more of the request should wait."""

    def hangs(self) -> None:
        """No answer has come, and the upstream doesn't even make connections any more."""


class Connection(asyncio.Protocol):
    """``used``: it has carried a request before. ``since``: when it became idle, in the loop's time.

    ``looks``: how often it was found waiting for the answer to this request.
    """

    transport: asyncio.Transport

    def __init__(self, freed: Callable[[Connection], None], closed: Callable[[Connection], None]) -> None:
        """``freed`` is called when it can take another request, ``closed`` once, when it is gone."""
        self._freed = freed
        self._closed = closed
        self._asker: Asker | None = None
        self._buffer = b""
        self._left = 0
        self._chunks: Chunks | None = None
        self._in_body = self._keeps = self._all_sent = self._full = self._held = False
        self.used = False
        self.since = 0.0
        self.looks = 0

    @property
    def waits(self) -> bool:
        """Whether a whole request was sent, and no head of an answer has come."""
        return self._asker is not None and self._all_sent and not self._in_body

    def hangs(self) -> None:
        """Tell whoever waits here."""
        if self._asker is not None:
            self._asker.hangs()

    def ask(self, asker: Asker, data: bytes, *, whole: bool) -> None:
        """``data``: the request's head and what there is of its body; ``whole``: there is no more of it."""
        self._asker = asker
        self._in_body = False
        self._all_sent = whole
        self.looks = 0
        self.transport.write(data)

    def write(self, data: bytes) -> None:
        if not self.transport.is_closing():
            self.transport.write(data)

    def all_sent(self) -> None:
        """The request is whole."""
        self._all_sent = True

    def hold(self, held: bool) -> None:
        """Read no more for now, or again."""
        if held != self._held and not self.transport.is_closing():
            self._held = held
            if held:
                self.transport.pause_reading()
            else:
                self.transport.resume_reading()

    def drop(self) -> None:
        """Whoever asked wants no more; neither may the upstream go on with it."""
        self._asker = None
        self.transport.abort()

    def close(self) -> None:
        """Close once everything that was written is sent; at once where the upstream doesn't take it."""
        self._asker = None
        if self._full:
            self.transport.abort()
        else:
            self.transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.transport.set_write_buffer_limits(HIGH_WATER_BYTES)

    def data_received(self, data: bytes) -> None:
        asker = self._asker
        if asker is None:
            self.transport.abort()  # nobody asked
            return
        try:
            if self._in_body:
                self._read_body(asker, data)
            else:
                self._read_head(asker, self._buffer + data if self._buffer else data)
        except (BadAnswer, BadChunks) as error:
            self.drop()
            asker.broken(type(error).__name__)
            return
        if self._asker is asker:
            asker.flush()

    def connection_lost(self, error: Exception | None) -> None:
        self._closed(self)
        asker, self._asker = self._asker, None
        if asker is None:
            return
        if self._in_body and self._left == _ALL and error is None:
            asker.ended(b"")
        else:
            asker.broken(type(error or EOFError()).__name__)

    def pause_writing(self) -> None:
        self._full = True
        if self._asker is not None:
            self._asker.home_full(True)

    def resume_writing(self) -> None:
        self._full = False
        if self._asker is not None:
            self._asker.home_full(False)

    def _read_head(self, asker: Asker, data: bytes) -> None:
        self._buffer = b""
        while True:
            end = data.find(END, 0, MAX_HEAD_BYTES) + len(END)
            if end < len(END):
                if len(data) >= MAX_HEAD_BYTES:
                    raise BadAnswer
                self._buffer = data
                return
            head = read_answer(data[:end], asker.method)
            data = data[end:]
            if head.status >= 200 or head.status == SWITCHES:
                break
            asker.informed(head)
            if self._asker is not asker:
                return
        self._keeps = head.keeps
        self._chunks = None
        if head.status == SWITCHES:
            self._left = _ALL
        elif head.empty:
            self._left = 0
        elif head.length is not None:
            self._left = head.length
        elif head.chunked:
            self._left = _IN_CHUNKS
            self._chunks = Chunks()
        else:
            self._left = _ALL
        if self._left == len(data) and self._all_sent and head.status != MISDIRECTED:
            self._free()
            asker.whole(head, data)
            return
        self._in_body = True
        asker.answered(head)
        if self._asker is asker:
            self._read_body(asker, data)

    def _read_body(self, asker: Asker, data: bytes) -> None:
        if self._chunks is not None:
            if not data:
                return
            body, rest = self._chunks.feed(data)
            if body:
                asker.passed(body)
            if self._chunks.complete:
                self._end(asker, self._chunks.trailers, rest)
        elif self._left == _ALL:
            if data:
                asker.passed(data)
        else:
            body, rest = data[: self._left], data[self._left :]
            if body:
                self._left -= len(body)
                asker.passed(body)
            if self._left == 0:
                self._end(asker, b"", rest)

    def _end(self, asker: Asker, trailers: bytes, rest: bytes) -> None:
        if not self._all_sent:
            self._asker = None
            self.transport.abort()
        else:
            if rest:
                self._keeps = False
            self._free()
        asker.ended(trailers)

    def _free(self) -> None:
        """The answer is whole, and so was the request: ready for the next one, if there may be one."""
        self._asker = None
        if self._held:
            self.hold(False)
        if self._full or not self._keeps:
            self.transport.close()
        elif not self.transport.is_closing():
            self.used = True
            self._freed(self)
