"""Every part of a world started again, in the order in which an upgrade goes, and no cluster without its majority.

Who answers goes before who asks: databases, directory, key services, gateways, applications, routers; one part at a
time. Of a cluster: the witness, the standby and its door, a switchover, then the former leader and its door; the
cluster is whole again before each step. The order is written for people in docs/upgrade.md.

COMMIT waits for the standby, so its absence has to be short. A Patroni that is told to stop stops its server too, and
takes some ten seconds to bring it back; one that is killed leaves it streaming, and the next one takes it over. Only
then is the server restarted, by its Patroni, within a second or two. A door carries the standby's stream, so that the
new one listens before the old one ends, and the stream changes over within ``RETRY_LOG``. Callers have no session
through a standby's door.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, Final, Protocol

from domicile.model.access import Role
from domicile.model.errors import Unavailable
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


async def roll(world: Rolled, tell: Callable[[str, str], None]) -> None:
    """Raises Unavailable where a part does not come back or a cluster is not whole: then the rest is left as it is."""
    specs = list(world.specs.values())

    async def again(name: str) -> None:
        tell(name, f"ready after {await world.restart_part(name):.1f} s")

    for cluster in clusters_of(specs):
        nodes = await world.nodes(cluster)
        if not settled(nodes):
            raise Unavailable("is not whole", where=cluster, remedy="`domicile status` shows its nodes")
        leader = next(str(node["zone"]) for node in nodes if node["role"] == "leader")
        standby = next(str(node["zone"]) for node in nodes if node["zone"] != leader)
        for witness in (spec.name for spec in specs if spec.cluster == cluster and spec.role != PATRONI):
            await again(witness)
        for zone in (standby, leader):
            patroni, door = node_of(specs, cluster, zone)
            tell(patroni, f"ready after {await world.restart_part(patroni, at_once=True):.1f} s")
            await world.restart_server(patroni)
            await world.settle(cluster)
            tell(door, f"ready after {await world.relieve_part(door):.1f} s")
            await world.settle(cluster)
            if zone == standby:
                await world.hand_over(cluster, leader, standby)
                tell(cluster, f"{standby} leads")
    for name in services_of(specs):
        if world.specs[name].role == Role.STORAGE:
            tell(name, f"ready after {await world.relieve_part(name):.1f} s")
        else:
            await again(name)
