"""Containers of files: tar (POSIX.1-2017, pax), zip (APPNOTE 6.3.10), and PostgreSQL's custom dumps.

A zip's members are taken one by one where they begin, as they may lie in any file; its directory is not needed.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Final

from domicile.ops.scan.feeds import Feed
from domicile.ops.scan.streams import InputOver, Malformed, Steps, Stream, passed_on, poured

_TAR_BLOCK: Final = 512
_ZIP_METHODS: Final = {0: "", 8: "deflate", 12: "bzip2", 93: "zstd", 95: "xz"}
_MAX_STRING: Final = 64 << 20
_CUSTOM: Final = 1
_DATA, _BLOBS = 1, 3


def is_tar(head: bytes) -> bool:
    try:
        return head[257:262] == b"ustar" and _checksum(head[:_TAR_BLOCK]) == _number(head[148:156])
    except Malformed:
        return False


def _checksum(block: bytes) -> int:
    return sum(block) - sum(block[148:156]) + 8 * 32


def _number(field: bytes) -> int:
    """Octal text, or base 256 (GNU) for what is larger. Raises Malformed."""
    if field[:1] == b"\x80":
        return int.from_bytes(field[1:], "big")
    try:
        return int(field.strip(b" \0") or b"0", 8)
    except ValueError:
        raise Malformed from None


def tar(feed: Feed) -> Steps:
    """Each member into a feed of its own, until an empty block or the end of the file."""
    while True:
        try:
            block = yield _TAR_BLOCK
        except InputOver:
            return
        if not block.strip(b"\0"):
            return
        if _checksum(block) != _number(block[148:156]):
            raise Malformed
        size = _number(block[124:136]) if block[156:157] not in b"123456" else 0
        if size:
            name = block[:100].split(b"\0", 1)[0].decode("utf-8", "replace")
            yield from passed_on(size, feed.child(f"tar: {feed.job.search.shown(name)}"))
            yield -size % _TAR_BLOCK


class ZipMember:
    """From its local header on; what is stored as it is needs no decoder."""

    name = "zip"
    weak = False

    def __init__(self, feed: Feed) -> None:
        self.given = 0
        self.ended = self.broken = False
        self.unused = 0
        self._feed = feed
        self._head = bytearray()
        self._stream: Stream | None = None

    def push(self, data: bytes) -> None:
        if self._stream is None:
            self._head += data
            head = self._head
            size = 30 + int.from_bytes(head[26:28], "little") + int.from_bytes(head[28:30], "little")
            if len(head) < 30 or len(head) < size:
                return
            data = bytes(head[size:])
            self.unused = len(data)
            self._begin(int.from_bytes(head[6:8], "little"), int.from_bytes(head[8:10], "little"))
            if self._stream is None:
                self.ended = True
                return
        self._stream.push(data)
        self.given, self.unused = self._stream.given, self._stream.unused
        self.ended, self.broken = self._stream.ended, self._stream.broken

    def _begin(self, flags: int, method: int) -> None:
        if flags & 1:
            self._feed.job.miss(self._feed.inside, "an encrypted member of a zip")
        elif method not in _ZIP_METHODS:
            self._feed.job.miss(self._feed.inside, f"a member of a zip packed by method {method}")
        elif method and (out := self._feed.child("zip")) is not None:
            self._stream = Stream(_ZIP_METHODS[method], out)

    def finish(self) -> None:
        if self._stream is not None:
            self._stream.finish()


def custom_dump(feed: Feed) -> Steps:
    """``pg_dump -Fc``: its table of contents, then each table's and large object's data, which lies in pieces.

    The layout is that of PostgreSQL's pg_backup_archiver.c and pg_backup_custom.c, archive versions 1.12 to 1.16.
    """
    magic = yield 11
    version, size, offset = tuple(magic[5:7]), magic[8], magic[9]
    if magic[:5] != b"PGDMP" or not (1, 12) <= version <= (1, 16) or not 0 < size <= 8 or not 0 < offset <= 8:
        raise Malformed
    if magic[10] != _CUSTOM:
        return  # of a directory or a tar, whose data lies in files beside it
    contents = feed.child("dump: contents")

    def integer() -> Generator[int, bytes, int]:
        raw = yield 1 + size
        return -int.from_bytes(raw[1:], "little") if raw[0] else int.from_bytes(raw[1:], "little")

    def text() -> Generator[int, bytes, bytes | None]:
        length = yield from integer()
        if length > _MAX_STRING:
            raise Malformed
        found = (yield length) if length > 0 else (None if length < 0 else b"")
        if found and contents is not None:
            contents.push(found + b"\0")
        return found

    try:
        yield from (_skip(1) if version >= (1, 15) else _skip(1 + size))
        for _ in range(7):
            yield from integer()
        for _ in range(3):
            yield from text()
        for _ in range((yield from integer())):
            for _ in range(2):
                yield from integer()
            for _ in range(4):
                yield from text()
            yield from integer()
            for _ in range(5 if version < (1, 14) else 6):
                yield from text()
            if version >= (1, 16):
                yield from integer()
            for _ in range(2):
                yield from text()
            while (yield from text()) is not None:
                pass
            yield 1 + offset
    finally:
        if contents is not None:
            contents.finish()
    while True:
        try:
            kind = (yield 1)[0]
        except InputOver:
            return
        yield from integer()
        if kind == _DATA:
            yield from _pieces(feed, integer)
        elif kind == _BLOBS:
            while (yield from integer()):
                yield from _pieces(feed, integer)
        else:
            raise Malformed


def _skip(size: int) -> Steps:
    yield size


def _pieces(feed: Feed, integer: Callable[[], Generator[int, bytes, int]]) -> Steps:
    out = feed.child("dump: data")
    try:
        while (size := (yield from integer())) > 0:
            yield from poured(size, out)
    finally:
        if out is not None:
            out.finish()
    if size:
        raise Malformed
