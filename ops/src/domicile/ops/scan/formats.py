"""Which packed formats a scan opens, by what they begin with, and which it knows and cannot open.

A backup of ours stays closed, since the scanner has no keys: its head says whose it is, and that is what counts.
"""

from __future__ import annotations

import zlib
from io import BytesIO
from pathlib import Path
from struct import unpack_from
from typing import Final

from domicile.model.errors import InvalidInput
from domicile.ops.backup.sealed import MAGIC, read_head
from domicile.ops.scan.archives import ZipMember, custom_dump, is_tar, tar
from domicile.ops.scan.feeds import Decoder, Feed, Tap
from domicile.ops.scan.postgres import Pages, Wal, is_page, is_wal
from domicile.ops.scan.streams import InputOver, Parsed, Steps, Stream

SIGNATURES: Final = [
    ("gzip", b"\x1f\x8b\x08"),
    ("zlib", b"\x78\x01"),
    ("zlib", b"\x78\x5e"),
    ("zlib", b"\x78\x9c"),
    ("zlib", b"\x78\xda"),
    *(("bzip2", b"BZh%d1AY&SY" % level) for level in range(1, 10)),
    ("xz", b"\xfd7zXZ\0"),
    ("zstd", b"\x28\xb5\x2f\xfd"),
    ("lz4", b"\x04\x22\x4d\x18"),
    ("zip", b"PK\3\4"),
]
_UNOPENED: Final = {
    b"7z\xbc\xaf\x27\x1c": "7z",
    b"Rar!\x1a\x07": "rar",
    b"\x1f\x9d": "compress (.Z)",
    b"\xff\x06\x00\x00sNaPpY": "snappy",
    b"LZIP\1": "lzip",
    b"\x89LZO\0": "lzop",
    b"PAR1": "Parquet",
    b"ORC": "ORC",
    b"Obj\1": "Avro",
    b"age-encryption.org/": "age: encrypted",
    b"-----BEGIN PGP MESSAGE": "OpenPGP: encrypted",
    b"Salted__": "OpenSSL: encrypted",
    b"LUKS\xba\xbe": "LUKS: encrypted",
    b"\x02\x21\x4c\x18": "lz4, legacy frame",
}
_OPAQUE_BYTES: Final = 4096
"""From this size on a file that compresses by nothing is packed or encrypted; a key is shorter."""


class KnownFormats:
    signatures = SIGNATURES

    def owner(self, feed: Feed, head: bytes) -> Decoder | None:
        if head.startswith(MAGIC):
            return _backup(feed, head)
        if is_tar(head):
            return Parsed("tar", tar(feed))
        if head.startswith(b"PGDMP"):
            return Parsed("dump", custom_dump(feed))
        if is_wal(head):
            return Wal(feed, unpack_from("<I", head, 32)[0])
        if not feed.part:
            self._say_unopened(feed, head)
        return None

    def tap(self, feed: Feed, head: bytes) -> Tap | None:
        return Pages(feed) if is_page(head) else None

    def carved(self, feed: Feed, name: str) -> Decoder | None:
        if name == "zip":
            return ZipMember(feed)
        out = feed.child(name)
        return None if out is None else Stream(name, out)

    def kind(self, path: Path, head: bytes) -> str:
        if not head:
            return "empty"
        if head.startswith(MAGIC):
            return "backup"
        if is_wal(head):
            return "WAL"
        if is_page(head):
            return "relation"
        if head.startswith(b"PGDMP"):
            return "dump"
        if is_tar(head):
            return "tar"
        if head[16:20] in (b"\xde\xc0\xef\xbe", b"\xbe\xef\xc0\xde"):
            return "LMDB"
        for name, magic in SIGNATURES:
            if head.startswith(magic) and name != "zlib":
                return name
        if path.suffix == ".log" or path.name == "log":
            return "log"
        return "other" if b"\0" in head else "text"

    def _say_unopened(self, feed: Feed, head: bytes) -> None:
        for magic, name in _UNOPENED.items():
            if head.startswith(magic):
                feed.job.miss(feed.inside, f"{name} is not opened")
                return
        known = is_page(head) or any(head.startswith(magic) for _, magic in SIGNATURES)
        if not known and len(head) >= _OPAQUE_BYTES and len(zlib.compress(head, 1)) >= len(head):
            feed.job.miss(feed.inside, "looks encrypted, or packed in a way that is not known")


def _backup(feed: Feed, head: bytes) -> Decoder | None:
    """Told as its head says; what follows is encrypted, and no place for the beginnings of streams."""
    try:
        found = read_head(BytesIO(head), "")
    except InvalidInput as error:
        feed.job.miss(feed.inside, error.what)
        return None
    feed.job.hit_backup(found.jurisdiction, feed.inside)
    return Parsed("backup", _sealed())


def _sealed() -> Steps:
    try:
        while True:
            yield 64 << 10
    except InputOver:
        return
