"""A restored database on its own: brought out of the target into a folder, recovered there, and asked.

It listens on its private socket alone, archives nothing and stands by for nobody. Until it is put in a database's place
nothing of the world knows of it; whatever ends the restore early, the folder is all that is to be removed.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import tarfile
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import BinaryIO, Final

from domicile.model.errors import InvalidInput, NotFound, Unavailable
from domicile.ops import postgres
from domicile.ops.backup.catalog import HISTORY, PARTIAL, Base, base_name, holes, line_from, number_of
from domicile.ops.backup.programs import query
from domicile.ops.backup.store import Store

Tell = Callable[[str], None]
RECOVER_SECONDS: Final = 24 * 3600.0
POLL_SECONDS: Final = 0.05
_NOT_OURS: Final = (
    "standby.signal", "recovery.signal", "postmaster.pid", "postmaster.opts", "patroni.dynamic.json",
    "postgresql.conf.backup", "pg_hba.conf.backup", "pg_ident.conf.backup",
)  # fmt: skip
_OWN_SETTINGS: Final = "postgresql.auto.conf.own"
_RECOVERY: Final = """# written by a restore
restore_command = 'cp ../log/%f "%p"'
recovery_target_action = 'promote'
listen_addresses = ''
unix_socket_directories = '..'
log_min_messages = 'log'
log_timezone = 'UTC'
logging_collector = off
hot_standby = off
archive_mode = off
synchronous_standby_names = ''
primary_conninfo = ''
primary_slot_name = ''
"""
_ENDS_EARLY: Final = "before configured recovery target was reached"
TABLES: Final = """
SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind = 'r' AND n.nspname NOT IN ('pg_catalog', 'information_schema') ORDER BY 1
"""


async def bring(store: Store, base: Base, at: datetime | None, folder: Path, tell: Tell) -> None:
    """A base backup and the log after it into an empty folder, ready to be recovered. Raises NotFound, InvalidInput."""
    lines = await store.lines(base.system)
    line = line_from(base, lines)
    first = number_of(base.first)
    segments = [each for each in store.log(base.system) if line.has(each) and number_of(each) >= first]
    missing = holes(base, segments) if at is None or at > base.ended else []
    if missing:
        raise NotFound(
            f"the log after base backup {base.id} has a hole of {len(missing)} segments",
            where=store.database,
            remedy="name a time before it, or a later base backup: see `domicile backup list`",
        )
    (folder / "data").mkdir(parents=True, mode=0o700)
    (folder / "log").mkdir(mode=0o700)
    folder.chmod(0o700)
    tell(f"base backup {base.id}, {base.size / 1e6:,.1f} MB")
    async with store.reading(base_name(base)) as stream:
        await asyncio.to_thread(_extract, stream, folder / "data")
    needed = set(segments)
    wanted = [
        file for file in store.log_files(base.system) if HISTORY.fullmatch(file) or PARTIAL.sub(r"\1", file) in needed
    ]
    whole = set(wanted)
    wanted = [file for file in wanted if not (PARTIAL.fullmatch(file) and file.removesuffix(".partial") in whole)]
    for number, file in enumerate(wanted, 1):
        tell(f"log {number:,} of {len(wanted):,}")
        await store.fetch_log(base.system, file, folder / "log")
    _configure(folder / "data", at, "latest" if not lines or line == lines[-1] else str(line.timeline))


def _extract(stream: BinaryIO, data: Path) -> None:
    with tarfile.open(fileobj=stream, mode="r|") as archive:
        archive.extractall(data, filter=_ours)  # noqa: S202 - it is filtered


def _ours(member: tarfile.TarInfo, path: str) -> tarfile.TarInfo:
    """Nothing outside of the folder; modes as they were; and ours, whoever the files belonged to."""
    admitted = tarfile.tar_filter(member, path)
    admitted.uid, admitted.gid = os.getuid(), os.getgid()
    admitted.uname = admitted.gname = ""
    return admitted


def _configure(data: Path, at: datetime | None, timeline: str) -> None:
    """Its own settings stay, but for those by which it would be found, or stand by for another."""
    if (data / "postgresql.base.conf").exists():  # Patroni's way: its own file includes the one of before
        (data / "postgresql.base.conf").replace(data / "postgresql.conf")
        (data / "pg_hba.conf").write_text("local all all trust\nlocal replication all trust\n")
    for name in _NOT_OURS:
        (data / name).unlink(missing_ok=True)
    own = data / "postgresql.auto.conf"
    own.replace(data / _OWN_SETTINGS)
    target = f"recovery_target_timeline = '{timeline}'\n"
    target += "" if at is None else f"recovery_target_time = '{at.isoformat()}'\n"
    own.write_text((data / _OWN_SETTINGS).read_text() + _RECOVERY + target)
    (data / "recovery.signal").touch()


@asynccontextmanager
async def recovered(folder: Path, tell: Tell, *, exact: bool = False) -> AsyncIterator[Path]:
    """The database of ``bring`` while it runs, recovered and promoted; yields the folder of a socket that leads to it.

    Where its log holds no commit as late as the moment that was asked for, it goes as far as the log (``ends_early``
    tells), or, ``exact``, raises InvalidInput. Stopped cleanly on leaving.
    """
    log = folder / "recovery.log"
    server = _start(folder, log)
    lifted = False
    try:
        tell("recovering")
        async with asyncio.timeout(RECOVER_SECONDS):
            while not _is_ready(folder / "data"):
                if server.poll() is not None:
                    if exact or lifted or not ends_early(folder):
                        raise _refused(folder, log)
                    lifted = True
                    _lift_moment(folder / "data")
                    server = _start(folder, log)
                await asyncio.sleep(POLL_SECONDS)
        with tempfile.TemporaryDirectory(prefix="domicile-") as short:  # a socket's path has some 100 bytes at most
            (Path(short) / "s").symlink_to(folder)
            yield Path(short) / "s"
    finally:
        if server.poll() is None:
            server.send_signal(signal.SIGINT)
            try:
                await asyncio.to_thread(server.wait, 60)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()
    (folder / "data" / _OWN_SETTINGS).replace(folder / "data" / "postgresql.auto.conf")


def ends_early(folder: Path) -> bool:
    """Whether the log ended before the moment that was asked for: no commit in it is as late."""
    return _ENDS_EARLY in (folder / "recovery.log").read_text(errors="replace")


def _lift_moment(data: Path) -> None:
    """PostgreSQL ends with an error where it does not reach its target; without one it goes to the end of the log."""
    own = data / "postgresql.auto.conf"
    lines = own.read_text().splitlines(keepends=True)
    own.write_text("".join(line for line in lines if not line.startswith("recovery_target_time ")))


def _start(folder: Path, log: Path) -> subprocess.Popen[bytes]:
    # SIGQUIT where its starter is killed: nobody asks twice, and what it leaves is thrown away
    command = postgres.launched(postgres.server_command(folder), ends_with=signal.SIGQUIT, unprivileged=True)
    with log.open("ab") as said:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=said, stderr=said, start_new_session=True)


def _is_ready(data: Path) -> bool:
    """Promoted, too: with hot_standby off a server says ready no earlier."""
    try:
        return (data / "postmaster.pid").read_text().rstrip().endswith("ready")
    except FileNotFoundError:
        return False


def _refused(folder: Path, log: Path) -> InvalidInput | Unavailable:
    text = log.read_text(errors="replace")
    if ends_early(folder):
        last = last_commit(folder)
        return InvalidInput(
            "the log in the target holds no commit as late as that; "
            + ("none at all after the base backup" if last is None else f"the last one is of {last.isoformat()}"),
            where="--at",
            remedy="leave --exact out for the last moment that there is",
        )
    told = [line.partition("] ")[2] for line in text.splitlines() if re.search("LOG: .*error|FATAL|PANIC", line)]
    return Unavailable("the database did not recover: " + ("; ".join(told[-3:]) or "it ended without a word"))


def last_commit(folder: Path) -> datetime | None:
    """When the last transaction that was replayed was committed, by the server's own word; None where none was."""
    found = None
    for line in (folder / "recovery.log").read_text(errors="replace").splitlines():
        _, known, moment = line.partition("last completed transaction was at log time ")
        if known:
            found = datetime.fromisoformat(moment.strip().replace(" UTC", "+00:00"))
    return found


async def count_rows(socket: Path) -> dict[str, int]:
    """Of every table that is no catalogue."""
    tables = [table for (table,) in await query(socket, TABLES, user=postgres.SUPERUSER)]
    counts = " UNION ALL ".join(f"SELECT '{table}', count(*) FROM {table}" for table in tables)  # noqa: S608
    return {name: int(count) for name, count in await query(socket, counts, user=postgres.SUPERUSER)} if tables else {}
