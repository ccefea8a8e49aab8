"""The local processes as a world to drill: signals break them, the supervisor starts them again.

What signals can't do needs what was arranged when the world started (``domicile.ops.rehearsal``).
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import aiohttp
import psutil

from domicile.model.access import Role
from domicile.model.errors import InvalidInput, NotFound, Unavailable
from domicile.model.manifest import Manifest
from domicile.ops.clusters import members, settled
from domicile.ops.control import ask
from domicile.ops.cuts import cut, mend
from domicile.ops.drills.disks import empty, fill
from domicile.ops.drills.faults import Fault, FaultKind
from domicile.ops.drills.losses import DIRECTORY, Losses
from domicile.ops.drills.measure import Scanned
from domicile.ops.drills.port import AGENT, SERVER, WITNESS, Arranged, ClusterState, Entry, Part
from domicile.ops.drills.slowness import Slowness
from domicile.ops.health import PATRONI, Prober, operator
from domicile.ops.layout import Layout
from domicile.ops.manifests import load_file
from domicile.ops.owners import Owners
from domicile.ops.record import ProcessRecord, WorldRecord
from domicile.ops.rehearsal import STEADY, Rehearsal
from domicile.ops.scan import Report, Scanner, files_below, needles_for_value
from domicile.ops.scan.controls import Control, prove
from domicile.ops.scan.needles import needles_for_sealed

_SUFFIX: Final = re.compile(r"-(patroni|server|witness|storage|postgres|gateway|app)$")
_ORDER: Final = (WITNESS, PATRONI, "postgres", Role.STORAGE, Role.DIRECTORY, Role.KEYS, Role.GATEWAY, Role.APP)
"""Who is started before whom: databases, their doors, and who asks after who answers."""
_ARRANGE: Final = "a new world, by `domicile up --ha --rehearsal`"
PROBE_SECONDS: Final = 4.0
"""Longer than a busy machine takes for a handshake: nothing is called lost that is only slow."""
PROBES_AT_ONCE: Final = 6
_CROSSING: Final = re.compile(r"^domicile_border_crossings_total\{(.*)\} ([0-9.e+]+)$", re.MULTILINE)
METHODS: Final = {
    FaultKind.KILL: "SIGKILL",
    FaultKind.SUSPEND: "suspended processes (SIGSTOP)",
    FaultKind.SLOW: "processes suspended by turns of 0.1 s (SIGSTOP, SIGCONT)",
    FaultKind.CUT: "a packet filter on control groups (nft)",
    FaultKind.FILL: "a file that fills the node's own file system",
    FaultKind.CLOCK: "libfaketime, an hour ahead",
    FaultKind.LOSE: "SIGKILL, and data folders renamed",
    FaultKind.HAND_OVER: "Patroni's switchover",
}
AHEAD: Final = "+3600\n"


def group_of(name: str) -> str:
    """Of a process of a local world: ``eu-1`` of ``eu-1-patroni.par``, ``directory`` of ``directory.iad``."""
    return _SUFFIX.sub("", name.partition(".")[0])


def in_order(records: Collection[ProcessRecord]) -> list[ProcessRecord]:
    """As they have to be started."""
    rank = {str(role): number for number, role in enumerate(_ORDER)}
    return sorted(records, key=lambda record: rank.get(record.role, len(rank)))


class LocalWorld:
    """The world that runs in a state folder. Raises Unavailable where none does."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._records()
        self.manifest: Manifest = load_file(layout.manifest)
        self._prober = Prober(layout, timeout=PROBE_SECONDS)
        self._few = asyncio.Semaphore(PROBES_AT_ONCE)
        self._rehearsal = Rehearsal.read(layout)
        self._slowness = Slowness()
        self._losses = Losses(layout)

    def _records(self) -> dict[str, ProcessRecord]:
        record = WorldRecord.read(self._layout)
        if record is None or record.supervisor.process() is None:
            raise Unavailable(
                "no world runs here", where=str(self._layout.root), remedy="start one with `domicile up --ha`"
            )
        return {process.name: process for process in record.processes}

    def parts(self) -> Sequence[Part]:
        found = []
        for name, record in self._records().items():
            place = (record.jurisdiction, record.zone, group_of(name))
            found.append(Part(name, record.role, *place))
            if record.role == PATRONI:
                found.append(Part(name.replace("-patroni", "-server"), SERVER, *place))
        return found

    async def clusters(self, names: Collection[str] | None = None) -> Sequence[ClusterState]:
        agents: dict[str, list[ProcessRecord]] = {}
        for name, record in self._records().items():
            if record.role == PATRONI and (names is None or group_of(name) in names):
                agents.setdefault(group_of(name), []).append(record)
        return list(await asyncio.gather(*(self._cluster(name, nodes) for name, nodes in agents.items())))

    async def _cluster(self, name: str, agents: Sequence[ProcessRecord]) -> ClusterState:
        asked = await asyncio.gather(*(self._prober.cluster(agent) for agent in agents if agent.process()))
        views = [members(name, document) for document in asked if document is not None]
        for rows in views:
            roles = {str(row["role"]): str(row["zone"]) for row in rows if row["state"] in ("running", "streaming")}
            standby = roles.get("sync_standby") or roles.get("replica")
            if "leader" in roles or rows is views[-1]:
                return ClusterState(name, roles.get("leader"), standby, settled(rows))
        return ClusterState(name, None, None, False)

    async def not_serving(self, parts: Collection[str] | None = None) -> Sequence[str]:
        records = [r for name, r in self._records().items() if parts is None or name in parts]
        ready = await asyncio.gather(*(self._serves(record) for record in records))
        return [record.name for record, well in zip(records, ready, strict=True) if not well]

    async def _serves(self, record: ProcessRecord) -> bool:
        if record.process() is None:
            return False
        async with self._few:
            return await self._prober.ready(record)

    def arranged(self) -> Arranged | None:
        return None if self._rehearsal is None else Arranged(self._rehearsal.cell, self._rehearsal.zone)

    def method(self, kind: FaultKind) -> str:
        match kind:
            case FaultKind.CUT if self._groups is None:
                return f"{METHODS[FaultKind.SUSPEND]}: {self._missing('groups')}"
            case FaultKind.FILL if self._disk is None:
                raise Unavailable(self._missing("disk"), where="disk", remedy=_ARRANGE)
            case FaultKind.CLOCK if self._clock is None:
                raise Unavailable(self._missing("clock"), where="clock", remedy=_ARRANGE)
        return METHODS[kind]

    @property
    def _groups(self) -> Path | None:
        return None if self._rehearsal is None else self._rehearsal.groups

    @property
    def _disk(self) -> Path | None:
        return None if self._rehearsal is None else self._rehearsal.disk

    @property
    def _clock(self) -> Path | None:
        return None if self._rehearsal is None else self._rehearsal.clock

    def _missing(self, what: str) -> str:
        """Why ``what`` was not arranged."""
        return "the world is not up for rehearsals" if self._rehearsal is None else self._rehearsal.missing[what]

    # -- faults ----------------------------------------------------------------------------------------------

    async def inject(self, fault: Fault) -> None:
        match fault.kind:
            case FaultKind.KILL:
                self._kill(fault.parts)
            case FaultKind.CUT if self._groups is not None:
                await asyncio.to_thread(cut, self._groups, self._nodes(fault.parts))
            case FaultKind.SUSPEND | FaultKind.CUT:
                for process in self._processes(fault.parts):
                    _quietly(process.suspend)
            case FaultKind.SLOW:
                self._slowness.begin(fault, lambda: self._processes(fault.parts))
            case FaultKind.FILL:
                assert self._disk is not None, "a plan asks for its method first"
                await asyncio.to_thread(fill, self._disk)
            case FaultKind.CLOCK:
                self._set_clock(AHEAD)
            case FaultKind.LOSE:
                await self._losses.ready(fault.parts[0])
                self._kill([part.name for part in self._members(fault.parts[0])])
                self._losses.lose(fault.parts[0])
            case FaultKind.HAND_OVER:
                await self._hand_over(fault.parts[0])

    async def undo(self, fault: Fault) -> None:
        match fault.kind:
            case FaultKind.KILL:
                await self._start(fault.parts)
            case FaultKind.CUT if self._groups is not None:
                await asyncio.to_thread(mend, self._groups)
            case FaultKind.SUSPEND | FaultKind.CUT:
                self._resume(fault.parts)
            case FaultKind.SLOW:
                await self._slowness.end(fault)
                self._resume(fault.parts)
            case FaultKind.FILL if self._disk is not None:
                empty(self._disk)
            case FaultKind.CLOCK if self._clock is not None:
                self._set_clock(STEADY)
            case FaultKind.LOSE:
                await self._losses.regain(fault.parts[0])
                await self._start([part.name for part in self._members(fault.parts[0])])
            case _:
                pass  # whoever leads may go on leading

    def _kill(self, parts: Collection[str]) -> None:
        for process in self._processes(parts):
            _quietly(process.kill)

    def _members(self, group: str) -> list[Part]:
        """What ends where the disks of a cell or of the directory are lost: its nodes; of the directory, all of it."""
        roles = {AGENT, SERVER} | ({Role.DIRECTORY} if group == DIRECTORY else set())
        return [part for part in self.parts() if part.group == group and part.role in roles]

    def _nodes(self, parts: Collection[str]) -> list[str]:
        """The database nodes that they are of, by the names of their control groups."""
        return sorted({f"{part.group}.{part.zone}" for part in self.parts() if part.name in parts})

    def _set_clock(self, text: str) -> None:
        assert self._clock is not None, "a plan asks for its method first"
        fresh = self._clock.with_suffix(".new")
        fresh.write_text(text)
        fresh.replace(self._clock)

    def _processes(self, names: Collection[str]) -> Iterator[psutil.Process]:
        """Every process of these parts that lives, children before their parents, agents before their servers."""
        records = self._records()
        for part in self.parts():
            if part.name not in names:
                continue
            process = self._server(records, part) if part.role == SERVER else records[part.name].process()
            if process is not None:
                yield process
                yield from process.children(recursive=True) if part.role == SERVER else ()
        if unknown := set(names) - {part.name for part in self.parts()}:
            raise NotFound(f"no part {min(unknown)}", where=str(self._layout.root))

    def _server(self, records: Mapping[str, ProcessRecord], part: Part) -> psutil.Process | None:
        """The database server of a node: by the lock file in its data folder, as PostgreSQL itself does."""
        folder = self._settings_of(records[part.name.replace("-server", "-patroni")]).parent / "data"
        try:
            process = psutil.Process(int((folder / "postmaster.pid").read_text().split()[0]))
            mine = str(folder) in process.cmdline()
        except (OSError, ValueError, IndexError, psutil.Error):
            return None
        return process if mine else None

    def _settings_of(self, agent: ProcessRecord) -> Path:
        """Where a node's Patroni has its settings, beside its data."""
        group, zone = group_of(agent.name), agent.zone
        if group in self.manifest.cells:
            homes = [self._layout.cell(group, zone)]
        elif group == "directory":
            homes = [self._layout.directory / zone, self._layout.directory]
        else:
            homes = [self._layout.keys(agent.jurisdiction) / zone, self._layout.keys(agent.jurisdiction)]
        found = [path for home in homes if (path := home / Role.STORAGE / "patroni.json").exists()]
        if not found:
            raise Unavailable("has no settings of a Patroni", where=agent.name)
        return found[0]

    def _resume(self, parts: Collection[str]) -> None:
        stopped = list(self._processes(parts))
        for process in reversed(stopped):  # a server before who asks it
            _quietly(process.resume)

    async def _start(self, parts: Collection[str]) -> None:
        """Those that ended, again; a second time those that waited for one that came later. One that lives and is not
        ready yet is left to come: a database that was killed may have to copy first. Raises Unavailable."""
        for last in (False, True):
            records = self._records()
            gone = [r.name for r in in_order([records[n] for n in parts if n in records]) if r.process() is None]
            if not gone:
                return
            outcome = await ask(self._layout, {"parts": gone}, lambda part, what: None)
            after = self._records()
            if last and outcome.error and (left := [name for name in gone if after[name].process() is None]):
                said = outcome.error.splitlines()[0]
                raise Unavailable(f"did not start again: {said}", where=", ".join(left))

    async def _hand_over(self, cluster: str) -> None:
        state = (await self.clusters([cluster]))[0]
        if state.leader is None or state.standby is None:
            raise Unavailable("has nobody to hand over to", where=cluster, remedy="`domicile status` shows its nodes")
        agent = next(
            record
            for name, record in self._records().items()
            if record.role == AGENT and group_of(name) == cluster and record.zone == state.leader
        )
        password = json.loads(self._settings_of(agent).read_text())["restapi"]["authentication"]["password"]
        await self._prober.order(agent, password, "/switchover", {"leader": state.leader, "candidate": state.standby})

    # -- what is seen ----------------------------------------------------------------------------------------

    def entry(self, jurisdiction: str) -> Entry:
        routers = tuple(router.public for router in self.manifest.routers_of(jurisdiction).values())
        if not routers:
            raise InvalidInput("has no router", where=f"jurisdictions.{jurisdiction}", remedy="drills come in by one")
        return Entry(routers, self._layout.authorities / f"{jurisdiction}.pem")

    async def scan(self, since: float, values: Mapping[str, str]) -> Scanned:
        return await asyncio.to_thread(scan_files, self._layout, self.manifest, since, values)

    async def crossings(self) -> Mapping[str, float]:
        records = [r for r in self._records().values() if r.role in (Role.ROUTER, Role.GATEWAY, Role.APP)]
        context = {
            (record.jurisdiction, record.role): operator(self._layout).client(record.jurisdiction, [Role(record.role)])
            for record in records
        }
        timeout = aiohttp.ClientTimeout(total=5)
        found: dict[str, float] = {}

        async def add(record: ProcessRecord) -> None:
            connector = aiohttp.TCPConnector(ssl=context[record.jurisdiction, record.role], force_close=True)
            try:
                async with (
                    aiohttp.ClientSession(connector=connector, trust_env=False, timeout=timeout) as session,
                    session.get(f"https://{record.address}/metrics") as answer,
                ):
                    for labels, value in _CROSSING.findall(await answer.text()):
                        name = labels.replace('"', "")
                        found[name] = found.get(name, 0) + float(value)
            except (OSError, TimeoutError, aiohttp.ClientError):
                return

        await asyncio.gather(*map(add, records))
        return found


def scan_files(layout: Layout, manifest: Manifest, since: float, values: Mapping[str, str]) -> Scanned:
    """Every file of a world's folder that changed since ``since``; proved on planted controls first."""
    needles = [
        each
        for jurisdiction, value in values.items()
        for each in (*needles_for_value(f"drill's values of {jurisdiction}", value, jurisdiction),
                     *needles_for_sealed(jurisdiction))
    ]  # fmt: skip
    control, report = Control.make(), Report()
    scanner = Scanner(needles + control.needles(), sealed=True)
    proved = all(prove(scanner, control).values())

    def unread(error: OSError) -> None:
        report.miss(str(error.filename), error.strerror or "cannot be listed")

    if proved:
        scanner.scan(_changed(files_below(layout.root, unread), since), Owners(layout, manifest).of, report)
    longest = max((len(value) for value in values.values()), default=1)
    places = [f"{hit.path.relative_to(layout.root)}: {hit.label}" for hit in report.hits]
    return Scanned(
        bytes_across=report.matches * longest,
        files=report.files,
        trusted=proved and not report.unread,
        places=tuple(places[:20]),
    )


def _changed(paths: Iterator[Path], since: float) -> Iterator[Path]:
    for path in paths:
        try:
            if path.stat().st_mtime >= since:
                yield path
        except FileNotFoundError:
            continue


def _quietly(action: Callable[[], None]) -> None:
    try:
        action()
    except psutil.NoSuchProcess:
        return
