"""The scenarios: a hypothesis, what may be touched, what is broken, how long, and what it is held to. Pure.

``plan`` turns a scenario and what a world looks like into faults; nothing is done here, so ``--dry-run`` says exactly
what a drill would do. Limits of time are for the local world on a small machine, with a lease of 20 s; a COMMIT waits
for the second node, so where a node is lost, writes come back with it and not with the promotion.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from domicile.model.access import GLOBAL, Role
from domicile.model.errors import InvalidInput, Unavailable
from domicile.model.manifest import Manifest
from domicile.ops.drills.faults import Fault, FaultKind
from domicile.ops.drills.port import AGENT, SERVER, Arranged, ClusterState, Part
from domicile.ops.drills.verdict import SAFETY, Objective

OTHERS: Final = (Objective("others_errors", 0), Objective("others_gap_s", 5))
"""What every drill promises the cells that it may not touch."""


class Until(StrEnum):
    """When a fault is undone: after its time, or when another node leads (and its time is over)."""

    TIME = "time"
    LED_ELSEWHERE = "another node leads"


@dataclass(frozen=True, slots=True)
class View:
    """What a plan is made from."""

    manifest: Manifest
    parts: Sequence[Part]
    clusters: Sequence[ClusterState]
    arranged: Arranged | None = None

    def cluster(self, name: str) -> ClusterState:
        """Raises Unavailable for one without a leader and a standby: there is nothing to fail over to."""
        found = next((each for each in self.clusters if each.name == name), None)
        if found is None:
            raise Unavailable("has no standby in this world", where=name, remedy="start it with `domicile up --ha`")
        if found.leader is None or found.standby is None:
            raise Unavailable("has no leader or no standby now", where=name, remedy="`domicile status` shows its nodes")
        return found

    def names(self, *, group: str = "", role: str = "", zone: str = "", jurisdiction: str = "") -> tuple[str, ...]:
        return tuple(
            part.name
            for part in self.parts
            if group in ("", part.group)
            and role in ("", part.role)
            and zone in ("", part.zone)
            and jurisdiction in ("", part.jurisdiction)
        )


@dataclass(frozen=True, slots=True)
class Target:
    """What the user may choose: a cell, a zone, a jurisdiction; empty for the scenario's own choice."""

    cell: str = ""
    zone: str = ""
    jurisdiction: str = ""


@dataclass(frozen=True, slots=True)
class Plan:
    """``touched``: the cells whose users may notice; ``out``: those that are lost whole; ``clusters``: where another
    node may come to lead; ``watched``: the parts by which the fault shows."""

    target: str
    faults: tuple[Fault, ...]
    touched: frozenset[str]
    out: frozenset[str] = frozenset()
    clusters: frozenset[str] = frozenset()
    watched: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Scenario:
    """``radius``: the limit of what may be touched; ``seconds``: how long the fault lasts at least, and at most
    ``most_seconds``; ``rpo_s``: for how long before it acknowledged writes may be lost: for none, but where backups are
    all that is left."""

    name: str
    hypothesis: str
    radius: str
    plan: Callable[[View, Target], Plan]
    objectives: tuple[Objective, ...]
    seconds: float = 15.0
    until: Until = Until.TIME
    most_seconds: float = 60.0
    rpo_s: float = 0.0

    @property
    def all_objectives(self) -> tuple[Objective, ...]:
        return (*self.objectives, *OTHERS, *SAFETY)


ABORT: Final = "a cell outside the radius acknowledges no write for 15 s: the fault is undone at once"
OTHERS_ABORT_SECONDS: Final = 15.0


def _jurisdiction(view: View, target: Target) -> str:
    """The one chosen, or of the cell chosen, or the one with most cells: where the loss of one is the smallest."""
    places = view.manifest.jurisdictions
    if target.jurisdiction and target.jurisdiction not in places:
        raise InvalidInput(
            f"no jurisdiction {target.jurisdiction}", where="--jurisdiction", remedy=f"one of {', '.join(places)}"
        )
    if target.cell:
        return view.manifest.cells[_cell(view, target)].jurisdiction
    return target.jurisdiction or max(places, key=lambda name: len(view.manifest.cells_of(name)))


def _cell(view: View, target: Target) -> str:
    cells = view.manifest.cells
    if target.cell:
        if target.cell not in cells:
            raise InvalidInput(f"no cell {target.cell}", where="--cell", remedy=f"one of {', '.join(cells)}")
        return target.cell
    return next(iter(view.manifest.cells_of(_jurisdiction(view, target))))


def _cells_of(view: View, jurisdiction: str) -> frozenset[str]:
    return frozenset(view.manifest.cells_of(jurisdiction))


def _node(view: View, cluster: str, zone: str, roles: Collection[str]) -> tuple[str, ...]:
    """The parts of one node, agents first: a server must not be reported by an agent that still runs."""
    return tuple(name for role in roles for name in view.names(group=cluster, role=role, zone=zone))


def _of_leader(kind: FaultKind, *roles: str) -> Callable[[View, Target], Plan]:
    def plan(view: View, target: Target) -> Plan:
        cell = _cell(view, target)
        leader = view.cluster(cell).leader or ""
        parts = _node(view, cell, leader, roles)
        one = frozenset({cell})
        return Plan(f"{cell}, whose leader is in {leader}", (Fault(kind=kind, parts=parts),), one, clusters=one,
                    watched=frozenset(parts))  # fmt: skip

    return plan


def _switchover(view: View, target: Target) -> Plan:
    cell = _cell(view, target)
    state = view.cluster(cell)
    one = frozenset({cell})
    fault = Fault(kind=FaultKind.HAND_OVER, parts=(cell,))
    return Plan(f"{cell}, from {state.leader} to {state.standby}", (fault,), one, clusters=one)


def _zone(kind: FaultKind) -> Callable[[View, Target], Plan]:
    def plan(view: View, target: Target) -> Plan:
        jurisdiction = _jurisdiction(view, target)
        cells = view.manifest.cells_of(jurisdiction)
        zones = list(dict.fromkeys(zone for cell in cells.values() for zone in cell.zones))
        if target.zone and target.zone not in zones:
            raise InvalidInput(f"no zone {target.zone} in {jurisdiction}", where="--zone", remedy=", ".join(zones))
        lonely = {part.zone for part in view.parts if part.role in (Role.ROUTER, Role.KEYS)}
        chosen = target.zone or next((zone for zone in zones if zone not in lonely), "")
        if not chosen:
            raise Unavailable(
                "every zone holds a router or a key service that has no second", where=jurisdiction,
                remedy="choose one with --zone",
            )  # fmt: skip
        parts = view.names(zone=chosen, jurisdiction=jurisdiction)
        clusters = frozenset(each.name for each in view.clusters if each.leader == chosen)
        touched = frozenset(name for name, cell in cells.items() if chosen in cell.zones)
        if chosen in lonely:
            touched = frozenset(cells)
        out = frozenset(
            n for n in touched if {p.zone for p in view.parts if p.group == n and p.role == AGENT} == {chosen}
        )
        inside = frozenset(name for name in clusters if name in cells or name == f"keys-{jurisdiction}")
        return Plan(f"zone {chosen} of {jurisdiction}", (Fault(kind=kind, parts=parts),), touched, out, inside,
                    frozenset(parts))  # fmt: skip

    return plan


def _arranged(kind: FaultKind) -> Callable[[View, Target], Plan]:
    """Of the one node for which it was arranged, when it leads."""

    def plan(view: View, target: Target) -> Plan:
        if view.arranged is None:
            raise Unavailable(
                "nothing was arranged for it", where="world", remedy="a new one: `domicile up --ha --rehearsal`"
            )
        cell, zone = view.arranged.cell, view.arranged.zone
        if target.cell not in ("", cell) or target.zone not in ("", zone):
            raise InvalidInput("was arranged for another node", where="drill", remedy=f"--cell {cell} --zone {zone}")
        state, one = view.cluster(cell), frozenset({cell})
        first = () if state.leader == zone else (Fault(kind=FaultKind.HAND_OVER, parts=(cell,)),)
        parts = _node(view, cell, zone, (AGENT, SERVER))
        faults = (*first, Fault(kind=kind, parts=parts))
        return Plan(f"{cell}'s node in {zone}, when it leads", faults, one, clusters=one, watched=frozenset(parts))

    return plan


def _slow_zone(view: View, target: Target) -> Plan:
    plan = _zone(FaultKind.SLOW)(view, target)
    return replace(plan, out=frozenset())


def _lost_cell(view: View, target: Target) -> Plan:
    cell = _cell(view, target)
    if view.manifest.jurisdictions[view.manifest.cells[cell].jurisdiction].backups is None:
        raise Unavailable("has no backups", where=cell, remedy="a world with `domicile up --ha --backups`")
    one = frozenset({cell})
    watched = frozenset(view.names(group=cell, role=AGENT))
    return Plan(f"the disks of {cell}", (Fault(kind=FaultKind.LOSE, parts=(cell,)),), one, one, watched=watched)


def _lost_directory(view: View, target: Target) -> Plan:
    view.cluster("directory")
    watched = frozenset(view.names(group="directory"))
    fault = Fault(kind=FaultKind.LOSE, parts=("directory",))
    return Plan("the directory's disks and its backups", (fault,), frozenset(), watched=watched)


def _cell_outage(view: View, target: Target) -> Plan:
    cell = _cell(view, target)
    parts = view.names(group=cell)
    one = frozenset({cell})
    return Plan(f"all of {cell}", (Fault(kind=FaultKind.KILL, parts=parts),), one, one, watched=frozenset(parts))


def _directory_outage(view: View, target: Target) -> Plan:
    parts = view.names(role=Role.DIRECTORY, jurisdiction=GLOBAL)
    fault = Fault(kind=FaultKind.KILL, parts=parts)
    return Plan("every process of the directory", (fault,), frozenset(), watched=frozenset(parts))


def _router_outage(view: View, target: Target) -> Plan:
    jurisdiction = _jurisdiction(view, target)
    parts = view.names(role=Role.ROUTER, jurisdiction=jurisdiction)
    fault = Fault(kind=FaultKind.KILL, parts=parts)
    return Plan(f"every router of {jurisdiction}", (fault,), _cells_of(view, jurisdiction), watched=frozenset(parts))


def _key_service_outage(view: View, target: Target) -> Plan:
    jurisdiction = _jurisdiction(view, target)
    parts = view.names(role=Role.KEYS, jurisdiction=jurisdiction)
    fault = Fault(kind=FaultKind.KILL, parts=parts)
    return Plan(f"the key service of {jurisdiction}", (fault,), frozenset(), watched=frozenset(parts))


SCENARIOS: Final[dict[str, Scenario]] = {
    scenario.name: scenario
    for scenario in (
        Scenario(
            "switchover",
            "A leader hands over to its standby: writes pause for some seconds, nothing acknowledged is lost.",
            "one cell",
            _switchover,
            (Objective("rto_s", 20),),
            seconds=0,
            until=Until.LED_ELSEWHERE,
        ),
        Scenario(
            "kill-leader",
            "A leader's server and agent are killed: the standby leads when the lease is over, writes are back with "
            "the second node, nothing acknowledged is lost.",
            "one cell",
            _of_leader(FaultKind.KILL, AGENT, SERVER),
            (Objective("reads_rto_s", 45), Objective("rto_s", 90), Objective("detection_s", 10)),
            until=Until.LED_ELSEWHERE,
        ),
        Scenario(
            "kill-zone",
            "A zone is lost whole: the other zone's nodes lead, and nothing leaves the jurisdiction.",
            "the cells that have a node in the zone",
            _zone(FaultKind.KILL),
            (Objective("reads_rto_s", 60), Objective("rto_s", 150), Objective("detection_s", 10)),
            until=Until.LED_ELSEWHERE,
        ),
        Scenario(
            "partition",
            "A leader is cut off from everybody and comes back believing that it leads: it is not believed, and two "
            "never lead.",
            "one cell",
            _of_leader(FaultKind.CUT, AGENT, Role.STORAGE, SERVER),
            (Objective("reads_rto_s", 60), Objective("rto_s", 120), Objective("detection_s", 15)),
            until=Until.LED_ELSEWHERE,
        ),
        Scenario(
            "suspend-agent",
            "A leader's agent stands still while its server answers: the server is believed for 5 s at most, and the "
            "other node leads.",
            "one cell",
            _of_leader(FaultKind.SUSPEND, AGENT),
            (Objective("reads_rto_s", 60), Objective("rto_s", 120), Objective("detection_s", 15)),
            until=Until.LED_ELSEWHERE,
        ),
        Scenario(
            "slow-zone",
            "A zone answers slowly: its users wait, nobody is refused for long, nothing is lost.",
            "the cells that have a node in the zone",
            _slow_zone,
            (Objective("reads_rto_s", 45), Objective("rto_s", 90)),
            seconds=20,
        ),
        Scenario(
            "clock-jump",
            "A leader's clock jumps an hour ahead and back: whom it can't believe it refuses, nothing is lost, and "
            "nobody reads what is old.",
            "one cell",
            _arranged(FaultKind.CLOCK),
            (Objective("reads_rto_s", 90), Objective("rto_s", 120)),
            seconds=20,
        ),
        Scenario(
            "disk-full",
            "A leader's disk is full: writes are refused, or another node leads; what was acknowledged is there.",
            "one cell",
            _arranged(FaultKind.FILL),
            (Objective("reads_rto_s", 90), Objective("rto_s", 150)),
            seconds=30,
        ),
        Scenario(
            "restore-backup",
            "Both disks of a cell are lost: it comes back from its backups, with all but the last seconds, and stays "
            "closed until the directory has said who lives there.",
            "one cell",
            _lost_cell,
            (Objective("rto_s", 240), Objective("detection_s", 10)),
            seconds=5,
            rpo_s=10,
        ),
        Scenario(
            "lose-directory",
            "The directory is lost with all of its disks: known users are served as before, and what the cells hold "
            "makes it again.",
            "no cell",
            _lost_directory,
            (Objective("strangers_served", 0), Objective("detection_s", 10)),
            seconds=5,
        ),
        Scenario(
            "cell-outage",
            "All of a cell is lost: its users get 503, nobody else notices, nothing goes to another cell.",
            "one cell",
            _cell_outage,
            (Objective("rto_s", 120), Objective("detection_s", 10)),
        ),
        Scenario(
            "directory-outage",
            "The directory is gone: known users are served as before, new ones are refused.",
            "no cell",
            _directory_outage,
            (Objective("strangers_served", 0), Objective("detection_s", 10)),
            seconds=20,
        ),
        Scenario(
            "router-outage",
            "A jurisdiction's routers are gone: its users are cut off, others are not, and nothing takes another way.",
            "the cells of one jurisdiction",
            _router_outage,
            (Objective("rto_s", 45), Objective("detection_s", 10)),
            seconds=10,
        ),
        Scenario(
            "key-service-outage",
            "A jurisdiction's key service is gone: users whose keys are cached are served as before.",
            "no cell",
            _key_service_outage,
            (Objective("detection_s", 10),),
            seconds=20,
        ),
    )
}


def scenario(name: str) -> Scenario:
    """Raises InvalidInput for a name that is none."""
    if name not in SCENARIOS:
        raise InvalidInput(f"no scenario {name!r}", where="drill", remedy=f"one of {', '.join(SCENARIOS)}")
    return SCENARIOS[name]


def too_much(view: View, plan: Plan, keep: int) -> str:
    """Why a plan takes away more than may be; empty where it does not. ``keep``: cells of a jurisdiction that stay."""
    for jurisdiction in view.manifest.jurisdictions:
        cells = _cells_of(view, jurisdiction)
        lost = cells & plan.out
        if lost and len(cells - lost) < keep:
            return f"{jurisdiction} would keep {len(cells - lost)} of its cells, and --keep is {keep}"
    return ""
