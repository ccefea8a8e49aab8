"""A local world while it lives: started in stages, watched, and ended whole.

Rules that hold whatever happens:

- one supervisor for each state folder, by a lock that the kernel gives back when it dies;
- no process outlives the supervisor: each asks the kernel to be signalled when its starter ends;
- a part that fails to start ends the start, and the last lines of its own log are in the error;
- a part that ends later is reported by name, and the rest goes on: a world is for seeing what survives.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Final

import psutil

from domicile.client import DirectoryClient
from domicile.identity import Signer, sign_topology, verify_topology
from domicile.model.access import GLOBAL, Role
from domicile.model.errors import Conflict, DomicileError, InvalidInput, NotFound, Unavailable
from domicile.model.manifest import Manifest
from domicile.ops import pauses, postgres
from domicile.ops.clusters import members, settled
from domicile.ops.health import PATRONI, Prober, operator
from domicile.ops.layout import Layout
from domicile.ops.plan import CELLS, DIRECTORY, DOORS, SAMPLE, STORAGE, Planner, ProcessSpec, doors_of
from domicile.ops.ports import free_address, require_free
from domicile.ops.provision import Provision
from domicile.ops.record import ProcessRecord, WorldRecord, own_record, try_lock
from domicile.ops.switching import finish_switch

START_SECONDS: Final = 60.0
STOP_SECONDS: Final = 20.0
SETTLE_SECONDS: Final = 120.0
_SETTLE_POLL_SECONDS: Final = 0.5
LOG_TAIL_LINES: Final = 12
_POLL_SECONDS: Final = 0.05
Progress = Callable[[str, str], None]
"""Called with a part's name and what became of it."""


def log_tail(path: Path, lines: int = LOG_TAIL_LINES) -> str:
    try:
        text = path.read_text(errors="replace").splitlines()
    except OSError:
        return "(no log)"
    return "\n".join(f"    {line}" for line in text[-lines:]) or "    (its log is empty)"


def schema_commands(
    manifest: Manifest, layout: Layout, specs: Sequence[ProcessSpec], app: str
) -> list[tuple[str, list[str], dict[str, str]]]:
    """For each cell: the command that applies the application's schema, as the operator would."""
    commands = []
    for name, cell in manifest.cells.items():
        credentials = operator(layout, cell.jurisdiction)
        environment = {
            "DOMICILE_DEPLOYMENT": manifest.deployment,
            "DOMICILE_CERTIFICATE": str(credentials.certificate),
            "DOMICILE_KEY": str(credentials.key),
            "DOMICILE_AUTHORITIES": str(layout.authorities),
            "DOMICILE_STORAGE": ",".join(door.address for door in doors_of(specs, name)),
        }
        console = "from domicile.sdk.store.commands import app; app(prog_name='domicile schema')"
        arguments = ["apply", app, "--cell", name, "--jurisdiction", cell.jurisdiction]
        commands.append((name, [sys.executable, "-c", console, *arguments], environment))
    return commands


class World:
    """One start of a local world; ``progress`` hears of each part."""

    manifest: Manifest

    def __init__(self, layout: Layout, lock: IO[bytes], *, progress: Progress, log_level: str, app: str) -> None:
        self.layout = layout
        self._lock = lock
        self._progress = progress
        self._log_level = log_level
        self._app = app
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._records: dict[str, ProcessRecord] = {}
        self._specs: list[ProcessSpec] = []
        self._reported: set[str] = set()
        self._paused: set[str] = set()
        self._spawned: dict[str, float] = {}
        self._told: set[str] = set()
        self._environment = {k: v for k, v in os.environ.items() if not k.startswith("DOMICILE_")}

    # -- start ---------------------------------------------------------------------------------------

    @classmethod
    def acquire(cls, layout: Layout, *, progress: Progress, log_level: str = "info", app: str = SAMPLE) -> World:
        """Become this folder's only supervisor. Raises InvalidInput where one runs already."""
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
        return cls(layout, lock, progress=progress, log_level=log_level, app=app)

    def prepare(self, manifest: Manifest, available: Collection[str] = ()) -> None:
        """Authorities, certificates, the list of processes. ``manifest`` has real ports. Nothing runs yet.

        ``available``: the databases that get a standby and a witness, by name.
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
            *(self._settle(name, [spec for spec in late if spec.cluster == name]) for name in sorted(names))
        )

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

    async def _settle(self, cluster: str, late: Sequence[ProcessSpec]) -> None:
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
                document = await self._prober.cluster(self._records[spec.name])
                if document is not None and settled(members(cluster, document)):
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
        await asyncio.gather(
            *(self._schema(*command) for command in schema_commands(self.manifest, self.layout, self._specs, self._app))
        )

    async def _schema(self, cell: str, command: list[str], environment: dict[str, str]) -> None:
        log = self.layout.log(f"{cell}-schema")
        with log.open("ab") as stream:
            process = await asyncio.create_subprocess_exec(
                *postgres.launched(command, ends_with=signal.SIGTERM),
                env=self._environment | environment,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
            )
            try:
                status = await asyncio.wait_for(process.wait(), START_SECONDS)
            except BaseException:
                process.kill()
                await process.wait()
                raise
        if status != 0:
            raise Unavailable(f"applying the schema of {cell} failed; the end of {log}:\n{log_tail(log)}")
        self._progress(f"{cell}-schema", "applied")

    def _spawn(self, spec: ProcessSpec) -> None:
        # where the supervisor is killed nobody asks twice: an immediate shutdown ends PostgreSQL in every state,
        # which a fast one does not (seen to hang in the recovery after a backend's crash)
        leash = signal.SIGQUIT if spec.role == "postgres" else spec.ends_with
        command = postgres.launched(spec.command, ends_with=leash, unprivileged=spec.database is not None)
        with self.layout.log(spec.name).open("ab") as stream:
            child = subprocess.Popen(
                command,
                env=self._environment | spec.environment,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                start_new_session=True,
            )
        self._children[spec.name] = child
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
        )
        self._write("starting")

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
                    tail = log_tail(self.layout.log(name), 4)
                    self._progress(name, f"ended with {_describe(status)}; see its log:\n{tail}")
            await self._mind_pauses()
            try:
                await asyncio.wait_for(told.wait(), 0.5)
            except TimeoutError:
                continue

    async def _mind_pauses(self) -> None:
        """Stop the databases that somebody has to be alone with, and start those that nobody has any more."""
        wanted = pauses.asked(self.layout)
        for name in wanted - self._paused:
            for spec in self._nodes_of(name):
                await self.end_part(spec.name)
        for name in self._paused - wanted:
            try:
                await self._resume(name)
            except DomicileError as error:
                self._progress(name, f"did not start again: {error}")
        if wanted != self._paused:
            self._paused = wanted
            pauses.tell(self.layout, wanted)

    async def _resume(self, name: str) -> None:
        nodes = self._nodes_of(name)
        for spec in nodes:
            if spec.database is not None:
                await asyncio.to_thread(finish_switch, spec.database)
        if any(spec.cluster for spec in nodes):
            await self.start_storage([name])
            self._reported -= {spec.name for spec in nodes}
            self._write("running")
        else:
            await self.start_part(nodes[0].name)

    def _nodes_of(self, name: str) -> list[ProcessSpec]:
        return [
            spec
            for spec in self._specs
            if spec.stage == STORAGE and (spec.cluster == name or spec.name == f"{name}-postgres")
        ]

    async def end_part(self, name: str) -> None:
        """End one process on purpose and wait for it; it isn't reported as lost."""
        self._reported.add(name)
        await asyncio.to_thread(self._end, [spec for spec in self._specs if spec.name == name])

    async def start_part(self, name: str) -> None:
        """Start a process that ended, by ``end_part`` or by itself; returns when it is ready."""
        spec = next(spec for spec in self._specs if spec.name == name)
        await asyncio.to_thread(self._children[name].wait, STOP_SECONDS)
        self._spawn(spec)
        await self._until_ready(spec)
        self._reported.discard(name)
        self._write("running")

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


def end_processes(records: Sequence[ProcessRecord], *, seconds: float = STOP_SECONDS) -> list[str]:
    """End what a dead supervisor left; the names of what was still alive."""
    alive = [(record, process) for record in records if (process := record.process()) is not None]
    for record, process in alive:
        try:
            process.send_signal(signal.SIGINT if record.role == "postgres" else signal.SIGTERM)
        except psutil.NoSuchProcess:
            continue
    _, stubborn = psutil.wait_procs([process for _, process in alive], timeout=seconds)
    for process in stubborn:
        process.kill()
    psutil.wait_procs(stubborn, timeout=5)
    return [record.name for record, _ in alive]


def stop_world(layout: Layout, *, seconds: float = 60.0) -> tuple[bool, list[str]]:
    """Stop the world of a folder: (whether one was running, leftovers that had to be ended).

    Raises Unavailable where the supervisor does not give up its lock in time.
    """
    if not layout.marker.exists():
        return False, []
    record = WorldRecord.read(layout)
    lock = try_lock(layout.lock)
    running = lock is None
    deadline = time.monotonic() + seconds
    supervisor = record.supervisor.process() if running and record is not None else None
    if supervisor is not None:
        supervisor.send_signal(signal.SIGTERM)
    while lock is None:
        if time.monotonic() > deadline:
            raise Unavailable(f"the supervisor did not stop within {seconds:.0f} s", where=str(layout.root))
        time.sleep(_POLL_SECONDS)
        lock = try_lock(layout.lock)
    try:
        if supervisor is not None:
            psutil.wait_procs([supervisor], timeout=5)
        left = end_processes(record.processes) if record is not None else []
        left += postgres.end_orphans(layout.root)
        layout.record.unlink(missing_ok=True)
    finally:
        lock.close()
    return running, left
