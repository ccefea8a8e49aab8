"""Whoever is killed, whenever: nothing is left, and the next start succeeds. Bounded by DOMICILE_TEST_SECONDS."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import pytest
from domicile_testing.databases import wait_for
from domicile_testing.worlds import COMMAND, LocalWorld, clean_environment, domicile, processes_of, running_world

pytestmark = [pytest.mark.full, pytest.mark.system]
SECONDS = float(os.environ.get("DOMICILE_TEST_SECONDS", "300"))


def test_starters_and_supervisors_killed_at_random(tmp_path: Path) -> None:
    state = tmp_path / "s"
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    deadline = time.monotonic() + SECONDS * 0.6
    rounds = 0
    while time.monotonic() < deadline:
        rounds += 1
        arguments = ["--detach"] if chance.random() < 0.5 else []
        starter = subprocess.Popen(
            [*COMMAND, "up", *arguments, "--state", str(state)],
            env=clean_environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            starter.wait(chance.uniform(0.05, 12.0))
        except subprocess.TimeoutExpired:
            starter.send_signal(chance.choice([signal.SIGKILL, signal.SIGINT, signal.SIGTERM]))
            starter.wait(60)
        # a world that was ready stands on its own, also where its starter died in its last breath
        if (supervisor := _running_supervisor(state)) is not None:
            with suppress(ProcessLookupError):
                os.kill(supervisor, signal.SIGKILL)
        wait_for(lambda: processes_of(state) == [], "every process ended", 60)
    with running_world(state) as world:
        assert world.status()[0] == 0, f"after {rounds} rounds"


def _running_supervisor(state: Path) -> int | None:
    try:
        record = LocalWorld(state).record()
    except FileNotFoundError:
        return None
    pid: int = record["supervisor"]["pid"]
    return pid if record["phase"] == "running" else None


def test_each_process_killed_is_reported_and_alone(tmp_path: Path) -> None:
    """One after the other, in a random order: exactly those that were killed are reported stopped."""
    with running_world(tmp_path / "s") as world:
        names = list(world.pids())
        random.shuffle(names)
        killed: set[str] = set()
        deadline = time.monotonic() + SECONDS * 0.3
        for name in names:
            os.kill(world.pids()[name], signal.SIGKILL)
            killed.add(name)
            wait_for(lambda: _stopped(world) == killed, f"{name} reported", 5)
            if time.monotonic() > deadline:
                break
    assert domicile("up", "--detach", "--state", str(tmp_path / "s")).returncode == 0
    assert domicile("down", "--state", str(tmp_path / "s")).returncode == 0


def _stopped(world: LocalWorld) -> set[str]:
    _, document = world.status()
    return {row["name"] for row in document["processes"] if row["state"] == "stopped"}
