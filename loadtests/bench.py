"""`make bench`: each budget as a ratio against its peer, measured in turn in one run, printed as it came out.

A row's ``value`` is the median over its rounds, its ``ratio`` the median of the rounds' ratios: all lanes of a
race run in each round, so that a slow moment of the machine meets them alike. Misses are printed like hits;
nothing here fails a build.
"""

from __future__ import annotations

import json
import signal
import statistics
import sys
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import closing, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Final

from loadtests import border, directory, page, router, sdk
from loadtests.cases import Case, Figure, Missing, Race, Row, Unmeasured

RESULT: Final = Path("build/bench.json")
PAGE: Final = "--page"


def measure(race: Race) -> Iterator[Row | Missing]:
    """Run the rounds; a lane that fails once is out, and the rows that need it are missing with its reason."""
    rounds: dict[str, list[Mapping[str, float]]] = {name: [] for name in race.lanes}
    failed: dict[str, str] = {}
    for _ in range(race.rounds):
        for name, lane in race.lanes.items():
            if name not in failed:
                try:
                    rounds[name].append(lane())
                except Unmeasured as error:
                    failed[name] = str(error)
    for figure in race.figures:
        needed = [name for name in (figure.lane, figure.peer) if name in failed]
        if needed:
            yield Missing(figure.name, "; ".join(f"{name}: {failed[name]}" for name in needed))
        else:
            yield _row(figure, rounds)


def _row(figure: Figure, rounds: Mapping[str, list[Mapping[str, float]]]) -> Row:
    ours = [found[figure.of] for found in rounds[figure.lane]]
    value = statistics.median(ours)
    ratio = None
    if figure.peer is not None:
        theirs = [found[figure.of] for found in rounds[figure.peer]]
        ratio = statistics.median(mine / their for mine, their in zip(ours, theirs, strict=True))
    return Row(
        figure.name,
        round(value, 3),
        figure.unit,
        figure.against,
        None if ratio is None else round(ratio, 3),
        figure.target.text(figure.unit),
        figure.target.met(value, ratio),
        len(ours),
    )


PARTS: Final[dict[str, Callable[[], Iterable[Case | Race | Missing]]]] = {
    "directory": directory.cases,
    "router": router.cases,
    "sdk": sdk.cases,
    "border": border.cases,
}
"""Which parts can be measured yet; each grows with its part."""


def rows_of(part: str) -> Generator[Row | Missing]:
    """A part's rows as they come; whatever ends this ends what the part has started."""
    cases = PARTS[part]()
    with closing(cases) if isinstance(cases, Generator) else nullcontext():
        for case in cases:
            if isinstance(case, Missing):
                yield case
            else:
                yield from measure(case if isinstance(case, Race) else case.race())


def _line(row: Row | Missing) -> str:
    if isinstance(row, Missing):
        return f"{row.name:<64} not measured: {row.why}"
    ratio = "-" if row.ratio is None else f"{row.ratio:.2f}"
    met = {True: "yes", False: "NO", None: "-"}[row.met]
    value = f"{row.value:,.0f}" if row.value >= 1000 else f"{row.value:g}"
    return f"{row.name:<64} {value:>9} {row.unit:<9} {ratio:>6}  {row.target:<13} {met:<4} {row.against}"


def main(arguments: list[str]) -> int:
    wanted = [argument for argument in arguments if argument != PAGE] or list(PARTS)
    unknown = [name for name in wanted if name not in PARTS]
    if unknown:
        print(f"bench: nothing to measure for {', '.join(unknown)} yet; there is: {', '.join(PARTS)}", file=sys.stderr)
        return 1
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    measured = []
    print(f"{'name':<64} {'value':>9} {'unit':<9} {'ratio':>6}  {'target':<13} met  against")
    for name in wanted:
        found: list[Row | Missing] = []
        with closing(rows_of(name)) as rows:
            for row in rows:
                found.append(row)
                print(_line(row), flush=True)
        measured += [asdict(row) for row in found if isinstance(row, Row)]
        if PAGE in arguments:
            page.write(name, found)
    if PAGE in arguments and "router" in wanted:
        page.write_samples()
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(measured, indent=1) + "\n")
    print(f"written to {RESULT}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main([argument for argument in sys.argv[1:] if argument]))
