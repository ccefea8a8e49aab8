"""What a scan plants, and must find, before it is believed: a value and a sealed value in each kind of file.

They are made anew at each run, of a value that is nowhere else, in a private folder that is removed. The layouts of
PostgreSQL's files are written here by hand; that they are the true ones is tested against a server's own.
"""

from __future__ import annotations

import base64
import bz2
import gzip
import io
import lzma
import secrets
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from struct import pack
from typing import Final

import lz4.block
import lz4.frame

from domicile.model.key_wire import WrappedKey
from domicile.model.sealed import Sealed, frame
from domicile.ops.backup.sealed import Head, sealing
from domicile.ops.packing import zstd
from domicile.ops.scan import pglz
from domicile.ops.scan.feeds import BATCH_BYTES
from domicile.ops.scan.needles import Needle, needles_for_value
from domicile.ops.scan.postgres import CHUNK_BYTES, PAGE
from domicile.ops.scan.report import Hit
from domicile.ops.scan.scanner import Scanner

NOWHERE: Final = "no-such-place"
_LABEL: Final = "control"
_FILLER: Final = b"a line that says little, once more\n" * 40


@dataclass(frozen=True)
class Control:
    """One run's own value."""

    value: str
    sealed: bytes

    @classmethod
    def make(cls) -> Control:
        sealed = frame(Sealed(NOWHERE, secrets.token_bytes(12), secrets.token_bytes(24)))
        return cls(f"control-é-{secrets.token_hex(8)}", sealed)

    def needles(self) -> list[Needle]:
        """To be sought beside the others, in a scan for sealed values."""
        return needles_for_value(_LABEL, self.value)

    @property
    def hidden(self) -> bytes:
        """Both behind overlapping parts of them, so that compression refers back and shows neither as it is."""
        value, sealed = self.value.encode(), self.sealed
        parts = [value[:16], value[8:], sealed[:14], sealed[6:], _FILLER, value + sealed, _FILLER]
        return b"\n".join(parts)

    def kinds(self) -> dict[str, bytes]:
        """A file of each kind."""
        raw, value = self.hidden, self.value.encode()
        edge = BATCH_BYTES - len(value) // 2
        table = _tar({"a/file": raw})
        return {
            "every encoding": b"\n".join(needle.pattern for needle in self.needles()) + b"\n" + self.sealed,
            "sealed, in hex and base64": value + self.sealed.hex().encode() + base64.b64encode(b"x" + self.sealed),
            "base64 in lines": base64.encodebytes(raw),
            "across two pieces": b"." * edge + value + b"." * edge + self.sealed,
            "backup": _backup(raw),
            "LMDB": bytes(16) + pack("<I", 0xBEEFC0DE) + bytes(PAGE) + value + self.sealed,
            "telemetry": gzip.compress(b"\x0a" + pack("<I", len(raw)) + raw),
            "gzip": b"in the midst" + gzip.compress(raw),
            "zlib": zlib.compress(raw),
            "bzip2": bz2.compress(raw),
            "xz": lzma.compress(raw),
            "zstd": zstd.compress(raw),
            "lz4": lz4.frame.compress(raw),
            "zip": _zip(raw),
            "tar in gzip": gzip.compress(table),
            "dump": _dump(raw),
            "relation, in its row (pglz)": _page([_row(_compressed(raw, 0))]),
            "relation, in its row (lz4)": _page([_row(_compressed(raw, 1))]),
            "relation, out of line (pglz)": _chunks(pack("<I", len(raw)) + pglz.compress(raw)),
            "relation, out of line (lz4)": _chunks(pack("<I", len(raw) | 1 << 30) + _lz4(raw)),
            "relation, across two chunks": _chunks(secrets.token_bytes(CHUNK_BYTES - 9) + value + self.sealed),
            "WAL, page image (pglz)": _wal(_image(_page([b"-" * 30 + raw]), 0x05, pglz.compress)),
            "WAL, page image (lz4)": _wal(_image(_page([b"-" * 30 + raw]), 0x09, _lz4)),
            "WAL, page image (zstd)": _wal(_image(_page([b"-" * 30 + raw]), 0x11, zstd.compress)),
            "WAL, across two pages": _wal(_record(b"." * (PAGE - 90) + value + self.sealed)),
        }


def prove(scanner: Scanner, control: Control) -> dict[str, bool]:
    """Whether a scanner that seeks the control's needles finds all of them in each kind of file."""
    found: dict[str, bool] = {}
    with _planted(control) as files:
        for kind, path in files.items():
            hits = scanner.scan([path]).hits
            found[kind] = _complete(control, kind, hits)
    return found


def _complete(control: Control, kind: str, hits: list[Hit]) -> bool:
    if kind == "backup":  # what is in it nobody sees
        return [hit.label for hit in hits] == [f"backup of {NOWHERE}"]
    if not {_LABEL, f"sealed value of {NOWHERE}"} <= {hit.label for hit in hits}:
        return False
    if kind == "every encoding":
        return {n.encoding for n in control.needles()} <= {hit.encoding for hit in hits if hit.label == _LABEL}
    return not kind.startswith("sealed") or {"hex", "base64"} <= {h.encoding for h in hits if h.label != _LABEL}


@contextmanager
def _planted(control: Control) -> Iterator[dict[str, Path]]:
    with tempfile.TemporaryDirectory(prefix="domicile-controls-") as folder:
        files = {}
        for number, (kind, content) in enumerate(control.kinds().items()):
            files[kind] = Path(folder, f"{number}")
            files[kind].write_bytes(content)
        yield files


def _backup(raw: bytes) -> bytes:
    key = WrappedKey(value=bytes(32), version=1, check=bytes(32))
    head = Head(deployment="control", jurisdiction=NOWHERE, database="control", system="1", name="control", key=key)
    sink = io.BytesIO()
    with sealing(sink, head, secrets.token_bytes(32)) as stream:
        stream.write(raw)
    return sink.getvalue()


def _zip(raw: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/file", raw)
    return out.getvalue()


def _tar(members: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return out.getvalue()


def _lz4(raw: bytes) -> bytes:
    packed: bytes = lz4.block.compress(raw, store_size=False)
    return packed


def _dump(raw: bytes) -> bytes:
    """A custom dump, version 1.16, without entries: a table's data in two pieces."""

    def integer(number: int) -> bytes:
        return b"\0" + number.to_bytes(4, "little")

    packed = zlib.compress(raw)
    halves = packed[: len(packed) // 2], packed[len(packed) // 2 :]
    head = b"PGDMP\1\20\0\4\10\1" + b"\1" + integer(0) * 7 + integer(0) * 3 + integer(0)
    return head + b"\1" + integer(7) + b"".join(integer(len(piece)) + piece for piece in halves) + integer(0)


def _page(rows: list[bytes]) -> bytes:
    upper, items = PAGE, b""
    body = b""
    for row in rows:
        row += bytes(-len(row) % 8)
        upper -= len(row)
        body = row + body
        items += pack("<I", upper | 1 << 15 | len(row) << 17)
    lower = 24 + len(items)
    head = bytes(12) + pack("<4H", lower, upper, PAGE, PAGE | 4) + bytes(4)
    return head + items + bytes(upper - lower) + body


def _row(data: bytes, columns: int = 1) -> bytes:
    return bytes(18) + pack("<HHB", columns, 2, 24) + bytes(1) + data


def _compressed(raw: bytes, method: int) -> bytes:
    packed = _lz4(raw) if method else pglz.compress(raw)
    return pack("<II", len(packed) + 8 << 2 | 2, len(raw) | method << 30) + packed


def _chunks(value: bytes) -> bytes:
    """A TOAST table of one value, whose chunks lie in the order of their ends."""
    parts = [value[start : start + CHUNK_BYTES] for start in range(0, len(value), CHUNK_BYTES)]
    rows = [_row(pack("<III", 1, n, len(part) + 4 << 2) + part, 3) for n, part in enumerate(parts)]
    return b"".join(_page(rows[start : start + 4]) for start in range(0, len(rows), 4))


def _image(page: bytes, how: int, compress: Callable[[bytes], bytes]) -> bytes:
    packed = compress(page[:32] + page[64:])  # without a hole of 32 bytes
    block = pack("<BBHHHBH", 0, 0x10, 0, len(packed), 32, how, 32) + bytes(16)
    return _record(b"end", block, packed)


def _record(main: bytes, block: bytes = b"", images: bytes = b"") -> bytes:
    body = block + pack("<BI", 254, len(main)) + images + main
    record = pack("<IIQBBHI", 24 + len(body), 0, 0, 0, 0, 0, 0) + body
    return record + bytes(-len(record) % 8)


def _wal(stream: bytes) -> bytes:
    out, address = b"", 1 << 24
    while stream:
        first = not out
        head = pack("<HHIQII", 0xD118, 2 if first else 1, 1, address, 0 if first else len(stream), 0)
        head += pack("<QII", 0, 1 << 24, PAGE) if first else b""
        out += (head + stream[: PAGE - len(head)]).ljust(PAGE, b"\0")
        stream = stream[PAGE - len(head) :]
        address += PAGE
    return out
