"""What the load process wrote of each request, read again and counted. Pure but for ``read``."""

from __future__ import annotations

import csv
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

COLUMNS: Final = ("ended", "kind", "action", "milliseconds", "error")
FAULT: Final = "fault of the load itself"
FOREIGN: Final = "foreign"


@dataclass(frozen=True, slots=True)
class Sample:
    """``ended``: by the monotonic clock, in seconds; ``error``: empty where all was right."""

    ended: float
    kind: str
    action: str
    milliseconds: float
    error: str = ""

    @property
    def foreign(self) -> bool:
        return self.error.startswith(FOREIGN)


def read(path: Path) -> list[Sample]:
    with path.open(newline="") as stream:
        return [
            Sample(float(row["ended"]), row["kind"], row["action"], float(row["milliseconds"]), row["error"])
            for row in csv.DictReader(stream)
        ]


def percentile(ordered: Sequence[float], share: float) -> float | None:
    """The nearest rank: a value that was measured, and none where nothing was."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else None


def counted(samples: Iterable[Sample]) -> dict[str, Any]:
    """``requests``, ``errors``, and the times of those that were answered rightly, in ms."""
    found = list(samples)
    times = sorted(each.milliseconds for each in found if not each.error)
    return {
        "requests": len(found),
        "errors": sum(1 for each in found if each.error),
        "p50_ms": percentile(times, 0.5),
        "p95_ms": percentile(times, 0.95),
        "p99_ms": percentile(times, 0.99),
        "slowest_ms": times[-1] if times else None,
    }


def by_action(samples: Sequence[Sample], seconds: float) -> list[dict[str, Any]]:
    """A row for each thing that people did, with ``per_second`` over the run."""
    rows = []
    for kind, action in sorted({(each.kind, each.action) for each in samples}):
        row = counted(each for each in samples if (each.kind, each.action) == (kind, action))
        rows.append({"kind": kind, "action": action, **row, "per_second": round(row["requests"] / seconds, 2)})
    return rows


def by_error(samples: Iterable[Sample]) -> Counter[tuple[str, str, str]]:
    return Counter((each.kind, each.action, each.error) for each in samples if each.error)


def timeline(samples: Sequence[Sample], began: float, step: float) -> list[dict[str, float | None]]:
    """For each ``step`` seconds: ``at``, requests and errors a second, and the p95 of the answered ones."""
    if not samples:
        return []
    buckets: list[list[Sample]] = [[] for _ in range(int((max(s.ended for s in samples) - began) / step) + 1)]
    for each in samples:
        buckets[max(0, int((each.ended - began) / step))].append(each)
    found: list[dict[str, float | None]] = []
    for number, bucket in enumerate(buckets):
        row = counted(bucket)
        found.append(
            {
                "at": round(number * step, 1),
                "per_second": row["requests"] / step,
                "errors": row["errors"] / step,
                "p95_ms": row["p95_ms"],
            }
        )
    return found
