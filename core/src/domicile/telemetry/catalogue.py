"""The declared metrics as data: what alerts and dashboards are made from, so that none names what isn't there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from prometheus_client.metrics import MetricWrapperBase

from domicile.telemetry import metrics

_SUFFIXES: Final = {"counter": "_total", "gauge": ""}
_OF_HISTOGRAMS: Final = ("_bucket", "_sum", "_count")


@dataclass(frozen=True, slots=True)
class Declared:
    """``kind``: counter, gauge or histogram; ``series``: the names that it is scraped under."""

    name: str
    kind: str
    help: str
    labels: tuple[str, ...]

    @property
    def series(self) -> tuple[str, ...]:
        if self.kind == "histogram":
            return tuple(self.name + suffix for suffix in _OF_HISTOGRAMS)
        return (self.name + _SUFFIXES[self.kind],)


def declared(metric: MetricWrapperBase) -> Declared:
    (described,) = metric.describe()
    return Declared(described.name, described.type, described.documentation, tuple(metric._labelnames))


def catalogue() -> list[Declared]:
    """All of them, in the order in which they are declared."""
    return [declared(each) for each in _all()]


def _all() -> Iterator[MetricWrapperBase]:
    return (each for each in vars(metrics).values() if isinstance(each, MetricWrapperBase))
