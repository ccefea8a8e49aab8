"""A drill of a sound world holds, and of each sabotaged one fails: a verdict that cannot fail is worth nothing."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from domicile_testing.certificates import Trust
from domicile_testing.drilled import MemoryWorld, Sabotage, layout_in

from domicile.ops.drills.faults import Journal
from domicile.ops.drills.gameday import game_day
from domicile.ops.drills.reports import CONTRACT, Reports, contract_of
from domicile.ops.drills.runner import Conduct
from domicile.ops.drills.scenarios import SCENARIOS, Target
from domicile.ops.drills.verdict import Objective

SHORT = Conduct(rate=60, floor=1, users=2, before_seconds=2, after_seconds=1)
QUICK = dataclasses.replace(SCENARIOS["switchover"], objectives=(Objective("rto_s", 10),))


@pytest.fixture(scope="module")
def trust(tmp_path_factory: pytest.TempPathFactory) -> Trust:
    return Trust.create(tmp_path_factory.mktemp("trust"))


async def drill(trust: Trust, folder: Path, sabotage: Sabotage, conduct: Conduct = SHORT) -> dict[str, Any]:
    layout = layout_in(folder)
    world = MemoryWorld(trust, layout, sabotage)
    reports, journal = Reports(layout.reports), Journal(layout.drills)
    async with world.running():
        with journal.alone():
            documents, interrupted = await game_day(
                world, journal, layout.drills, reports, [QUICK], Target(), conduct, wait=0, tell=lambda _: None
            )
    assert not interrupted
    assert journal.faults() == []
    assert reports.get("latest") == documents[0]
    assert "<svg" in reports.page(documents[0]).read_text()
    return documents[0]


async def test_a_sound_world_holds(trust: Trust, tmp_path: Path) -> None:
    found = await drill(trust, tmp_path, Sabotage.NOTHING)
    assert found["verdict"] == "held", found["reason"]
    assert tuple(contract_of(found)) == CONTRACT
    assert found["acknowledged"] > 20
    assert found["rto_s"] > 0.2
    assert found["scan"]["trusted"]
    assert found["errors"] == {"503 unavailable": found["cells"]["eu-1"]["errors"]}


@pytest.mark.parametrize(
    ("sabotage", "missed"),
    [
        (Sabotage.SYNCHRONOUS_MODE_OFF, {"lost"}),
        (Sabotage.FENCE_SKIPPED, {"stale_reads", "not_linearizable"}),
        pytest.param(Sabotage.FOREIGN_STANDBY, {"personal_bytes_across"}, marks=pytest.mark.full),
        pytest.param(Sabotage.REPLAY_LYING, {"lost"}, marks=pytest.mark.full),
        pytest.param(Sabotage.SLOW_FAILOVER, {"rto_s"}, marks=pytest.mark.full),
        pytest.param(Sabotage.NEIGHBOUR_HIT, {"others_errors"}, marks=pytest.mark.full),
    ],
)
async def test_a_sabotaged_one_fails_by_that(
    trust: Trust, tmp_path: Path, sabotage: Sabotage, missed: set[str]
) -> None:
    found = await drill(trust, tmp_path, sabotage)
    assert found["verdict"] == "failed", found["reason"]
    # a lost write of a register is one that a later read does not see
    also = {"stale_reads", "not_linearizable"} if sabotage is Sabotage.SYNCHRONOUS_MODE_OFF else set()
    assert missed <= {each["objective"] for each in found["objectives"] if each["met"] is False} <= missed | also


@pytest.mark.full
async def test_a_load_that_is_too_weak_breaks_nothing(trust: Trust, tmp_path: Path) -> None:
    conduct = dataclasses.replace(SHORT, floor=10_000, before_seconds=1)
    found = await drill(trust, tmp_path, Sabotage.NOTHING, conduct)
    assert found["verdict"] == "aborted"
    assert "acknowledged writes a second, and --floor is 10000" in found["reason"]
    assert "injected" not in found["moments_s"]
    assert found["lost"] == 0
