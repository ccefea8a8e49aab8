"""Keeps the files that a running Envoy follows in step with the published topology, so that nothing is dropped.

Envoy says nothing back when it reads files, so that order and time take the place of its word. A new cell's cluster is
written before the routes to it, which wait until Envoy has asked the cell for its health; until then a router serves
the cell. A cell that was taken away loses its routes first, and its cluster when what goes on there has had its time.
Each file is put in place whole (rename, which Envoy watches for). While the directory is gone everything stays.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from domicile.client import Topology
from domicile.model.errors import DomicileError
from domicile.model.manifest import Manifest
from domicile.ops.edge.envoy.bootstrap import (
    BOOTSTRAP,
    CLUSTERS,
    ENDPOINTS,
    LISTENERS,
    ROUTE_TABLE,
    Files,
    clusters_text,
    dynamic,
)
from domicile.ops.edge.envoy.proto import Message
from domicile.ops.edge.envoy.recipe import Recipe, Tuning
from domicile.ops.edge.equipment import Equipment
from domicile.ops.edge.source import Source
from domicile.ops.edge.view import view_of

SEEN: Final = "topology.json"
"""The last revision that was believed: an older one is not."""
Clock = Callable[[], float]


class Folder:
    """The files of one Envoy. ``apply`` brings them to a new state, ``expire`` takes away what was kept for a while."""

    def __init__(self, place: Path, tuning: Tuning, *, clock: Clock = time.monotonic) -> None:
        self._place = place
        self._tuning = tuning
        self._clock = clock
        self._gone: dict[str, float] = {}
        self._wanted: dict[str, Message] = {}
        (place / ENDPOINTS).mkdir(parents=True, exist_ok=True)

    async def apply(self, files: Files) -> None:
        before = self._clusters()
        for name, text in files.endpoints.items():
            self._put(name, text)
        gone = {name: each for name, each in before.items() if name not in files.clusters}
        self._put(CLUSTERS, clusters_text({**gone, **files.clusters}))
        if before and files.clusters.keys() - before.keys():
            await asyncio.sleep(self._tuning.settle_seconds)
        self._put(ROUTE_TABLE, files.routes)
        self._put(LISTENERS, files.listeners)
        self._put(BOOTSTRAP, files.bootstrap)
        self._wanted = dict(files.clusters)
        until = self._clock() + self._tuning.linger_seconds
        self._gone = {name: self._gone.get(name, until) for name in gone}

    def expire(self) -> None:
        now = self._clock()
        if not self._gone or any(until > now for until in self._gone.values()):
            return
        self._put(CLUSTERS, clusters_text(self._wanted))
        for name in self._gone:
            (self._place / ENDPOINTS / f"{name}.json").unlink(missing_ok=True)
        self._gone = {}

    def _clusters(self) -> dict[str, Message]:
        try:
            found: dict[str, Any] = json.loads((self._place / CLUSTERS).read_text())
        except FileNotFoundError:
            return {}
        return {each["name"]: {k: v for k, v in each.items() if k != "@type"} for each in found["resources"]}

    def _put(self, name: str, text: str) -> None:
        """Whole or not at all, and not where it says the same already: Envoy would read it again."""
        path = self._place / name
        if path.exists() and path.read_text() == text:
            return
        draft = path.with_name(f".{path.name}.new")
        draft.write_text(text)
        draft.replace(path)


async def follow(
    source: Source,
    equipment: Equipment,
    place: Path,
    recipe: Recipe | None = None,
    *,
    told: Callable[[str], None],
) -> None:
    """Without end. ``told``: a line for whoever watches. Raises DomicileError where there is no topology to begin
    with, neither at the directory nor in the folder."""
    recipe = recipe or Recipe()
    place = place.absolute()
    folder = Folder(place, recipe.tuning)
    vantage = source.vantage
    async with source.asking() as directory:
        topology = Topology(directory, vantage.deployment, source.operator_keys(), place / SEEN)

        async def take(manifest: Manifest) -> None:
            files = dynamic(view_of(manifest, vantage), equipment, place, recipe)
            await folder.apply(files)
            seen = topology.cached()
            told(f"revision {seen.revision if seen else 0} is in {place}")

        await take(await topology.load())
        trouble = ""
        while True:
            await asyncio.sleep(recipe.tuning.topology_seconds)
            folder.expire()
            try:
                document = await directory.topology()
                if document != topology.cached():
                    await take(await topology.load())
                trouble = ""
            except DomicileError as error:
                if str(error) != trouble:
                    trouble = str(error)
                    told(f"nothing is changed: {trouble}")
