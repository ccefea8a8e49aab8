"""Taking a base backup: pg_basebackup's stream, sealed on its way into the target. No byte of it rests in clear."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from domicile.model.errors import Unavailable
from domicile.ops.backup.catalog import Base, name_of, segment_at
from domicile.ops.backup.programs import command, failed, query, started
from domicile.ops.backup.store import Store
from domicile.ops.postgres import BACKUP_USER
from domicile.service import ended

SYSTEM: Final = "SELECT system_identifier FROM pg_control_system()"
SIZE: Final = "SELECT sum(pg_database_size(oid)) FROM pg_database"
_CHUNK: Final = 1 << 20
_START: Final = re.compile(rb"write-ahead log start point: ([0-9A-F]+/[0-9A-F]+) on timeline (\d+)")
_END: Final = re.compile(rb"write-ahead log end point: ([0-9A-F]+/[0-9A-F]+)")


async def system_of(socket: Path) -> str:
    """PostgreSQL's identifier of the database that answers there."""
    ((system,),) = await query(socket, SYSTEM)
    return system


async def take(socket: Path, store: Store, progress: Callable[[int, int], None]) -> Base:
    """A base backup that is complete by itself. ``progress``: bytes so far, and about how many there are.

    Whatever ends it early, nothing of it is left in the target. Raises Unavailable.
    """
    system = await system_of(socket)
    ((size,),) = await query(socket, SIZE)
    key = await store.key()
    began = datetime.now(UTC)
    identifier = began.strftime("%Y%m%dT%H%M%S%fZ")
    name = name_of(store.database, system, identifier)
    words = command("pg_basebackup", "-h", str(socket), "-U", BACKUP_USER, "--no-password", "--verbose")
    words += ["--pgdata=-", "--format=tar", "--wal-method=fetch", "--checkpoint=fast", "--no-sync"]
    with store.writing(name, system, key) as sink:
        async with started(words) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            saying = asyncio.create_task(process.stderr.read())
            done = 0
            try:
                while chunk := await process.stdout.read(_CHUNK):
                    await asyncio.to_thread(sink.write, chunk)
                    done += len(chunk)
                    progress(done, max(done, int(size)))
                said = await saying
            finally:
                await ended(saying)
            await process.wait()
        if process.returncode != 0:
            raise failed("the base backup", said)
    start, end = _START.search(said), _END.search(said)
    if start is None or end is None:
        raise Unavailable("the base backup does not say where in the log it begins and ends")
    timeline = int(start[2])
    base = Base(
        id=identifier,
        database=store.database,
        system=system,
        started=began,
        ended=datetime.now(UTC),
        first=segment_at(timeline, start[1].decode()),
        last=segment_at(timeline, end[1].decode()),
        plain=done,
        size=store.size_of(name),
    )
    store.record(base, key)
    return base
