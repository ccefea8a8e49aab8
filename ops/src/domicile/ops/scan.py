"""Look for a jurisdiction's values in every file outside it, and prove first that they would be found.

A value is sought as UTF-8, UTF-16 (both byte orders), hexadecimal (both cases), base64 (standard and URL
alphabet, at each of the three alignments), URL escapes and JSON escapes. Sealed values are sought by their
head, in the same forms. One Aho-Corasick automaton (``ahocorasick_rs``) reads each file once.

Compressed streams are not opened; what could not be read is in the report, never passed over.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import quote

from ahocorasick_rs import BytesAhoCorasick

from domicile.model.errors import InvalidInput
from domicile.model.sealed import prefix

MIN_VALUE_BYTES: Final = 6
_CHUNK: Final = 4 << 20


@dataclass(frozen=True, slots=True)
class Needle:
    """Something that must not be found: ``label`` names it in a report without saying what it is."""

    label: str
    encoding: str
    pattern: bytes


@dataclass(frozen=True, slots=True)
class Hit:
    path: Path
    label: str
    encoding: str
    offset: int


@dataclass(slots=True)
class Report:
    """``files`` and ``read_bytes`` read; ``unread`` names what could not be, with the reason."""

    hits: list[Hit] = field(default_factory=list)
    files: int = 0
    read_bytes: int = 0
    unread: list[str] = field(default_factory=list)


def base64_cores(raw: bytes) -> set[bytes]:
    """What of ``raw`` shows in any base64 text that holds it, for each alignment within three bytes.

    The first and last symbols mix with the neighbours' bits and are left out (RFC 4648, section 4).
    """
    cores = set()
    for shift in range(3):
        encoded = base64.b64encode(b"\0" * shift + raw).rstrip(b"=")
        start = -(-shift * 8 // 6)
        end = (shift + len(raw)) * 8 // 6
        cores.add(encoded[start:end])
    return cores | {core.translate(bytes.maketrans(b"+/", b"-_")) for core in cores}


def byte_forms(raw: bytes) -> Iterator[tuple[str, bytes]]:
    yield "hex", raw.hex().encode()
    yield "hex", raw.hex().upper().encode()
    for core in base64_cores(raw):
        yield "base64", core


def needles_for_value(label: str, value: str) -> list[Needle]:
    """Each form of one value. Raises InvalidInput for one too short to be told from chance."""
    raw = value.encode()
    if len(raw) < MIN_VALUE_BYTES:
        raise InvalidInput(f"{label} is too short to search for", remedy=f"at least {MIN_VALUE_BYTES} bytes")
    forms = [("utf-8", raw), ("utf-8", value.casefold().encode()), ("utf-8", value.upper().encode())]
    forms += [(name, value.encode(name)) for name in ("utf-16-le", "utf-16-be")]
    forms += [("url", quote(value, safe="").encode()), ("url", quote(value, safe="").lower().encode())]
    forms += [("url", "".join(f"%{byte:02x}" for byte in raw).encode())]
    forms += [("url", "".join(f"%{byte:02X}" for byte in raw).encode())]
    forms += [("json", json.dumps(value)[1:-1].encode())]
    return _distinct(label, [*forms, *byte_forms(raw)])


def _distinct(label: str, forms: Iterable[tuple[str, bytes]]) -> list[Needle]:
    """One needle for each pattern, under the first encoding that gives it."""
    encodings: dict[bytes, str] = {}
    for encoding, pattern in forms:
        encodings.setdefault(pattern, encoding)
    return [Needle(label, encoding, pattern) for pattern, encoding in encodings.items()]


def needles_for_sealed(jurisdiction: str) -> list[Needle]:
    """The head of every sealed value of a jurisdiction."""
    head = prefix(jurisdiction)
    return _distinct(f"sealed value of {jurisdiction}", [("raw", head), *byte_forms(head)])


def needles_for(values: Mapping[str, str], jurisdiction: str) -> list[Needle]:
    found = [needle for label, value in values.items() for needle in needles_for_value(label, value)]
    return found + needles_for_sealed(jurisdiction)


class Scanner:
    """One automaton over a set of needles."""

    def __init__(self, needles: Iterable[Needle]) -> None:
        self._needles = list(needles)
        self._overlap = max((len(needle.pattern) for needle in self._needles), default=1) - 1
        self._automaton = BytesAhoCorasick([needle.pattern for needle in self._needles])

    def scan_bytes(self, content: bytes) -> list[tuple[Needle, int]]:
        found = self._automaton.find_matches_as_indexes(content, overlapping=True)
        return [(self._needles[number], start) for number, start, _ in found]

    def scan_file(self, path: Path, report: Report) -> None:
        """Read a file whole, in pieces that overlap by the longest pattern."""
        with path.open("rb") as stream:
            tail, position = b"", 0
            while chunk := stream.read(_CHUNK):
                for needle, start in self.scan_bytes(tail + chunk):
                    hit = Hit(path, needle.label, needle.encoding, position - len(tail) + start)
                    if hit not in report.hits[-64:]:
                        report.hits.append(hit)
                position += len(chunk)
                tail = (tail + chunk)[-self._overlap :] if self._overlap else b""
        report.files += 1
        report.read_bytes += position

    def scan(self, paths: Iterable[Path]) -> Report:
        """Files that vanish while a world runs (temporary ones, recycled WAL) are no gap; others are."""
        report = Report()
        for path in paths:
            try:
                self.scan_file(path, report)
            except FileNotFoundError:
                continue
            except OSError as error:
                report.unread.append(f"{path}: {error.strerror}")
        return report


def files_below(root: Path) -> Iterator[Path]:
    """Every regular file below ``root``; links aren't followed, sockets and pipes hold no bytes."""
    for path in sorted(root.rglob("*")):
        if path.is_file() and not path.is_symlink():
            yield path
