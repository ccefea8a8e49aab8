"""Drills of a world that runs, by the command that an operator types."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from domicile_testing.databases import wait_for
from domicile_testing.restoring import ask
from domicile_testing.worlds import COMMAND, LocalWorld, clean_environment, domicile, running_world

pytestmark = [pytest.mark.system, pytest.mark.xdist_group("drills"), pytest.mark.timeout(240)]
HOME, ABROAD = Path("cells/eu-1/fra/storage/data/pg_wal"), Path("cells/us-1/iad/storage/copy")
LOSES_A_ROW = (
    "SET session_replication_role = replica;"
    "DELETE FROM notes WHERE id = (SELECT id FROM notes ORDER BY created_at DESC OFFSET 20 LIMIT 1)"
)
LIGHT = ("--rate", "40", "--floor", "1", "--users", "1", "--before", "2", "--after", "1", "--wait", "0")
THREE = ("router-outage", "directory-outage", "key-service-outage")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalWorld]:
    with running_world(tmp_path_factory.mktemp("drills") / "s") as running:
        yield running


def begun(world: LocalWorld, scenario: str, hold: str) -> subprocess.Popen[bytes]:
    """A light drill whose fault lasts ``hold`` seconds, under way; what it prints is JSON."""
    command = [*COMMAND, "drill", scenario, *LIGHT, "--hold", hold, "--json", "--state", str(world.state)]
    return subprocess.Popen(command, env=clean_environment(), stdout=subprocess.PIPE)


@pytest.mark.full
def test_a_drill_that_is_killed_in_the_middle_is_put_right_by_recover(world: LocalWorld) -> None:
    state = ("--state", str(world.state))
    drill = begun(world, "router-outage", "120")
    try:
        router = psutil.Process(world.pids()["router-fra"])
        wait_for(lambda: _gone(router), "the fault", 90)
        loads = psutil.Process(drill.pid).children()
        assert len(loads) == 2
        second = domicile("drill", "router-outage", *LIGHT, *state)
        assert second.returncode == 1
        assert "another drill is under way" in second.stderr
    finally:
        drill.send_signal(signal.SIGKILL)
        drill.communicate()
    wait_for(lambda: all(_gone(load) for load in loads), "the end of its load", 10)
    third = domicile("drill", "router-outage", *LIGHT, *state)
    assert third.returncode == 1
    assert "domicile drill --recover" in third.stderr
    put_right = domicile("drill", "--recover", "--json", *state)
    assert json.loads(put_right.stdout) == {"ok": True, "undone": 1, "missing": []}, put_right.stderr
    assert world.status()[1]["phase"] == "running"
    assert world.pids()["router-fra"] != router.pid
    assert domicile("drill", "--recover", *state).stdout == "nothing is broken by a drill\n"


def _gone(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def test_a_game_day_of_three_in_a_world_without_standbys(world: LocalWorld) -> None:
    done = domicile(
        "drill", *THREE, "kill-leader", *LIGHT, "--hold", "3", "--json", "--state", str(world.state), seconds=200
    )
    *three, last = json.loads(done.stdout)["drills"]
    assert [each["scenario"] for each in three] == list(THREE), done.stderr
    for each in three:
        assert (each["lost"], each["stale_reads"], each["personal_bytes_across"]) == (0, 0, 0), each
        assert each["acknowledged"] > 0
        late = {o["objective"] for o in each["objectives"] if o["met"] is False}
        assert each["verdict"] == ("failed" if late else "held"), each
    assert three[0]["rto_s"] > 3
    assert (last["verdict"], last["acknowledged"]) == ("aborted", 0), "there is no standby to fail over to"
    listed = json.loads(domicile("report", "list", "--json", "--state", str(world.state)).stdout)["reports"]
    assert [each["scenario"] for each in listed][-4:] == [*THREE, "kill-leader"]


@pytest.mark.full
def test_ctrl_c_puts_the_world_right_and_tells_so(world: LocalWorld) -> None:
    drill = begun(world, "router-outage", "120")
    router = psutil.Process(world.pids()["router-fra"])
    wait_for(lambda: _gone(router), "the fault", 90)
    drill.send_signal(signal.SIGINT)
    told, _ = drill.communicate(timeout=120)
    assert json.loads(told)["verdict"] == "aborted"
    assert drill.returncode == 130
    assert not (world.state / "drills" / "faults.json").exists()
    assert world.pids()["router-fra"] != router.pid


@pytest.mark.full
def test_a_world_whose_database_loses_what_it_acknowledged_fails(world: LocalWorld) -> None:
    """By a superuser, who is asked by no trigger: the same drill holds without him."""
    directory = psutil.Process(world.pids()["directory"])
    drill = begun(world, "directory-outage", "5")
    wait_for(lambda: _gone(directory), "the fault", 90)
    ask(world, "us-1", LOSES_A_ROW)
    told, _ = drill.communicate(timeout=200)
    found = json.loads(told)
    assert (drill.returncode, found["verdict"], found["lost"]) == (3, "failed", 1), found
    assert {each["objective"] for each in found["objectives"] if each["met"] is False} == {"lost"}
    sound = domicile("drill", "directory-outage", *LIGHT, "--hold", "2", "--json", "--state", str(world.state))
    assert json.loads(sound.stdout)["verdict"] == "held", sound.stdout


@pytest.mark.full
def test_a_log_that_is_copied_abroad_fails_a_drill(world: LocalWorld) -> None:
    drill = begun(world, "router-outage", "3")
    router = psutil.Process(world.pids()["router-fra"])
    copy = world.state / ABROAD
    try:
        wait_for(lambda: _gone(router), "the fault", 90)
        newest = max((world.state / HOME).glob("0*"), key=lambda path: path.stat().st_mtime)
        shutil.copyfile(newest, copy)
        told, _ = drill.communicate(timeout=200)
    finally:
        copy.unlink(missing_ok=True)
    found = json.loads(told)
    assert (drill.returncode, found["verdict"]) == (3, "failed"), found
    assert found["personal_bytes_across"] > 0
