"""A short real run: everybody against a real world, by the command that a user types."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from domicile_testing.databases import wait_for
from domicile_testing.long import MINUTES
from domicile_testing.worlds import LocalWorld, clean_environment, processes_of, running_world
from loadtests.people.plan import DEFAULT, Kind

from domicile.model.yaml_text import read_yaml

pytestmark = [
    MINUTES,
    pytest.mark.full,
    pytest.mark.system,
    pytest.mark.xdist_group("load"),
    pytest.mark.skipif(find_spec("locust") is None, reason="the extra `load` is not installed: make .venv/.load"),
]
ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "loadtests.people"]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalWorld]:
    with running_world(tmp_path_factory.mktemp("load") / "s") as running:
        yield running


def changed(path: Path, **changes: Any) -> Path:
    data: Any = read_yaml(DEFAULT.read_text())
    # tests share their machine: who is slow there has still to be right
    lenient = {"p95_ms": 15_000, "p99_ms": 20_000, "errors_percent": 1, "requests": 1}
    data |= {"objectives": {"default": lenient, "sign_ups": lenient}} | changes
    path.write_text(json.dumps(data))
    return path


def people(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, "--json", *arguments], cwd=ROOT, env=clean_environment(), capture_output=True, text=True, timeout=200
    )


@pytest.mark.timeout(240)
def test_everybody_is_served_and_nothing_crosses(world: LocalWorld, tmp_path: Path) -> None:
    plan, out = changed(tmp_path / "people.yaml", drill=None), tmp_path / "out"
    done = people("--config", str(plan), "--world", str(world.state), "--seconds", "30", "--out", str(out))
    assert done.stdout, done.stderr
    document = json.loads(done.stdout)
    assert (done.returncode, document["failed"], document["errors"]) == (0, [], [])
    assert document["scan"]["trusted"]
    did = {(row["kind"], row["action"]) for row in document["stats"]}
    assert {kind for kind, _ in did} == set(Kind)
    travelled = {action for kind, action in did if kind == "travellers"}
    assert {"sent home", "read profile, at home", "read profile, carried"} <= travelled
    assert {action for kind, action in did if kind == "web_sockets"} == {"open", "message"}
    with (out / "requests.csv").open() as stream:
        assert len(list(csv.DictReader(stream))) == sum(row["requests"] for row in document["stats"])
    assert "load-" not in (out / "requests.csv").read_text(), "a personal value in the statistics"
    assert (out / "index.html").stat().st_size > 10_000


@pytest.mark.timeout(120)
def test_an_objective_that_nobody_can_meet_fails_the_run(world: LocalWorld, tmp_path: Path) -> None:
    mix = {"residents": {"users": 3, "think_seconds": [0.1, 0.2]}}
    plan = changed(tmp_path / "people.yaml", drill=None, mix=mix, objectives={"residents": {"p95_ms": 0.01}})
    done = people("--config", str(plan), "--world", str(world.state), "--seconds", "8", "--out", str(tmp_path / "out"))
    document = json.loads(done.stdout)
    assert (done.returncode, document["ok"]) == (3, False)
    assert [row["objective"] for row in document["failed"]] == ["residents: p95_ms"]


@pytest.mark.timeout(120)
def test_ctrl_c_leaves_nothing(tmp_path: Path) -> None:
    out = tmp_path / "out"
    environment = clean_environment() | {"TMPDIR": str(tmp_path)}
    running = subprocess.Popen([*COMMAND, "--out", str(out)], cwd=ROOT, env=environment, stderr=subprocess.PIPE)
    try:
        wait_for(lambda: (out / "requests.csv").exists(), "the first requests", 90)
        running.send_signal(signal.SIGINT)
        _, told = running.communicate(timeout=60)
    finally:
        if running.poll() is None:
            os.kill(running.pid, signal.SIGTERM)
            running.wait(60)
    assert (running.returncode, b"interrupted" in told) == (130, True)
    assert processes_of(tmp_path) == []
    assert list(tmp_path.glob("domicile-load-*")) == []


def test_no_world_is_refused_at_once(tmp_path: Path) -> None:
    began = time.monotonic()
    done = people("--world", str(tmp_path), "--out", str(tmp_path / "out"))
    assert done.returncode == 1
    assert "no world runs here" in done.stdout + done.stderr
    assert time.monotonic() - began < 20
