"""Alerts and dashboards name metrics that are declared, with labels that they have, and pages that are there."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from domicile.ops.k8s import alerts
from domicile.ops.k8s.alerts import ALERTS, alert_rules
from domicile.ops.k8s.dashboards import dashboard, dashboard_document
from domicile.telemetry import SHED
from domicile.telemetry.catalogue import Declared, catalogue

DOCS = Path(__file__).parents[2] / "docs"
SCRAPED = {"instance", "job", "le"}
"""Labels that the scraper adds, and the one of a histogram's buckets."""
SERIES: dict[str, Declared] = {series: each for each in catalogue() for series in each.series}


def expressions() -> Iterator[str]:
    yield from (each.expression for each in ALERTS)
    for panel in dashboard_document()["panels"]:
        yield from (target["expr"] for target in panel["targets"])


def unknown(expression: str) -> list[str]:
    """Series that nobody declares, and labels that none of the named series has."""
    named = re.findall(r"\bdomicile_\w+", expression)
    assert named, expression
    strangers = [name for name in named if name not in SERIES]
    labels = {label for name in named if name in SERIES for label in SERIES[name].labels} | SCRAPED
    grouped = [part for group in re.findall(r"by \(([^)]*)\)", expression) for part in group.split(", ")]
    matched = re.findall(r"[{,](\w+)=~?\"", expression)
    return [*strangers, *(label for label in [*grouped, *matched] if label not in labels)]


def test_what_is_named_is_declared() -> None:
    assert [found for expression in expressions() for found in unknown(expression)] == []


def test_what_is_not_declared_is_seen() -> None:
    assert unknown("rate(domicile_shedding_total[5m])") == ["domicile_shedding_total"]
    assert unknown("sum by (colour) (rate(domicile_shed_total[5m]))") == ["colour"]
    assert unknown('domicile_shed_total{color="red"}') == ["color"]
    with pytest.raises(ValueError, match="has no label colour"):
        alerts._series(SHED, colour="red")


def test_the_catalogue_is_whole() -> None:
    declared = {each.name for each in catalogue()}
    source = (DOCS.parent / "core/src/domicile/telemetry/metrics.py").read_text()
    assert declared == set(re.findall(r'"(domicile_\w+)"', source))
    drawn = {panel["description"] for panel in dashboard_document()["panels"]}
    assert drawn == declared


def test_each_alert_says_what_to_read() -> None:
    rules = alert_rules()["spec"]["groups"][0]["rules"]
    assert len({rule["alert"] for rule in rules}) == len(rules) == len(ALERTS)
    for rule in rules:
        assert (DOCS.parent / rule["annotations"]["page"]).is_file(), rule["alert"]
        assert rule["labels"]["severity"] in (alerts.PAGE, alerts.TICKET)


def test_the_dashboard_is_json() -> None:
    assert json.loads(dashboard()["data"]["domicile.json"]) == dashboard_document()
