"""Processes of a measurement: each bound to its core, its processor time read, and none left behind."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import psutil

from domicile.ops.postgres import launched
from loadtests.cases import Unmeasured

CORES: Final = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [0]
SERVED_ON: Final = CORES[0]
LOADED_FROM: Final = CORES[-1]
START_SECONDS: Final = 30.0
STOP_SECONDS: Final = 10.0


def on_core(core: int, command: Sequence[str]) -> list[str]:
    """``command`` held to a core, so that load and proxy don't take each other's time; as it is without taskset."""
    taskset = shutil.which("taskset")
    return [taskset, "-c", str(core), *command] if taskset and len(CORES) > 1 else list(command)


@contextmanager
def held_to(core: int) -> Iterator[None]:
    """This process itself, for as long as it is the load."""
    if len(CORES) < 2:
        yield
        return
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, set(CORES))


@contextmanager
def started(
    command: Sequence[str],
    log: Path,
    ready: Callable[[], bool],
    *,
    core: int = SERVED_ON,
    environment: Mapping[str, str] | None = None,
) -> Iterator[int]:
    """A process that is ready; gives its pid. Raises Unmeasured, with the end of its log, where it isn't in time."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("DOMICILE_")}
    with log.open("ab") as stream:
        process = subprocess.Popen(
            launched(on_core(core, command), ends_with=signal.SIGTERM),
            env=kept | dict(environment or {}),
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
        )
    try:
        deadline = time.monotonic() + START_SECONDS
        while not ready():
            if process.poll() is not None or time.monotonic() > deadline:
                told = log.read_text(errors="replace").strip().splitlines()[-3:]
                raise Unmeasured(f"{Path(command[0]).name} did not start: {' / '.join(told) or 'it says nothing'}")
            time.sleep(0.05)
        yield process.pid
    finally:
        _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        tree = _tree(process.pid)
        process.kill()
        for child in tree[1:]:
            child.kill()
        process.wait(STOP_SECONDS)


def _tree(pid: int) -> list[psutil.Process]:
    root = psutil.Process(pid)
    return [root, *root.children(recursive=True)]


def cpu_seconds(pid: int) -> float:
    """User and system time of a process and its children so far; raises Unmeasured where it has gone."""
    try:
        times = [process.cpu_times() for process in _tree(pid)]
    except psutil.NoSuchProcess:
        raise Unmeasured("its process ended") from None
    return sum(time.user + time.system for time in times)


def says(log: Path, *events: str) -> Callable[[], bool]:
    """Whether one of our own processes has logged all of these."""
    return lambda: log.exists() and all(f'"event":"{event}"' in log.read_text() for event in events)


def listening(*addresses: str) -> Callable[[], bool]:
    """Whether somebody listens at each address (host:port)."""

    def all_listen() -> bool:
        try:
            for address in addresses:
                host, _, port = address.rpartition(":")
                socket.create_connection((host, int(port)), 0.5).close()
        except OSError:
            return False
        return True

    return all_listen
