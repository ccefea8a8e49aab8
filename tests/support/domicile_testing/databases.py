"""PostgreSQL behind its door, started for a test and ended with it."""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

from domicile.model import Endpoint, Role
from domicile.ops import postgres
from domicile_testing.certificates import DEPLOYMENT, Trust

_PORTS: Final = range(10_000, 32_000)


def _own_ports() -> Iterator[int]:
    """Of this test process, again and again: below those that a system gives to who connects, and no neighbour's."""
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    own = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    ports = range(_PORTS.start + own, _PORTS.stop, workers)
    begin = random.randrange(len(ports))  # other runs beside this one begin elsewhere
    return itertools.cycle([*ports[begin:], *ports[:begin]])


_ports: Final = _own_ports()


def free_port(host: str = "127.0.0.1") -> int:
    """One that nobody listens at, and that is not given again for long: whoever it is for may listen much later."""
    for port in _ports:
        with socket.socket() as probe:
            try:
                probe.bind((host, port))
            except OSError:
                continue
            return port
    raise AssertionError


@dataclass
class Storage:
    """A running database: ``address`` is its door's; ``folder`` holds its data and its private socket."""

    address: str
    folder: Path
    jurisdiction: str
    trust: Trust
    server: subprocess.Popen[bytes]
    door: subprocess.Popen[bytes]

    @property
    def host(self) -> str:
        return self.address.rpartition(":")[0]

    @property
    def port(self) -> int:
        return int(self.address.rpartition(":")[2])

    def context(self, role: Role, name: str) -> ssl.SSLContext:
        """To open this storage with a certificate of ``role``."""
        return self.trust.credentials(self.jurisdiction, role, name).client(self.jurisdiction, [Role.STORAGE])

    def kill(self) -> None:
        """The server dies at once (SIGKILL); nothing of it is left when this returns. Its door stays."""
        self.server.kill()
        self.server.wait(30)
        wait_for(lambda: not _works_in(self.folder / "data"), "the killed server's children to end")

    def start(self) -> None:
        """After ``kill``: what lies in the data folder by now; ``ready`` when it has recovered.

        To be called in the main thread: a server ends with the thread that started it.
        """
        (self.folder / "data" / "postmaster.pid").unlink(missing_ok=True)
        self.server = _start_server(self.folder)

    @property
    def ready(self) -> bool:
        """By the status line that the server keeps in its lock file (PostgreSQL 10 and later)."""
        try:
            return (self.folder / "data" / "postmaster.pid").read_text().rstrip().endswith("ready")
        except FileNotFoundError:
            return False

    def restart(self) -> None:
        self.start()
        wait_for(lambda: self.ready, "PostgreSQL")


def wait_for(condition: object, what: str, seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    assert callable(condition)
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {seconds} s"
        time.sleep(0.02)


async def until(condition: Callable[[], Awaitable[object]], what: str, seconds: float = 30.0) -> None:
    """As ``wait_for``, in a loop that goes on."""
    deadline = time.monotonic() + seconds
    while not await condition():
        assert time.monotonic() < deadline, f"{what}: not within {seconds} s"
        await asyncio.sleep(0.02)


def _listens(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), 0.5).close()
    except OSError:
        return False
    return True


def _works_in(folder: Path) -> bool:
    """Whether a process of any kind has this working directory, as each of a server's has its data folder."""
    return str(folder) in [process.info["cwd"] for process in psutil.process_iter(["cwd"])]


def _start_server(folder: Path) -> subprocess.Popen[bytes]:
    command = postgres.launched(postgres.server_command(folder), ends_with=signal.SIGINT, unprivileged=True)
    with (folder / "log").open("ab") as log:
        return subprocess.Popen(command, stdout=log, stderr=log)


@contextmanager
def running_storage(
    trust: Trust, folder: Path, endpoint: Endpoint, jurisdiction: str, name: str, owner: str | None
) -> Iterator[Storage]:
    """A PostgreSQL of ``jurisdiction`` behind its door. ``name``: ``<cell>.<zone>`` for a cell, else a zone."""
    postgres.create(folder, owner=owner)
    server = _start_server(folder)
    credentials = trust.credentials(jurisdiction, Role.STORAGE, name)
    port = free_port()
    environment = {
        "DOMICILE_DEPLOYMENT": DEPLOYMENT,
        "DOMICILE_PROCESS": f"door-{name}",
        "DOMICILE_BIND": f"127.0.0.1:{port}",
        "DOMICILE_CERTIFICATE": str(credentials.certificate),
        "DOMICILE_KEY": str(credentials.key),
        "DOMICILE_AUTHORITIES": str(credentials.authorities),
        "DOMICILE_STATE": str(folder),
        "DOMICILE_SOCKET": str(folder),
        "DOMICILE_ENDPOINT": endpoint.value,
    }
    with (folder / "log").open("ab") as log:
        door = subprocess.Popen(
            postgres.launched([sys.executable, "-m", "domicile.ops.door"], ends_with=signal.SIGTERM),
            env=os.environ | environment,
            stdout=log,
            stderr=log,
        )
    storage = Storage(f"127.0.0.1:{port}", folder, jurisdiction, trust, server, door)
    try:
        wait_for(lambda: storage.ready, "PostgreSQL")
        wait_for(lambda: _listens("127.0.0.1", port), "door")
        yield storage
    finally:
        for process, number in ((door, signal.SIGTERM), (storage.server, signal.SIGINT)):
            if process.poll() is None:
                process.send_signal(number)
        for process in (door, storage.server):
            process.wait(30)
