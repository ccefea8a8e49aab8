"""A private Unix socket that leads to a database's door, for PostgreSQL's own programs, which have no TLS.

pg_basebackup, pg_receivewal and psql connect to a socket in a folder of mode 0700; each connection goes on over mutual
TLS with the backup's certificate, to whichever of the database's doors lets it in: under Patroni, the leader's.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from domicile.identity import Credentials
from domicile.model.access import Endpoint, Role
from domicile.model.errors import Forbidden, Unauthenticated
from domicile.model.manifest import Address
from domicile.ops.postgres import SOCKET
from domicile.ops.startup import Refused, close, copy, framed, join, reach, read_startup
from domicile.service import ended
from domicile.telemetry import warn

_CONNECT_SECONDS: Final = 5.0
_ERROR: Final = b"E"


class Passage:
    """To the doors of one database of the credentials' own jurisdiction."""

    def __init__(self, credentials: Credentials, doors: Sequence[str]) -> None:
        self._own = credentials.identity
        self._context = credentials.client(self._own.jurisdiction, [Role.STORAGE])
        self._doors = [Address(door) for door in doors]

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Path]:
        """The folder of the socket; it and every connection end on leaving."""
        # a folder of its own below the system's for such files: a socket's path is limited to some 100 bytes
        with tempfile.TemporaryDirectory(prefix="domicile-") as name:
            folder = Path(name)
            carried: set[asyncio.Task[None]] = set()

            def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                task = asyncio.create_task(self._accept(reader, writer))
                carried.add(task)
                task.add_done_callback(carried.discard)
                task.add_done_callback(lambda _: writer.close())  # also of one that was cancelled before it began

            server = await asyncio.start_unix_server(accepted, folder / SOCKET)
            try:
                yield folder
            finally:
                server.close()
                await ended(*carried)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        outside: asyncio.StreamWriter | None = None
        try:
            async with asyncio.timeout(_CONNECT_SECONDS):
                startup = await read_startup(reader, writer)
                inside, outside, first = await self._reach(startup)
            writer.write(first)
            await join(asyncio.create_task(copy(reader, outside)), asyncio.create_task(copy(inside, writer)))
        except (OSError, TimeoutError, asyncio.IncompleteReadError, Refused, Forbidden, Unauthenticated) as error:
            warn("passage-closed", error=type(error).__name__)
        finally:
            if outside is not None:
                outside.transport.abort()  # both ends have said what they had to; TLS would wait for a goodbye
            await close(outside, writer)

    async def _reach(self, startup: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, bytes]:
        """The first door that doesn't refuse, and the first byte of its answer; the last one's refusal passes."""
        failed: Exception = ConnectionRefusedError()
        for number, door in enumerate(self._doors, 1):
            try:
                reader, writer = await reach(door, self._own, self._context, Endpoint.BACKUP_STREAM)
            except (OSError, asyncio.IncompleteReadError, Forbidden, Unauthenticated) as error:
                failed = error
                continue
            try:
                writer.write(framed(startup))
                first = await reader.read(1)
            except BaseException:
                writer.close()
                raise
            if first == _ERROR and number < len(self._doors):
                writer.close()
                continue
            return reader, writer, first
        raise failed
