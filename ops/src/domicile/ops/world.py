"""A local world while it lives: started in stages, watched, and ended whole.

Rules that hold whatever happens:

- one supervisor for each state folder, by a lock that the kernel gives back when it dies;
- no process outlives the supervisor: each asks the kernel to be signalled when its starter ends;
- a part that fails to start ends the start, and the last lines of its own log are in the error;
- a part that ends later is reported by name, and the rest goes on: a world is for seeing what survives. It stays
  ended until somebody starts it again, or for ``RESTART_SECONDS`` where the world was told to start parts again, so
  that ``status`` shows it meanwhile. A part that was ended on purpose is never started by the world itself.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any, Final

import psutil

from domicile.client import DirectoryClient
from domicile.identity import Signer, sign_topology, verify_topology
from domicile.model.access import GLOBAL, Role
from domicile.model.errors import Conflict, InvalidInput, NotFound, Unavailable
from domicile.model.manifest import Manifest
from domicile.ops import pauses, postgres, rehearsal
from domicile.ops.clusters import REST, members, settled
from domicile.ops.ending import STOP_SECONDS, end_processes
from domicile.ops.health import PATRONI, Prober, operator
from domicile.ops.layout import Layout, log_tail
from domicile.ops.plan import CELLS, DIRECTORY, DOORS, SAMPLE, STORAGE, Planner, ProcessSpec, doors_of
from domicile.ops.ports import free_address, listens, require_free
from domicile.ops.provision import Provision
from domicile.ops.record import ProcessRecord, WorldRecord, own_record, try_lock
from domicile.ops.schemas import SchemaCommand, apply, schema_commands
from domicile.ops.switching import clear_interrupted, finish_switch

START_SECONDS: Final = 120.0
"""For a part to serve: a few seconds on a machine of its own, and up to a minute on a busy one with a whole world."""
SETTLE_SECONDS: Final = 120.0
_SETTLE_POLL_SECONDS: Final = 0.5
RESTART_SECONDS: Final = 5.0
_POLL_SECONDS: Final = 0.05
Progress = Callable[[str, str], None]
"""Called with a part's name and what became of it."""


class World:
    """One start of a local world; ``progress`` hears of each part."""

    manifest: Manifest

    def __init__(
        self, layout: Layout, lock: IO[bytes], *, progress: Progress, log_level: str, app: str, restarts: bool
    ) -> None:
        self.layout = layout
        self._lock = lock
        self._progress = progress
        self._log_level = log_level
        self._app = app
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._records: dict[str, ProcessRecord] = {}
        self._specs: list[ProcessSpec] = []
        self._restarts = restarts
        self._phase = "starting"
        self._reported: set[str] = set()
        self._paused: set[str] = set()
        self._ended: dict[str, float] = {}
        self._spawned: dict[str, float] = {}
        self._told: set[str] = set()
        self._environment = {k: v for k, v in os.environ.items() if not k.startswith("DOMICILE_")}

    # -- start ---------------------------------------------------------------------------------------

    @classmethod
    def acquire(
        cls,
        layout: Layout,
        *,
        progress: Progress,
        log_level: str = "info",
        app: str = SAMPLE,
        restarts: bool = False,
    ) -> World:
        """Become this folder's only supervisor. Raises InvalidInput where one runs already.

        ``restarts``: whether a part that ends by itself is started again.
        """
        lock = try_lock(layout.lock)
        if lock is None:
            record = WorldRecord.read(layout)
            pid = f" (pid {record.supervisor.pid})" if record else ""
            raise InvalidInput(
                f"a world already runs here{pid}",
                where=str(layout.root),
                remedy="`domicile down` stops it; --state names another folder",
            )
        if (stale := WorldRecord.read(layout)) is not None:
            left = end_processes(stale.processes) + postgres.end_orphans(layout.root)
            progress("world.json", f"left by a world that did not stop; {len(left)} processes of it ended")
        layout.record.unlink(missing_ok=True)
        rehearsal.clear(layout)
        for folder in clear_interrupted(layout.root):
            progress(str(folder.relative_to(layout.root)), "what a killed restore left is removed")
        return cls(layout, lock, progress=progress, log_level=log_level, app=app, restarts=restarts)

    def prepare(self, manifest: Manifest, available: Collection[str] = (), *, rehearsed: bool = False) -> None:
        """Authorities, certificates, the list of processes. ``manifest`` has real ports. Nothing runs yet.

        ``available``: the databases that get a standby and a witness, by name; ``rehearsed``: whether what drills
        need is arranged.
        """
        self.manifest = manifest
        taken: set[str] = set()
        provision = Provision(self.layout, self.manifest)
        provision.operators()
        provision.pepper()
        if self.manifest.identity is not None:
            provision.sessions(self.manifest, Path(self.manifest.identity.jwks))
        planner = Planner(
            self.manifest,
            self.layout,
            provision,
            lambda host: free_address(host, taken),
            self._log_level,
            self._app,
            available,
        )
        self._specs = planner.plan()
        listening = [(spec.name, spec.address) for spec in self._specs if spec.role != "postgres"]
        listening += [(f"router-{zone}", router.public) for zone, router in self.manifest.routers.items()]
        require_free(self.manifest, listening)
        if rehearsed:
            self._specs = rehearsal.arrange(self.layout, manifest, self._specs, self._progress)
        self._prober = Prober(self.layout)

    async def start(self) -> None:
        """Bring every part up. Raises Unavailable with the failing part's last log lines."""
        await self.start_storage()
        storages = [spec for spec in self._specs if spec.stage == STORAGE]
        doors = [spec for spec in self._specs if spec.stage == DOORS]
        directory = [spec for spec in self._specs if spec.stage == DIRECTORY]
        first = [spec for spec in self._specs if spec.name.startswith("directory-")]
        await self._ready(first)
        for spec in directory:
            self._spawn(spec)
        await asyncio.gather(self._publish(directory), self._schemas(storages, doors))
        rest = [spec for spec in self._specs if spec.stage == CELLS]
        for spec in rest:
            self._spawn(spec)
        await self._ready(rest)
        self._write("running")

    async def start_storage(self, clusters: Collection[str] | None = None) -> None:
        """Spawn the databases and their doors; those with standbys are settled when this returns.

        ``clusters``: these alone. Raises Unavailable.
        """
        self._write("starting")
        loop = asyncio.get_running_loop()
        chosen = [spec for spec in self._specs if clusters is None or spec.cluster in clusters]
        storages = [spec for spec in chosen if spec.stage == STORAGE]
        names = {spec.cluster for spec in storages if spec.cluster}
        doors = [spec for spec in self._specs if spec.stage == DOORS] if clusters is None else []
        doors = doors or [door for name in names for door in doors_of(self._specs, name)]
        # a node without data copies the founder's; before that leads it would found a cluster of its own
        late = [spec for spec in storages if spec.cluster and spec.database and not spec.founder and not _holds(spec)]
        with ThreadPoolExecutor(max(2, os.cpu_count() or 2)) as pool:
            await asyncio.gather(*(loop.run_in_executor(pool, self._create, spec) for spec in storages))
        for spec in (*storages, *doors):
            if spec not in late:
                self._spawn(spec)
        await asyncio.gather(
            *(self.settle(name, [spec for spec in late if spec.cluster == name]) for name in sorted(names))
        )
        if clusters is not None:
            self._write("running")

    def _create(self, spec: ProcessSpec) -> None:
        if spec.database is None:
            return
        finish_switch(spec.database)
        if spec.cluster:
            spec.database.mkdir(parents=True, exist_ok=True, mode=0o700)
            spec.database.chmod(0o700)
            if spec.founder and not postgres.is_replicated(spec.database):
                postgres.create(spec.database, owner=spec.database_owner)
                postgres.admit_standbys(spec.database, spec.secrets, owner=spec.database_owner)
        else:
            if postgres.is_replicated(spec.database):
                raise InvalidInput(
                    "this database has a standby, which may lead by now",
                    where=str(spec.database),
                    remedy="start it as before, with --ha",
                )
            postgres.create(spec.database, owner=spec.database_owner)
        postgres.clear_stale_lock(spec.database)

    async def settle(self, cluster: str, late: Sequence[ProcessSpec] = ()) -> None:
        """Until one node leads and the other has all that it acknowledges."""
        nodes = [spec for spec in self._specs if spec.cluster == cluster and spec.role == PATRONI]
        if late:
            await self._ready([spec for spec in nodes if spec not in late])
        for spec in late:
            self._spawn(spec)
        started = time.monotonic()
        while True:
            for spec in nodes:
                if (status := self._children[spec.name].poll()) is not None:
                    raise self._failure(spec, f"ended with {_describe(status)}")
            if settled(await self.nodes(cluster)):
                for node in nodes:
                    if node.database is not None:
                        (node.database / "replicated").touch()
                self._progress(f"{cluster}-cluster", f"settled after {time.monotonic() - started:.1f} s")
                return
            if time.monotonic() - started > SETTLE_SECONDS:
                raise self._failure(nodes[-1], f"not settled within {SETTLE_SECONDS:.0f} s")
            await asyncio.sleep(_SETTLE_POLL_SECONDS)

    async def _publish(self, directory: Sequence[ProcessSpec]) -> None:
        await self._ready(directory)
        started = time.monotonic()
        revision = await publish(self.manifest, self.layout)
        self._progress("topology", f"revision {revision} signed and published in {time.monotonic() - started:.1f} s")

    async def _schemas(self, storages: Sequence[ProcessSpec], doors: Sequence[ProcessSpec]) -> None:
        await self._ready([*storages, *doors])
        commands = schema_commands(self.manifest, self.layout, self._specs, self._app)
        await asyncio.gather(*(self._schema(command) for command in commands))

    async def _schema(self, command: SchemaCommand) -> None:
        await apply(command, self.layout.log(f"{command.cell}-schema"), self._environment)
        self._progress(f"{command.cell}-schema", "applied")

    def _spawn(self, spec: ProcessSpec) -> None:
        # where the supervisor is killed nobody asks twice: an immediate shutdown ends PostgreSQL in every state,
        # which a fast one does not (seen to hang in the recovery after a backend's crash)
        leash = signal.SIGQUIT if spec.role == "postgres" else spec.ends_with
        command = postgres.launched(spec.command, ends_with=leash, unprivileged=spec.database is not None)
        with self.layout.log(spec.name).open("ab") as stream:
            child = subprocess.Popen(
                rehearsal.within(spec.group, command),
                env=self._environment | spec.environment,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                start_new_session=True,
            )
        self._children[spec.name] = child
        self._reported.discard(spec.name)
        self._spawned[spec.name] = time.monotonic()
        self._records[spec.name] = ProcessRecord(
            name=spec.name,
            role=spec.role,
            jurisdiction=spec.jurisdiction,
            zone=spec.zone,
            address=spec.address,
            pid=child.pid,
            started=psutil.Process(child.pid).create_time(),
            health=spec.health,
            restarts=before.restarts + 1 if (before := self._records.get(spec.name)) else 0,
        )
        self._write(self._phase)

    async def _ready(self, specs: Sequence[ProcessSpec]) -> None:
        await asyncio.gather(*(self._until_ready(spec) for spec in specs))

    async def _until_ready(self, spec: ProcessSpec) -> None:
        started = self._spawned[spec.name]
        while True:
            child = self._children[spec.name]
            if (status := child.poll()) is not None:
                raise self._failure(spec, f"ended with {_describe(status)}")
            if await self._prober.ready(self._records[spec.name]):
                break
            if time.monotonic() - started > START_SECONDS:
                raise self._failure(spec, f"not ready within {START_SECONDS:.0f} s")
            await asyncio.sleep(_POLL_SECONDS)
        if spec.name not in self._told:
            self._told.add(spec.name)
            self._progress(spec.name, f"ready after {time.monotonic() - started:.1f} s")

    def _failure(self, spec: ProcessSpec, what: str) -> Unavailable:
        log = self.layout.log(spec.name)
        return Unavailable(f"{spec.name} {what}; the end of {log}:\n{log_tail(log)}")

    # -- life and end --------------------------------------------------------------------------------

    async def watch(self, told: asyncio.Event) -> None:
        """Until told to stop; a part that ends meanwhile is reported once, with its last log lines."""
        while not told.is_set():
            for name, child in self._children.items():
                if name not in self._reported and (status := child.poll()) is not None:
                    self._reported.add(name)
                    self._ended[name] = time.monotonic()
                    tail = log_tail(self.layout.log(name), 4)
                    self._progress(name, f"ended with {_describe(status)}; see its log:\n{tail}")
            for name, when in list(self._ended.items() if self._restarts else ()):
                if time.monotonic() - when >= RESTART_SECONDS:
                    self._again(name)
            self._paused = await pauses.mind(self, self._paused, self._progress)
            try:
                await asyncio.wait_for(told.wait(), 0.5)
            except TimeoutError:
                continue

    async def end_part(self, name: str, *, at_once: bool = False) -> None:
        """End one process on purpose, ``at_once`` by SIGKILL, and wait for it; it isn't reported as lost."""
        self._reported.add(name)
        self._ended.pop(name, None)
        if at_once:
            self._children[name].kill()
        await asyncio.to_thread(self._end, [self.specs[name]])

    async def start_part(self, name: str) -> None:
        """Start a process that ended, by ``end_part`` or by itself; returns when it is ready."""
        await asyncio.to_thread(self._children[name].wait, STOP_SECONDS)
        self._again(name)
        await self._until_ready(self.specs[name])
        self._write("running")

    async def restart_part(self, name: str, *, at_once: bool = False) -> float:
        """End a process if it runs, start it; after how many seconds it was ready."""
        started = time.monotonic()
        await self.end_part(name, at_once=at_once)
        await self.start_part(name)
        return time.monotonic() - started

    async def relieve_part(self, name: str) -> float:
        """Start a process beside the one that runs and end that one when it listens too, as doors can; seconds taken.

        Raises Unavailable where it does not come up: the one of before runs on.
        """
        started, before, record = time.monotonic(), self._children[name], self._records[name]
        self._again(name)
        try:
            if not await listens(self._children[name].pid, self.specs[name].address, START_SECONDS):
                raise self._failure(self.specs[name], "does not listen")
        except BaseException:
            await asyncio.to_thread(self._end, [self.specs[name]])
            self._children[name], self._records[name] = before, record
            self._write(self._phase)
            raise
        before.terminate()
        await asyncio.to_thread(before.wait)
        return time.monotonic() - started

    def _again(self, name: str) -> None:
        self._spawn(self.specs[name])
        self._ended.pop(name, None)

    @property
    def specs(self) -> dict[str, ProcessSpec]:
        return {spec.name: spec for spec in self._specs}

    async def nodes(self, cluster: str) -> list[dict[str, Any]]:
        """What a cluster's nodes say of it, by ``clusters.members``; empty where none answers."""
        for spec in self._specs:
            asked = spec.cluster == cluster and spec.role == PATRONI and spec.name in self._records
            if asked and (document := await self._prober.cluster(self._records[spec.name])) is not None:
                return members(cluster, document)
        return []

    async def hand_over(self, cluster: str, leader: str, candidate: str) -> None:
        """Make ``candidate`` lead; returns when the other follows it. Raises Unavailable."""
        spec = next(each for each in self._specs if each.cluster == cluster and each.zone == leader)
        body = {"leader": leader, "candidate": candidate}
        await self._prober.order(self._records[spec.name], spec.secrets[REST], "/switchover", body)
        await self.settle(cluster)

    async def restart_server(self, name: str) -> None:
        """Have a node's Patroni restart its PostgreSQL. Raises Unavailable."""
        await self._prober.order(self._records[name], self.specs[name].secrets[REST], "/restart", {})

    def stop(self) -> None:
        """End every process, services before their storage, and forget the record."""
        if self._records:
            self._write("stopping")
        doors = [spec for spec in self._specs if spec.stage == DOORS]
        storages = [spec for spec in self._specs if spec.stage == STORAGE]
        nodes = [spec for spec in storages if spec.role == PATRONI]  # the last of the log goes through the doors
        services = [spec for spec in self._specs if spec not in storages and spec not in doors]
        for group in (services, nodes, doors, [spec for spec in storages if spec not in nodes]):
            self._end(group)
        if nodes:
            postgres.end_orphans(self.layout.root)
        rehearsal.clear(self.layout)
        self.layout.record.unlink(missing_ok=True)
        self._lock.close()

    def _end(self, specs: Sequence[ProcessSpec]) -> None:
        children = [(spec, self._children[spec.name]) for spec in specs if spec.name in self._children]
        for spec, child in children:
            if child.poll() is None:
                child.send_signal(spec.ends_with)
        deadline = time.monotonic() + STOP_SECONDS
        for spec, child in children:
            try:
                child.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                self._progress(spec.name, f"did not stop within {STOP_SECONDS:.0f} s and was killed")
                child.kill()
                child.wait()

    def _write(self, phase: str) -> None:
        self._phase = phase
        WorldRecord(
            deployment=self.manifest.deployment,
            phase=phase,
            supervisor=own_record(),
            processes=list(self._records.values()),
        ).write(self.layout)


def _holds(spec: ProcessSpec) -> bool:
    return spec.database is not None and (spec.database / "data" / "PG_VERSION").exists()


def _describe(status: int) -> str:
    return f"signal {-status} ({signal.Signals(-status).name})" if status < 0 else f"exit status {status}"


async def publish(manifest: Manifest, layout: Layout) -> int:
    """Sign the topology as the global operator and publish it as the next revision; the revision.

    It goes to the directory that runs in this folder's world, wherever the manifest wants one; without a
    world, to the manifest's. Publishing what is published already makes no new revision. Raises Unavailable
    where the directory can't be reached, Conflict where somebody else published at the same time.
    """
    addresses = [site.address for site in manifest.directory.sites]
    if (record := WorldRecord.read(layout)) is not None:
        if record.deployment != manifest.deployment:
            raise InvalidInput(
                f"the manifest is for {manifest.deployment}, and this world is {record.deployment}",
                where=str(layout.root),
                remedy="name the --state of its own world",
            )
        addresses = [process.address for process in record.processes if process.role == Role.DIRECTORY] or addresses
    client = DirectoryClient(operator(layout), addresses)
    signer = Signer.load_or_create(layout.operator(GLOBAL) / "signing.key")
    topology = manifest.topology()
    try:
        try:
            current = await client.topology()
            if verify_topology(current, manifest.deployment, [signer.public_pem()]) == topology:
                return current.revision
            revision = current.revision + 1
        except NotFound:
            revision = 1
        await client.publish_topology(sign_topology(signer, manifest.deployment, revision, topology))
        return revision
    except Conflict as error:
        raise Conflict(error.what, where="topology", remedy="somebody published meanwhile: apply again") from None
    finally:
        await client.close()
