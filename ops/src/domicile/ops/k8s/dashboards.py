"""A dashboard as code: a panel for each metric of the catalogue. Grafana finds the ConfigMap by its label."""

from __future__ import annotations

import json
from typing import Final

from domicile.ops.k8s.names import Object
from domicile.telemetry.catalogue import Declared, catalogue

_SOURCE: Final[Object] = {"type": "prometheus", "uid": "${source}"}
_COLUMNS: Final = 2
_WIDTH: Final = 24 // _COLUMNS
_HEIGHT: Final = 8


def expressions(metric: Declared) -> list[str]:
    """What is drawn of it: rates of a counter, quantiles of a histogram, a gauge as it stands."""
    by = f" by ({', '.join(metric.labels)})" if metric.labels else ""
    if metric.kind == "counter":
        return [f"sum{by} (rate({metric.series[0]}[$__rate_interval]))"]
    if metric.kind == "gauge":
        return [f"max by ({', '.join([*metric.labels, 'instance'])}) ({metric.series[0]})"]
    inner = f"sum by ({', '.join([*metric.labels, 'le'])}) (rate({metric.series[0]}[$__rate_interval]))"
    return [f"histogram_quantile({quantile}, {inner})" for quantile in (0.5, 0.99)]


def _panel(number: int, metric: Declared) -> Object:
    unit = "s" if "seconds" in metric.name else "bytes" if metric.name.endswith("bytes") else "short"
    targets = [
        {"refId": chr(ord("A") + position), "datasource": _SOURCE, "expr": expression}
        for position, expression in enumerate(expressions(metric))
    ]
    return {
        "id": number + 1,
        "type": "timeseries",
        "title": metric.help,
        "description": metric.name,
        "datasource": _SOURCE,
        "fieldConfig": {"defaults": {"unit": unit}, "overrides": []},
        "gridPos": {
            "x": number % _COLUMNS * _WIDTH,
            "y": number // _COLUMNS * _HEIGHT,
            "w": _WIDTH,
            "h": _HEIGHT,
        },
        "targets": targets,
    }


def dashboard_document() -> Object:
    """As Grafana reads it (schema 39)."""
    source = {"name": "source", "type": "datasource", "query": "prometheus", "label": "Source"}
    return {
        "uid": "domicile",
        "title": "Domicile",
        "schemaVersion": 39,
        "time": {"from": "now-6h", "to": "now"},
        "refresh": "1m",
        "templating": {"list": [source]},
        "panels": [_panel(number, metric) for number, metric in enumerate(catalogue())],
    }


def dashboard() -> Object:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "domicile-dashboard", "labels": {"grafana_dashboard": "1"}},
        "data": {"domicile.json": json.dumps(dashboard_document(), indent=1)},
    }
