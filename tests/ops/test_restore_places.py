"""Into which folder a restore goes, and what it says where the database did not start again."""

from __future__ import annotations

import asyncio
from pathlib import Path

import psutil
import pytest

from domicile.model.errors import Conflict, Unavailable
from domicile.ops.backup.place import Database, Place
from domicile.ops.layout import Layout
from domicile.ops.manifests import local_manifest
from domicile.ops.pauses import mind, paused
from domicile.ops.plan import STORAGE, ProcessSpec
from domicile.ops.record import ProcessRecord, WorldRecord, own_record

EU_2 = Database("eu-2", "eu")
KEYS = Database("keys-eu", "eu")


@pytest.fixture
def place(tmp_path: Path) -> Place:
    layout = Layout.at(tmp_path / "s")
    local_manifest(None, layout, backups=True)
    return Place(layout)


def holding(folder: Path, *, replicated: bool = False) -> Path:
    (folder / "data").mkdir(parents=True)
    (folder / "data" / "PG_VERSION").touch()
    if replicated:
        (folder / "replicated").touch()
    return folder


def run(place: Place, *processes: tuple[str, str, str, str]) -> None:
    """A world of these (name, role, zone, address), as its record tells."""
    now = psutil.Process()
    records = [
        ProcessRecord(
            name=name, role=role, jurisdiction="eu", zone=zone, address=address, pid=now.pid,
            started=now.create_time(), health=False,
        )
        for name, role, zone, address in processes
    ]  # fmt: skip
    WorldRecord(deployment="acme", phase="running", supervisor=own_record(), processes=records).write(place.layout)


def test_a_restore_goes_where_the_server_runs(place: Place) -> None:
    runs = holding(place.layout.cell("eu-2", "par") / "storage")
    run(place, ("eu-2-postgres", "postgres", "par", str(runs / ".s.PGSQL.5432")))
    assert place.nodes(EU_2) == ((runs,), False)


def test_a_cell_runs_in_the_zone_that_its_manifest_names_first(place: Place) -> None:
    assert list(place.manifest.cells["eu-2"].zones) == ["par", "fra"]


@pytest.mark.parametrize("zone", ["par", "fra"])
def test_without_a_world_a_restore_goes_where_the_data_is(place: Place, zone: str) -> None:
    held = holding(place.layout.cell("eu-2", zone) / "storage")
    assert place.nodes(EU_2) == ((held,), False)


def test_of_a_cluster_the_founder_is_first_whoever_leads(place: Place) -> None:
    founder, second = (holding(place.layout.cell("eu-2", zone) / "storage") for zone in ("fra", "par"))
    run(place, ("eu-2-patroni.par", "patroni", "par", "h:1"), ("eu-2-patroni", "patroni", "fra", "h:2"))
    assert place.nodes(EU_2) == ((founder, second), True)
    store, beside = (holding(place.layout.keys("eu") / name / "storage") for name in ("", "par"))
    run(place, ("keys-eu-patroni", "patroni", "fra", "h:1"), ("keys-eu-patroni.par", "patroni", "par", "h:2"))
    assert place.nodes(KEYS) == ((store, beside), True)


def test_where_it_is_not_clear_a_restore_is_refused(place: Place) -> None:
    first, second = (place.layout.cell("eu-2", zone) / "storage" for zone in ("par", "fra"))
    holding(second, replicated=True)
    with pytest.raises(Conflict, match=r"holds data, and .* none"):
        place.nodes(EU_2)
    (second / "replicated").unlink()
    run(place, ("eu-2-postgres", "postgres", "par", str(first / ".s.PGSQL.5432")))
    with pytest.raises(Conflict, match=r"holds data, and .* none"):
        place.nodes(EU_2)
    place.layout.record.unlink()
    holding(first)
    with pytest.raises(Conflict, match="more than one"):
        place.nodes(EU_2)


class Parts:
    """A world whose database does not start."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        spec = ProcessSpec("eu-2-postgres", "postgres", "eu", "par", "", [], stage=STORAGE)
        self.specs = {spec.name: spec}

    async def end_part(self, name: str) -> None:
        pass

    async def start_part(self, name: str) -> None:
        raise Unavailable(f"{name} ended with exit status 1")

    async def start_storage(self, clusters: object) -> None:
        raise AssertionError


async def test_who_paused_a_database_is_told_that_it_did_not_start_again(place: Place) -> None:
    world = Parts(place.layout)

    async def supervise() -> None:
        stopped: set[str] = set()
        while True:
            stopped = await mind(world, stopped, lambda name, what: None)
            await asyncio.sleep(0)

    supervisor = asyncio.create_task(supervise())
    try:
        with pytest.raises(Unavailable, match="eu-2 did not start again: eu-2-postgres ended with exit status 1"):
            async with paused(place.layout, "eu-2"):
                pass
    finally:
        supervisor.cancel()
