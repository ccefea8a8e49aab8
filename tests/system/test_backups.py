"""A world's databases, backed up and restored by the commands that an operator types, while it is used."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from domicile_testing.databases import wait_for
from domicile_testing.restoring import NOW, ask, hold, states, storage, told, wait_kept, wait_settled, wait_whole
from domicile_testing.worlds import COMMAND, LocalWorld, clean_environment, domicile, running_world

pytestmark = [pytest.mark.system, pytest.mark.full, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalWorld]:
    with running_world(tmp_path_factory.mktemp("backups") / "s", "--backups") as running:
        yield running


def test_a_cell_is_restored_to_a_moment_while_the_world_runs(world: LocalWorld) -> None:
    early = hold(world, 1)
    told(world, "backup", "take", "eu-1")
    moment = ask(world, "eu-1", NOW)
    late = hold(world, 2)
    wait_kept(world, "eu-1")
    assert told(world, "backup", "verify", "eu-1", "--at", moment, "--exact")["reached"]
    found = told(world, "restore", "eu-1", "--at", moment)
    assert (found["closed_fences"], found["reached"]) == (1, True)
    settled = wait_settled(world)
    assert (settled["reopened"], settled["unclear"], settled["subjects_lost"]) == (1, 0, 1)
    assert states(world) == {early: "open"}
    assert late not in states(world)
    assert "data.before-" in found["before"]
    wait_whole(world)


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
    os.kill(child.pid, signal.SIGSTOP)  # it is still under way, however slowly the second one starts
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
        (("restore", "eu-1", "--at", "2101-01-01T00:00:00Z", "--exact"), "no commit as late as that"),
        (("restore", "eu-1", "--exact"), "exact about which time?"),
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
