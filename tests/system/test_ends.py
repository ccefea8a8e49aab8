"""However a world is ended, and whoever is killed, nothing is left and the next start succeeds."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from domicile_testing.databases import wait_for
from domicile_testing.worlds import COMMAND, LocalWorld, clean_environment, domicile, processes_of, running_world

pytestmark = [pytest.mark.system, pytest.mark.xdist_group("ends")]


@dataclass(frozen=True)
class EndedWorld:
    """A state folder whose world was started and stopped, and what its record said while it ran."""

    state: Path
    record: str
    directory: int


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EndedWorld]:
    """One for the module: each test leaves it stopped, as it found it."""
    state = tmp_path_factory.mktemp("ended") / "s"
    with running_world(state) as world:
        record, pid = (state / "world.json").read_text(), world.pids()["directory"]
    yield EndedWorld(state, record, pid)
    assert processes_of(state) == []


@pytest.mark.parametrize(
    "number",
    [
        signal.SIGINT,
        pytest.param(signal.SIGTERM, marks=pytest.mark.full),
        pytest.param(signal.SIGHUP, marks=pytest.mark.full),
    ],
)
def test_a_signal_to_the_supervisor_ends_the_world(tmp_path: Path, number: signal.Signals) -> None:
    state = tmp_path / "s"
    started = domicile("up", "--detach", "--state", str(state))
    assert started.returncode == 0, started.stderr
    os.kill(LocalWorld(state).record()["supervisor"]["pid"], number)
    wait_for(lambda: processes_of(state) == [], "every process ended", 30)
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


def test_a_world_comes_back_with_its_state_after_a_crash(ended: EndedWorld) -> None:
    state = ended.state
    pepper = (state / "secrets" / "pepper").read_text()
    started = domicile("up", "--detach", "--state", str(state))
    assert started.returncode == 0, started.stderr
    os.kill(LocalWorld(state).record()["supervisor"]["pid"], signal.SIGKILL)
    wait_for(lambda: processes_of(state) == [], "every process ended", 30)
    assert (state / "world.json").exists()
    assert domicile("status", "--state", str(state)).returncode == 1
    with running_world(state) as world:
        assert world.status()[0] == 0
        assert (state / "secrets" / "pepper").read_text() == pepper
    assert not (state / "world.json").exists()


def test_a_stale_record_is_not_believed(ended: EndedWorld) -> None:
    """The pids in a stale file belong to others by now: they are neither reported as ours nor ended."""
    innocent = subprocess.Popen(["sleep", "60"])
    try:
        (ended.state / "world.json").write_text(ended.record.replace(str(ended.directory), str(innocent.pid)))
        assert domicile("status", "--state", str(ended.state)).returncode == 1
        assert domicile("down", "--state", str(ended.state)).returncode == 0
        assert innocent.poll() is None
    finally:
        innocent.kill()
        innocent.wait()


def test_a_part_that_cannot_start_shows_the_end_of_its_log(ended: EndedWorld) -> None:
    file = ended.state / "secrets" / "pepper"
    pepper = file.read_text()
    file.write_text("not a pepper")
    try:
        failed = domicile("up", "--state", str(ended.state))
    finally:
        file.write_text(pepper)
    assert failed.returncode == 1
    assert "ended with exit status" in failed.stderr
    assert "VERSION:HEX" in failed.stderr
    assert processes_of(ended.state) == []
    assert not (ended.state / "world.json").exists()


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
