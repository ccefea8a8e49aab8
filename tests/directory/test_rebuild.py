"""A directory that is gone: its map is had back from what the cells hold, and nobody is believed on a guess."""

from __future__ import annotations

import asyncpg
import pytest
from domicile_testing.directories import RunningDirectory, any_key
from domicile_testing.fences import QUIET_IS_OVER, Cells, check_refuses

from domicile.directory.bulk import begin_rebuild
from domicile.model import GLOBAL, AliasKey, Conflict, Pin, Role
from domicile.model.wire import CellReport, ClaimRequest


@pytest.fixture
async def lost(directory: RunningDirectory, database: asyncpg.Connection) -> RunningDirectory:
    """Its database is new: it knows nobody, and no process remembers another."""
    assert await begin_rebuild(database, 1)
    await database.execute(QUIET_IS_OVER)
    return directory


async def standing(directory: RunningDirectory) -> tuple[bool, dict[str, CellReport]]:
    found = await directory.client(GLOBAL, Role.OPERATOR).reconciliation()
    return found.reconciling, {report.cell: report for report in found.cells}


async def test_a_map_is_rebuilt_with_its_aliases(lost: RunningDirectory, database: asyncpg.Connection) -> None:
    assert not await begin_rebuild(database, 1), "it is under way"
    cells = Cells()
    homes = {"eu-1": "eu", "eu-2": "eu", "us-1": "us"}
    pins = [
        Pin(subject_key=any_key(), jurisdiction=homes[cell], cell=cell, epoch=epoch)
        for epoch, cell in enumerate(["eu-1", "eu-2", "us-1", "eu-1"], 1)
    ]
    email = AliasKey(any_key())
    for pin in pins:
        cells.hold(pin, {"email": email} if pin is pins[0] else None)
    await cells.report(lost, "eu-1", "eu-2")
    await check_refuses(lost, pins[0])
    await cells.report(lost, "us-1")
    assert await standing(lost) == (False, {})
    assert (await lost.app.resolve([pin.subject_key for pin in pins])).pins == pins
    assert await lost.app.alias("email", email) == pins[0].subject_key
    assert await lost.app.claim(pins[2].subject_key, ClaimRequest(residence="US")) == pins[2]
    with pytest.raises(Conflict):  # no second home
        await lost.app.claim(pins[2].subject_key, ClaimRequest(residence="DE"))
    assert await begin_rebuild(database, 1), "it may be asked for again"


@pytest.mark.parametrize("order", [["eu-1", "us-1"], ["us-1", "eu-1"]], ids=["lower first", "higher first"])
async def test_of_two_cells_the_higher_epoch_counts_and_is_told(lost: RunningDirectory, order: list[str]) -> None:
    cells, key = Cells(), any_key()
    for cell, jurisdiction, epoch in (("eu-1", "eu", 4), ("us-1", "us", 5)):
        cells.hold(Pin(subject_key=key, jurisdiction=jurisdiction, cell=cell, epoch=epoch))
    await cells.report(lost, *order)
    _, told = await standing(lost)
    assert sum(report.superseded for report in told.values()) == 1
    assert not any(report.contradictions for report in told.values())
    await cells.report(lost, "eu-2")
    assert (await lost.app.pin(key)).cell == "us-1"


async def test_at_one_epoch_nobody_is_believed(lost: RunningDirectory) -> None:
    cells, key = Cells(), any_key()
    for cell, jurisdiction in (("eu-1", "eu"), ("us-1", "us")):
        cells.hold(Pin(subject_key=key, jurisdiction=jurisdiction, cell=cell, epoch=4))
    await cells.report(lost)
    reconciling, told = await standing(lost)
    assert reconciling
    assert told["us-1"].contradictions == 1


async def test_a_subject_that_moved_contradicts_nobody(lost: RunningDirectory) -> None:
    cells, key = Cells(), any_key()
    cells.all["eu-1"].hold(Pin(subject_key=key, jurisdiction="eu", cell="eu-1", epoch=4), state="retired")
    cells.hold(Pin(subject_key=key, jurisdiction="us", cell="us-1", epoch=5))
    await cells.report(lost, "eu-1", "us-1")
    _, told = await standing(lost)
    assert not any(report.superseded or report.contradictions for report in told.values())
