"""A ledger's lines as an auditor asks for them: what went from where to where, who asked, for what, how much. Pure."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from domicile.model import InvalidInput
from domicile.model.crossings import Crossing, CrossingKind

_SPAN: Final = re.compile(r"([1-9][0-9]{0,5})([mhdw])")
_UNITS: Final = {
    "m": timedelta(minutes=1), "h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1),
}  # fmt: skip
_WHAT: Final = ("table", "code", "carried")


def parse_since(text: str, now: datetime) -> datetime:
    """``1d``, ``12h``, or a date or time (ISO 8601; in UTC where it says no zone). Raises InvalidInput."""
    if span := _SPAN.fullmatch(text):
        try:
            return now - int(span[1]) * _UNITS[span[2]]
        except OverflowError:
            return datetime.fromtimestamp(0, UTC)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidInput(f"{text!r} is no time", where="--since", remedy="such as 1d, 12h or 2026-03-01") from None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Wanted:
    """None: any."""

    source: str | None = None
    destination: str | None = None
    since: datetime | None = None
    kind: CrossingKind | None = None

    def takes(self, crossing: Crossing) -> bool:
        return (
            self.source in (None, crossing.source)
            and self.destination in (None, crossing.destination)
            and self.kind in (None, crossing.kind)
            and (self.since is None or crossing.at >= self.since)
        )


@dataclass(frozen=True, slots=True)
class Group:
    """What is added up: ``what`` is the table that was read, the code of a refusal, or the way that was carried."""

    cell: str
    kind: str
    source: str
    destination: str
    outcome: str
    caller: str
    purpose: str
    what: str


@dataclass(slots=True)
class Sum:
    lines: int = 0
    bytes: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    first: datetime | None = None
    last: datetime | None = None
    days: set[str] = field(default_factory=set)

    def add(self, crossing: Crossing) -> None:
        self.lines += 1
        self.bytes += crossing.bytes
        for name, count in crossing.counts.items():
            self.counts[name] = self.counts.get(name, 0) + count
        self.first = crossing.at if self.first is None else min(self.first, crossing.at)
        self.last = crossing.at if self.last is None else max(self.last, crossing.at)
        self.days.add(crossing.at.date().isoformat())


class Summary:
    """Add lines in their order; then ``rows``. Reports of routers that were told twice count once."""

    def __init__(self, wanted: Wanted) -> None:
        self._wanted = wanted
        self.sums: dict[Group, Sum] = defaultdict(Sum)
        self.repeated = 0
        self._told: set[tuple[str, ...]] = set()
        self._numbers: dict[str, set[int]] = defaultdict(set)

    def add(self, cell: str, place: int, crossing: Crossing) -> None:
        """``place``: in the cell's ledger."""
        if not self._wanted.takes(crossing):
            return
        if crossing.kind is CrossingKind.HAIRPIN and self._again(crossing):
            self.repeated += 1
            return
        what = next((crossing.detail[name] for name in _WHAT if name in crossing.detail), "")
        group = Group(
            cell, crossing.kind, crossing.source, crossing.destination, crossing.outcome, crossing.caller,
            crossing.purpose, what,
        )  # fmt: skip
        self.sums[group].add(crossing)

    def _again(self, crossing: Crossing) -> bool:
        run, _, number = crossing.decision_id.rpartition(":")
        if number.isdigit():
            self._numbers[run].add(int(number))
        way = (crossing.decision_id, crossing.source, crossing.destination, crossing.detail.get("carried", ""))
        if way in self._told:
            return True
        self._told.add(way)
        return False

    @property
    def missing(self) -> int:
        """Intervals of routers between the first and the last of a run that nobody told of."""
        return sum(max(numbers) - min(numbers) + 1 - len(numbers) for numbers in self._numbers.values())

    def rows(self) -> list[dict[str, Any]]:
        """The most lines first."""
        return [
            {
                "cell": group.cell,
                "kind": group.kind,
                "from": group.source,
                "to": group.destination,
                "outcome": group.outcome,
                "caller": group.caller,
                "purpose": group.purpose,
                "what": group.what,
                "lines": total.lines,
                "rows": total.counts.get("rows", 0),
                "counts": total.counts,
                "bytes": total.bytes,
                "days": len(total.days),
                "first": total.first.isoformat() if total.first else None,
                "last": total.last.isoformat() if total.last else None,
            }
            for group, total in sorted(self.sums.items(), key=lambda each: (-each[1].lines, str(each[0])))
        ]
