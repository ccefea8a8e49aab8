"""Chunked bodies (RFC 9112, 7.1): read by llhttp, written anew. Extensions end here; trailers go on to clients alone.

A chunk says little and costs much, so what comes around the data is bounded by the data.
"""

from __future__ import annotations

import re
from typing import Final

from httptools import HttpParserError, HttpRequestParser

from domicile.model.wire import MAX_HEAD_BYTES
from domicile.router.headers import trailer_passes
from domicile.router.lines import Fields, Names

LAST_CHUNK: Final = b"0\r\n"
_BEGINNING: Final = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
_MAY_END: Final = re.compile(rb"\r\n\r\n")
_AROUND: Final = 8
"""Bytes of framing for each byte of data, beside those that a head may have: a chunk of one byte takes five."""
_TRAILERS: Final = Names(trailer_passes, ())


class BadChunks(Exception):
    """Not a chunked body, or one that is mostly framing."""


class Chunks:
    """One body on its way: ``feed`` it until ``complete``; then ``trailers`` are lines to write."""

    def __init__(self) -> None:
        self.complete = False
        self._pieces: list[bytes] = []
        self._lines: list[bytes] = []
        self._size = 0
        self._fed = 0
        self._tail = b""
        self._parser = HttpRequestParser(self)
        self._parser.feed_data(_BEGINNING)
        self._lines.clear()

    def on_header(self, name: bytes, value: bytes) -> None:
        self._lines.append(b"%b: %b\r\n" % (name, value))

    def on_body(self, data: bytes) -> None:
        self._pieces.append(data)

    def on_message_complete(self) -> None:
        self.complete = True

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        """What ``data`` holds of the body, and what follows the body. Raises BadChunks."""
        self._pieces = []
        position = 0
        try:
            # llhttp doesn't say where in its input a body ended, so it is fed no further than where one may end
            for found in _MAY_END.finditer(self._tail + data):
                end = found.end() - len(self._tail)
                self._parser.feed_data(data[position:end])
                position = end
                if self.complete:
                    break
            else:
                self._parser.feed_data(data[position:])
                position = len(data)
                assert not self.complete
        except HttpParserError:
            raise BadChunks from None
        self._tail = data[-3:] if len(data) >= 3 else (self._tail + data)[-3:]
        body = b"".join(self._pieces)
        self._size += len(body)
        self._fed += position
        if self._fed - self._size > MAX_HEAD_BYTES + _AROUND * self._size:
            raise BadChunks
        return body, data[position:]

    @property
    def trailers(self) -> bytes:
        return b"".join(Fields(_TRAILERS, self._lines).lines)


def chunk(data: bytes) -> bytes:
    """``data``, not empty, as one chunk."""
    return b"%x\r\n%b\r\n" % (len(data), data)
