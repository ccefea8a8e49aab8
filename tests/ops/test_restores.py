"""A cell with a standby restored while it is written: closed at both nodes until the directory has spoken."""

from __future__ import annotations

import asyncio
import time
from datetime import datetime

import psutil
import pytest
from domicile_testing.loaded import CELL, Loaded, loaded
from domicile_testing.long import MINUTES
from domicile_testing.nodes import Nodes
from domicile_testing.restoring import states, storage, told, wait_kept, wait_settled, wait_whole

from domicile.model import DomicileError

pytestmark = [MINUTES, pytest.mark.system, pytest.mark.full, pytest.mark.timeout(1200)]


async def restored(ha: Loaded) -> None:
    """As late as the log goes, without a directory; then with one. Nobody writes between the two."""
    world, load = ha.world, ha.load
    folders = [world.state / "cells" / CELL / zone / "storage" for zone in ("iad", "pdx")]
    psutil.Process(world.pids()["directory"]).kill()
    found = await asyncio.to_thread(told, world, "restore", CELL)
    back = time.monotonic()
    assert (found["database"], found["closed_fences"]) == (CELL, 1)
    upto = back - (datetime.now().astimezone() - datetime.fromisoformat(found["upto"])).total_seconds()
    load.dropped.append((upto, back))
    await Nodes(world.state, CELL).settle()
    for folder in folders:
        assert set(states(world, CELL, folder).values()) == {"closed"}, folder
    report = await asyncio.to_thread(told, world, "backup", "report", CELL, status=1)
    assert (report["fences"], report["remaining"]) == (1, 1)
    assert load.failures(back)["write"] > 0, "writers go on asking, and are refused"
    assert [moment for moment in load.acknowledged if moment > back] == []
    await ha.command("restart", "directory")
    settled = await asyncio.to_thread(wait_settled, world, CELL)
    assert (settled["reopened"], settled["behind"], settled["unclear"], settled["subjects_lost"]) == (1, 0, 0, 0)
    await load.goes_on(time.monotonic())
    for folder in folders:
        assert set(states(world, CELL, folder).values()) == {"open"}, folder
    print(f"restored in {found['before']}: {back - upto:.1f} s back, writes {time.monotonic() - back:.1f} s later")


async def test_a_cell_with_a_standby_is_restored_under_writers_written_backed_up_and_restored_again(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path_factory.mktemp("r")
    async with loaded(folder, monkeypatch, "--backups", again=DomicileError) as ha:
        for _ in range(2):
            await asyncio.to_thread(told, ha.world, "backup", "take", CELL)
            await ha.load.goes_on(time.monotonic())
            await asyncio.to_thread(wait_kept, ha.world, CELL)
            await restored(ha)
        await asyncio.to_thread(wait_whole, ha.world)
        assert len(list(storage(ha.world, CELL).glob("data.before-*"))) == 2
