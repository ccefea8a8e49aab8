"""A cell restored again and again, each time on a timeline of its own: nothing that was kept is lost on the way."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from domicile_testing.databases import wait_for
from domicile_testing.restoring import NOW, ask, hold, states, storage, told, wait_kept, wait_settled, wait_whole
from domicile_testing.worlds import LocalWorld, one_jurisdiction, running_world

CELL = "us-1"
pytestmark = [pytest.mark.system, pytest.mark.full, pytest.mark.timeout(900)]


@pytest.fixture(params=["alone", "with a standby"])
def world(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[LocalWorld]:
    folder = tmp_path_factory.mktemp("r")
    manifest = str(one_jurisdiction("us", folder / "world.yaml"))
    standby = ["--ha-cell", CELL] if request.param == "with a standby" else []
    with running_world(folder / "s", manifest, "--backups", *standby, seconds=300) as running:
        yield running


def restored(world: LocalWorld, at: str | None = None) -> dict[str, Any]:
    """Restore and settle; each fence was closed, and both nodes, where there are two, hold the same in the end."""
    moment = [] if at is None else ["--at", at, "--exact"]
    found = told(world, "restore", CELL, *moment, seconds=400)
    settled = wait_settled(world, CELL)
    assert settled["fences"] == found["closed_fences"] == settled["reopened"]
    wait_whole(world, 120)
    clusters = world.status()[1]["clusters"]
    assert len({node["timeline"] for node in clusters}) == min(1, len(clusters)), clusters
    for node in clusters:
        folder = world.state / "cells" / CELL / node["zone"] / "storage"

        def alike(folder: Any = folder) -> bool:
            return states(world, CELL, folder) == states(world, CELL)

        wait_for(alike, "two nodes with the same fences")
    return found


def timeline(world: LocalWorld) -> int:
    return int(ask(world, CELL, "SELECT left(pg_walfile_name(pg_current_wal_lsn()), 8)"), 16)


def opened(world: LocalWorld) -> set[str]:
    found = states(world, CELL)
    assert set(found.values()) == {"open"}
    return set(found)


def test_a_cell_is_restored_from_what_a_restored_one_wrote(world: LocalWorld) -> None:
    first = hold(world, 1, CELL)
    told(world, "backup", "take", CELL)
    early = ask(world, CELL, NOW)
    dropped = hold(world, 2, CELL)
    wait_kept(world, CELL)
    assert restored(world, early)["reached"]
    assert opened(world) == {first}
    begun = timeline(world)

    third = hold(world, 3, CELL)
    told(world, "backup", "take", CELL)
    fourth = hold(world, 4, CELL)
    middle = ask(world, CELL, NOW)
    fifth = hold(world, 5, CELL)
    wait_kept(world, CELL)
    restored(world)
    assert opened(world) == {first, third, fourth, fifth}, "all that the new timeline kept"
    assert timeline(world) > begun

    sixth = hold(world, 6, CELL)
    wait_kept(world, CELL)
    restored(world, middle)
    assert opened(world) == {first, third, fourth}, "as it was in the middle of the timeline before the last"

    seventh = hold(world, 7, CELL)
    wait_kept(world, CELL)
    restored(world)
    assert opened(world) == {first, third, fourth, seventh}
    listed = told(world, "backup", "list", CELL)
    assert listed["incomplete"] == []
    assert not {dropped, sixth} & opened(world)
    assert storage(world, CELL).exists()
