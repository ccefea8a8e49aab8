"""What ``audit show`` says as one page that needs nothing else: to be kept, printed or sent to an auditor. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any, Final

_STYLE: Final = """
:root { color-scheme: light; font: 15px/1.45 system-ui, sans-serif; }
body { margin: 2rem auto; max-width: 92rem; padding: 0 1.25rem; color: #1c2430; background: #fff; }
h1 { font-size: 1.5rem; margin: 0 0 .25rem; }
h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; }
p { margin: .25rem 0; }
.quiet { color: #5a6573; }
.verdict { margin: 1.25rem 0; padding: .7rem 1rem; border-left: 5px solid #1c7c4a; background: #eef8f2; }
.verdict.bad { border-color: #b3261e; background: #fcefee; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .88rem; }
th, td { text-align: left; padding: .35rem .5rem; border-bottom: 1px solid #e3e7ec; vertical-align: top; }
th { background: #f5f7f9; white-space: nowrap; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
td.code { font-family: ui-monospace, monospace; font-size: .86rem; overflow-wrap: break-word; max-width: 16rem; }
td.time, td.name { white-space: nowrap; }
ul { margin: .2rem 0; }
tr.refused td { color: #8c2f28; }
@page { size: landscape; }
@media print { body { margin: 0; max-width: none; font-size: 11px; } .scroll { overflow: visible; }
  td.time { white-space: normal; } tr { break-inside: avoid; } }
"""
_COLUMNS: Final = (
    ("cell", "ledger of", "name"), ("kind", "kind", "name"), ("from", "from", "name"), ("to", "to", "name"),
    ("outcome", "outcome", "name"),
    ("caller", "asked by", "code"), ("purpose", "purpose", "code"), ("what", "what", "code"),
    ("lines", "lines", "number"), ("rows", "rows", "number"), ("bytes", "bytes", "number"), ("days", "days", "number"),
    ("first", "first", "time"), ("last", "last", "time"),
)  # fmt: skip


def _shown(name: str, value: Any) -> str:
    if isinstance(value, int):
        return f"{value:,}"
    if name in ("first", "last") and value:
        return escape(str(value)[:16].replace("T", " "))
    return escape(str(value or "–"))


def _row(row: dict[str, Any]) -> str:
    cells = "".join(f'<td class="{kind}">{_shown(name, row[name])}</td>' for name, _, kind in _COLUMNS)
    return f'<tr class="{escape(row["outcome"])}">{cells}</tr>'


def _table(rows: Sequence[dict[str, Any]]) -> str:
    if not rows:
        return '<p class="quiet">Nothing crossed, and nothing was refused.</p>'
    heads = "".join(f'<th class="{kind}" scope="col">{escape(title)}</th>' for _, title, kind in _COLUMNS)
    body = "\n".join(map(_row, rows))
    return f'<div class="scroll"><table><thead><tr>{heads}</tr></thead><tbody>\n{body}\n</tbody></table></div>'


def _ledger(found: dict[str, Any]) -> str:
    said = [*found["problems"], *found["notes"]]
    heads = f"{found['heads']:,} signed heads"
    if found["witnesses"]:
        heads += f", also held by {', '.join(found['witnesses'])}"
    shown = f"{found['size'] - found['first']:,} lines of {found['size']:,}"
    text = f"{found['cell']}: {shown}, by {heads}"
    items = "".join(f"<li>{escape(each)}</li>" for each in said)
    return f"<p>{escape(text)}</p>" + (f"<ul>{items}</ul>" if items else "")


def _missing(found: dict[str, Any]) -> str:
    text = f"{found['cell']}: its lines are missing here, since it could not be asked ({found['code']})"
    return f"<p>{escape(text)}</p>"


def page(document: dict[str, Any]) -> str:
    """Of what ``audit show --json`` says."""
    asked = document["asked"]
    way = f"from {asked['from'] or 'anywhere'} to {asked['to'] or 'anywhere'}"
    since = f", since {asked['since'][:19].replace('T', ' ')} UTC" if asked["since"] else ", from the beginning"
    good = document["ok"]
    verdict = "Every line below is in a ledger whose head its gateway has signed."
    if not all(each["ok"] for each in document["ledgers"]):
        verdict = "This is NOT the ledger that was signed: see below."
    elif document["missing"]:
        verdict = "This is NOT the whole: a cell could not be asked."
    ledgers = "\n".join([*map(_ledger, document["ledgers"]), *map(_missing, document["missing"])])
    notes = "".join(f"<p>{escape(each)}</p>" for each in document["notes"])
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>Border ledger {escape(way)}</title>
<style>{_STYLE}</style>
</head>
<body>
<h1>What crossed the border {escape(way)}</h1>
<p class="quiet">Deployment {escape(document["deployment"])}, the ledgers of
{escape(document["jurisdiction"])}{escape(since)}. Made at {escape(document["made"][:19].replace("T", " "))} UTC.</p>
<div class="verdict{"" if good else " bad"}"><p><strong>{verdict}</strong></p>
{ledgers}</div>
<h2>By kind, way, caller and purpose</h2>
{_table(document["rows"])}
{notes}
<h2>How to read it</h2>
<p class="quiet">Bytes and rows are what left; a refusal has none. A caller is the program that asked, by its
certificate; days counts on how many of them it did. Hairpin bytes are reported by routers after they went. Nobody is
named: the ledger has no field for a person. Times are the gateways' own, in UTC.</p>
</body>
</html>
"""
