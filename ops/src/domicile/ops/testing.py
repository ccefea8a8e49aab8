"""A pytest plugin for applications' own tests: homes in memory, and homes on a real PostgreSQL.

    async def test_sign_up(domicile_memory):                # or domicile_postgres: the same tests, a second for it
        async with domicile_memory.home(Profile) as home:
            ...

Both refuse what a cell refuses. ``domicile_postgres`` starts the server once for a whole run, with the schema, the
triggers and the roles of a cell, and knows SQL; the key service is in memory in both.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Final, Protocol
from uuid import UUID, uuid4

import pytest

from domicile.model.ids import KEY_BYTES, SubjectKey
from domicile.ops import postgres
from domicile.sdk import Abroad, Home, Record
from domicile.sdk.home import Vault
from domicile.sdk.references import Ref
from domicile.sdk.store import AbroadStore, RowStore, apply_schema, load_reference, local
from domicile.sdk.testing import MemoryKeys, MemoryStore, memory_abroad, memory_home
from domicile.sdk.testing.abroad import abroad_from

JURISDICTION: Final = "eu"
CELL: Final = "eu-1"
START_SECONDS: Final = 30.0


class Cell(Protocol):
    """What both fixtures give."""

    def home(self, *records: type[Record]) -> AbstractAsyncContextManager[Home]:
        """A new subject's home, in which records of these classes can be put."""
        ...

    async def fill(self, kind: type[Ref], rows: Sequence[Ref]) -> None:
        """These are the rows of a reference table from now on, as an operator would load them."""
        ...

    async def close(self, home: Home) -> None:
        """The subject moves away: from now on everything is refused."""
        ...

    def abroad(self, home: Home, *records: type[Record]) -> AbstractAsyncContextManager[Abroad]:
        """The home as another jurisdiction sees it, in records of these classes."""
        ...

    async def shred(self, home: Home, principal: UUID | None = None) -> None:
        """The data key of a principal of the subject's is destroyed; without one, all of the subject's."""
        ...


class MemoryCell:
    def __init__(self) -> None:
        self._store, self._keys = MemoryStore(), MemoryKeys()

    @asynccontextmanager
    async def home(self, *records: type[Record]) -> AsyncIterator[Home]:
        yield memory_home(JURISDICTION, CELL, store=self._store, keys=self._keys)

    async def fill(self, kind: type[Ref], rows: Sequence[Ref]) -> None:
        self._store.fill(kind, rows)

    async def close(self, home: Home) -> None:
        self._store.close(home.subject_key)

    @asynccontextmanager
    async def abroad(self, home: Home, *records: type[Record]) -> AsyncIterator[Abroad]:
        yield memory_abroad(home, self._store, *records)

    async def shred(self, home: Home, principal: UUID | None = None) -> None:
        self._keys.shred(home, principal)


class PostgresCell:
    """``folder`` holds a running server's socket, ``pooler`` that of a PgBouncer before it, if there is one."""

    def __init__(self, folder: Path, pooler: Path | None = None) -> None:
        self.folder = folder
        self.pooler = pooler
        self._keys = MemoryKeys()
        self._applied: set[type[Record]] = set()

    @asynccontextmanager
    async def home(self, *records: type[Record]) -> AsyncIterator[Home]:
        async with local.superuser(self.folder) as root:
            if not self._applied.issuperset(records):
                await apply_schema(root, CELL, JURISDICTION, records)
                self._applied |= set(records)
            fence = await local.open_fence(root, SubjectKey(b"\1" + uuid4().bytes[: KEY_BYTES - 1]))
        behind = self.pooler is not None
        async with local.application(self.pooler or self.folder, pooler=behind) as pool:
            yield Home(Vault(RowStore(pool, JURISDICTION, pooler=behind), self._keys, CELL, JURISDICTION), fence)

    async def fill(self, kind: type[Ref], rows: Sequence[Ref]) -> None:
        async with local.superuser(self.folder) as root:
            await apply_schema(root, CELL, JURISDICTION, [kind])
            await load_reference(root, CELL, JURISDICTION, kind, rows)

    async def close(self, home: Home) -> None:
        async with local.superuser(self.folder) as root:
            await root.execute("UPDATE domicile.fences SET state = 'closed' WHERE subject_key = $1", home.subject_key)

    @asynccontextmanager
    async def abroad(self, home: Home, *records: type[Record]) -> AsyncIterator[Abroad]:
        async with local.application(self.folder, user="domicile_abroad") as pool:
            yield abroad_from(home, AbroadStore(pool))

    async def shred(self, home: Home, principal: UUID | None = None) -> None:
        self._keys.shred(home, principal)


@pytest.fixture
def domicile_memory() -> Cell:
    """A cell in memory, of this test alone."""
    return MemoryCell()


@pytest.fixture(scope="session")
def domicile_postgres() -> Iterator[Cell]:
    """A cell on a PostgreSQL of its own, for the whole run; each home is another subject's."""
    with running_postgres() as folder:
        yield PostgresCell(folder)


@contextmanager
def running_postgres() -> Iterator[Path]:
    """The folder of a new server, which holds its socket; both are gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="domicile-"))  # short: a socket's path is limited to some 100 bytes
    try:
        postgres.create(folder, owner=None)
        with (folder / "log").open("ab") as log:
            server = subprocess.Popen(
                postgres.launched(postgres.server_command(folder), ends_with=signal.SIGINT, unprivileged=True),
                stdout=log,
                stderr=log,
            )
        try:
            _wait(server, folder)
            yield folder
        finally:
            server.send_signal(signal.SIGINT)
            server.wait(START_SECONDS)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _wait(server: subprocess.Popen[bytes], folder: Path) -> None:
    """Until the status line of the server's lock file says ready (PostgreSQL 10 and later)."""
    lock = folder / "data" / "postmaster.pid"
    deadline = time.monotonic() + START_SECONDS
    while not (lock.exists() and lock.read_text().rstrip().endswith("ready")):
        assert server.poll() is None, f"PostgreSQL did not start: {(folder / 'log').read_text()[-2000:]}"
        assert time.monotonic() < deadline, f"PostgreSQL is not ready within {START_SECONDS:g} s"
        time.sleep(0.02)
