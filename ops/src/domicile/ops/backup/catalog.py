"""What lies in a target, what can be restored from it, and what is no longer needed. Pure.

``<database>/<system>/base/<id>.tar`` is a base backup and ``<id>.card`` beside it, written last, what makes it count;
``<database>/<system>/log/<segment>`` is a segment of the write-ahead log. ``system`` is PostgreSQL's identifier of the
database: one that was made anew shares nothing with the one before.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Annotated, Final, NamedTuple

from pydantic import Field

from domicile.model.errors import InvalidInput, NotFound
from domicile.model.pins import Frozen

SEGMENT_BYTES: Final = 16 << 20
_PER_FILE: Final = (1 << 32) // SEGMENT_BYTES
SEGMENT: Final = re.compile(r"[0-9A-F]{24}")
PARTIAL: Final = re.compile(r"([0-9A-F]{24})\.partial")
CARD: Final = ".card"
HISTORY: Final = re.compile(r"[0-9A-F]{8}\.history")


_Segment = Annotated[str, Field(pattern=f"^{SEGMENT.pattern}$")]


class Base(Frozen):
    """A base backup. Times are UTC; ``ended``: the first moment that it can be restored to.

    ``first``, ``last``: segments of the log that it needs and brings along; ``plain``, ``size``: bytes of the data,
    and as they lie in the target.
    """

    id: str
    database: str
    system: str
    started: datetime
    ended: datetime
    first: _Segment
    last: _Segment
    plain: int
    size: int


def folder_of(database: str, system: str) -> str:
    return f"{database}/{system}"


def base_name(base: Base) -> str:
    return name_of(base.database, base.system, base.id)


def card_name(base: Base) -> str:
    return base_name(base).removesuffix(".tar") + CARD


def name_of(database: str, system: str, identifier: str) -> str:
    return f"{folder_of(database, system)}/base/{identifier}.tar"


def number_of(segment: str) -> int:
    """The place of a segment in the log, whatever its timeline."""
    return int(segment[8:16], 16) * _PER_FILE + int(segment[16:24], 16)


def segment_at(timeline: int, position: str) -> str:
    """The segment that holds a log position, such as 0/3000060."""
    high, _, low = position.partition("/")
    return f"{timeline:08X}{int(high, 16):08X}{int(low, 16) // SEGMENT_BYTES:08X}"


def timeline_of(file: str) -> int:
    """Of a segment, or of a history."""
    return int(file[:8], 16)


class Line(NamedTuple):
    """A timeline with those that it came from. ``left``: the segment in which each of them was left, by number."""

    timeline: int
    left: Mapping[int, int]

    def has(self, segment: str) -> bool:
        """Whether it is of this line, and not of what a parent wrote after it was left."""
        timeline = timeline_of(segment)
        return timeline == self.timeline or number_of(segment) <= self.left.get(timeline, -1)


def line_of(timeline: int, history: str) -> Line:
    """Of a .history file of PostgreSQL's: a line for each timeline before, with the position where it was left."""
    words = [line.split() for line in history.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    return Line(timeline, {int(parent): number_of(segment_at(int(parent), left)) for parent, left, *_ in words})


def lines_of(histories: Mapping[int, str], segments: Iterable[str]) -> list[Line]:
    """Every timeline that there is, the newest last."""
    timelines = {*histories, *(timeline_of(segment) for segment in segments)}
    return [line_of(timeline, histories.get(timeline, "")) for timeline in sorted(timelines)]


def line_from(base: Base, lines: Sequence[Line]) -> Line:
    """What a base backup is recovered along: the newest timeline, or its own where that was left before it ended."""
    own = timeline_of(base.last)
    if lines and lines[-1].has(base.first) and lines[-1].has(base.last):
        return lines[-1]
    return next((line for line in lines if line.timeline == own), Line(own, {}))


class Span(NamedTuple):
    """A stretch of the log without a hole, by segment numbers, both included."""

    first: int
    last: int


def spans(segments: Iterable[str]) -> list[Span]:
    """The stretches that there are; more than one means that something between them is lost."""
    found: list[Span] = []
    for number in sorted({number_of(segment) for segment in segments}):
        if found and number == found[-1].last + 1:
            found[-1] = Span(found[-1].first, number)
        else:
            found.append(Span(number, number))
    return found


def log_of(names: Iterable[str]) -> list[str]:
    """The segments among objects' names, those that are not full yet too."""
    files = [name.rpartition("/")[2] for name in names]
    whole = {file for file in files if SEGMENT.fullmatch(file)}
    return sorted(whole | {match[1] for file in files if (match := PARTIAL.fullmatch(file))})


def holes(base: Base, segments: Collection[str]) -> list[int]:
    """Segments after a base backup that are missing while later ones are there: what it can't be taken across."""
    numbers = {number_of(segment) for segment in segments} | set(range(number_of(base.first), number_of(base.last) + 1))
    start, end = number_of(base.first), max(numbers)
    return [number for number in range(start, end) if number not in numbers]


def choose(bases: Sequence[Base], at: datetime | None, wanted: str | None = None) -> Base:
    """The base backup to begin with: the last one that had ended ``at`` that time. Raises NotFound, InvalidInput."""
    if wanted is not None:
        found = [base for base in bases if base.id == wanted]
        if not found:
            raise NotFound(f"no base backup {wanted}", remedy="see `domicile backup list`")
        if at is not None and found[0].ended > at:
            raise InvalidInput(f"base backup {wanted} ended at {found[0].ended.isoformat()}, after --at")
        return found[0]
    early = [base for base in bases if at is None or base.ended <= at]
    if not early:
        first = min((base.ended for base in bases), default=None)
        said = "there is none at all" if first is None else f"the first one ended at {first.isoformat()}"
        raise NotFound(f"no base backup from before that time: {said}", remedy="see `domicile backup list`")
    return max(early, key=lambda base: base.ended)


class Needless(NamedTuple):
    bases: list[Base]
    segments: list[str]


def needless(bases: Sequence[Base], segments: Collection[str], now: datetime, keep: timedelta) -> Needless:
    """What no moment of the last ``keep`` needs. The newest base backup is always kept, and with it all of its log.

    The last one from before that time is needed, since the moments until the next begin with it; so is the log from
    the first segment of the oldest that is kept. Other databases of the same name (``system``) go when all of theirs
    is older.
    """
    if not bases:
        return Needless([], [])
    horizon = now - keep
    newest = max(bases, key=lambda base: base.ended)
    before = [base for base in bases if base.ended <= horizon]
    begins = max(before, key=lambda base: base.ended, default=newest)
    kept = [base for base in bases if base.ended > horizon or base is begins or base is newest]
    oldest = min(number_of(base.first) for base in kept)
    return Needless(
        [base for base in bases if base not in kept],
        sorted(segment for segment in segments if number_of(segment) < oldest),
    )
