"""PostgreSQL's own packing: values compressed in a row or out of line (TOAST), in pages of relations and in WAL.

Layouts are those of PostgreSQL 15 to 18: bufpage.h, htup_details.h, varatt.h, xlog_internal.h, xlogrecord.h, with
pages of 8 KiB, little-endian. A compressed value bears no magic: in a row it is told by a header that fits and a
stream that decodes to the size that it names.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from pathlib import Path
from struct import unpack_from
from typing import Final

import lz4.block

from domicile.ops.scan.feeds import Feed
from domicile.ops.scan.pglz import decompress
from domicile.ops.scan.streams import CODECS

PAGE: Final = 8192
CHUNK_BYTES: Final = 1996
"""TOAST_MAX_CHUNK_SIZE: each chunk of a value but the last has so many."""
MAX_VALUE_BYTES: Final = 64 << 20
"""Of one value out of line, and of all that wait for their chunks."""
_MOST_CHUNKS: Final = (1 << 30) // CHUNK_BYTES
_CHUNK_SIZES: Final = (CHUNK_BYTES, 2048)
"""Of values out of line, and of large objects."""
_TRIAL_BYTES: Final = 64
"""What a look at something that may be compressed is counted for, beside what comes out."""
_MOST: Final = {0: 91, 1: 255}
_HEADER: Final = 24
_LAYOUT: Final = PAGE | 4
_WAL_MAGIC: Final = 0xD1
_HEAP, _INSERT = 10, 0x00
_MARKED: Final = [bytes([low]) for low in range(2, 256, 4)]
_COMPRESSED: Final = re.compile(
    rb"(?=(?:[%b][\x01-\x7f]|[%b]\0)\0\0..[\0-\x0b][\0\x40])"
    % (b"".join(map(re.escape, _MARKED)), b"".join(map(re.escape, _MARKED[16:]))),
    re.DOTALL,
)
"""A compressed value's header (16 bytes to a page) and the size of what it holds, with its method."""


def is_page(page: bytes) -> bool:
    if len(page) < PAGE:
        return False
    lower, upper, special, layout = unpack_from("<4H", page, 12)
    return bool(layout == _LAYOUT and _HEADER <= lower <= upper <= special <= PAGE)


def is_wal(head: bytes) -> bool:
    if len(head) < PAGE or head[1] != _WAL_MAGIC or not head[2] & 2:
        return False
    segment, block = unpack_from("<II", head, 32)
    return block == PAGE and 1 << 20 <= segment <= 1 << 30 and not segment & (segment - 1)


def _plausible(method: int, packed: int, size: int) -> bool:
    """Whether so many bytes can hold ``size``, and are fewer: a copy gives at most 273 bytes of 3, or 255 of one.

    By pglz a value is kept only where a quarter is saved (PGLZ_strategy_default).
    """
    return method in _MOST and packed < size <= packed * _MOST[method] and (method == 1 or 4 * packed <= 3 * size)


def _unpacked(feed: Feed, method: int, packed: bytes, size: int) -> bytes | None:
    """What a compressed value holds; with no method that fits, or not that size, None."""
    if feed.job.exhausted:
        return None
    if method == 0:
        plain, whole = decompress(packed, size)
    else:
        try:
            plain = lz4.block.decompress(packed, uncompressed_size=size)
        except (lz4.block.LZ4BlockError, MemoryError):
            plain = b""
        whole = len(plain) == size
    return plain if feed.job.spend(fed=_TRIAL_BYTES, given=len(plain)) and whole else None


def _search(feed: Feed, name: str, data: bytes) -> None:
    if (out := feed.child(name, part=True)) is not None:
        out.push(data)
        out.finish()


def inline_values(feed: Feed, data: bytes) -> None:
    """Values compressed within a row, wherever in ``data``: rows of WAL and of indexes are aligned otherwise."""
    end = 0
    for match in _COMPRESSED.finditer(data):
        place = match.start()
        if place < end:
            continue
        length, size = unpack_from("<II", data, place)
        length, method, size = length >> 2, size >> 30, size & 0x3FFFFFFF
        if not 9 < length <= len(data) - place or not _plausible(method, length - 8, size):
            continue
        first = data[place + 8]
        if not first >> 4 if method else first & 1:
            continue  # nothing is there yet to be copied from
        packed = data[place + 8 : place + length]
        with feed.job.search.barren.once(packed, feed.job.report) as fresh:
            found = _unpacked(feed, method, packed, size) if fresh else None
            if found is not None:
                end = place + length
                _search(feed, "lz4 value" if method else "pglz value", found)


class Chunks:
    """Values out of line and large objects, put together from their chunks in whatever order these come."""

    def __init__(self, feed: Feed) -> None:
        self._overflowed = False
        self._feed = feed
        self._waiting: OrderedDict[tuple[bytes, int], dict[int, bytes]] = OrderedDict()
        self._last: dict[tuple[bytes, int], int] = {}
        self._held = 0

    def add(self, relation: bytes, row: bytes) -> bool:
        """A row, if it has a chunk's three columns (oid, integer, bytea); whether it has."""
        if len(row) < 34 or row[22] != _HEADER or row[18] != 3 or row[19] & 7 or row[20] & 1:
            return False
        self._add(relation, row.ljust(36, b"\0"))
        return True

    def _add(self, relation: bytes, row: bytes) -> None:
        identity, sequence, length = unpack_from("<III", row, _HEADER)
        if row[32] & 3 == 0:
            chunk = row[36 : 32 + (length >> 2)]
        elif row[32] & 1 and row[32] != 1:
            chunk = row[33 : 32 + (row[32] >> 1)]
        elif row[32] & 3 == 2 and len(row) > 40:
            (size,) = unpack_from("<I", row, 36)
            method, size = size >> 30, size & 0x3FFFFFFF
            if size > max(_CHUNK_SIZES) or not _plausible(method, (length >> 2) - 8, size):
                return
            chunk = _unpacked(self._feed, method, row[40 : 32 + (length >> 2)], size) or b""
        else:
            return
        if not 0 < len(chunk) <= max(_CHUNK_SIZES) or sequence > _MOST_CHUNKS:
            return
        key = (relation, identity)
        held = self._waiting.setdefault(key, {})
        self._held += len(chunk) - len(held.get(sequence, b""))
        held[sequence] = chunk
        if len(chunk) not in _CHUNK_SIZES:
            self._last[key] = sequence
        if len(held) == self._last.get(key, -1) + 1:
            self._emit(key)
        while self._held > MAX_VALUE_BYTES:
            if not self._overflowed:
                self._overflowed = True
                self._feed.job.miss(self._feed.inside, "values out of line of more than 64 MiB are read in parts")
            self._emit(next(iter(self._waiting)))

    def flush(self) -> None:
        while self._waiting:
            self._emit(next(iter(self._waiting)))

    def _emit(self, key: tuple[bytes, int]) -> None:
        held = self._waiting.pop(key)
        last = self._last.pop(key, None)
        self._held -= sum(map(len, held.values()))
        run = 0
        while run in held:
            run += 1
        value = b"".join(held.pop(number) for number in range(run))
        if held or (last is None and run and len(value) % run):
            self._feed.job.report.remarks["values out of line with chunks missing"] += 1
            _search(self._feed, "value out of line", b"".join(held[number] for number in sorted(held)))
        with self._feed.job.search.barren.once(value, self._feed.job.report) as fresh:
            if value and fresh:
                self._look_into(value)

    def _look_into(self, value: bytes) -> None:
        feed = self._feed
        _search(feed, "value out of line", value)
        (size,) = unpack_from("<I", value.ljust(4, b"\0"))
        method, size = size >> 30, size & 0x3FFFFFFF
        if not _plausible(method, len(value) - 4, size):
            return
        if size > MAX_VALUE_BYTES:
            feed.job.miss(feed.inside, "a value out of line that holds more than 64 MiB")
        elif method:
            if (unpacked := _unpacked(feed, method, value[4:], size)) is not None:
                _search(feed, "lz4 value", unpacked)
        elif feed.job.spend(fed=len(value)):
            found, _ = decompress(value[4:], size)  # also what is not whole, up to where it ends
            if found and feed.job.spend(given=len(found)):
                _search(feed, "pglz value", found)


class Pages:
    """Of a relation, pushed through in order."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed
        self._waiting = bytearray()
        self.chunks = Chunks(feed)

    def push(self, data: bytes) -> None:
        self._waiting += data
        whole = len(self._waiting) // PAGE * PAGE
        for place in range(0, whole, PAGE):
            self.page(bytes(self._waiting[place : place + PAGE]))
        del self._waiting[:whole]

    def page(self, page: bytes, relation: bytes = b"") -> None:
        if not is_page(page):
            return
        with self._feed.job.search.barren.once(page[10:], self._feed.job.report) as fresh:
            if fresh:  # but for the time of its last change and its checksum
                inline_values(self._feed, page)
        (lower,) = unpack_from("<H", page, 12)
        for (item,) in _items(page, lower):
            offset, length = item & 0x7FFF, item >> 17
            if length and offset + length <= PAGE and not self.chunks.add(relation, page[offset : offset + length]):
                break  # no table of chunks

    def finish(self) -> None:
        self.chunks.flush()


def _items(page: bytes, lower: int) -> list[tuple[int]]:
    return [unpack_from("<I", page, place) for place in range(_HEADER, lower - 3, 4)]


class Wal:
    """One segment: its records without the headers of pages, and the images of pages within them."""

    name = "WAL"
    weak = False

    def __init__(self, feed: Feed, segment_bytes: int) -> None:
        self.given = 0
        self.ended = self.broken = False
        self.unused = 0
        self._feed = feed
        self._segment_bytes = segment_bytes
        self._records = feed.child("WAL records", part=True)
        self._pages = Pages(feed)
        self._waiting = bytearray()
        self._partial: bytearray | None = None
        """From the beginning of a record on; None until one begins."""
        self._next = 0

    def push(self, data: bytes) -> None:
        self._waiting += data
        whole = len(self._waiting) // PAGE * PAGE
        for place in range(0, whole, PAGE):
            self._page(bytes(self._waiting[place : place + PAGE]))
        del self._waiting[:whole]

    def finish(self) -> None:
        """A record that goes on in the next segment is read there, if that lies beside."""
        following = self._following()
        if self._partial and following is not None and not self.broken:
            try:
                with following.open("rb") as stream:
                    while self._partial and (page := stream.read(PAGE)):
                        if len(page) < PAGE or page[1] != _WAL_MAGIC or not page[2] & 1:
                            break
                        self._page(page, only_rest=True)
            except OSError:
                pass  # it is scanned, or said to be unread, by itself
        if self._records is not None:
            self._records.finish()
        self._pages.finish()
        self.ended = not self.broken

    def _following(self) -> Path | None:
        path = self._feed.job.path
        if self._feed.depth or not re.fullmatch(r"[0-9A-F]{24}", path.name):
            return None
        number = int(path.name[8:16], 16) * ((1 << 32) // self._segment_bytes) + int(path.name[16:], 16) + 1
        high, low = divmod(number, (1 << 32) // self._segment_bytes)
        return path.with_name(f"{path.name[:8]}{high:08X}{low:08X}")

    def _page(self, page: bytes, *, only_rest: bool = False) -> None:
        if page[1] != _WAL_MAGIC:
            self._partial = None
            if self._records is not None:
                self._records.push(page)
            return
        (address, rest) = unpack_from("<QI", page, 8)
        body = page[40 if page[2] & 2 else _HEADER :]
        if address != self._next:
            self._partial = None  # what is left of a segment that was used before
        self._next = address + PAGE
        if only_rest:
            body = body[:rest]
        elif self._records is not None:
            self._records.push(body)
            self.given += len(body)
        if self._partial is None:
            self._partial = bytearray(body[(rest + 7) // 8 * 8 :]) if rest < len(body) else None
        else:
            self._partial += body
        self._split()
        if only_rest and self._partial is not None and rest < PAGE:
            self._partial = None

    def _split(self) -> None:
        place, held = 0, self._partial
        while held is not None and len(held) - place >= 24:
            (size,) = unpack_from("<I", held, place)
            if not 24 <= size <= MAX_VALUE_BYTES:
                held = None  # the end of what was written, or damage: the next page tells where a record begins
            elif len(held) - place < size:
                break
            else:
                self._record(bytes(held[place : place + size]))
                place += (size + 7) // 8 * 8
        self._partial = held
        if held is not None:
            del held[:place]

    def _record(self, record: bytes) -> None:
        inline_values(self._feed, record)
        images, blocks, place, total = [], [], 24, 0
        info, manager = record[16], record[17]
        relation = b""
        while place < len(record) - total:
            number = record[place]
            if number > 32:
                size = {255: 2, 254: 5, 253: 3, 252: 5}.get(number)
                if size is None or place + size > len(record):
                    return
                if number >= 254:
                    break
                place += size
                continue
            if place + 4 > len(record):
                return
            flags, length = unpack_from("<BH", record, place + 1)
            place += 4
            image = None
            if flags & 0x10:
                if place + 7 > len(record):
                    return
                image_bytes, hole, how = unpack_from("<HHB", record, place)
                place += 5
                hole_bytes = PAGE - image_bytes if how & 1 else 0
                if how & 1 and how & 0x1C:
                    (hole_bytes,) = unpack_from("<H", record, place)
                    place += 2
                image = (image_bytes, hole, hole_bytes, how)
                total += image_bytes
            if not flags & 0x80:
                relation = record[place : place + 12]
                place += 12
            place += 4
            total += length
            images.append(image)
            blocks.append((relation, length))
        data = len(record) - self._main_bytes(record, place) - total
        for image, (whose, length) in zip(images, blocks, strict=True):
            if data < place:
                return
            if image is not None:
                self._image(whose, record[data : data + image[0]], *image[1:])
                data += image[0]
            if manager == _HEAP and info & 0x70 == _INSERT and length > 5:
                block = record[data : data + length]
                # xl_heap_header: infomask2, infomask, t_hoff; the row follows from its 24th byte on
                self._pages.chunks.add(whose, bytes(18) + block[:4] + block[4:5] + block[5:])
            data += length

    @staticmethod
    def _main_bytes(record: bytes, place: int) -> int:
        if place < len(record) and record[place] == 255:
            return record[place + 1]
        if place + 5 <= len(record) and record[place] == 254:
            return int.from_bytes(record[place + 1 : place + 5], "little")
        return 0

    def _image(self, relation: bytes, raw: bytes, hole: int, hole_bytes: int, how: int) -> None:
        size = PAGE - hole_bytes
        if how & 0x10:
            try:
                page: bytes | None = CODECS["zstd"]().decompress(raw, size)
            except (ValueError, OSError, RuntimeError):
                page = None
        elif how & 0x0C:
            page = _unpacked(self._feed, 0 if how & 0x04 else 1, raw, size)
        else:
            page = raw
        if page is None or len(page) != size or hole + hole_bytes > PAGE:
            self._feed.job.report.remarks["page images in WAL that do not open"] += 1
            return
        page = page[:hole] + bytes(hole_bytes) + page[hole:]
        if how & 0x1C:
            name = "zstd" if how & 0x10 else "pglz" if how & 0x04 else "lz4"
            _search(self._feed, f"page image in WAL ({name})", page)
        self._pages.page(page, relation)
