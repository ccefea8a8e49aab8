"""A rolling restart in memory: its order, and that nothing is half restarted wherever somebody stops it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from domicile.model.access import Role
from domicile.model.errors import InvalidInput, Unavailable
from domicile.ops.plan import DOORS, STORAGE, ProcessSpec
from domicile.ops.rolling import Round, Stopped, roll, steps_of


def spec(name: str, role: str, zone: str, cluster: str = "", stage: int = STORAGE) -> ProcessSpec:
    return ProcessSpec(name, role, "us", zone, "", [], cluster=cluster, stage=stage)


SPECS = [
    spec("us-1-patroni", "patroni", "iad", "us-1"),
    spec("us-1-patroni.pdx", "patroni", "pdx", "us-1"),
    spec("us-1-witness", "witness", "sea", "us-1"),
    spec("us-1-storage", Role.STORAGE, "iad", stage=DOORS),
    spec("us-1-storage.pdx", Role.STORAGE, "pdx", stage=DOORS),
    spec("keys-us-postgres", "postgres", "iad"),
    spec("keys-us-storage", Role.STORAGE, "iad", stage=DOORS),
    spec("router-iad", Role.ROUTER, "iad"),
    spec("us-1-app", Role.APP, "iad"),
    spec("us-1-gateway", Role.GATEWAY, "iad"),
    spec("keys-us", Role.KEYS, "iad"),
    spec("directory", Role.DIRECTORY, "iad"),
]
STEPS = [
    "us-1",
    "keys-us-postgres",
    "keys-us-storage",
    "directory",
    "keys-us",
    "us-1-gateway",
    "us-1-app",
    "router-iad",
]
ORDER = [
    *("again us-1-witness", "again us-1-patroni.pdx", "server us-1-patroni.pdx", "relieve us-1-storage.pdx"),
    "hand over",
    *("again us-1-patroni", "server us-1-patroni", "relieve us-1-storage"),
    *("again keys-us-postgres", "relieve keys-us-storage", "again directory", "again keys-us", "again us-1-gateway"),
    *("again us-1-app", "again router-iad"),
]
OF_A_NODE = ("again us-1-patroni", "server ", "relieve us-1-storage")


@dataclass
class World:
    """``stop_after``: the act during which somebody says stop; ``failing``: one that does not come back."""

    done: list[str] = field(default_factory=list)
    stop_after: int = -1
    failing: str = ""
    round: Round = field(default_factory=lambda: Round(list(STEPS)))
    leader: str = "iad"

    @property
    def specs(self) -> dict[str, ProcessSpec]:
        return {each.name: each for each in SPECS}

    def _act(self, what: str) -> None:
        if what == self.failing:
            raise Unavailable(f"{what} did not come back")
        self.done.append(what)
        if len(self.done) == self.stop_after:
            self.round.stop.set()

    async def restart_part(self, name: str, *, at_once: bool = False) -> float:
        assert at_once == ("patroni" in name), "a Patroni that is told to stop stops its server too"
        self._act(f"again {name}")
        return 1.0

    async def relieve_part(self, name: str) -> float:
        self._act(f"relieve {name}")
        return 1.0

    async def restart_server(self, name: str) -> None:
        self._act(f"server {name}")

    async def nodes(self, cluster: str) -> list[dict[str, Any]]:
        roles = {zone: ("leader", "running") if zone == self.leader else ("sync_standby", "streaming")
                 for zone in ("iad", "pdx")}  # fmt: skip
        return [{"zone": zone, "role": role, "state": state} for zone, (role, state) in roles.items()]

    async def settle(self, cluster: str) -> None: ...

    async def hand_over(self, cluster: str, leader: str, candidate: str) -> None:
        assert (leader, candidate) == ("iad", "pdx")
        self._act("hand over")
        self.leader = candidate


async def test_who_answers_goes_before_who_asks_and_the_standby_before_its_leader() -> None:
    world = World()
    assert steps_of(SPECS) == STEPS
    await roll(world, world.round, lambda *_: None)
    assert world.done == ORDER
    assert world.round.left == []


@pytest.mark.parametrize("after", range(1, len(ORDER)))
async def test_who_stops_it_at_any_moment_leaves_nothing_half_restarted_and_can_go_on(after: int) -> None:
    world = World(stop_after=after)
    with pytest.raises(Stopped):
        await roll(world, world.round, lambda *_: None)
    assert world.done == ORDER[: len(world.done)]
    assert len(world.done) >= after, "what was begun is done"
    for node in (".pdx", ""):
        acts = [act for act in world.done if act.startswith(OF_A_NODE) and act.endswith(".pdx") == (node == ".pdx")]
        assert len(acts) in (0, 3), "a node's Patroni, server and door go together"
    again = World(round=Round(world.round.left), leader="iad")
    await roll(again, again.round, lambda *_: None)
    assert set(world.done) | set(again.done) == set(ORDER)
    assert again.done[-1] == ORDER[-1]


async def test_a_part_that_does_not_come_back_stops_it_and_what_is_left_is_known() -> None:
    world = World(failing="again us-1-gateway")
    with pytest.raises(Unavailable):
        await roll(world, world.round, lambda *_: None)
    assert world.round.left == ["us-1-gateway", "us-1-app", "router-iad"]


async def test_a_cluster_that_is_not_whole_is_not_begun() -> None:
    world = World(leader="neither")
    with pytest.raises(Unavailable, match="is not whole"):
        await roll(world, world.round, lambda *_: None)
    assert world.done == []


def test_a_name_means_a_part_or_the_cluster_that_it_is_of() -> None:
    assert steps_of(SPECS, ["router-iad", "us-1-patroni.pdx", "directory"]) == ["us-1", "directory", "router-iad"]
    assert steps_of(SPECS, ["us-1-storage"]) == steps_of(SPECS, ["us-1"]) == ["us-1"]
    with pytest.raises(InvalidInput, match="no part us-9"):
        steps_of(SPECS, ["us-9"])
