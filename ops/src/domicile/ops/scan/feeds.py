"""The way of bytes through a scan: a feed searches what is pushed through it, and opens what it finds packed inside.

Everything is pushed, nothing is read back: memory stays the same for a file of any size, and what a decoder puts out
goes into a feed of its own. One decoder at a time owns a feed; what lies inside of a sound stream is not looked at
for the beginnings of others. A file may expand to so many times its size, and no further.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from typing import Final, Protocol

from ahocorasick_rs import BytesAhoCorasick

from domicile.ops.scan.needles import IN_LINES, Needle, sealed_heads
from domicile.ops.scan.report import Hit, Report

MAX_DEPTH: Final = 8
MAX_BARREN: Final = 200_000
MAX_RATIO: Final = 250
GRACE_BYTES: Final = 64 << 20
"""What any file may expand to, however small it is."""
FED_RATIO: Final = 8
"""Bytes given to decoders for each byte of a file: more only where beginnings of streams are made up."""
HEAD_BYTES: Final = 8192
BATCH_BYTES: Final = 256 << 10
_CONTEXT: Final = 64
"""Bytes behind a match that tell what it is."""
_TRIAL: Final = 1024
_CHANCE: Final = 64
"""A stream that breaks before it gave so many bytes was none."""
_LINES: Final = [
    re.compile(end + rb"(?<=[A-Za-z0-9+/_-]{16}" + end + rb")[ \t]*[A-Za-z0-9+/_=-]") for end in (rb"\n", rb"\r\n")
]


class Decoder(Protocol):
    """Takes a packed stream apart into feeds of its own."""

    name: str
    weak: bool
    """Known by so few bytes that they may be chance."""
    given: int
    """Bytes that it has put out."""
    ended: bool
    broken: bool
    unused: int
    """After its end: how many bytes of the last push were behind it."""

    def push(self, data: bytes) -> None: ...
    def finish(self) -> None: ...


class Tap(Protocol):
    """Reads along with a feed."""

    def push(self, data: bytes) -> None: ...
    def finish(self) -> None: ...


class Formats(Protocol):
    """Which packed formats there are."""

    signatures: list[tuple[str, bytes]]

    def owner(self, feed: Feed, head: bytes) -> Decoder | None:
        """The decoder of a feed that begins so."""

    def tap(self, feed: Feed, head: bytes) -> Tap | None: ...

    def carved(self, feed: Feed, name: str) -> Decoder | None:
        """Of a stream that begins in the midst of a feed, at a signature."""

    def kind(self, path: Path, head: bytes) -> str: ...


class Barren:
    """Packed values in which nothing was found: databases are full of copies of the same, and unpacking is slow."""

    def __init__(self) -> None:
        self._digests: set[bytes] = set()

    @contextmanager
    def once(self, packed: bytes, report: Report) -> Iterator[bool]:
        """Whether to look into it; it is remembered if nothing at all comes of that."""
        digest = blake2b(packed, digest_size=16).digest()
        before = self._yield_of(report)
        yield digest not in self._digests
        if before == self._yield_of(report) and len(self._digests) < MAX_BARREN:
            self._digests.add(digest)

    @staticmethod
    def _yield_of(report: Report) -> tuple[int, ...]:
        return report.matches, report.at_home, len(report.unread), report.unread_more, report.remarks.total()


class Search:
    """One automaton over needles, heads of sealed values (if ``sealed``) and signatures of packed streams."""

    def __init__(self, needles: Iterable[Needle], formats: Formats, *, sealed: bool = False) -> None:
        self.needles = list(needles)
        self.heads = sealed_heads() if sealed else []
        self.barren = Barren()
        self.formats = formats
        sought = [needle.pattern for needle in self.needles] + [head.pattern for head in self.heads]
        patterns = sought + [magic for _, magic in formats.signatures]
        self.overlap = max(map(len, patterns)) + _CONTEXT
        self._first_head = len(self.needles)
        self._first_signature = len(sought)
        self._automaton = BytesAhoCorasick(patterns)

    def matches(self, data: bytes) -> list[tuple[int, int, int]]:
        """(number of the pattern, start, end) in order of their ends."""
        return self._automaton.find_matches_as_indexes(data, overlapping=True)

    def signature(self, number: int) -> str | None:
        place = number - self._first_signature
        return self.formats.signatures[place][0] if place >= 0 else None

    def told(self, number: int, data: bytes, start: int) -> tuple[str, str, str | None] | None:
        """(label, encoding, home) of a match that is no signature; None for one that was chance."""
        if number < self._first_head:
            needle = self.needles[number]
            return needle.label, needle.encoding, needle.home
        head = self.heads[number - self._first_head]
        found = head.jurisdiction(data[start : start + self.overlap])
        return None if found is None else (f"sealed value of {found}", head.encoding, found)

    def shown(self, text: str) -> str:
        """A path as it may be told: one that holds a value is not."""
        raw = text.encode(errors="surrogateescape")
        held = any(
            self.signature(number) is None and self.told(number, raw, start) for number, start, _ in self.matches(raw)
        )
        return "(a name that holds a value)" if held else text


class Job:
    """The scan of one file. ``owner``: the jurisdiction that it lies in, where values at home are no hits."""

    def __init__(self, search: Search, report: Report, path: Path, owner: str | None, size: int) -> None:
        self.search = search
        self.report = report
        self.path = path
        self._owner = owner
        self._may_expand = GRACE_BYTES + MAX_RATIO * size
        self._may_feed = GRACE_BYTES + FED_RATIO * size
        self.exhausted = False

    def spend(self, *, fed: int = 0, given: int = 0) -> bool:
        """Whether work of this size may still be done; said once where it may not."""
        self._may_feed -= fed
        self._may_expand -= given
        self.report.stream_bytes += given
        if not self.exhausted and (self._may_feed < 0 or self._may_expand < 0):
            self.exhausted = True
            limit = f"expands past {MAX_RATIO} times its size" if self._may_expand < 0 else "is full of made-up streams"
            self.miss("", f"{limit}: the rest of its streams was not opened")
        return not self.exhausted

    def hit(self, number: int, data: bytes, start: int, position: int, inside: str) -> None:
        told = self.search.told(number, data, start)
        if told is None:
            return
        label, encoding, home = told
        self._found(Hit(self.path, label, encoding, position, inside), home)

    def hit_backup(self, jurisdiction: str, inside: str) -> None:
        self._found(Hit(self.path, self.search.shown(f"backup of {jurisdiction}"), "head", 0, inside), jurisdiction)

    def _found(self, hit: Hit, home: str | None) -> None:
        if home is None or self._owner is None or home != self._owner:
            self.report.hit(hit)
        else:
            self.report.at_home += 1

    def miss(self, inside: str, reason: str) -> None:
        place = self.search.shown(str(self.path)) + (f" > {inside}" if inside else "")
        self.report.miss(place, reason)


class Feed:
    """``inside``: by which streams it came out of the file; "" for the file itself. ``part``: no file of its own."""

    def __init__(self, job: Job, inside: str = "", depth: int = 0, *, part: bool = False) -> None:
        self.job = job
        self.inside = inside
        self.depth = depth
        self.part = part
        self._waiting = bytearray()
        self._carry = b""
        self._position = 0
        """Of the first byte of the carry."""
        self._begun = False
        self._owner: Decoder | None = None
        self._own_start = 0
        self._tap: Tap | None = None

    def child(self, name: str, *, part: bool = False) -> Feed | None:
        """A feed for what came out of this one; None, and said, where it would be too deep."""
        if self.depth >= MAX_DEPTH:
            self.job.miss(self.inside, f"streams within streams, more than {MAX_DEPTH} deep")
            return None
        self.job.report.streams[name.partition(":")[0]] += 1
        return Feed(self.job, f"{self.inside} > {name}" if self.inside else name, self.depth + 1, part=part)

    def push(self, data: bytes) -> None:
        self._waiting += data
        if len(self._waiting) >= BATCH_BYTES:
            self._take(final=False)

    def finish(self) -> None:
        self._take(final=True)
        if self._owner is not None:
            self._owner.finish()
            self._left(self._owner)
        if self._tap is not None:
            self._tap.finish()

    def _take(self, *, final: bool) -> None:
        data = self._carry + self._waiting
        self._waiting.clear()
        limit = len(data) if final else len(data) - self.job.search.overlap
        if limit <= 0:
            self._carry = data
            return
        if not self._begun:
            self._begun = True
            formats = self.job.search.formats
            if not self.depth:
                self.job.report.kinds[formats.kind(self.job.path, data[:HEAD_BYTES])] += 1
            self._owner = formats.owner(self, data[:HEAD_BYTES])
            self._tap = formats.tap(self, data[:HEAD_BYTES])
        region = data if final else data[:limit]
        signatures = []
        for number, start, _ in self.job.search.matches(data):
            if start >= limit:
                continue
            name = self.job.search.signature(number)
            if name is None:
                self.job.hit(number, data, start, self._position + start, self.inside)
            else:
                signatures.append((start, name))
        if any(line.search(data) for line in _LINES):
            self._in_lines(data)
        self._decode(region, signatures)
        if self._tap is not None:
            self._tap.push(region)
        self._carry = b"" if final else data[limit:]
        self._position += limit

    def _in_lines(self, data: bytes) -> None:
        """What a tool broke into lines: the same without white space."""
        text = data.translate(None, b" \t\r\n")
        for number, start, _ in self.job.search.matches(text):
            searched = self.job.search.needles
            encoding = searched[number].encoding if number < len(searched) else "hex"
            if self.job.search.signature(number) is None and encoding in IN_LINES:
                self.job.hit(number, text, start, self._position, self.inside)

    def _decode(self, region: bytes, signatures: list[tuple[int, str]]) -> None:
        free = 0  # from here on a stream may begin
        if self._owner is not None:
            free = self._give(region, 0)
        for start, name in sorted(signatures):
            if start < free or self._owner is not None or self.job.exhausted:
                continue
            self._owner = self.job.search.formats.carved(self, name)
            if self._owner is not None:
                self._own_start = self._position + start
                free = max(free, self._give(region, start))

    def _give(self, region: bytes, start: int) -> int:
        """Push to the owner from ``start`` on, a little first; from which place on another stream may begin."""
        owner, place = self._owner, start
        assert owner is not None
        while place < len(region):
            end = min(len(region), place + _TRIAL) if place == start else len(region)
            if not self.job.spend(fed=end - place):
                owner.broken = True
                break
            owner.push(region[place:end])
            place = end
            if owner.ended or owner.broken:
                break
        else:
            return place
        self._owner = None
        self._left(owner)
        return place - owner.unused if owner.ended else start

    def _left(self, owner: Decoder) -> None:
        """A stream has ended, or broke, or its feed did."""
        if owner.broken:
            owner.finish()
        if owner.ended or self.job.exhausted:
            return
        if owner.given < _CHANCE and (owner.weak or self._own_start):
            self.job.report.streams[owner.name] -= 1
        elif self._own_start == 0:
            self.job.miss(self.inside, f"{owner.name} is damaged or cut short; what came out of it was searched")
        else:
            self.job.report.remarks[f"{owner.name} that ends early"] += 1
