"""PostgreSQL behind its door, started for a test and ended with it."""

from __future__ import annotations

import asyncio
import os
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

from domicile.model import Endpoint, Role
from domicile.ops import postgres
from domicile_testing.certificates import DEPLOYMENT, Trust


def free_port(host: str = "127.0.0.1") -> int:
    with socket.socket() as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass(frozen=True)
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


@contextmanager
def running_storage(
    trust: Trust, folder: Path, endpoint: Endpoint, jurisdiction: str, name: str, owner: str | None
) -> Iterator[Storage]:
    """A PostgreSQL of ``jurisdiction`` behind its door. ``name``: ``<cell>.<zone>`` for a cell, else a zone."""
    postgres.create(folder, owner=owner)
    log = (folder / "log").open("ab")
    server = subprocess.Popen(
        postgres.launched(postgres.server_command(folder), ends_with=signal.SIGINT, unprivileged=True),
        stdout=log,
        stderr=log,
    )
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
    door = subprocess.Popen(
        postgres.launched([sys.executable, "-m", "domicile.ops.door"], ends_with=signal.SIGTERM),
        env=os.environ | environment,
        stdout=log,
        stderr=log,
    )
    try:
        wait_for(lambda: _ready(folder), "PostgreSQL")
        wait_for(lambda: _listens("127.0.0.1", port), "door")
        yield Storage(f"127.0.0.1:{port}", folder, jurisdiction, trust, server, door)
    finally:
        for process, number in ((door, signal.SIGTERM), (server, signal.SIGINT)):
            if process.poll() is None:
                process.send_signal(number)
        for process in (door, server):
            process.wait(30)
        log.close()


def _ready(folder: Path) -> bool:
    """By the status line that the server keeps in its lock file (PostgreSQL 10 and later)."""
    try:
        return (folder / "data" / "postmaster.pid").read_text().rstrip().endswith("ready")
    except FileNotFoundError:
        return False
