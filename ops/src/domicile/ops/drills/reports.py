"""Reports of drills, as they lie in a folder: one document and one page for each, by the time and the scenario."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from domicile.model.errors import InvalidInput, NotFound
from domicile.ops.drills.history import Kind, Op
from domicile.ops.drills.page import render
from domicile.ops.drills.runner import Result
from domicile.ops.drills.scenarios import ABORT

CONTRACT: Final = (
    "scenario", "verdict", "detection_s", "rto_s", "acknowledged", "lost", "stale_reads", "personal_bytes_across",
    "errors", "objectives",
)  # fmt: skip
"""What ``domicile drill --json`` prints: other tools read it."""
BUCKET_SECONDS: Final = 0.5


def document_of(result: Result) -> dict[str, Any]:
    """Everything, as JSON: numbers, names of parts and cells, never a value or an id of a subject."""
    measures, moments, plan = result.measures, result.moments, result.plan
    since = {
        name: round(moment - moments.began, 2)
        for name in ("injected", "broken", "detected", "undoing", "undone", "recovered", "ended")
        if (moment := getattr(moments, name)) is not None
    }
    return {
        "scenario": result.scenario.name,
        "verdict": str(result.judgement.verdict),
        "detection_s": _rounded(measures.detection_s),
        "rto_s": _rounded(measures.rto_s),
        "acknowledged": measures.acknowledged,
        "lost": measures.lost,
        "stale_reads": measures.stale_reads,
        "personal_bytes_across": measures.personal_bytes_across,
        "errors": measures.errors,
        "objectives": [each.document(measures) for each in result.scenario.all_objectives],
        "id": f"{result.started:%Y%m%dT%H%M%SZ}-{result.scenario.name}",
        "started": result.started.isoformat(timespec="seconds"),
        "reason": result.judgement.reason,
        "hypothesis": result.scenario.hypothesis,
        "radius": result.scenario.radius,
        "abort": ABORT,
        "target": plan.target if plan else "",
        "touched": sorted(plan.touched) if plan else [],
        "faults": [str(fault) for fault in plan.faults] if plan else [],
        "method": result.method,
        "reads_rto_s": _rounded(measures.reads_rto_s),
        "writes_per_second": round(measures.writes_per_second, 1),
        "floor": result.conduct.floor,
        "rpo_s": result.scenario.rpo_s,
        "given_up": measures.given_up,
        "doubled": measures.doubled,
        "strangers_served": measures.strangers_served,
        "felt": list(measures.felt),
        "latency": measures.latency,
        "cells": {name: {key: _rounded(value) for key, value in cell.items()} for name, cell in measures.cells.items()},
        "border": dict(result.crossings),
        "scan": {
            "files": result.scanned.files,
            "trusted": result.scanned.trusted,
            "places": list(result.scanned.places),
        }
        if result.scanned
        else None,
        "moments_s": since,
        "marks": [{"at_s": round(at, 2), "what": what} for at, what in result.marks],
        "timeline": timeline(result.history, moments.began, moments.ended),
    }


def contract_of(document: dict[str, Any]) -> dict[str, Any]:
    return {name: document[name] for name in CONTRACT}


def _rounded(value: Any) -> Any:
    return round(value, 2) if isinstance(value, float) else value


def timeline(history: list[Op], began: float, ended: float) -> dict[str, Any]:
    """For each cell, in steps of ``BUCKET_SECONDS``: acknowledged writes, answered reads, errors, the slowest write in
    milliseconds (by when it ended)."""
    count = max(1, int((ended - began) / BUCKET_SECONDS) + 1)
    found: dict[str, dict[str, list[float]]] = {}
    for op in history:
        if op.kind not in (Kind.ADD, Kind.WRITE, Kind.READ) or op.completed is None:
            continue
        at = int((op.completed - began) / BUCKET_SECONDS)
        if not 0 <= at < count:
            continue
        cell = found.setdefault(op.cell, {name: [0] * count for name in ("writes", "reads", "errors", "slowest_ms")})
        if not op.ok:
            cell["errors"][at] += 1
        elif op.kind is Kind.READ:
            cell["reads"][at] += 1
        else:
            cell["writes"][at] += 1
            cell["slowest_ms"][at] = max(cell["slowest_ms"][at], round((op.completed - op.invoked) * 1000, 1))
    return {"step_s": BUCKET_SECONDS, "cells": dict(sorted(found.items()))}


class Reports:
    """The reports of one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save(self, document: dict[str, Any]) -> Path:
        """The page's path; the document lies beside it."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        path = self.folder / f"{document['id']}.json"
        path.write_text(json.dumps(document, indent=1) + "\n")
        page = path.with_suffix(".html")
        page.write_text(render(document))
        return page

    def all(self) -> list[dict[str, Any]]:
        """The oldest first."""
        return [json.loads(path.read_text()) for path in sorted(self.folder.glob("*.json"))]

    def get(self, name: str) -> dict[str, Any]:
        """By its id, or ``latest``. Raises NotFound."""
        if name == "latest":
            found = self.all()
            if not found:
                raise NotFound(
                    "no report yet", where=str(self.folder), remedy="run a drill: domicile drill kill-leader"
                )
            return found[-1]
        if "/" in name or name.startswith("."):
            raise InvalidInput("is no report's id", where=name, remedy="`domicile report list` shows them")
        path = self.folder / f"{name}.json"
        if not path.exists():
            raise NotFound(f"no report {name}", where=str(self.folder), remedy="`domicile report list` shows them")
        document: dict[str, Any] = json.loads(path.read_text())
        return document

    def page(self, document: dict[str, Any]) -> Path:
        return self.folder / f"{document['id']}.html"
