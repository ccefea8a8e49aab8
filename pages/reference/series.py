"""The metric catalogue, and which alert looks at what."""

from __future__ import annotations

import re
from typing import Final

from domicile.ops.k8s.alerts import ALERTS
from domicile.telemetry.catalogue import catalogue
from pages.reference.markdown import cell, code, page, table

_INTRODUCTION: Final = (
    "Each process serves these at `/metrics` in Prometheus' text format, over mutual TLS to an operator's "
    "certificate. A label names a place or a code, never a subject, an address or a path. How to scrape them: "
    "[observe](../observe.md)."
)


def series_page() -> str:
    looked_at = {each.name: set(re.findall(r"\bdomicile_\w+", each.expression)) for each in ALERTS}
    rows = [
        [
            code(metric.series[0] if len(metric.series) == 1 else metric.name),
            metric.kind,
            ", ".join(map(code, metric.labels)),
            cell(metric.help),
            ", ".join(f"[{name}](#alerts)" for name, named in looked_at.items() if named & set(metric.series)),
        ]
        for metric in catalogue()
    ]
    alerts = [
        [
            code(each.name),
            each.severity,
            cell(re.sub(r"{{ \$labels\.(\w+) }}", r"*\1*", each.summary)),
            f"[{each.page}](../{each.page}.md)",
        ]
        for each in ALERTS
    ]
    return page(
        "Metrics and alerts",
        _INTRODUCTION,
        "## Metrics",
        "A histogram is scraped as `_bucket`, `_sum` and `_count`.",
        table(["name", "kind", "labels", "counts", "alert"], rows),
        "## Alerts",
        "`domicile k8s render` writes them as a PrometheusRule.",
        table(["alert", "severity", "says", "page"], alerts),
    )
