"""A restore from its first byte to a database in use: staged beside, closed there, and only then put in place.

Everything that takes long happens in a folder of its own, while the database of before goes on if it can. What a
restored database must not do is settled before anybody can reach it: a cell's fences are closed, a directory refuses
claims. The switch itself is a stop, two renames and a start.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from domicile.model.access import GLOBAL
from domicile.model.errors import InvalidInput, Unavailable
from domicile.ops import postgres
from domicile.ops.backup.catalog import Base, choose, line_from, number_of, segment_at
from domicile.ops.backup.place import Database, Nodes, Place
from domicile.ops.backup.programs import command, query, run
from domicile.ops.backup.scratch import Tell, bring, count_rows, ends_early, last_commit, recovered
from domicile.ops.pauses import paused
from domicile.ops.record import try_lock
from domicile.ops.switching import put_in_place, set_aside, staging
from domicile.sdk.store.local import superuser
from domicile.sdk.store.restoring import begin_restored

_BEGIN_DIRECTORY: Final = "SELECT directory.begin_generation(NULL, true, 0)"
ANSWER_SECONDS: Final = 30.0
_POSITION: Final = "SELECT timeline_id, redo_lsn FROM pg_control_checkpoint()"


@dataclass(frozen=True)
class Restored:
    """``upto``: when the last commit that is here was made; ``reached``: whether the log went on to the moment that was
    asked for; ``rows`` by table; ``dropped_segments``: of the log that lies in the target after it; ``closed``: a
    cell's fences that the directory has to settle; ``before``: where the data of before is."""

    base: Base
    upto: datetime | None
    reached: bool
    rows: dict[str, int]
    dropped_segments: int
    closed: int | None
    before: Path | None = None

    def document(self) -> dict[str, Any]:
        return {
            "database": self.base.database,
            "base": self.base.id,
            "upto": None if self.upto is None else self.upto.isoformat(),
            "reached": self.reached,
            "rows": self.rows,
            "dropped_segments": self.dropped_segments,
            "closed_fences": self.closed,
            "before": None if self.before is None else str(self.before),
        }


async def verify(
    place: Place, database: Database, at: datetime | None, wanted: str | None, tell: Tell, *, exact: bool = False
) -> Restored:
    """Restore into a folder of its own, check files, tables and indexes, count rows, throw away.

    Raises InvalidInput for a backup that does not hold what it says.
    """
    folder = place.home(database.jurisdiction) / "verify"
    async with place.store(database) as store:
        base = choose(await (store.bases() if wanted else store.choices()), at, wanted)
        with staging(folder) as scratch:
            await bring(store, base, at, scratch, tell)
            tell("checking files")
            manifest = command("pg_verifybackup", "--no-parse-wal", "--quiet", *_CHANGED, str(scratch / "data"))
            await run(manifest, "checking the files of the base backup", seconds=3600)
            async with recovered(scratch, tell, exact=exact) as socket:
                tell("checking indexes")
                words = command("pg_amcheck", "--install-missing", "-h", str(socket), "-U", postgres.SUPERUSER)
                await run([*words, postgres.DATABASE], "checking tables and indexes", seconds=3600)
                rows = await count_rows(socket)
            return Restored(base, last_commit(scratch), not ends_early(scratch), rows, 0, None)


_CHANGED: Final = [
    f"--ignore={name}"
    for name in (
        "postgresql.auto.conf",
        "postgresql.auto.conf.own",
        "postgresql.conf",
        "pg_hba.conf",
        "recovery.signal",
    )
]
"""What is written anew before it is checked."""


async def restore(
    place: Place, database: Database, at: datetime | None, wanted: str | None, tell: Tell, *, exact: bool = False
) -> Restored:
    """Put a database back as it was ``at`` that time, or as late as its log goes, in the place of the one there is.

    ``exact``: it is refused where the log does not go on to that time. Whatever ends it early, the one there is stays.
    Raises InvalidInput, NotFound, Unavailable, WrongJurisdiction.
    """
    nodes = place.nodes(database)
    folder = nodes.folders[0]
    async with place.store(database) as store:
        base = choose(await (store.bases() if wanted else store.choices()), at, wanted)
        line = line_from(base, await store.lines(base.system))
        segments = [segment for segment in store.log(base.system) if line.has(segment)]
        with staging(folder) as scratch:
            await bring(store, base, at, scratch, tell)
            async with recovered(scratch, tell, exact=exact) as socket:
                upto, reached = last_commit(scratch) or base.ended, not ends_early(scratch)
                closed = await _close(database, socket, upto)
                rows = await count_rows(socket)
                ((timeline, position),) = await query(socket, _POSITION, user=postgres.SUPERUSER)
            here = number_of(segment_at(int(timeline), position))
            dropped = sum(1 for segment in segments if number_of(segment) > here)
            history = scratch / "data" / "pg_wal" / f"{int(timeline):08X}.history"
            key = await store.key()  # before a key store is stopped

            async def begin_timeline() -> None:
                """Told in the target, so that a later restore begins none of the same number."""
                if history.exists():
                    await store.keep_log(base.system, history, history.name, key)

            tell("switching")
            before = await _switch(place, database, nodes, scratch, begin_timeline)
    if place.record() is not None:
        await _answers(place, database)
    return Restored(base, upto, reached, rows, dropped, closed, before)


async def _close(database: Database, socket: Path, upto: datetime) -> int | None:
    if database.jurisdiction == GLOBAL:
        await query(socket, _BEGIN_DIRECTORY, user=postgres.SUPERUSER)
        return None
    if database.name.startswith("keys-"):
        return None  # each key service process destroys again what was shredded, when it starts
    async with superuser(socket) as connection:
        return await begin_restored(connection, upto)


async def _switch(
    place: Place, database: Database, nodes: Nodes, scratch: Path, begin_timeline: Callable[[], Awaitable[None]]
) -> Path | None:
    """What is restored in the place of what there is; where that is now. Raises Unavailable.

    ``begin_timeline``: called last before, because what was written in one that nobody went on with hides what others
    wrote after it was left.
    """
    before = None
    try:
        async with _alone(place, database, nodes):
            if place.nodes(database) != nodes:
                raise Unavailable("the world has changed meanwhile", where=database.name, remedy="try again")
            await begin_timeline()
            before = put_in_place(nodes.folders[0], scratch)
            if nodes.clustered:
                forget_cluster(nodes.folders)
    except Unavailable as error:
        if before is None:
            raise
        remedy = f"see `domicile status`; the data of before is {before}"
        raise Unavailable(error.what, where=database.name, remedy=remedy) from error
    return before


def forget_cluster(folders: Sequence[Path]) -> None:
    """Under Patroni the other node copies this one anew, and nobody remembers who led."""
    for number, folder in enumerate(folders):
        shutil.rmtree(folder / "raft", ignore_errors=True)
        if number:
            set_aside(folder)
    for common in {folder.parent.parent for folder in folders} | {folders[0].parent}:
        shutil.rmtree(common / "witness" / "raft", ignore_errors=True)


@asynccontextmanager
async def _alone(place: Place, database: Database, nodes: Nodes) -> AsyncIterator[None]:
    """Nobody uses the database's folder: a running world has stopped it, or no world may start. Raises Unavailable."""
    lock = try_lock(place.layout.lock)
    if lock is not None:
        with lock:
            for folder in nodes.folders:
                await asyncio.to_thread(postgres.clear_stale_lock, folder)
            yield
        return
    if place.record() is None:
        raise Unavailable("a world starts or stops here just now", where=str(place.layout.root), remedy="try again")
    async with paused(place.layout, database.name):
        yield


async def _answers(place: Place, database: Database) -> None:
    """Through its door, writable. Raises Unavailable where it is not within ``ANSWER_SECONDS``."""
    said = "does not answer"
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            while True:
                try:
                    async with place.passage(database).open() as socket:
                        if await query(socket, "SELECT pg_is_in_recovery()") == [["f"]]:
                            return
                    said = "is read-only"
                except Unavailable as error:
                    said = f"does not answer: {error.what}"
                await asyncio.sleep(ANSWER_SECONDS / 60)
    except TimeoutError:
        raise Unavailable(f"is restored, and {said}", where=database.name, remedy="see `domicile status`") from None


def parse_moment(text: str) -> datetime:
    """ISO 8601, with its offset. Raises InvalidInput."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidInput(f"{text!r} is no time", where="--at", remedy="such as 2026-11-25T15:04:05+00:00") from None
    if moment.tzinfo is None:
        raise InvalidInput(f"{text!r} has no offset", where="--at", remedy=f"such as {text}+00:00 or {text}Z")
    return moment
