"""Every part of a world started again, in the order in which an upgrade goes, and no cluster without its majority.

Who answers goes before who asks: databases, directory, key services, gateways, applications, routers; one part at a
time. Of a cluster: the witness, the standby and its door, a switchover, then the former leader and its door; the
cluster is whole again before each step. The order is written for people in docs/upgrade.md.

COMMIT waits for the standby, so its absence has to be short. A Patroni that is told to stop stops its server too, and
takes some ten seconds to bring it back; one that is killed leaves it streaming, and the next one takes it over. Only
then is the server restarted, by its Patroni, within a second or two. A door carries the standby's stream, so that the
new one listens before the old one ends, and the stream changes over within ``RETRY_LOG``. Callers have no session
through a standby's door.

Who is told to stop does so where everything is whole: between two parts, and in a cluster between a node, with its
server and its door, and what comes after it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from domicile.model.access import Role
from domicile.model.errors import InvalidInput, Unavailable
from domicile.ops.clusters import settled
from domicile.ops.health import PATRONI
from domicile.ops.plan import ProcessSpec, doors_of

_SERVICES: Final = (Role.DIRECTORY, Role.KEYS, Role.GATEWAY, Role.APP, Role.ROUTER)


class Rolled(Protocol):
    """What is needed of a world."""

    @property
    def specs(self) -> dict[str, ProcessSpec]: ...

    async def restart_part(self, name: str, *, at_once: bool = False) -> float: ...

    async def relieve_part(self, name: str) -> float: ...

    async def restart_server(self, name: str) -> None: ...

    async def nodes(self, cluster: str) -> list[dict[str, Any]]: ...

    async def settle(self, cluster: str) -> None: ...

    async def hand_over(self, cluster: str, leader: str, candidate: str) -> None: ...


def clusters_of(specs: Collection[ProcessSpec]) -> list[str]:
    return list(dict.fromkeys(spec.cluster for spec in specs if spec.cluster))


def services_of(specs: Collection[ProcessSpec]) -> list[str]:
    """The names of all that is no database of a cluster and no door of one, in order."""
    clusters = clusters_of(specs)
    guarded = {door.name for cluster in clusters for door in doors_of(specs, cluster)}
    single = [spec.name for spec in specs if spec.role == "postgres"]
    doors = [spec.name for spec in specs if spec.role == Role.STORAGE and spec.name not in guarded]
    return single + doors + [spec.name for role in _SERVICES for spec in specs if spec.role == role]


def node_of(specs: Collection[ProcessSpec], cluster: str, zone: str) -> tuple[str, str]:
    """A node's Patroni and its door."""
    patroni = next(each for each in specs if each.cluster == cluster and each.role == PATRONI and each.zone == zone)
    door = next(each for each in doors_of(specs, cluster) if each.zone == zone)
    return patroni.name, door.name


def leads(nodes: Collection[dict[str, Any]], zone: str) -> bool:
    return any(node["role"] == "leader" and node["zone"] == zone for node in nodes)


def steps_of(specs: Collection[ProcessSpec], names: Collection[str] = ()) -> list[str]:
    """What is restarted in one go each: a cluster, or a part beside them; of all, or of ``names``. Raises InvalidInput.

    A name may be a part of a cluster: then all of that is meant.
    """
    clusters = clusters_of(specs)
    steps = [*clusters, *services_of(specs)]
    meant = {step: step for step in steps} | {spec.name: spec.cluster for spec in specs if spec.cluster}
    meant |= {door.name: cluster for cluster in clusters for door in doors_of(specs, cluster)}
    if unknown := [name for name in names if name not in meant]:
        raise InvalidInput(f"no part {unknown[0]}", where="restart --rolling", remedy="`domicile status` names them")
    wanted = {meant[name] for name in names}
    return [step for step in steps if not names or step in wanted]


class Stopped(Exception):
    """Somebody said so: all that was begun is done, and nothing else was begun."""


@dataclass
class Round:
    """One restart of several things. ``left``: what is not done, in order; ``under_way``: what was begun last."""

    left: list[str]
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    under_way: str = ""

    def begin(self, what: str) -> None:
        """Called where everything is whole. Raises Stopped."""
        if self.stop.is_set():
            raise Stopped
        self.under_way = what

    def done(self) -> None:
        self.left.pop(0)
        self.under_way = ""


async def roll(world: Rolled, steps: Round, tell: Callable[[str, str], None]) -> None:
    """What is ``left``, by ``steps_of``. Raises Stopped, or Unavailable where a part does not come back or a cluster is
    not whole: then the rest is left as it is."""
    specs = list(world.specs.values())
    clusters = clusters_of(specs)
    for name in list(steps.left):
        if name in clusters:
            await _roll_cluster(world, specs, name, steps, tell)
        else:
            steps.begin(name)
            door = world.specs[name].role == Role.STORAGE
            took = await (world.relieve_part(name) if door else world.restart_part(name))
            tell(name, f"ready after {took:.1f} s")
        steps.done()


async def _roll_cluster(
    world: Rolled, specs: Collection[ProcessSpec], cluster: str, steps: Round, tell: Callable[[str, str], None]
) -> None:
    nodes = await world.nodes(cluster)
    if not settled(nodes):
        raise Unavailable("is not whole", where=cluster, remedy="`domicile status` shows its nodes")
    leader = next(str(node["zone"]) for node in nodes if node["role"] == "leader")
    standby = next(str(node["zone"]) for node in nodes if node["zone"] != leader)
    for witness in (spec.name for spec in specs if spec.cluster == cluster and spec.role != PATRONI):
        steps.begin(witness)
        tell(witness, f"ready after {await world.restart_part(witness):.1f} s")
    for zone in (standby, leader):
        patroni, door = node_of(specs, cluster, zone)
        steps.begin(patroni)
        tell(patroni, f"ready after {await world.restart_part(patroni, at_once=True):.1f} s")
        await world.restart_server(patroni)
        await world.settle(cluster)
        tell(door, f"ready after {await world.relieve_part(door):.1f} s")
        await world.settle(cluster)
        if zone == standby:
            steps.begin(cluster)
            await world.hand_over(cluster, leader, standby)
            tell(cluster, f"{standby} leads")
