"""A run as one page of HTML that needs nothing else: the verdict, what was missed, curves over time, every table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any, Final

from domicile.ops.html import page

_WIDTH: Final = 920
_LEFT: Final = 56
_HEIGHT: Final = 110
_OF_DRILL: Final = (
    "scenario", "verdict", "detection_s", "rto_s", "acknowledged", "lost", "stale_reads", "personal_bytes_across",
)  # fmt: skip
_STYLE: Final = """
:root { --fault: #d1242f1c; }
@media (prefers-color-scheme: dark) { :root { --fault: #ff7b722c; } }
.good { color: var(--good); } .bad { color: var(--bad); font-weight: 600; } .wide { overflow-x: auto; }
td.n, th.n { white-space: nowrap; } svg { margin-bottom: .6rem; }
"""


def render(document: dict[str, Any]) -> str:
    failed, rows = document["failed"], document["objectives"]
    word = "soak" if document["soak"] else "load"
    verdict = "all objectives met" if document["ok"] else f"{len(failed)} of {len(rows)} objectives missed"
    people = ", ".join(f"{users} {kind.replace('_', ' ')}" for kind, users in document["users"].items())
    parts = [
        f"<h1>{word}: <span class='{'good' if document['ok'] else 'bad'}'>{verdict}</span></h1>",
        f"<p class='dim'>{people} · {document['seconds']:g} s</p>",
    ]
    if failed:
        parts += ["<h2>Missed</h2>", _objectives(failed)]
    parts += ["<h2>Over time</h2>", _curves(document)]
    if document["drill"]:
        drill = document["drill"]
        parts += ["<h2>Drill</h2>", _table(
            ("what", "value"),
            [(name.replace("_", " "), drill[name]) for name in
             _OF_DRILL if name in drill],
        )]  # fmt: skip
    columns = ("kind", "action", "requests", "errors", "p50_ms", "p95_ms", "p99_ms", "slowest_ms", "per_second")
    parts += ["<h2>What people did</h2>", _table(columns, [[row[c] for c in columns] for row in document["stats"]])]
    if document["errors"]:
        errors = [[row[c] for c in ("kind", "action", "error", "times")] for row in document["errors"]]
        parts += ["<h2>Errors</h2>", _table(("kind", "action", "error", "times"), errors)]
    parts += ["<h2>Objectives</h2>", _objectives(rows)]
    scan = document["scan"]
    trusted = "proved on planted controls" if scan["trusted"] else "NOT TRUSTED: not everything could be read"
    parts.append(f"<p class='dim'>Scanned for this run's personal values: {scan['files']:,} files, {trusted}.</p>")
    parts += [f"<p class='bad'>found abroad: {escape(place)}</p>" for place in scan["places"]]
    if any(len(looks) > 1 for looks in document["processes"].values()):
        what = "Memory that is a process's and its children's alone, in MiB; open descriptors."
        parts += ["<h2>Processes</h2>", f"<p class='dim'>{what}</p>", _processes(document["processes"])]
    return page(f"{word}: {verdict}", _STYLE, parts)


def _objectives(rows: Iterable[dict[str, Any]]) -> str:
    told = [[row["objective"], row["limit"], row["measured"], "yes" if row["met"] else "NO"] for row in rows]
    return _table(("objective", "limit", "measured", "met"), told)


def _curves(document: dict[str, Any]) -> str:
    timeline: Sequence[dict[str, Any]] = document["timeline"]
    window = document["drill"]["window_s"] if document["drill"] else None
    seconds = max([document["seconds"], *(each["at"] for each in timeline), *(window or ())])
    return "".join(
        _curve(name, [(each["at"], each[key]) for each in timeline], seconds, window, colour)
        for name, key, colour in (
            ("requests a second", "per_second", "curve"), ("p95 of the answered ones, ms", "p95_ms", "curve"),
            ("errors a second", "errors", "bad"),
        )
    )  # fmt: skip


def _curve(
    name: str, points: Sequence[tuple[float, float | None]], seconds: float, window: Sequence[float] | None, colour: str
) -> str:
    top = max((value for _, value in points if value is not None), default=0) or 1
    plot = _WIDTH - _LEFT - 12

    def x(at: float) -> float:
        return _LEFT + plot * at / seconds

    def y(value: float) -> float:
        return 20 + _HEIGHT * (1 - value / top)

    parts = [f"<svg viewBox='0 0 {_WIDTH} {_HEIGHT + 42}' role='img' aria-label='{escape(name)}'>",
             f"<text class='name' x='{_LEFT}' y='12'>{escape(name)}</text>",
             f"<rect x='{_LEFT}' y='20' width='{plot}' height='{_HEIGHT}' fill='var(--plot)'/>"]  # fmt: skip
    if window:
        left, right = x(window[0]), x(window[1])
        place = f"x='{left:.1f}' y='20' width='{right - left:.1f}' height='{_HEIGHT}'"
        parts.append(f"<rect {place} fill='var(--fault)'/><text x='{left + 4:.1f}' y='32'>drill</text>")
    runs: list[list[str]] = [[]]
    for at, value in points:
        if value is None:
            runs.append([])
        else:
            runs[-1].append(f"{x(at):.1f},{y(value):.1f}")
    for run in runs:
        if run:
            line = run if len(run) > 1 else run * 2
            stroke = f"fill='none' stroke='var(--{colour})' stroke-width='1.5' stroke-linecap='round'"
            parts.append(f"<polyline points='{' '.join(line)}' {stroke}/>")
    parts += [f"<text x='{_LEFT - 6}' y='{at}' text-anchor='end'>{_shown(value)}</text>"
              for at, value in ((28, top), (20 + _HEIGHT, 0))]  # fmt: skip
    parts += [f"<text x='{x(at):.1f}' y='{_HEIGHT + 36}' text-anchor='{anchor}'>{at:.0f} s</text>"
              for at, anchor in ((0, "start"), (seconds / 2, "middle"), (seconds, "end"))]  # fmt: skip
    return "".join(parts) + "</svg>"


def _processes(processes: dict[str, list[dict[str, float]]]) -> str:
    rows = []
    for name, looks in processes.items():
        memory, descriptors = ([each[what] for each in looks] for what in ("memory_mib", "descriptors"))
        rows.append([name, memory[0], max(memory), memory[-1], descriptors[0], max(descriptors), descriptors[-1]])
    head = ("process", "MiB first", "most", "last", "descriptors first", "most", "last")
    return _table(head, rows)


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    rows = list(rows)
    numeric = [
        bool(rows) and all(isinstance(row[i], (int, float)) or row[i] is None for row in rows) for i in range(len(head))
    ]
    style = ["n" if each else "" for each in numeric]
    told = "".join(f"<th class='{style[i]}'>{escape(name.replace('_', ' '))}</th>" for i, name in enumerate(head))
    body = "".join(
        "<tr>"
        + "".join(
            f"<td class='{'bad' if cell == 'NO' else style[i]}'>{_shown(cell)}</td>" for i, cell in enumerate(row)
        )
        + "</tr>"
        for row in rows
    )
    return f"<div class='wide'><table><tr>{told}</tr>{body}</table></div>"


def _shown(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else escape(str(value).replace("_", " "))
