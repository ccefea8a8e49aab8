"""A drill of a sound world holds, and of each sabotaged one fails: a verdict that cannot fail is worth nothing."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from domicile_testing.certificates import Trust
from domicile_testing.drilled import MemoryWorld, Sabotage, layout_in
from domicile_testing.long import MINUTES

from domicile.ops.drills.faults import Journal
from domicile.ops.drills.gameday import game_day
from domicile.ops.drills.reports import CONTRACT, Reports, contract_of
from domicile.ops.drills.runner import Conduct
from domicile.ops.drills.scenarios import SCENARIOS, Scenario, Target

SHORT = Conduct(rate=60, floor=1, users=2, before_seconds=2, after_seconds=1, keep=0)
LIMITS = {"rto_s": 10.0, "reads_rto_s": 10.0, "detection_s": 3.0}
"""Of a world that needs no lease: short enough for a test to miss them."""
TWINS = {
    "switchover": (Sabotage.SYNCHRONOUS_MODE_OFF, {"lost"}),
    "kill-leader": (Sabotage.SLOW_FAILOVER, {"rto_s"}),
    "kill-zone": (Sabotage.FOREIGN_STANDBY, {"personal_bytes_across"}),
    "partition": (Sabotage.FENCE_SKIPPED, {"stale_reads", "not_linearizable"}),
    "suspend-agent": (Sabotage.SYNCHRONOUS_MODE_OFF, {"lost"}),
    "slow-zone": (Sabotage.NEIGHBOUR_HIT, {"others_errors"}),
    "clock-jump": (Sabotage.FENCE_SKIPPED, {"stale_reads", "not_linearizable"}),
    "disk-full": (Sabotage.REPLAY_LYING, {"lost"}),
    "restore-backup": (Sabotage.OLD_BACKUP, {"lost"}),
    "lose-directory": (Sabotage.STRANGERS_SERVED, {"strangers_served"}),
    "cell-outage": (Sabotage.NEIGHBOUR_HIT, {"others_errors"}),
    "directory-outage": (Sabotage.STRANGERS_SERVED, {"strangers_served"}),
    "router-outage": (Sabotage.SLOW_FAILOVER, {"rto_s"}),
    "key-service-outage": (Sabotage.NOT_SEEN, {"detection_s"}),
}
ALSO = {
    # a lost write of a register is one that a later read does not see
    Sabotage.SYNCHRONOUS_MODE_OFF: {"stale_reads", "not_linearizable"},
    Sabotage.OLD_BACKUP: {"stale_reads", "not_linearizable"},
    Sabotage.SLOW_FAILOVER: {"reads_rto_s"},
    Sabotage.NEIGHBOUR_HIT: {"others_gap_s"},
    Sabotage.NOT_SEEN: {"unfelt"},
}


def short(name: str) -> Scenario:
    """The scenario with times that suit a test; what it breaks and what it asks are its own."""
    found = SCENARIOS[name]
    objectives = tuple(dataclasses.replace(o, limit=LIMITS.get(o.measure, o.limit)) for o in found.objectives)
    seconds = 6.0 if {o.measure for o in objectives} & {"strangers_served", "detection_s"} else 2.0
    return dataclasses.replace(
        found, objectives=objectives, seconds=seconds, most_seconds=seconds + 2, rpo_s=found.rpo_s and 1.0
    )


@pytest.fixture(scope="module")
def trust(tmp_path_factory: pytest.TempPathFactory) -> Trust:
    return Trust.create(tmp_path_factory.mktemp("trust"))


async def drill(
    trust: Trust, folder: Path, sabotage: Sabotage, name: str = "switchover", conduct: Conduct = SHORT
) -> dict[str, Any]:
    layout = layout_in(folder)
    world = MemoryWorld(trust, layout, sabotage)
    reports, journal = Reports(layout.reports), Journal(layout.drills)
    async with world.running():
        with journal.alone():
            documents, interrupted = await game_day(
                world, journal, layout.drills, reports, [short(name)], Target(), conduct, wait=0, tell=lambda _: None
            )
    assert not interrupted
    assert journal.faults() == []
    assert reports.get("latest") == documents[0]
    assert "<svg" in reports.page(documents[0]).read_text()
    return documents[0]


def missed(document: dict[str, Any]) -> set[str]:
    return {each["objective"] for each in document["objectives"] if each["met"] is False}


async def test_a_sound_world_holds(trust: Trust, tmp_path: Path) -> None:
    found = await drill(trust, tmp_path, Sabotage.NOTHING)
    assert found["verdict"] == "held", found["reason"]
    assert tuple(contract_of(found)) == CONTRACT
    assert found["acknowledged"] > 20
    assert found["rto_s"] > 0.2
    assert found["scan"]["trusted"]
    assert found["errors"] == {"503 unavailable": found["cells"]["eu-1"]["errors"]}
    assert "detected" in found["felt"]


@pytest.mark.parametrize(
    ("sabotage", "expected"),
    [(Sabotage.SYNCHRONOUS_MODE_OFF, {"lost"}), (Sabotage.FENCE_SKIPPED, {"stale_reads", "not_linearizable"})],
)
async def test_a_sabotaged_one_fails_by_that(
    trust: Trust, tmp_path: Path, sabotage: Sabotage, expected: set[str]
) -> None:
    found = await drill(trust, tmp_path, sabotage)
    assert found["verdict"] == "failed", found["reason"]
    assert expected <= missed(found) <= expected | ALSO.get(sabotage, set())


def test_each_scenario_has_a_twin_and_each_sabotage_is_one() -> None:
    assert TWINS.keys() == SCENARIOS.keys()
    assert {each for each, _ in TWINS.values()} | {Sabotage.NOTHING, Sabotage.NOT_BROKEN} == set(Sabotage)


@MINUTES
@pytest.mark.full
@pytest.mark.parametrize("name", SCENARIOS)
async def test_each_scenario_holds_in_a_sound_world_and_fails_in_its_twin(
    trust: Trust, tmp_path: Path, name: str
) -> None:
    sabotage, expected = TWINS[name]
    sound = await drill(trust, tmp_path / "sound", Sabotage.NOTHING, name)
    assert sound["verdict"] == "held", sound["reason"]
    twin = await drill(trust, tmp_path / "twin", sabotage, name)
    assert twin["verdict"] == "failed", twin["reason"]
    assert expected <= missed(twin) <= expected | ALSO.get(sabotage, set())


@MINUTES
@pytest.mark.full
@pytest.mark.parametrize("name", SCENARIOS)
async def test_a_fault_that_breaks_nothing_never_holds(trust: Trust, tmp_path: Path, name: str) -> None:
    found = await drill(trust, tmp_path, Sabotage.NOT_BROKEN, name)
    assert found["felt"] == []
    assert found["verdict"] == ("failed" if "detection_s" in missed(found) else "aborted"), found["reason"]


@pytest.mark.full
async def test_a_load_that_is_too_weak_breaks_nothing(trust: Trust, tmp_path: Path) -> None:
    conduct = dataclasses.replace(SHORT, floor=10_000, before_seconds=1)
    found = await drill(trust, tmp_path, Sabotage.NOTHING, conduct=conduct)
    assert found["verdict"] == "aborted"
    assert "acknowledged writes a second, and --floor is 10000" in found["reason"]
    assert "injected" not in found["moments_s"]
    assert found["lost"] == 0
