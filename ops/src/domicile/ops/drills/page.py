"""A report as one page of HTML that needs nothing else: the verdict, a timeline of each cell, what was measured."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any, Final

from domicile.ops.html import page

WIDTH, HEIGHT, LEFT, RIGHT = 920, 96, 64, 12
_STYLE: Final = """
:root { --read: #8b949e; --fault: #d1242f22; --aborted: #9a6700; }
@media (prefers-color-scheme: dark) { :root { --read: #7d8590; --fault: #ff7b7233; --aborted: #d29922; } }
.verdict { font-weight: 600; } .held { color: var(--good); } .failed { color: var(--bad); }
.aborted { color: var(--aborted); } svg .name { font-size: 12px; }
"""


def render(document: dict[str, Any]) -> str:
    verdict = document["verdict"]
    parts = [
        f"<h1>{_text(document['scenario'])}: <span class='verdict {verdict}'>{verdict}</span></h1>",
        f"<p class='dim'>{_text(document['started'])} · {_text(document['target'] or 'nothing was touched')}"
        f"{' · ' + _text(document['method']) if document['method'] else ''}</p>",
        f"<p>{_text(document['hypothesis'])}</p>",
        f"<p><b>{_text(document['reason'])}</b></p>",
        _plot(document),
        "<h2>Objectives</h2>",
        _table(
            ("objective", "at most", "measured", "met"),
            [
                (
                    o["objective"],
                    o["at_most"],
                    _shown(o["measured"]),
                    {True: "yes", False: "NO", None: "not told"}[o["met"]],
                )
                for o in document["objectives"]
            ],
        ),
        "<h2>Measured</h2>",
        _table(("what", "value"), _measured(document)),
    ]
    if document["latency"]:
        rows = [(n, v["count"], v["p50_ms"], v["p99_ms"], v["max_ms"]) for n, v in document["latency"].items()]
        parts += ["<h2>Acknowledged writes by when they began</h2>",
                  _table(("", "writes", "p50 ms", "p99 ms", "slowest ms"), rows)]  # fmt: skip
    if document["cells"]:
        rows_of_cells = [
            (name, "yes" if c["touched"] else "no", c["acknowledged"], c["errors"], c["writes_gap_s"], c["reads_gap_s"])
            for name, c in document["cells"].items()
        ]
        head = ("cell", "may be touched", "writes", "errors", "longest without a write, s", "without a read, s")
        parts += ["<h2>Cells</h2>", _table(head, rows_of_cells)]
    if document["errors"]:
        parts += ["<h2>Errors by class</h2>", _table(("error", "times"), document["errors"].items())]
    if document["border"]:
        parts += ["<h2>Border counters, by how much they grew</h2>",
                  _table(("from, to, kind, verdict", "times"), document["border"].items())]  # fmt: skip
    if document["marks"]:
        parts += ["<h2>What happened when</h2>",
                  _table(("at, s", "what"), [(mark["at_s"], mark["what"]) for mark in document["marks"]])]  # fmt: skip
    return page(_text(f"{document['scenario']}: {verdict}"), _STYLE, parts)


def _measured(document: dict[str, Any]) -> list[tuple[str, str]]:
    scan = document["scan"]
    told = "not scanned" if scan is None else f"{scan['files']} files" + ("" if scan["trusted"] else ", NOT TRUSTED")
    names = {
        "detection_s": "detected after, s",
        "rto_s": "longest without an acknowledged write, s",
        "reads_rto_s": "longest without a read, s",
        "acknowledged": "acknowledged writes",
        "writes_per_second": "of them a second before the fault",
        "lost": "lost",
        "doubled": "there twice",
        "stale_reads": "stale reads",
        "strangers_served": "sign-ups acknowledged during the fault",
        "personal_bytes_across": "personal bytes across",
    }
    rows = [(label, _shown(document[name])) for name, label in names.items()]
    felt = ", ".join(document["felt"]) or "nothing"
    return [
        *rows,
        ("the fault was felt by", felt),
        ("scanned", told),
        *(("found abroad", place) for place in (scan["places"] if scan else ())),
    ]


def _plot(document: dict[str, Any]) -> str:
    """A strip for each cell: acknowledged writes and answered reads a second, errors as ticks, the fault shaded."""
    cells: dict[str, dict[str, list[float]]] = document["timeline"]["cells"]
    step: float = document["timeline"]["step_s"]
    if not cells:
        return ""
    steps = max(len(cell["writes"]) for cell in cells.values())
    seconds = steps * step
    gap, top = 42, 30
    height = top + len(cells) * (HEIGHT + gap) + 8
    moments = document["moments_s"]

    def x(second: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * second / seconds

    parts = [f"<svg viewBox='0 0 {WIDTH} {height}' role='img' aria-label='writes, reads and errors over time'>"]
    parts.append(_legend())
    for number, (name, cell) in enumerate(cells.items()):
        y = top + number * (HEIGHT + gap) + 14
        most = max(1.0, *(value / step for value in (*cell["writes"], *cell["reads"])))
        parts.append(f"<text class='name' x='{LEFT}' y='{y - 4}'>{_text(name)}</text>")
        parts.append(
            f"<rect x='{LEFT}' y='{y}' width='{WIDTH - LEFT - RIGHT}' height='{HEIGHT}' style='fill:var(--plot)'/>"
        )
        if "injected" in moments:
            start, end = x(moments["injected"]), x(moments.get("undoing", moments["ended"]))
            parts.append(
                f"<rect x='{start:.1f}' y='{y}' width='{max(1.0, end - start):.1f}' height='{HEIGHT}' "
                "style='fill:var(--fault)'/>"
            )
        for key, colour in (("reads", "--read"), ("writes", "--curve")):
            points = " ".join(
                f"{x((at + 0.5) * step):.1f},{y + HEIGHT - HEIGHT * value / step / most:.1f}"
                for at, value in enumerate(cell[key])
            )
            parts.append(f"<polyline points='{points}' style='fill:none;stroke:var({colour});stroke-width:1.6'/>")
        for at, value in enumerate(cell["errors"]):
            if value:
                parts.append(
                    f"<rect x='{x(at * step):.1f}' y='{y + HEIGHT - 5}' width='{max(1.5, x(step) - x(0)):.1f}' "
                    f"height='5' style='fill:var(--bad)'><title>{value:g} errors</title></rect>"
                )
        parts.append(f"<text x='{LEFT - 6}' y='{y + 10}' text-anchor='end'>{most:.0f}/s</text>")
        parts.append(f"<text x='{LEFT - 6}' y='{y + HEIGHT}' text-anchor='end'>0</text>")
        parts += [
            f"<text x='{x(second):.1f}' y='{y + HEIGHT + 13}' text-anchor='middle'>{second:g} s</text>"
            for second in _ticks(seconds)
        ]
        for moment in ("detected", "recovered"):
            if moment in moments:
                place = x(moments[moment])
                parts.append(
                    f"<line x1='{place:.1f}' x2='{place:.1f}' y1='{y}' y2='{y + HEIGHT}' "
                    "style='stroke:var(--dim);stroke-dasharray:3 3'/>"
                )
    parts.append("</svg>")
    return "<h2>Timeline</h2>" + "".join(parts)


def _legend() -> str:
    found: list[str] = []
    at: float = LEFT
    for label, colour in (
        ("acknowledged writes", "--curve"),
        ("answered reads", "--read"),
        ("errors", "--bad"),
        ("the fault", "--fault"),
    ):
        found.append(f"<rect x='{at}' y='3' width='12' height='10' style='fill:var({colour})'/>")
        found.append(f"<text x='{at + 17}' y='12'>{label}</text>")
        at += 40 + 7 * len(label)
    found.append(f"<text x='{at}' y='12'>dashed: detected, recovered</text>")
    return "".join(found)


def _ticks(seconds: float) -> list[float]:
    step = next((each for each in (5, 10, 20, 30, 60, 120, 300) if seconds / each <= 10), 600)
    return [float(at) for at in range(0, int(seconds) + 1, step)]


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = ["<table><tr>" + "".join(f"<th>{_text(name)}</th>" for name in head) + "</tr>"]
    for row in rows:
        cells = "".join(f"<td{_kind(value)}>{_text(_shown(value))}</td>" for value in row)
        lines.append(f"<tr>{cells}</tr>")
    return "\n".join([*lines, "</table>"])


def _kind(value: Any) -> str:
    return " class='failed'" if value == "NO" else ""


def _shown(value: Any) -> str:
    if value is None:
        return "not told"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _text(value: Any) -> str:
    return escape(str(value))
