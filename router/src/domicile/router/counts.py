"""What all workers of a router count, told by whichever of them is asked.

Each worker has a file, which it writes every second and before it answers, and reads those of the others: so nothing
that was told once is ever told as less, although a worker be killed. Who takes a dead worker's place goes on from its
counts. A router that starts begins anew, as every process does.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from shutil import rmtree
from typing import Any, Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from domicile.telemetry import warn
from domicile.telemetry.metrics import REGISTRY
from domicile.telemetry.tallies import settle

WRITE_SECONDS: Final = 1.0
FORGOTTEN_SECONDS: Final = 10.0
"""A file that is older than this is a dead worker's: its gauges say nothing any more, its counts stay."""
Series = tuple[str, tuple[tuple[str, str], ...]]
"""A sample's name and its labels."""


@dataclass
class _Family:
    kind: str
    about: str
    samples: dict[Series, float] = field(default_factory=dict)

    @property
    def grows(self) -> bool:
        return self.kind in ("counter", "histogram")

    def add(self, other: _Family) -> None:
        """Of gauges the largest counts, since none of a router's adds up over its workers."""
        for series, value in other.samples.items():
            mine = self.samples.get(series)
            if mine is None:
                self.samples[series] = value
            elif series[0].endswith("_created"):
                self.samples[series] = min(mine, value)
            else:
                self.samples[series] = mine + value if self.grows else max(mine, value)


Families = dict[str, _Family]


class _Told(Collector):
    def __init__(self, families: Families) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        for name, family in self._families.items():
            metric = Metric(name, family.about, family.kind)
            for (sample, labels), value in family.samples.items():
                metric.add_sample(sample, dict(labels), value)
            yield metric


def begin_anew(folder: Path) -> None:
    """For the router, before its first worker."""
    rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, mode=0o700)


class Counts:
    """Of the worker with this number."""

    def __init__(self, folder: Path, number: int) -> None:
        self._folder = folder
        self._own = folder / f"{number}.json"
        self._draft = folder / f"{number}.new"
        self._before = {name: family for name, family in _read(self._own).items() if family.grows}
        self._writes = asyncio.Lock()
        self._refused = False

    async def keep(self) -> None:
        """Without end."""
        while True:
            await self._told()
            await asyncio.sleep(WRITE_SECONDS)

    async def render(self) -> tuple[bytes, str]:
        """The exposition text of all workers, and its content type."""
        families = _sum([await self._told(), *await asyncio.to_thread(lambda: list(self._others()))])
        registry = CollectorRegistry()
        registry.register(_Told(families))
        return generate_latest(registry), CONTENT_TYPE_LATEST

    async def _told(self) -> Families:
        """What is counted here, now on disk too."""
        async with self._writes:
            settle()
            families = _sum([_collected(), self._before])
            try:
                await asyncio.to_thread(self._write, families)
                self._refused = False
            except OSError as error:
                if not self._refused:
                    warn("counts-not-kept", error=type(error).__name__)
                self._refused = True
            return families

    def _write(self, families: Families) -> None:
        document = {
            name: [family.kind, family.about, [[*series, value] for series, value in family.samples.items()]]
            for name, family in families.items()
        }
        self._draft.write_text(json.dumps(document))
        self._draft.replace(self._own)

    def _others(self) -> Iterator[Families]:
        for path in sorted(self._folder.glob("*.json")):
            if path != self._own:
                families = _read(path)
                alive = time.time() - path.stat().st_mtime < FORGOTTEN_SECONDS
                yield {name: family for name, family in families.items() if alive or family.grows}


def _collected() -> Families:
    found: Families = {}
    for metric in REGISTRY.collect():
        samples = {(each.name, tuple(sorted(each.labels.items()))): float(each.value) for each in metric.samples}
        found[metric.name] = _Family(metric.type, metric.documentation, samples)
    return found


def _sum(parts: Iterable[Families]) -> Families:
    total: Families = {}
    for part in parts:
        for name, family in part.items():
            total.setdefault(name, _Family(family.kind, family.about)).add(family)
    return total


def _read(path: Path) -> Families:
    """Nothing for a file that isn't there, or isn't one of these."""
    try:
        document: dict[str, Any] = json.loads(path.read_bytes())
        return {name: _Family(str(kind), str(about), _samples(rows)) for name, (kind, about, rows) in document.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def _samples(rows: list[Any]) -> dict[Series, float]:
    return {(sample, tuple((key, value) for key, value in labels)): float(value) for sample, labels, value in rows}
