"""Packed streams by the libraries that know them, fed piece by piece and bounded in what they put out at once."""

from __future__ import annotations

import bz2
import lzma
import zlib
from collections.abc import Callable, Generator, Iterator
from typing import Any, Final, Protocol

import lz4.frame

from domicile.ops.packing import zstd
from domicile.ops.scan.feeds import Feed

PIECE: Final = 1 << 20
_MEMORY: Final = 128 << 20
"""What a stream's own dictionary may take; larger ones are said to be damaged."""
_FAULTS: Final = (zlib.error, lzma.LZMAError, zstd.ZstdError, OSError, EOFError, RuntimeError, ValueError, MemoryError)


class _Codec(Protocol):
    """As in bz2 (PEP 784 has the same): bounded output, asked for again until it needs input."""

    eof: bool
    needs_input: bool
    unused_data: bytes | None

    def decompress(self, data: bytes, max_length: int) -> bytes: ...


class _Zlib:
    def __init__(self, window: int) -> None:
        self._codec = zlib.decompressobj(window)
        self.needs_input = True

    @property
    def eof(self) -> bool:
        return self._codec.eof

    @property
    def unused_data(self) -> bytes:
        return self._codec.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        piece = self._codec.decompress(self._codec.unconsumed_tail + data, max_length)
        self.needs_input = not self._codec.unconsumed_tail and len(piece) < max_length
        return piece


def _zstd() -> Any:
    return zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: 27})


CODECS: Final[dict[str, Callable[[], Any]]] = {
    "gzip": lambda: _Zlib(31),
    "zlib": lambda: _Zlib(15),
    "deflate": lambda: _Zlib(-15),
    "bzip2": bz2.BZ2Decompressor,
    "xz": lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_MEMORY),
    "zstd": _zstd,
    "lz4": lz4.frame.LZ4FrameDecompressor,
}


class Stream:
    """One packed stream, unpacked into ``out``."""

    def __init__(self, name: str, out: Feed) -> None:
        self.name = name
        self.weak = name == "zlib"
        self.given = 0
        self.ended = self.broken = False
        self.unused = 0
        self._out = out
        self._codec: _Codec = CODECS[name]()

    def push(self, data: bytes) -> None:
        try:
            for piece in self._pieces(data):
                self.given += len(piece)
                self._out.push(piece)
                if not self._out.job.spend(given=len(piece)):
                    self.broken = True
                    return
        except _FAULTS:
            self.broken = True
            return
        if self._codec.eof:
            self.ended = True
            self.unused = len(self._codec.unused_data or b"")
            self._out.finish()

    def _pieces(self, data: bytes) -> Iterator[bytes]:
        yield self._codec.decompress(data, PIECE)
        while not self._codec.eof and not self._codec.needs_input:
            yield self._codec.decompress(b"", PIECE)

    def finish(self) -> None:
        if not self.ended:
            self._out.finish()


class Malformed(Exception):
    """What is parsed is not what its beginning promised."""


class InputOver(Exception):
    """There is no more, thrown into a parser: one that may end here does."""


Steps = Generator[int, bytes, None]
"""A parser written as if it could read: it yields how many bytes it wants next, and is given them."""


class Parsed:
    """A container, taken apart by ``steps``."""

    weak = False

    def __init__(self, name: str, steps: Steps) -> None:
        self.name = name
        self.given = 0
        self.ended = self.broken = False
        self.unused = 0
        self._steps = steps
        self._waiting = bytearray()
        self._wanted = self._next(None)

    def _next(self, data: bytes | None) -> int:
        try:
            return next(self._steps) if data is None else self._steps.send(data)
        except StopIteration:
            self.ended = True
        except Malformed:
            self.broken = True
        return 0

    def push(self, data: bytes) -> None:
        self._waiting += data
        while not self.ended and not self.broken and len(self._waiting) >= self._wanted:
            piece = bytes(self._waiting[: self._wanted])
            del self._waiting[: self._wanted]
            self.given += len(piece)
            self._wanted = self._next(piece)
        self.unused = len(self._waiting)

    def finish(self) -> None:
        if self.broken:
            self._steps.close()
        elif not self.ended:
            try:
                self._steps.throw(InputOver())
            except StopIteration:
                self.ended = True
            except (InputOver, Malformed):
                self.broken = True


def passed_on(size: int, out: Feed | None) -> Steps:
    """The next ``size`` bytes into a feed, and its end."""
    try:
        yield from poured(size, out)
    finally:
        if out is not None:
            out.finish()


def poured(size: int, out: Feed | None) -> Steps:
    """The next ``size`` bytes into a feed."""
    while size > 0:
        piece = yield min(size, 64 << 10)
        size -= len(piece)
        if out is not None:
            out.push(piece)
