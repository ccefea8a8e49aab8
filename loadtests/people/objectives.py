"""What was measured against what the file says must hold. Pure.

Requests that end while the drill goes on, or just after it, are judged by ``objectives_in_drill``; all others by
``objectives``. Residency has no number in the file: it is zero, in a drill too, and nobody can raise it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from loadtests.people.plan import Kind, Limits, Plan
from loadtests.people.samples import FAULT, Sample, counted

SETTLING_SECONDS: Final = 5.0
"""After a drill: who waited for it gets his answer, and is told of it."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """``across``: bytes of this run's personal values found outside their homes; None where the scan proves nothing.
    ``drill``: from when to when, by the monotonic clock; ``drilled``: its document."""

    samples: Sequence[Sample]
    across: int | None
    drill: tuple[float, float] | None = None
    drilled: dict[str, Any] | None = None


def in_drill(sample: Sample, window: tuple[float, float] | None) -> bool:
    return window is not None and window[0] <= sample.ended <= window[1] + SETTLING_SECONDS


def judge(plan: Plan, evidence: Evidence) -> list[dict[str, Any]]:
    """Each objective: ``objective``, ``limit``, ``measured``, ``met``."""
    samples = [each for each in evidence.samples if each.action != FAULT]
    calm = [each for each in samples if not in_drill(each, evidence.drill)]
    drilled = [each for each in samples if in_drill(each, evidence.drill)]
    foreign = sum(1 for each in samples if each.foreign)
    faults = len(evidence.samples) - len(samples)
    rows = [
        _row(
            "residency: personal bytes across",
            "0",
            "not told" if evidence.across is None else evidence.across,
            evidence.across == 0,
        ),
        _row("residency: foreign answers", "0", foreign, foreign == 0),
        _row("faults of the load itself", "0", faults, faults == 0),
    ]
    coming = list(plan.mix.users())
    if set(coming) != {Kind.SIGN_UPS}:
        coming.append(Kind.ARRIVALS)
    for kind in coming:
        rows += _kind(kind, plan.objectives.of(kind), [each for each in calm if each.kind == kind], "")
    if plan.drill is not None:
        verdict = (evidence.drilled or {}).get("verdict", "not run")
        rows.append(_row(f"drill: {plan.drill.scenario}", "held", verdict, verdict == "held"))
        for kind in coming:
            limits = plan.objectives_in_drill.of(kind)
            rows += _kind(kind, limits, [each for each in drilled if each.kind == kind], " in the drill")
    return rows


def _kind(kind: Kind, limits: Limits, samples: Sequence[Sample], when: str) -> list[dict[str, Any]]:
    found = counted(samples)
    rows = []
    if limits.requests is not None:
        rows.append(
            _row(
                f"{kind}: requests{when}",
                f"at least {limits.requests}",
                found["requests"],
                found["requests"] >= limits.requests,
            )
        )
    for name in ("p95_ms", "p99_ms"):
        limit: float | None = getattr(limits, name)
        if limit is None or (not found["requests"] and limits.requests is None):
            continue
        measured = found[name]
        # of requests that all failed there is no time; how many may is for errors_percent to say
        met = measured <= limit if measured is not None else limits.errors_percent == 100
        rows.append(
            _row(f"{kind}: {name}{when}", f"at most {limit:g}", "none answered" if measured is None else measured, met)
        )
    if limits.errors_percent is not None and found["requests"]:
        percent = 100 * found["errors"] / found["requests"]
        rows.append(
            _row(
                f"{kind}: errors_percent{when}",
                f"at most {limits.errors_percent:g}",
                round(percent, 2),
                percent <= limits.errors_percent,
            )
        )
    return rows


def _row(objective: str, limit: str, measured: Any, met: bool) -> dict[str, Any]:
    return {"objective": objective, "limit": limit, "measured": measured, "met": met}
