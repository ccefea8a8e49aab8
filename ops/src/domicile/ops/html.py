"""A page that needs nothing else: what the reports of drills and of loads have in common."""

from __future__ import annotations

from collections.abc import Iterable

_STYLE = """
:root { color-scheme: light dark; --ink: #1c2430; --dim: #66707f; --line: #d8dde4; --back: #fff; --plot: #f6f8fa;
  --curve: #1f6feb; --bad: #d1242f; --good: #1a7f37; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --dim: #9aa4b2; --line: #30363d; --back: #0d1117;
  --plot: #161b22; --curve: #58a6ff; --bad: #ff7b72; --good: #3fb950; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--back); margin: 2rem auto;
  max-width: 960px; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin: 0; } h2 { font-size: 1.05rem; margin: 1.8rem 0 .5rem; }
p { margin: .4rem 0; } .dim { color: var(--dim); }
table { border-collapse: collapse; width: 100%; } th, td { text-align: left; padding: .25rem .7rem .25rem 0;
  border-bottom: 1px solid var(--line); vertical-align: top; } th { font-weight: 600; color: var(--dim); }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; }
svg { width: 100%; height: auto; display: block; } svg text { font: 11px system-ui, sans-serif; fill: var(--dim); }
svg .name { fill: var(--ink); font-weight: 600; }
"""


def page(title: str, style: str, parts: Iterable[str]) -> str:
    """``title`` and ``parts`` are markup already; ``style``: what this kind of page has beside the common one."""
    return (
        "<!doctype html>\n<html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<title>{title}</title><style>{_STYLE}{style}</style></head>\n<body>\n"
        + "\n".join(parts)
        + "\n</body></html>\n"
    )
