"""A world comes up whole, says what is lost, and leaves nothing behind, however it is ended."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from domicile_testing.databases import wait_for
from domicile_testing.worlds import COMMAND, LocalWorld, clean_environment, domicile, processes_of, running_world

pytestmark = [pytest.mark.system, pytest.mark.xdist_group("world")]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalWorld]:
    with running_world(tmp_path_factory.mktemp("world") / "s") as running:
        yield running


def test_status_names_every_process(world: LocalWorld) -> None:
    code, document = world.status()
    assert (code, document["ok"]) == (0, True)
    rows = {row["name"]: row for row in document["processes"]}
    assert {"directory", "keys-eu", "keys-us", "eu-1-app", "eu-2-gateway", "us-1-postgres", "router-iad"} <= set(rows)
    assert all(row["state"] == "running" for row in rows.values())
    assert set(rows["keys-eu"]) == {"name", "role", "jurisdiction", "zone", "state", "address", "pid"}
    assert rows["router-iad"]["jurisdiction"] == "us"
    assert rows["directory"]["jurisdiction"] == "global"


def test_each_jurisdiction_listens_on_its_own_addresses(world: LocalWorld) -> None:
    nets = {"eu": "127.10.", "us": "127.30.", "global": "127.20."}
    for process in world.record()["processes"]:
        if process["role"] != "postgres":
            assert process["address"].startswith(nets[process["jurisdiction"]]), process["name"]


def test_the_databases_listen_on_no_network(world: LocalWorld) -> None:
    for name, pid in world.pids().items():
        if name.endswith("-postgres"):
            assert psutil.Process(pid).net_connections("inet") == [], name


def test_a_second_up_is_refused_and_harms_nothing(world: LocalWorld) -> None:
    before = world.pids()
    second = domicile("up", "--state", str(world.state))
    assert second.returncode == 1
    assert "a world already runs here" in second.stderr
    assert world.pids() == before


def test_apply_of_the_same_topology_makes_no_new_revision(world: LocalWorld) -> None:
    arguments = ("apply", str(world.state / "domicile.yaml"), "--state", str(world.state))
    first, second = domicile(*arguments), domicile(*arguments)
    assert first.returncode == second.returncode == 0, first.stderr
    assert first.stdout == second.stdout == "published as revision 1\n"


@pytest.mark.parametrize("name", ["keys-eu", "us-1-postgres", "router-fra"])
def test_a_killed_process_is_reported_by_name_within_five_seconds(
    tmp_path_factory: pytest.TempPathFactory, name: str
) -> None:
    with running_world(tmp_path_factory.mktemp("killed") / "s") as world:
        os.kill(world.pids()[name], signal.SIGKILL)
        killed = time.monotonic()
        while True:
            code, document = world.status()
            lost = [row["name"] for row in document["processes"] if row["state"] == "stopped"]
            if lost:
                break
            assert time.monotonic() - killed < 5, "not reported within 5 s"
        assert lost == [name]
        assert (code, document["ok"]) == (1, False)
        shown = domicile("status", "--state", str(world.state))
        assert f"{name} is stopped" in shown.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_whatever_ends_the_supervisor_ends_the_world(tmp_path: Path, number: signal.Signals) -> None:
    state = tmp_path / "s"
    started = domicile("up", "--detach", "--state", str(state))
    assert started.returncode == 0, started.stderr
    supervisor = LocalWorld(state).record()["supervisor"]["pid"]
    os.kill(supervisor, number)
    wait_for(lambda: processes_of(state) == [], "every process ended", 30)
    if number is signal.SIGKILL:
        assert (state / "world.json").exists()
        assert domicile("status", "--state", str(state)).returncode == 1
        assert domicile("down", "--state", str(state)).returncode == 0
    assert not (state / "world.json").exists()


@pytest.mark.parametrize("after", [0.3, 1.5, 4.0])
def test_a_starter_killed_at_any_moment_leaves_nothing(tmp_path: Path, after: float) -> None:
    state = tmp_path / "s"
    starter = subprocess.Popen(
        [*COMMAND, "up", "--detach", "--state", str(state)],
        env=clean_environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        starter.wait(after)
    except subprocess.TimeoutExpired:
        starter.kill()
        starter.wait()
        wait_for(lambda: processes_of(state) == [], "every process ended", 60)
    else:
        assert domicile("down", "--state", str(state)).returncode == 0


def test_a_world_comes_back_with_its_state_after_a_crash(tmp_path: Path) -> None:
    state = tmp_path / "s"
    with running_world(state) as world:
        pepper = (state / "secrets" / "pepper").read_text()
        os.kill(world.record()["supervisor"]["pid"], signal.SIGKILL)
        wait_for(lambda: processes_of(state) == [], "every process ended", 30)
    with running_world(state) as world:
        assert world.status()[0] == 0
        assert (state / "secrets" / "pepper").read_text() == pepper


def test_a_stale_record_is_not_believed(tmp_path: Path) -> None:
    """The pids in a stale file belong to others by now: they are neither reported as ours nor ended."""
    state = tmp_path / "s"
    with running_world(state) as world:
        record = (state / "world.json").read_text()
        pid = world.pids()["directory"]
    innocent = subprocess.Popen(["sleep", "60"])
    try:
        (state / "world.json").write_text(record.replace(str(pid), str(innocent.pid)))
        assert domicile("status", "--state", str(state)).returncode == 1
        assert domicile("down", "--state", str(state)).returncode == 0
        assert innocent.poll() is None
    finally:
        innocent.kill()
        innocent.wait()


def test_a_part_that_cannot_start_shows_the_end_of_its_log(tmp_path: Path) -> None:
    state = tmp_path / "s"
    with running_world(state):
        pass
    (state / "secrets" / "pepper").write_text("not a pepper")
    failed = domicile("up", "--state", str(state))
    assert failed.returncode == 1
    assert "ended with exit status" in failed.stderr
    assert "VERSION:HEX" in failed.stderr
    assert processes_of(state) == []
    assert not (state / "world.json").exists()


@pytest.mark.skipif(os.getuid() != 0, reason="already an ordinary user")
def test_an_ordinary_user_starts_the_same_world(tmp_path: Path) -> None:
    state = tmp_path / "s"
    ordinary = ("unshare", "-U", "--map-user=1000", "--map-group=1000")
    started = domicile("up", "--detach", "--state", str(state), prefix=ordinary)
    assert started.returncode == 0, started.stderr
    try:
        assert domicile("status", "--state", str(state), prefix=ordinary).returncode == 0
    finally:
        assert domicile("down", "--state", str(state), prefix=ordinary).returncode == 0
    assert processes_of(state) == []


def test_two_worlds_run_beside_each_other(world: LocalWorld, tmp_path: Path) -> None:
    with running_world(tmp_path / "other") as other:
        assert other.status()[0] == 0
        assert world.status()[0] == 0
