"""`make bench`: each budget as a ratio against its peer, measured in turn in one run, printed as it came out.

A row's ``value`` is the median over its rounds. Ours and the peer's rounds alternate, so that a slow moment
of the machine meets both. Misses are printed like hits; nothing here fails a build.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from loadtests import directory, router
from loadtests.cases import Case

RESULT: Final = Path("build/bench.json")


@dataclass(frozen=True, slots=True)
class Row:
    """One budget. ``ratio`` is ours over the peer's, None where there is no peer."""

    name: str
    value: float
    unit: str
    against: str
    ratio: float | None
    target: str
    met: bool
    rounds: int


def measure(case: Case) -> Row:
    """Alternate ours and the peer's for ``case.rounds`` rounds; medians of each and of the ratios."""
    ours: list[float] = []
    ratios: list[float] = []
    for _ in range(case.rounds):
        mine = case.ours()
        ours.append(mine)
        if case.peer is not None:
            ratios.append(mine / case.peer())
    value = statistics.median(ours)
    ratio = statistics.median(ratios) if ratios else None
    return Row(
        case.name,
        round(value, 3),
        case.unit,
        case.against,
        None if ratio is None else round(ratio, 3),
        " ".join(_targets(case)),
        (case.at_most is None or value <= case.at_most)
        and (case.ratio_at_most is None or (ratio is not None and ratio <= case.ratio_at_most)),
        case.rounds,
    )


def _targets(case: Case) -> Iterable[str]:
    if case.at_most is not None:
        yield f"<= {case.at_most:g} {case.unit}"
    if case.ratio_at_most is not None:
        yield f"ratio <= {case.ratio_at_most:g}"


PARTS: Final[dict[str, Callable[[], Iterable[Case]]]] = {"directory": directory.cases, "router": router.cases}
"""Which parts can be measured yet; each grows with its part."""


def main(arguments: list[str]) -> int:
    wanted = arguments or list(PARTS)
    unknown = [name for name in wanted if name not in PARTS]
    if unknown:
        print(f"bench: nothing to measure for {', '.join(unknown)} yet; there is: {', '.join(PARTS)}", file=sys.stderr)
        return 1
    rows = []
    print(f"{'name':<58} {'value':>10} {'unit':<6} {'ratio':>7}  {'target':<12} met  against")
    for name in wanted:
        for case in PARTS[name]():
            row = measure(case)
            rows.append(row)
            ratio = "-" if row.ratio is None else f"{row.ratio:.2f}"
            met = "yes" if row.met else "NO"
            print(f"{row.name:<58} {row.value:>10} {row.unit:<6} {ratio:>7}  {row.target:<12} {met:<4} {row.against}")
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    print(f"written to {RESULT}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main([argument for argument in sys.argv[1:] if argument]))
