"""The host that a TLS client asks for, read from its first message without answering it (RFC 8446, 4.1.2; RFC 6066, 3).

What isn't a ClientHello with one host in it is nobody's here: the handshake that follows refuses what has to be.
"""

from __future__ import annotations

from typing import Final

MAX_HELLO_BYTES: Final = 16 * 1024
_HANDSHAKE: Final = 22
_CLIENT_HELLO: Final = 1
_SERVER_NAME: Final = 0
_HOST_NAME: Final = 0


class Incomplete(Exception):
    """More of it has to come."""


class _Malformed(Exception):
    pass


class _Reader:
    """``whole``: what is missing at the end doesn't come any more."""

    def __init__(self, data: bytes, *, whole: bool) -> None:
        self._data = data
        self._at = 0
        self._whole = whole

    def __bool__(self) -> bool:
        return self._at < len(self._data)

    def take(self, count: int) -> bytes:
        taken = self._data[self._at : self._at + count]
        if len(taken) < count:
            raise _Malformed if self._whole else Incomplete
        self._at += count
        return taken

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def vector(self, size: int) -> bytes:
        """Bytes behind their length, which has ``size`` bytes itself."""
        return self.take(self.number(size))


def server_name(data: bytes) -> str | None:
    """The host in lower case; None where there is none, or it isn't TLS. Raises Incomplete."""
    try:
        hello = _Reader(_message(data), whole=True)
        hello.take(2 + 32)
        hello.vector(1)
        hello.vector(2)
        hello.vector(1)
        extensions = _Reader(hello.vector(2), whole=True)
        while extensions:
            kind, content = extensions.number(2), extensions.vector(2)
            if kind == _SERVER_NAME:
                names = _Reader(_Reader(content, whole=True).vector(2), whole=True)
                if names.number(1) != _HOST_NAME:
                    return None
                return names.vector(2).decode("ascii").lower().removesuffix(".")
    except (_Malformed, UnicodeDecodeError):
        pass
    return None


def _message(data: bytes) -> bytes:
    """The first handshake message, put together from its records."""
    records = _Reader(data, whole=len(data) >= MAX_HELLO_BYTES)
    message = b""
    while True:
        if records.number(1) != _HANDSHAKE or records.number(1) != 3:
            raise _Malformed
        records.take(1)
        length = records.number(2)
        if length == 0:
            raise _Malformed
        message += records.take(length)
        if message[0] != _CLIENT_HELLO:
            raise _Malformed
        if len(message) >= 4:
            size = int.from_bytes(message[1:4], "big")
            if size > MAX_HELLO_BYTES:
                raise _Malformed
            if len(message) >= 4 + size:
                return message[4 : 4 + size]
