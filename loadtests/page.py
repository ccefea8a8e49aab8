"""The parts of docs/performance.md that a run writes: its tables, between markers, and nothing else of the page."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from loadtests import hot
from loadtests.cases import Missing, Row, Unmeasured
from loadtests.edges import is_compiled
from loadtests.programs import envoy, nginx, wrk

PAGE: Final = Path("docs/performance.md")


def replaced(text: str, name: str, body: str) -> str:
    """``text`` with what stands between the markers of ``name`` replaced. Raises ValueError where there are none."""
    begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    before, found, rest = text.partition(begin)
    _, ended, after = rest.partition(end)
    if not found or not ended:
        raise ValueError(f"no place for {name}: put {begin} and {end} where it belongs")
    return f"{before}{begin}\n{body.strip()}\n{end}{after}"


def table(found: Sequence[Row | Missing]) -> str:
    """Rows as Markdown; below, what could not be measured and why."""
    lines = ["| row | value | ratio | target | met | against |", "|---|---:|---:|---|---|---|"]
    verdicts = {True: "yes", False: "**no**", None: "–"}
    for row in found:
        if isinstance(row, Row):
            ratio = "–" if row.ratio is None else f"{row.ratio:.2f}"
            value = f"{row.value:,.0f}" if row.value >= 1000 else f"{row.value:g}"
            cells = (row.name, f"{value} {row.unit}", ratio, row.target or "–", verdicts[row.met], row.against or "–")
            lines.append(f"| {' | '.join(cells)} |")
    reasons: dict[str, list[str]] = {}
    for row in found:
        if isinstance(row, Missing):
            reasons.setdefault(row.why, []).append(row.name)
    lines += [f"\nNot measured, because {why}: {'; '.join(names)}." for why, names in reasons.items()]
    return "\n".join(lines)


def machine() -> str:
    """When, on what, and against which versions."""
    try:
        model = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        model = None
    parts = [
        time.strftime("%Y-%m-%d"),
        f"{os.cpu_count()} cores ({model.group(1).strip() if model else platform.machine()})",
        f"{platform.system()} {platform.release().partition('-')[0]}",
        f"Python {platform.python_version()}",
        "the router compiled by mypyc" if is_compiled() else "the router as Python",
        *(version for program in (nginx, envoy, wrk) if (version := _version(program))),
    ]
    return ", ".join(parts)


def _version(program: Callable[[], str]) -> str:
    try:
        place = program()
    except Unmeasured:
        return ""
    flag = "--version" if program is envoy else "-v"
    told = subprocess.run([place, flag], capture_output=True, text=True, check=False, timeout=30)
    number = re.search(r"\d+\.\d+(\.\d+)?", told.stdout + told.stderr)
    return f"{Path(place).name} {number.group()}" if number else ""


def write(part: str, found: Sequence[Row | Missing]) -> None:
    """Put a part's result onto the page."""
    body = f"`make bench ONLY={part} PAGE=1`, {machine()}.\n\n{table(found)}"
    PAGE.write_text(replaced(PAGE.read_text(), f"bench {part}", body))


def write_samples() -> None:
    """Put where the router's time goes onto the page, or why that was not to be seen."""
    try:
        body = hot.sampled()
    except Unmeasured as error:
        body = f"Not sampled: {error}."
    PAGE.write_text(replaced(PAGE.read_text(), "samples", body))
