"""What a scan found, what it covered, and what it could not read."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

MAX_LISTED: Final = 1000
"""Hits and unread places that are named; the rest is counted."""


@dataclass(frozen=True, slots=True)
class Hit:
    """The first place where a needle was found in one encoding in a file, or in a stream ``inside`` it.

    ``offset``: in bytes, of the file or of what the stream holds.
    """

    path: Path
    label: str
    encoding: str
    offset: int
    inside: str = ""


@dataclass(slots=True)
class Report:
    """``files`` and ``read_bytes`` read; ``kinds`` of files; ``streams`` opened, by kind, and what they held;
    ``remarks`` what was read in part; ``unread`` what could not be, with the reason."""

    hits: list[Hit] = field(default_factory=list)
    matches: int = 0
    at_home: int = 0
    """What was found where it may be."""
    files: int = 0
    read_bytes: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    streams: Counter[str] = field(default_factory=Counter)
    stream_bytes: int = 0
    remarks: Counter[str] = field(default_factory=Counter)
    unread: list[str] = field(default_factory=list)
    unread_more: int = 0
    _seen: set[tuple[Path, str, str, str]] = field(default_factory=set, repr=False)

    def hit(self, hit: Hit) -> None:
        self.matches += 1
        place = (hit.path, hit.inside, hit.label, hit.encoding)
        if place not in self._seen and len(self.hits) < MAX_LISTED:
            self._seen.add(place)
            self.hits.append(hit)

    def miss(self, place: str, reason: str) -> None:
        if len(self.unread) < MAX_LISTED:
            self.unread.append(f"{place}: {reason}")
        else:
            self.unread_more += 1

    def document(self) -> dict[str, Any]:
        """As JSON: labels and places, never a value."""
        return {
            "hits": [
                {"label": h.label, "encoding": h.encoding, "path": str(h.path), "inside": h.inside, "offset": h.offset}
                for h in self.hits
            ],
            "matches": self.matches,
            "at_home": self.at_home,
            "files": self.files,
            "bytes": self.read_bytes,
            "kinds": dict(self.kinds.most_common()),
            "streams": dict((+self.streams).most_common()),
            "stream_bytes": self.stream_bytes,
            "remarks": dict(self.remarks),
            "unread": self.unread,
            "unread_more": self.unread_more,
        }
