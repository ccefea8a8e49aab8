"""What each process of the world holds, over time, and whether it grows.

Memory is what a process and its children hold for themselves alone (USS): shared buffers, which PostgreSQL's backends
touch page after page, and the router's mapped map of pins are in RSS and are no leak. RSS is written beside it.

Growth is the median of the slopes between all pairs of looks (Theil 1950, Sen 1968) after the warm-up: one jump, or a
burst that is given back, moves it little; what goes on growing moves every pair. Judging is pure.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import psutil

from domicile.ops.layout import Layout
from domicile.ops.record import WorldRecord
from loadtests.people.plan import Soak

_MIB: Final = 1 << 20
_LEAST_LOOKS: Final = 8
_MOST_PAIRED: Final = 400


@dataclass(frozen=True, slots=True)
class Look:
    """At one process and its children. ``at``: by the monotonic clock, in seconds."""

    at: float
    name: str
    pid: int
    memory_mib: float
    rss_mib: float
    descriptors: int


def look(layout: Layout, at: float) -> list[Look]:
    """At every process of the world that is there and may be read; the verdict misses the others."""
    record = WorldRecord.read(layout)
    found: list[Look] = []
    if record is None:
        return found
    for each in [record.supervisor, *record.processes]:
        process = each.process()
        if process is None:
            continue
        try:
            # the supervisor's children are the other processes
            tree = [process] if each is record.supervisor else [process, *process.children(recursive=True)]
            memory, rss, descriptors = _held(tree)
        except psutil.Error:
            continue
        found.append(Look(at, each.name, each.pid, memory / _MIB, rss / _MIB, descriptors))
    return found


def _held(tree: Sequence[psutil.Process]) -> tuple[int, int, int]:
    memory = rss = descriptors = 0
    for number, process in enumerate(tree):
        try:
            held = process.memory_full_info()
            memory, rss, descriptors = memory + held.uss, rss + held.rss, descriptors + process.num_fds()
        except psutil.NoSuchProcess:
            if number == 0:
                raise  # a child may end while it is looked at; the process itself may not
    return memory, rss, descriptors


def slope(points: Sequence[tuple[float, float]]) -> float:
    """Growth a second: the median over all pairs. Zero of fewer than two points."""
    points = points[:: len(points) // _MOST_PAIRED + 1]
    slopes = [(y2 - y1) / (x2 - x1) for (x1, y1), (x2, y2) in itertools.combinations(points, 2) if x2 != x1]
    return statistics.median(slopes) if slopes else 0.0


def judge(
    looks: Iterable[Look], soak: Soak, began: float, seconds: float, expected: Sequence[str]
) -> list[dict[str, Any]]:
    """A row for each process and measure, as objectives are: what was allowed, what was measured, whether it was met.

    ``expected``: who has to be seen. Who was restarted in the judged part, or was seen too seldom, has met nothing.
    """
    judged_from = began + soak.warm_up * seconds
    series: dict[str, list[Look]] = {name: [] for name in expected}
    for each in looks:
        if each.at >= judged_from and each.name in series:
            series[each.name].append(each)
    rows: list[dict[str, Any]] = []
    for name, found in series.items():
        for what, unit, limit, noise in (
            ("memory_mib", "MiB/h", soak.memory_mib_per_hour, soak.memory_mib),
            ("descriptors", "1/h", soak.descriptors_per_hour, soak.descriptors),
        ):
            row: dict[str, Any] = {"objective": f"{name}: {what} growth", "limit": f"at most {limit:g} {unit}"}
            if len(found) < _LEAST_LOOKS:
                rows.append(row | {"measured": f"seen {len(found)} times, {_LEAST_LOOKS} are needed", "met": False})
                continue
            if len({each.pid for each in found}) > 1:
                rows.append(row | {"measured": "restarted meanwhile", "met": False})
                continue
            values = [(each.at, float(getattr(each, what))) for each in found]
            rate = slope(values)
            grown = rate * (values[-1][0] - values[0][0])
            # less than the noise in the whole run tells of nothing, however steep it looks in an hour
            met = rate * 3600 <= limit or grown <= noise
            shown = f"{rate * 3600:+.1f} {unit}, {grown:+.1f} in the run, {values[-1][1]:.1f} at its end"
            rows.append(row | {"measured": shown, "met": met})
    return rows
