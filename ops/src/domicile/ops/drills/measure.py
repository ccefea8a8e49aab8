"""What a drill measured, from the history of its load and what was seen of the world. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, Final

from domicile.ops.drills.checker import linearizable
from domicile.ops.drills.history import Kind, Op, Outcome

SETTLING_SECONDS: Final = 1.0
"""After a fault, until no request that it met half-way is counted as served in spite of it."""


@dataclass(frozen=True, slots=True)
class Moments:
    """When what happened; seconds of the monotonic clock. ``injected`` is None where nothing was broken; between
    ``injected`` and ``broken`` parts go, between ``undoing`` and ``undone`` they come back, one by one."""

    began: float
    injected: float | None = None
    broken: float | None = None
    detected: float | None = None
    undoing: float | None = None
    undone: float | None = None
    recovered: float | None = None
    ended: float = 0.0


@dataclass(frozen=True, slots=True)
class Scanned:
    """``bytes_across``: of personal values found where they must not lie; ``trusted``: every control was found and
    everything was read."""

    bytes_across: int
    files: int
    trusted: bool
    places: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Measures:
    """None: could not be told. ``rto_s`` and ``reads_rto_s``: the longest time without an acknowledged write, or a
    read, in any cell that the fault may touch; ``others_*``: in the cells that it may not.

    ``lost``: acknowledged rows that are not there at the end; ``given_up``: those of them that were within what may be
    lost, not counted in it.
    ``strangers_served``: sign-ups acknowledged while the fault lasted. ``unverified``: subjects that could not be read
    when it was over. ``at_least``: of what never came, how long it was waited for. ``felt``: by what the load,
    or a probe, felt the fault (see ``signs``); ``unfelt``: 1 where that is nothing.
    """

    detection_s: float | None = None
    rto_s: float | None = None
    reads_rto_s: float | None = None
    acknowledged: int = 0
    writes_per_second: float = 0.0
    lost: int | None = None
    given_up: int = 0
    doubled: int | None = None
    unverified: int = 0
    stale_reads: int | None = None
    not_linearizable: int | None = None
    unchecked: int = 0
    personal_bytes_across: int | None = None
    others_errors: int | None = None
    others_gap_s: float | None = None
    strangers_served: int | None = None
    at_least: dict[str, float] = field(default_factory=dict)
    felt: tuple[str, ...] = ()
    unfelt: int | None = None
    errors: dict[str, int] = field(default_factory=dict)
    latency: dict[str, dict[str, float]] = field(default_factory=dict)
    cells: dict[str, dict[str, Any]] = field(default_factory=dict)


def given_up(history: Sequence[Op], cells: Collection[str], since: float, until: float) -> list[Op]:
    """``history`` as it stands where what ``cells`` did within ``since`` to ``until`` may be lost, because it was said
    before that so much may be: nobody knows of those writes whether they were done, and no read of them is evidence."""
    found = []
    for op in history:
        if op.ok and op.cell in cells and op.completed is not None and since <= op.completed < until:
            if op.kind is Kind.READ:
                continue
            op = replace(op, outcome=Outcome.INFO, completed=None)
        found.append(op)
    return found


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that ``share`` of them do not exceed; ``values`` are not empty."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def longest_gap(moments: Iterable[float], since: float, until: float) -> float:
    """The longest time within ``since`` to ``until`` in which nothing happened."""
    within = sorted(moment for moment in moments if since < moment < until)
    return max(after - before for before, after in pairwise([since, *within, until]))


def lost_writes(history: Sequence[Op]) -> tuple[int, int, int]:
    """Acknowledged rows that are not there at the end, rows that are there twice, subjects that nobody could read."""
    finals = {op.subject: op for op in history if op.kind is Kind.FINAL and op.ok}
    acknowledged: dict[str, list[int]] = {}
    for op in history:
        if op.kind is Kind.ADD and op.ok and op.value is not None:
            acknowledged.setdefault(op.subject, []).append(op.value)
    lost = doubled = 0
    for subject, numbers in acknowledged.items():
        if (final := finals.get(subject)) is not None:
            found = Counter(final.rows)
            lost += sum(number not in found for number in numbers)
            doubled += sum(count - 1 for count in found.values())
    wanted = {op.subject for op in history if op.kind in (Kind.ADD, Kind.WRITE)}
    return lost, doubled, len(wanted - finals.keys())


def stale_reads(history: Sequence[Op]) -> int:
    """Reads that returned less than what was acknowledged before they began; a register's numbers only grow.

    A write that nobody acknowledged may take effect late, so a read of one is no evidence.
    """
    stale = 0
    for subject in {op.subject for op in history if op.kind is Kind.WRITE}:
        own = [op for op in history if op.subject == subject and op.kind in (Kind.READ, Kind.WRITE)]
        writes = sorted(
            ((op.completed, op.value) for op in own if op.kind is Kind.WRITE and op.ok and op.completed is not None),
            key=lambda each: each[0],
        )
        unsure = {op.value for op in own if op.kind is Kind.WRITE and op.outcome is Outcome.INFO}
        newest, at = 0, 0
        for read in sorted((op for op in own if op.kind is Kind.READ and op.ok), key=lambda op: op.invoked):
            while at < len(writes) and writes[at][0] < read.invoked:
                newest = max(newest, writes[at][1] or 0)
                at += 1
            stale += (read.value or 0) < newest and read.value not in unsure
    return stale


def registers(history: Sequence[Op]) -> tuple[int, int]:
    """How many subjects' registers are not linearizable, and how many could not be told."""
    by_subject: dict[str, list[Op]] = {}
    for op in history:
        if op.kind in (Kind.READ, Kind.WRITE):
            by_subject.setdefault(op.subject, []).append(op)
        elif op.kind is Kind.FINAL and op.ok and op.value is not None:
            last = Op(op.process, Kind.READ, op.subject, op.cell, op.invoked, op.completed, Outcome.OK, op.value)
            by_subject.setdefault(op.subject, []).append(last)
    answers = [linearizable(ops) for ops in by_subject.values()]
    return answers.count(False), answers.count(None)


def measure(
    history: Sequence[Op],
    moments: Moments,
    touched: Collection[str],
    scanned: Scanned | None,
    cells: Collection[str],
    rpo_s: float = 0.0,
) -> Measures:
    """``touched``: the cells that the fault may touch; ``cells``: all of them; ``rpo_s``: for how long before
    the fault, and until all of it is there, what they acknowledged may be lost."""
    acknowledged = [op for op in history if op.kind in (Kind.ADD, Kind.WRITE) and op.ok and op.completed is not None]
    held = history
    if rpo_s and moments.injected is not None:
        held = given_up(history, touched, moments.injected - rpo_s, moments.broken or moments.injected)
    lost, doubled, unverified = lost_writes(held)
    broken, unchecked = registers(held)
    common = Measures(
        acknowledged=len(acknowledged),
        writes_per_second=_rate(acknowledged, moments.began, moments.injected or moments.ended),
        lost=lost,
        given_up=lost_writes(history)[0] - lost,
        doubled=doubled,
        unverified=unverified,
        stale_reads=stale_reads(held),
        not_linearizable=broken,
        unchecked=unchecked,
        personal_bytes_across=scanned.bytes_across if scanned and (scanned.trusted or scanned.bytes_across) else None,
        errors=dict(Counter(_error(op) for op in history if _failed(op)).most_common()),
        latency=_latencies(history, moments),
    )
    since, until = moments.injected, moments.ended
    if since is None:
        return common
    told = {cell: _cell(history, cell, since, until, touched=cell in touched) for cell in sorted(cells)}
    others = [each for each in told.values() if not each["touched"]]
    own = [each for each in told.values() if each["touched"]]
    over = moments.undoing or until
    strangers = [op for op in history if op.kind is Kind.SIGN_UP and op.ok and op.completed is not None]
    felt = signs(history, moments, touched)
    return Measures(
        **{name: getattr(common, name) for name in _COMMON},
        detection_s=moments.detected - since if moments.detected is not None else None,
        at_least={} if moments.detected is not None else {"detection_s": over - since},
        felt=felt,
        unfelt=0 if felt else 1,
        rto_s=max((each["writes_gap_s"] for each in own), default=0.0),
        reads_rto_s=max((each["reads_gap_s"] for each in own), default=0.0),
        others_errors=sum(each["errors"] for each in others),
        others_gap_s=max((each["writes_gap_s"] for each in others), default=0.0),
        strangers_served=sum(
            since + SETTLING_SECONDS < op.invoked and (op.completed or until) < over for op in strangers
        ),
        cells=told,
    )


def signs(history: Sequence[Op], moments: Moments, touched: Collection[str]) -> tuple[str, ...]:
    """By what it shows that a fault was there at all: a drill whose fault nobody felt has proved nothing.

    ``detected`` by a probe or a change of leader; ``refused``: requests to the cells that may be touched, or sign-ups,
    which met no error before; ``slower``: nine of ten writes there took half as long again as before.
    """
    since, over = moments.injected, moments.undoing or moments.ended
    if since is None:
        return ()
    found = ["detected"] if moments.detected is not None else []
    own = [op for op in history if op.cell in touched or op.kind is Kind.SIGN_UP]
    refused = [op for op in own if not op.ok]
    if _any(refused, since, over) and not _any(refused, moments.began, since):
        found.append("refused")
    writes = [op for op in own if op.ok and op.completed is not None and op.kind in (Kind.ADD, Kind.WRITE)]
    before, during = (
        [(op.completed or 0) - op.invoked for op in writes if start <= op.invoked < end]
        for start, end in ((moments.began, since), (since, over))
    )
    if before and during and percentile(during, 0.9) >= _SLOWER * percentile(before, 0.9):
        found.append("slower")
    return tuple(found)


def _any(history: Sequence[Op], since: float, until: float) -> bool:
    return any(since <= op.invoked < until for op in history)


_SLOWER: Final = 1.5
_COMMON: Final = (
    "acknowledged", "writes_per_second", "lost", "given_up", "doubled", "unverified", "stale_reads", "not_linearizable",
    "unchecked", "personal_bytes_across", "errors", "latency",
)  # fmt: skip


def _failed(op: Op) -> bool:
    return not op.ok and op.kind is not Kind.SIGN_UP


def _error(op: Op) -> str:
    return op.error or op.outcome


def _rate(acknowledged: Sequence[Op], since: float, until: float) -> float:
    count = sum(since <= (op.completed or 0) < until for op in acknowledged)
    return count / (until - since) if until > since else 0.0


def _cell(history: Sequence[Op], cell: str, since: float, until: float, *, touched: bool) -> dict[str, Any]:
    own = [op for op in history if op.cell == cell and op.kind in (Kind.ADD, Kind.WRITE, Kind.READ)]
    answered = [op for op in own if op.ok and op.completed is not None]
    return {
        "touched": touched,
        "writes_gap_s": longest_gap((op.completed or 0 for op in answered if op.kind is not Kind.READ), since, until),
        "reads_gap_s": longest_gap((op.completed or 0 for op in answered if op.kind is Kind.READ), since, until),
        "errors": sum(not op.ok and since <= (op.completed or until) <= until for op in own),
        "acknowledged": sum(op.kind is not Kind.READ for op in answered),
    }


def _latencies(history: Sequence[Op], moments: Moments) -> dict[str, dict[str, float]]:
    """Of answered operations, by when they began: before the fault, until the world had recovered, after that."""
    since = moments.injected if moments.injected is not None else moments.ended
    over = moments.recovered if moments.recovered is not None else moments.ended
    windows = {"before": (moments.began, since), "during": (since, over), "after": (over, moments.ended)}
    answered = [op for op in history if op.ok and op.completed is not None and op.kind in (Kind.ADD, Kind.WRITE)]
    found = {}
    for name, (start, end) in windows.items():
        took = [(op.completed or 0) - op.invoked for op in answered if start <= op.invoked < end]
        if took:
            found[name] = {
                "count": len(took),
                "p50_ms": round(percentile(took, 0.5) * 1000, 1),
                "p99_ms": round(percentile(took, 0.99) * 1000, 1),
                "max_ms": round(max(took) * 1000, 1),
            }
    return found
