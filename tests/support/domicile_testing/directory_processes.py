"""Directory processes of their own, over one database: to be killed while whoever asks goes on at another."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from domicile.client import DirectoryClient
from domicile.directory import DirectorySettings
from domicile.identity import Signer
from domicile.model import Role
from domicile.ops.postgres import launched
from domicile_testing.certificates import Trust
from domicile_testing.databases import Storage
from domicile_testing.directories import NAMES, RunningDirectory, directory_settings

COMMAND = [str(Path(sys.executable).with_name("domicile-directory")), "serve"]
START_SECONDS = 60.0


def environment_of(settings: DirectorySettings) -> dict[str, str]:
    """This process's environment with a directory's settings in it, and nothing else of Domicile's."""
    names = [
        *("deployment", "process", "bind", "certificate", "key", "authorities", "state"),
        *("operators", "alias_rate", "alias_burst"),
    ]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("DOMICILE_")}
    told = {f"DOMICILE_{name.upper()}": str(getattr(settings, name)) for name in names}
    return kept | told | {"DOMICILE_STORAGE": ",".join(settings.storage)}


@dataclass
class DirectoryProcess:
    """One process that is started and killed again and again, with the same certificate, state and address."""

    settings: DirectorySettings
    log: Path
    _running: subprocess.Popen[bytes] | None = None
    _started_at: int = 0

    @property
    def running(self) -> subprocess.Popen[bytes]:
        assert self._running is not None
        return self._running

    @property
    def pid(self) -> int:
        return self.running.pid

    def start(self, command: list[str] | None = None) -> None:
        """``command``: in the place of the program of this checkout."""
        self._started_at = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as stream:
            self._running = subprocess.Popen(
                launched(command or COMMAND, ends_with=signal.SIGTERM),
                env=environment_of(self.settings),
                stdout=stream,
                stderr=stream,
            )

    def said(self) -> str:
        """What it has logged since it was started last."""
        return self.log.read_bytes()[self._started_at :].decode()

    async def ready(self) -> None:
        async with asyncio.timeout(START_SECONDS):
            while '"event":"ready"' not in self.said():
                assert self.running.poll() is None, self.said()
                await asyncio.sleep(0.02)

    def kill(self) -> None:
        """At once, by SIGKILL."""
        if self._running is not None:
            self._running.kill()
            self._running.wait(10)


@dataclass
class Site:
    """Several directory processes over one database, and clients that know all of them."""

    trust: Trust
    operator: Signer
    processes: list[DirectoryProcess]
    _stack: AsyncExitStack = field(default_factory=AsyncExitStack)

    def client(
        self, jurisdiction: str, role: Role, name: str | None = None, *, deadline: float = 10
    ) -> DirectoryClient:
        credentials = self.trust.credentials(jurisdiction, role, name or NAMES.get(role, "fra"))
        addresses = [process.settings.bind for process in self.processes]
        client = DirectoryClient(credentials, addresses, deadline=10)
        self._stack.push_async_callback(client.close)
        return client

    def only(self, number: int) -> RunningDirectory:
        """One of the processes, for questions to it alone."""
        settings = self.processes[number].settings
        running = RunningDirectory(self.trust, settings.bind, self.operator, settings.state)
        self._stack.push_async_callback(running._stack.aclose)
        return running


@asynccontextmanager
async def directory_site(
    trust: Trust,
    storage: Storage,
    operator: Signer,
    folder: Path,
    names: tuple[str, ...] = ("fra", "iad"),
    **changes: object,
) -> AsyncIterator[Site]:
    """A process for each name, all ready, that bounds no questions about aliases; killed on leaving.

    ``changes``: of its settings.
    """
    changed = {"alias_rate": 1e6, "alias_burst": 1e6, **changes}
    settings = [directory_settings(trust, storage.address, operator, name).model_copy(update=changed) for name in names]
    processes = [DirectoryProcess(each, folder / f"{each.process}.log") for each in settings]
    site = Site(trust, operator, processes)
    try:
        for process in processes:
            process.start()
        for process in processes:
            await process.ready()
        async with site._stack:
            yield site
    finally:
        for process in processes:
            process.kill()
