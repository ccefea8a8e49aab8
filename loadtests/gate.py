"""The border's gate: rows a second through treatments, k-anonymity, the detector and pages, in one process."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from datetime import date, timedelta
from typing import Any, Final

from domicile.cells.border import parse_declaration
from domicile.cells.border.gate import Treating, passed
from domicile.cells.border.inspection import Inspector
from domicile.cells.border.plan import plan
from domicile.sdk.store import RecordedColumn
from loadtests.cases import Case

ROWS: Final = 20_000
ROUNDS: Final = 3
_DECLARATION: Final = """
name: bench
to: {jurisdiction: us, cell: us-1}
purpose: bench:gate
source: {records: visits}
columns:
  born: {treatment: date, to: decade}
  email: {treatment: pseudonym}
  plan: {treatment: shareable}
  remark: {treatment: shareable}
quasi_identifiers: [born, plan]
not_identifiers: [remark]
k: 5
max_suppressed: 0.1
"""
_CLASSES: Final = {
    "visits": tuple(
        RecordedColumn(name, field_class, "user", False, None, True, kind, None)
        for name, field_class, kind in (
            ("born", "personal", "date"),
            ("email", "personal", "str"),
            ("plan", "shareable", "str"),
            ("remark", "shareable", "str"),
        )
    )
}
_WORDS: Final = "the order came late and nobody answered when we asked about it again last week".split()


def cases() -> Iterator[Case]:
    made = plan(parse_declaration(_DECLARATION), _CLASSES, "eu")
    drawn = random.Random(10)
    rows: list[list[Any]] = [
        [
            date(1940, 1, 1) + timedelta(days=drawn.randrange(25_000)),
            f"person{number}@mail.example",
            drawn.choice(["free", "pro", "team"]),
            f"{' '.join(drawn.choices(_WORDS, k=12))} {number}",
        ]
        for number in range(ROWS)
    ]

    def through_gate() -> float:
        started = time.perf_counter()
        treating = Treating(made, b"secret")
        treated = [treating.row(row, [b"%d" % number]) for number, row in enumerate(rows)]
        passed(made, treated, [], ["DE", "FR"])
        return ROWS / (time.perf_counter() - started)

    def through_detector() -> float:
        inspector = Inspector(["remark"], [], ["DE", "FR"])
        started = time.perf_counter()
        for row in rows:
            inspector.look(row[3:])
        return ROWS / (time.perf_counter() - started)

    yield Case("border: rows through the gate, four columns, no text twice", "rows/s", through_gate,
               rounds=ROUNDS)  # fmt: skip
    yield Case("border: their texts through the detector alone", "rows/s", through_detector, rounds=ROUNDS)
