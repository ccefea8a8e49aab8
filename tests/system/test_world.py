"""A world comes up whole, and tells of itself what is so."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from domicile_testing.worlds import LocalWorld, domicile, running_world

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


def test_two_worlds_run_beside_each_other(world: LocalWorld, tmp_path: Path) -> None:
    with running_world(tmp_path / "other") as other:
        assert other.status()[0] == 0
        assert world.status()[0] == 0


def test_killed_processes_are_reported_by_name_within_five_seconds(world: LocalWorld) -> None:
    """The last of this module: the world is not whole afterwards."""
    lost: set[str] = set()
    for name in ("keys-eu", "us-1-postgres", "router-fra"):
        os.kill(world.pids()[name], signal.SIGKILL)
        killed = time.monotonic()
        lost.add(name)
        while True:
            code, document = world.status()
            stopped = {row["name"] for row in document["processes"] if row["state"] == "stopped"}
            if stopped == lost:
                break
            assert time.monotonic() - killed < 5, f"{name} not reported within 5 s"
        assert (code, document["ok"]) == (1, False)
    shown = domicile("status", "--state", str(world.state))
    assert "keys-eu is stopped" in shown.stderr
