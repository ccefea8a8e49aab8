"""Keeps the log of one database in its target, and base backups with it.

pg_receivewal takes the log through a replication slot into a spool of ours; what is complete goes into the target,
sealed, and only then from the spool; of the segment being written a copy goes there every ``PARTIAL_SECONDS``. Where
the target cannot be reached the spool grows to ``SPOOL_BYTES``, then the database keeps the log for us, up to its own
``max_slot_wal_keep_size``. Past that it would rather lose our place than its disk: that is counted, told, and a
new base backup is taken as soon as it can be. Nothing is dropped without being said.
"""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from domicile.model.backups import BackupTarget
from domicile.model.errors import DomicileError, Unavailable
from domicile.model.key_wire import BackupKey
from domicile.ops.backup.base import system_of, take
from domicile.ops.backup.catalog import HISTORY, PARTIAL, SEGMENT, SEGMENT_BYTES, Base, holes, timeline_of
from domicile.ops.backup.passage import Passage
from domicile.ops.backup.programs import command, query, started
from domicile.ops.backup.store import Store
from domicile.ops.postgres import BACKUP_SLOT, BACKUP_USER
from domicile.service import ended
from domicile.telemetry import BACKUP_AGE, BACKUP_FAILURES, LOG_LAG, LOG_LOSSES, LOG_WAITING, log, warn

BEAT_SECONDS: Final = 1.0
PARTIAL_SECONDS: Final = 5.0
"""With a beat and the time that a copy takes, less than the 10 s that docs/backup.md gives up."""
ALARM_SECONDS: Final = 60.0
"""A log that has not been whole in the target for so long is an alarm."""
SPOOL_BYTES: Final = 256 << 20
KEY_SECONDS: Final = 86_400.0
_SLOT_STATE: Final = f"SELECT wal_status FROM pg_replication_slots WHERE slot_name = '{BACKUP_SLOT}'"  # noqa: S608
_STREAMS: Final = f"SELECT active FROM pg_replication_slots WHERE slot_name = '{BACKUP_SLOT}'"  # noqa: S608
_TIMELINE: Final = "SELECT left(pg_walfile_name(pg_current_wal_lsn()), 8)"
_MAKE_SLOT: Final = f"SELECT pg_create_physical_replication_slot('{BACKUP_SLOT}', true)"
_DROP_SLOT: Final = f"SELECT pg_drop_replication_slot('{BACKUP_SLOT}')"


class Keeper:
    """``spool``: a private folder of this database's. ``clock``: seconds, monotonic."""

    def __init__(
        self,
        store: Store,
        passage: Passage,
        target: BackupTarget,
        spool: Path,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._passage = passage
        self._target = target
        self._spool = spool
        self._clock = clock
        self._kept_at = clock()
        self._shipped: dict[str, tuple[float, int]] = {}
        self._partial_at = -PARTIAL_SECONDS
        self._system = self._timeline = ""
        self._shipping = asyncio.Lock()
        self._known = asyncio.Event()
        self._receiving = False
        self._key: tuple[float, BackupKey] | None = None
        self._failing = ""

    @property
    def database(self) -> str:
        return self._store.database

    @property
    def lag(self) -> float:
        """Seconds since everything received was in the target, while it was being received."""
        return self._clock() - self._kept_at

    def check(self) -> None:
        """Raise Unavailable where the log has not been kept for too long."""
        if self.lag > ALARM_SECONDS:
            raise Unavailable(
                f"the log of {self.database} has not been in its backup target for {self.lag:.0f} s ({self._failing})",
                remedy="see docs/backup.md, and the metric domicile_backup_log_lag_seconds",
            )

    async def run(self) -> None:
        """Never ends by itself; failures are counted, and told when they change."""
        shipping = asyncio.create_task(self._again(self._ship, BEAT_SECONDS))
        basing = asyncio.create_task(self._again(self._keep_bases, 30 * BEAT_SECONDS))
        try:
            await self._again(self._receive, BEAT_SECONDS)
        finally:
            await ended(shipping, basing)

    async def _again(self, work: Callable[[], Awaitable[None]], seconds: float) -> None:
        said = ""
        while True:
            try:
                await work()
                said = ""
            except Exception as error:  # whatever it is: a keeper that ends by it would keep nothing any more
                code = error.code if isinstance(error, DomicileError) else "fault"
                BACKUP_FAILURES.labels(self.database, code).inc()
                self._failing = code
                if said != code:
                    said = code
                    warn("backup-failing", cell=self.database, code=code, error=type(error).__name__)
            LOG_LAG.labels(self.database).set(self.lag)
            await asyncio.sleep(seconds)

    # -- the log into the spool ----------------------------------------------------------------------

    async def _receive(self) -> None:
        try:
            await self._receive_until_ended()
        finally:
            self._receiving = False

    async def _receive_until_ended(self) -> None:
        self._require_room()
        async with self._passage.open() as socket:
            await self._take_place(socket)
            words = command("pg_receivewal", "-h", str(socket), "-U", BACKUP_USER, "--no-password", "--no-loop")
            words += ["-D", str(self._spool), "--slot", BACKUP_SLOT, "--status-interval=1"]
            log_file = self._spool.with_suffix(".log")
            with log_file.open("wb") as said:
                async with started(words, stdout=None, stderr=said.fileno()) as process:
                    ending = asyncio.create_task(process.wait())
                    # that it runs says nothing: a server may refuse the place that it asks for, and it ends then
                    await asyncio.wait([ending], timeout=BEAT_SECONDS)
                    while not ending.done() and self._waiting() < SPOOL_BYTES:
                        self._receiving = self._receiving or await query(socket, _STREAMS) == [["t"]]
                        await asyncio.wait([ending], timeout=BEAT_SECONDS / 4)
                    if process.returncode is None:
                        self._require_room()
            raise Unavailable("pg_receivewal ended")

    def _require_room(self) -> None:
        if self._waiting() >= SPOOL_BYTES:
            raise Unavailable("the spool is full: the database keeps the log meanwhile")

    async def _take_place(self, socket: Path) -> None:
        """The slot in the database that was asked for the log before, or a new one, and then a base backup is due."""
        system = await system_of(socket)
        ((timeline,),) = await query(socket, _TIMELINE)
        if (self._system, self._timeline) != (system, timeline):
            await self._begin(system, timeline)
            self._known.set()
        state = await query(socket, _SLOT_STATE)
        if state == [["lost"]]:
            LOG_LOSSES.labels(self.database).inc()
            warn("backup-log-lost", cell=self.database)
            await query(socket, _DROP_SLOT)
            state = []
        if not state:
            await query(socket, _MAKE_SLOT)

    async def _begin(self, system: str, timeline: str) -> None:
        """The spool of another database is dropped; of another timeline of this one it goes into the target first.

        pg_receivewal would go on where a spool ends, which the log of a restored database need not have.
        """
        self._spool.mkdir(parents=True, exist_ok=True, mode=0o700)
        mark = self._spool.with_suffix(".system")
        before = mark.read_text().split() if mark.exists() else [system, timeline]
        async with self._shipping:
            if before != [system, timeline]:
                for path in self._files() if before[0] == system else ():
                    await self._store.keep_log(system, path, path.name, await self._current_key())
                shutil.rmtree(self._spool)
                self._spool.mkdir(mode=0o700)
                self._shipped.clear()
            mark.write_text(f"{system} {timeline}")
            self._system, self._timeline = system, timeline

    def _files(self) -> list[Path]:
        if not self._spool.exists():
            return []
        kinds = (SEGMENT, PARTIAL, HISTORY)
        return sorted(path for path in self._spool.iterdir() if any(kind.fullmatch(path.name) for kind in kinds))

    def _waiting(self) -> int:
        return len([path for path in self._files() if SEGMENT.fullmatch(path.name)]) * SEGMENT_BYTES

    # -- from the spool into the target --------------------------------------------------------------

    async def _ship(self) -> None:
        await self._known.wait()
        async with self._shipping:
            await self._ship_spool()

    async def _ship_spool(self) -> None:
        started_at = self._clock()
        partials = []
        for path in self._files():
            if PARTIAL.fullmatch(path.name):
                partials.append(path)
                continue
            await self._store.keep_log(self._system, path, path.name, await self._current_key())
            path.unlink()
            self._shipped.pop(f"{path.name}.partial", None)
        if partials and started_at - self._partial_at >= PARTIAL_SECONDS:
            await self._ship_partials(partials)
        LOG_WAITING.labels(self.database).set(self._waiting())
        if self._receiving and (not self._is_writing() or self._partial_at > started_at - PARTIAL_SECONDS):
            self._kept_at = started_at
            self._failing = ""

    def _is_writing(self) -> bool:
        return any(PARTIAL.fullmatch(path.name) for path in self._files())

    async def _ship_partials(self, paths: Sequence[Path]) -> None:
        """All of them in one turn: that of a timeline that was left stays in the spool beside the one being written."""
        for path in paths:
            try:
                found = path.stat()
                state = found.st_mtime, found.st_size
                if self._shipped.get(path.name) != state:
                    await self._store.keep_log(self._system, path, path.name, await self._current_key())
                    self._shipped[path.name] = state
            except FileNotFoundError:
                return  # it is full, and has another name by now
        self._partial_at = self._clock()

    async def _current_key(self) -> BackupKey:
        """Kept for a day, so that a key service that is gone for a while holds nothing up."""
        if self._key is None or self._clock() - self._key[0] > KEY_SECONDS:
            self._key = self._clock(), await self._store.key()
        return self._key[1]

    # -- base backups --------------------------------------------------------------------------------

    async def _keep_bases(self) -> None:
        """One is due when the last is too old or of another timeline, or the log since then has a hole; then what
        nobody needs goes."""
        await self._known.wait()
        bases, unusable = await self._store.survey(self._system)
        if self._is_due(bases):
            if unusable:
                warn("backups-unusable", cell=self.database, count=len(unusable))
            async with self._passage.open() as socket:
                base = await take(socket, self._store, lambda done, total: None)
            log("backup-taken", cell=self.database)
            bases.append(base)
            await self._store.prune(timedelta(days=self._target.keep_days))
        BACKUP_AGE.labels(self.database).set((datetime.now(UTC) - bases[-1].ended).total_seconds())

    def _is_due(self, bases: list[Base]) -> bool:
        if not bases or datetime.now(UTC) - bases[-1].ended > timedelta(hours=self._target.every_hours):
            return True
        timeline = timeline_of(bases[-1].last)
        segments = [each for each in self._store.log(self._system) if timeline_of(each) == timeline]
        return timeline != int(self._timeline, 16) or bool(holes(bases[-1], segments))
