"""A streaming standby of a database under test: copied by pg_basebackup, behind a door of its own."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import psutil

from domicile.model import GLOBAL, Endpoint
from domicile.ops import postgres
from domicile_testing.cell import superuser
from domicile_testing.certificates import Trust
from domicile_testing.databases import Storage, running_storage, until

USER = "domicile_directory"
WAITING = "SELECT pid FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
"""The servers' processes whose COMMIT waits for a standby."""


@contextmanager
def running_database(trust: Trust, folder: Path, zone: str = "fra") -> Iterator[Storage]:
    """The directory's database in ``folder``, made unless it is there."""
    with running_storage(trust, folder, Endpoint.DIRECTORY_STORAGE, GLOBAL, zone, USER) as storage:
        yield storage


def copy_standby(primary: Path, folder: Path, name: str) -> None:
    """Make a standby of the running server of ``primary`` in ``folder``, which calls itself ``name``."""
    folder.mkdir(mode=0o700)
    data = folder / "data"
    command = [str(postgres.binary("pg_basebackup")), "-h", str(primary), "-U", postgres.SUPERUSER, "-D", str(data)]
    done = subprocess.run(
        postgres.launched(
            [*command, "-X", "stream", "-c", "fast", "--no-sync"], ends_with=signal.SIGTERM, unprivileged=True
        ),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    follow(primary, folder, name)
    (folder / "created").touch()


def follow(primary: Path, folder: Path, name: str) -> None:
    """From its next start on, the server of ``folder`` is a standby of that of ``primary``."""
    (folder / "data" / "standby.signal").touch()
    with (folder / "data" / "postgresql.auto.conf").open("a") as stream:
        stream.write(
            f"primary_conninfo = 'host=''{primary}'' user={postgres.SUPERUSER} application_name={name}'\n"
            "wal_retrieve_retry_interval = '100ms'\n"
        )


@contextmanager
def running_standby(trust: Trust, primary: Storage, folder: Path, zone: str = "par") -> Iterator[Storage]:
    """A standby of ``primary`` named for its zone, made unless it is there; read-only behind its own door."""
    if not folder.exists():
        copy_standby(primary.folder, folder, zone)
    with running_database(trust, folder, zone) as storage:
        yield storage


async def wait_for_standbys(primary: Storage, names: str, count: int = 1) -> None:
    """Make ``names`` the synchronous standbys of ``primary``, and wait until ``count`` of them stream."""
    async with superuser(primary) as connection:
        await connection.execute(f"GRANT pg_read_all_stats TO {USER}")
        await name_standbys(primary, names)
        streaming = (
            "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming' AND sync_state IN ('sync', 'quorum')"
        )

        async def enough() -> bool:
            found: int = await connection.fetchval(streaming)
            return found >= count

        await until(enough, "synchronous standbys")


async def name_standbys(primary: Storage, names: str) -> None:
    """``names``: synchronous_standby_names, in force for new statements when it returns."""
    async with superuser(primary) as connection:
        await connection.execute(f"ALTER SYSTEM SET synchronous_standby_names = '{names}'")
        await connection.execute("SELECT pg_reload_conf()")

        async def reloaded() -> bool:
            found: str = await connection.fetchval("SHOW synchronous_standby_names")
            return found == names

        await until(reloaded, "the reload")


@asynccontextmanager
async def paused(storage: Storage) -> AsyncIterator[None]:
    """Every process of a server stopped, as when its machine hangs: its peers still think it is there."""
    server = psutil.Process(storage.server.pid)
    processes = [server, *server.children(recursive=True)]
    for process in processes:
        process.suspend()
    try:
        yield
    finally:
        for process in processes:
            process.resume()
