"""Backups and restores of a running world by an operator's commands, and what its databases hold meanwhile."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from domicile.ops import postgres
from domicile_testing.databases import wait_for
from domicile_testing.worlds import LocalWorld, domicile

NOW = "SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')"


def told(world: LocalWorld, *arguments: str, status: int = 0, seconds: float = 120.0) -> dict[str, Any]:
    done = domicile(*arguments, "--json", "--state", str(world.state), seconds=seconds)
    assert done.returncode == status, done.stdout + done.stderr
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def storage(world: LocalWorld, database: str) -> Path:
    """Where a database's node lies; of two the one that leads."""
    below = {"directory": "directory/storage"}.get(database, f"cells/{database}/*/storage")
    found = [each for each in world.state.glob(below) if (each / "data" / "PG_VERSION").exists()]
    return next(each for each in found if not (each / "data" / "standby.signal").exists())


def ask(world: LocalWorld, database: str, sql: str) -> str:
    """As the superuser, by the server's own socket: a state folder of a test has a short path."""
    return ask_at(storage(world, database), sql)


def ask_at(folder: Path, sql: str) -> str:
    command = [str(postgres.binary("psql")), "-XAtq", "-h", str(folder), "-U", "postgres"]
    done = subprocess.run([*command, "-d", "domicile", "-c", sql], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def hold(world: LocalWorld, number: int, cell: str = "eu-1") -> str:
    """A subject at home in the cell, by its key: its pin and its fence."""
    key = f"01{number:032x}"
    ask(world, "directory", f"INSERT INTO directory.pins VALUES ('\\x{key}', '{cell[:2]}', '{cell}', 1, 'active')")
    ask(world, cell, f"INSERT INTO domicile.fences (subject_key, epoch, state) VALUES ('\\x{key}', 1, 'open')")
    return key


def states(world: LocalWorld, cell: str = "eu-1", folder: Path | None = None) -> dict[str, str]:
    """Of a cell's fences, at one node or at the one that leads."""
    sql = "SELECT encode(subject_key, 'hex'), state FROM domicile.fences"
    rows = ask_at(folder or storage(world, cell), sql).splitlines()
    return dict(tuple(row.split("|")) for row in rows)  # type: ignore[misc]


def wait_settled(world: LocalWorld, cell: str = "eu-1") -> dict[str, Any]:
    def over() -> bool:
        return domicile("backup", "report", cell, "--state", str(world.state)).returncode == 0

    wait_for(over, "the restore to be settled", 60)
    return told(world, "backup", "report", cell)


def wait_whole(world: LocalWorld, seconds: float = 60) -> None:
    wait_for(lambda: world.status()[0] == 0, "every process, the agent too, to be well", seconds)


def wait_kept(world: LocalWorld, cell: str, seconds: float = 60) -> None:
    """Until all that was committed is in the target."""
    ask(world, cell, "SELECT pg_logical_emit_message(true, 'test', 'a segment with nothing in it is not ended')")
    segment = ask(world, cell, "SELECT pg_walfile_name(pg_current_wal_lsn())")
    ask(world, cell, "SELECT pg_switch_wal()")
    target = world.state / "backups" / cell[:2] / cell
    wait_for(lambda: any(target.glob(f"*/log/{segment}")), f"segment {segment} to be kept", seconds)
