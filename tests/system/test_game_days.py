"""Game days of worlds whose databases have standbys: every scenario in one go, and a real database sabotaged."""

from __future__ import annotations

import asyncio
import json
import subprocess
from base64 import b64encode
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest
from domicile_testing.databases import wait_for
from domicile_testing.loaded import CELL
from domicile_testing.long import MINUTES
from domicile_testing.restoring import ask
from domicile_testing.worlds import (
    COMMAND,
    LocalWorld,
    clean_environment,
    domicile,
    one_jurisdiction,
    running_world,
)

from domicile.model import Role
from domicile.ops.drills.scenarios import SCENARIOS
from domicile.ops.drills.verdict import SAFETY
from domicile.ops.health import operator
from domicile.ops.layout import Layout

pytestmark = [MINUTES, pytest.mark.system, pytest.mark.full]
LIGHT = ("--rate", "40", "--floor", "1", "--users", "1", "--before", "3", "--after", "2", "--wait", "0")
SAFE = {objective.measure for objective in SAFETY}


@pytest.mark.timeout(2400)
def test_every_scenario_in_one_go(tmp_path: Path) -> None:
    """What this machine can't arrange is aborted as unavailable; nothing else is, and nothing is lost or leaks.

    A busy machine may miss an objective of time: that verdict is honest too, and says by what.
    """
    with running_world(tmp_path / "s", "--ha", "--backups", "--rehearsal", seconds=600) as world:
        state = ("--state", str(world.state))
        taken = domicile("backup", "take", *state, seconds=600)
        assert taken.returncode == 0, taken.stderr
        done = domicile("drill", "all", *LIGHT, "--json", *state, seconds=2000)
        drills = json.loads(done.stdout)["drills"]
        assert [each["scenario"] for each in drills] == list(SCENARIOS), done.stderr
        listed = json.loads(domicile("report", "list", "--json", *state).stdout)["reports"]
        for each, report in zip(drills, listed, strict=True):
            shown = json.loads(domicile("report", "show", report["id"], "--json", *state).stdout)
            told = f"{each['scenario']}: {each['verdict']}: {shown['reason']}"
            print(told)
            missed = {o["objective"] for o in each["objectives"] if o["met"] is False}
            assert not missed & SAFE, told
            assert each["verdict"] == ("failed" if missed else "held") or shown["reason"].startswith("unavailable"), (
                told
            )
        assert world.status()[1]["ok"], "all was put right"


@pytest.mark.timeout(900)
def test_a_cluster_without_synchronous_mode_fails_the_drill_by_what_it_loses(tmp_path: Path) -> None:
    """Its standby stops receiving, and is the leader's heir all the same."""
    manifest = one_jurisdiction("us", tmp_path / "world.yaml", accept=["unreplicated-writes"])
    with running_world(tmp_path / "s", str(manifest), "--ha-cell", CELL, seconds=600) as world:
        leader, standby = _roles(world)
        _configure(world, standby, synchronous_mode=False)
        wait_for(lambda: ask(world, CELL, "SHOW synchronous_standby_names") == "", "asynchronous commits", 60)
        drill = subprocess.Popen(
            [
                *COMMAND,
                "drill",
                "kill-leader",
                *LIGHT,
                "--before",
                "6",
                "--force",
                "--json",
                "--state",
                str(world.state),
            ],
            env=clean_environment(),
            stdout=subprocess.PIPE,
        )
        try:
            wait_for(lambda: _steady(world), "a steady load", 120)
            receiver = _receiver(world, standby)
            receiver.suspend()
            ask(world, CELL, "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_replication")
            server = psutil.Process(_postmaster(world, leader))
            wait_for(lambda: not server.is_running() or server.status() == psutil.STATUS_ZOMBIE, "the fault", 60)
            receiver.resume()
            wait_for(lambda: _roles(world)[0] == standby, "the heir", 120)
            _configure(world, standby, synchronous_mode=True)
            told, _ = drill.communicate(timeout=600)
        finally:
            drill.kill()
        found = json.loads(told)
        assert (drill.returncode, found["verdict"]) == (3, "failed"), found
        assert found["lost"] > 0, found


def _roles(world: LocalWorld) -> tuple[str, str]:
    """The zones of the leader and of the other node; empty where there is none."""
    nodes = world.status()[1]["clusters"]
    leader = next((str(node["zone"]) for node in nodes if node["role"] == "leader"), "")
    return leader, next(
        (str(node["zone"]) for node in nodes if "standby" in node["role"] or node["role"] == "replica"), ""
    )


def _steady(world: LocalWorld) -> bool:
    """Whether a load wrote more than signing up takes."""
    histories = (world.state / "drills" / "us").glob("*.jsonl")
    return any(history.read_text().count('"add"') > 20 for history in histories)


def _data(world: LocalWorld, zone: str) -> Path:
    return world.state / "cells" / CELL / zone / "storage"


def _postmaster(world: LocalWorld, zone: str) -> int:
    return int((_data(world, zone) / "data" / "postmaster.pid").read_text().split()[0])


def _receiver(world: LocalWorld, zone: str) -> psutil.Process:
    children = psutil.Process(_postmaster(world, zone)).children()
    return next(child for child in children if "walreceiver" in " ".join(child.cmdline()))


def _configure(world: LocalWorld, zone: str, **settings: Any) -> None:
    """What ``patronictl edit-config`` does, of one node's Patroni."""
    record = next(p for p in world.record()["processes"] if p["role"] == "patroni" and p["zone"] == zone)
    own = json.loads((_data(world, zone) / "patroni.json").read_text())["restapi"]["authentication"]
    pair = b64encode(f"{own['username']}:{own['password']}".encode()).decode()

    async def patch() -> None:
        context = operator(Layout(world.state), "us").client("us", [Role.STORAGE])
        async with (
            aiohttp.ClientSession(headers={"Authorization": f"Basic {pair}"}, trust_env=False) as session,
            session.patch(f"https://{record['address']}/config", json=settings, ssl=context) as answer,
        ):
            assert answer.status == 200, await answer.text()

    asyncio.run(patch())
