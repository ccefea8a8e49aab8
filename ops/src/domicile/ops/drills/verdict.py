"""The verdict: what was measured against what was stated before, and nothing else. Pure.

``failed`` where an objective was missed, ``aborted`` where one could not be told, nothing felt the fault, or the drill
did not come to its end, ``held`` only where all of them were measured and met. An aborted drill still fails by what may
never happen: a lost write, a stale read, a personal byte abroad.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from domicile.ops.drills.measure import Measures


class Verdict(StrEnum):
    HELD = "held"
    FAILED = "failed"
    ABORTED = "aborted"


EXIT_STATUS: Final = {Verdict.HELD: 0, Verdict.FAILED: 3, Verdict.ABORTED: 4}


@dataclass(frozen=True, slots=True)
class Objective:
    """``measure``: a field of ``Measures`` that may be ``limit`` at most. ``always``: also in an aborted drill."""

    measure: str
    limit: float
    always: bool = False

    def met(self, measures: Measures) -> bool | None:
        found = getattr(measures, self.measure)
        if found is None:
            return False if measures.at_least.get(self.measure, 0) > self.limit else None
        return bool(found <= self.limit)

    def document(self, measures: Measures) -> dict[str, Any]:
        measured = getattr(measures, self.measure)
        shown = round(measured, 2) if isinstance(measured, float) else measured
        return {"objective": self.measure, "at_most": self.limit, "measured": shown, "met": self.met(measures)}


SAFETY: Final = (
    Objective("lost", 0, always=True),
    Objective("stale_reads", 0, always=True),
    Objective("not_linearizable", 0, always=True),
    Objective("personal_bytes_across", 0, always=True),
    Objective("unverified", 0),
    Objective("unchecked", 0),
    Objective("unfelt", 0),
)
"""Of every drill."""
_UNTOLD: Final = frozenset({"unverified", "unchecked", "unfelt"})
"""Above their limit they are gaps of the evidence, not failures of the world."""


@dataclass(frozen=True, slots=True)
class Judgement:
    verdict: Verdict
    reason: str


def judge(measures: Measures, objectives: Sequence[Objective], aborted: str = "") -> Judgement:
    """``aborted``: why the drill did not come to its end; empty where it did."""
    missed = [
        each
        for each in objectives
        if each.met(measures) is False and each.measure not in _UNTOLD and (each.always or not aborted)
    ]
    if missed:
        return Judgement(Verdict.FAILED, "; ".join(_said(each, measures) for each in missed))
    if aborted:
        return Judgement(Verdict.ABORTED, aborted)
    untold = [each for each in objectives if each.met(measures) is not True]
    if untold:
        return Judgement(Verdict.ABORTED, "could not be told: " + "; ".join(_said(each, measures) for each in untold))
    return Judgement(Verdict.HELD, f"all {len(objectives)} objectives met")


def _said(objective: Objective, measures: Measures) -> str:
    measured = getattr(measures, objective.measure)
    shown = "not measured" if measured is None else f"{measured:g}"
    if measured is None and objective.met(measures) is False:
        shown = f"not in {measures.at_least[objective.measure]:.0f} s"
    return f"{objective.measure} {shown}, at most {objective.limit:g}"
