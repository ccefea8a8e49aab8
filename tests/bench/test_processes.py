"""Processes of a measurement end with it, and one that doesn't start says why."""

from __future__ import annotations

import sys
from pathlib import Path

import psutil
import pytest
from loadtests.cases import Unmeasured
from loadtests.processes import cpu_seconds, listening, says, started

PARENT = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import signal, time; deadline = time.process_time() + 0.3\\n"
    "while time.process_time() < deadline: pass\\nprint('done', flush=True); signal.pause()"])
child.wait()
"""


def test_a_process_that_ends_at_once_says_its_last_words(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "raise SystemExit('no such file')"]
    with (
        pytest.raises(Unmeasured, match="did not start: no such file"),
        started(command, tmp_path / "log", lambda: False),
    ):
        pass


def test_the_time_of_children_counts_and_none_is_left(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with started([sys.executable, "-c", PARENT], log, lambda: log.exists() and "done" in log.read_text()) as pid:
        assert cpu_seconds(pid) >= 0.3
        (child,) = psutil.Process(pid).children()
        child.kill()
    assert not psutil.pid_exists(pid)
    with pytest.raises(Unmeasured, match="ended"):
        cpu_seconds(pid)


def test_readiness_is_every_event_and_every_listener(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert not says(log, "ready")()
    log.write_text('{"event":"ready"}\n')
    assert says(log, "ready")()
    assert not says(log, "ready", "replica-loaded")()
    assert not listening("127.0.0.1:1")()
