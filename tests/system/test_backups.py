"""A world's databases, backed up and restored by the commands that an operator types, while it is used."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from domicile_testing.databases import wait_for
from domicile_testing.worlds import COMMAND, LocalWorld, clean_environment, domicile, running_world

from domicile.ops import postgres

pytestmark = [pytest.mark.system, pytest.mark.full, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalWorld]:
    with running_world(tmp_path_factory.mktemp("backups") / "s", "--backups") as running:
        yield running


def told(world: LocalWorld, *arguments: str, status: int = 0) -> dict[str, Any]:
    done = domicile(*arguments, "--json", "--state", str(world.state))
    assert done.returncode == status, done.stdout + done.stderr
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def storage(world: LocalWorld, database: str) -> Path:
    return {"eu-1": world.state / "cells/eu-1/fra/storage", "directory": world.state / "directory/storage"}[database]


def ask(world: LocalWorld, database: str, sql: str) -> str:
    """As the superuser, by the server's own socket: a state folder of a test has a short path."""
    command = [str(postgres.binary("psql")), "-XAtq", "-h", str(storage(world, database)), "-U", "postgres"]
    return subprocess.run([*command, "-d", "domicile", "-c", sql], check=True, capture_output=True, text=True).stdout


def hold(world: LocalWorld, number: int) -> str:
    """A subject at home in eu-1, by its key: its pin and its fence."""
    key = f"01{number:032x}"
    pin = f"INSERT INTO directory.pins VALUES ('\\x{key}', 'eu', 'eu-1', 1, 'active')"
    ask(world, "directory", pin)
    ask(world, "eu-1", f"INSERT INTO domicile.fences (subject_key, epoch, state) VALUES ('\\x{key}', 1, 'open')")
    return key


def states(world: LocalWorld) -> dict[str, str]:
    rows = ask(world, "eu-1", "SELECT encode(subject_key, 'hex'), state FROM domicile.fences").splitlines()
    return dict(tuple(row.split("|")) for row in rows)  # type: ignore[misc]


def wait_settled(world: LocalWorld) -> dict[str, Any]:
    def over() -> bool:
        return domicile("backup", "report", "eu-1", "--state", str(world.state)).returncode == 0

    wait_for(over, "the restore to be settled", 60)
    return told(world, "backup", "report", "eu-1")


def test_a_cell_is_restored_to_a_moment_while_the_world_runs(world: LocalWorld) -> None:
    early = hold(world, 1)
    told(world, "backup", "take", "eu-1")
    moment = ask(
        world, "eu-1", "SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')"
    )
    late = hold(world, 2)
    ask(world, "eu-1", "SELECT pg_switch_wal()")

    def reaches() -> bool:
        done = domicile("backup", "verify", "eu-1", "--at", moment.strip(), "--state", str(world.state))
        return done.returncode == 0

    wait_for(reaches, "the log to reach the moment", 60)
    found = told(world, "restore", "eu-1", "--at", moment.strip())
    assert found["closed_fences"] == 1
    settled = wait_settled(world)
    assert (settled["reopened"], settled["unclear"], settled["subjects_lost"]) == (1, 0, 1)
    assert states(world) == {early: "open"}
    assert late not in states(world)
    assert "data.before-" in found["before"]

    def whole() -> bool:
        return world.status()[0] == 0

    wait_for(whole, "every process, the agent too, to be well", 60)


def test_every_database_is_listed_verified_and_pruned(world: LocalWorld) -> None:
    told(world, "backup", "take")
    listed = told(world, "backup", "list")
    assert {row["database"] for row in listed["backups"]} == {"eu-1", "eu-2", "us-1", "keys-eu", "keys-us", "directory"}
    for name in ("keys-us", "directory"):
        assert told(world, "backup", "verify", name)["rows"]
    told(world, "backup", "prune")
    assert len(told(world, "backup", "list")["backups"]) == len(listed["backups"]), "all of it is needed"


def test_a_killed_restore_changes_nothing_and_the_next_one_works(world: LocalWorld) -> None:
    told(world, "backup", "take", "eu-1")
    before = states(world)
    place = storage(world, "eu-1") / "restoring"
    child = subprocess.Popen(
        [*COMMAND, "restore", "eu-1", "--state", str(world.state)],
        env=clean_environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    wait_for((place / "data" / "PG_VERSION").exists, "the restore to be under way")
    second = domicile("restore", "eu-1", "--state", str(world.state))
    assert "another restore of it is under way" in second.stderr
    os.kill(child.pid, signal.SIGKILL)
    child.wait(30)
    assert states(world) == before
    told(world, "restore", "eu-1")
    assert not place.exists()
    wait_settled(world)
    assert states(world) == before


def test_a_killed_backup_does_not_count_and_goes_with_the_next(world: LocalWorld) -> None:
    target = world.state / "backups" / "eu"

    def drafts() -> list[Path]:
        return list(target.rglob(".draft-*"))

    counted = told(world, "backup", "list", "eu-1")["backups"]
    child = subprocess.Popen(
        [*COMMAND, "backup", "take", "eu-1", "--state", str(world.state)],
        env=clean_environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    wait_for(lambda: any("base" in str(draft) for draft in drafts()) or child.poll() is not None, "a backup")
    os.kill(child.pid, signal.SIGKILL)
    child.wait(30)
    assert len(told(world, "backup", "list", "eu-1")["backups"]) <= len(counted) + 1
    told(world, "backup", "take", "eu-1")
    assert not [draft for draft in drafts() if "base" in str(draft)]


def test_an_operator_is_told_what_is_wrong(world: LocalWorld) -> None:
    for arguments, said in [
        (("restore", "eu-9"), "no database eu-9"),
        (("restore", "eu-1", "--at", "2001-01-01T00:00:00Z"), "no base backup from before that time"),
        (("restore", "eu-1", "--at", "2101-01-01T00:00:00Z"), "ends before that time"),
        (("backup", "report", "keys-eu"), "nothing to settle"),
    ]:
        done = domicile(*arguments, "--state", str(world.state))
        assert done.returncode == 1
        assert said in done.stderr
        assert done.stderr.count("\n") == 1


def test_a_restored_directory_refuses_claims_until_the_cells_have_told(world: LocalWorld) -> None:
    told(world, "backup", "take", "directory")
    told(world, "restore", "directory")
    report = told(world, "backup", "report", "directory", status=1)
    assert report["reconciling"]
    ask(
        world,
        "directory",
        "UPDATE directory.clock SET reconciling_since = reconciling_since - interval '2 minutes'",
    )

    def over() -> bool:
        return domicile("backup", "report", "directory", "--state", str(world.state)).returncode == 0

    wait_for(over, "the cells to have told their fences", 60)
