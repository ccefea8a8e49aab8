"""The way from a node's own PostgreSQL to the other node's: plain on this side, mutual TLS outside.

The PostgreSQL from PyPI is built without TLS, its walreceiver, pg_basebackup and pg_rewind too. They connect here,
to a listener of their own zone; the other node's door sees this node's certificate, and its server then asks for
the password of the replicating role, end to end: who merely reaches this listener gets no further.
"""

from __future__ import annotations

import asyncio
import struct
from typing import Final

from domicile.identity import Credentials, peer_of
from domicile.model.access import Endpoint, Role, require
from domicile.model.errors import Forbidden, Unauthenticated
from domicile.model.manifest import Address
from domicile.ops.startup import GSS_REQUEST, SSL_REQUEST, Refused, close, code_of, copy, framed, join, read_message
from domicile.telemetry import warn

_CONNECT_SECONDS: Final = 5.0


class Way:
    """Carries connections to ``peer``, the door of the other node of the cluster that ``credentials`` belong to."""

    def __init__(self, credentials: Credentials, peer: Address) -> None:
        self._own = credentials.identity
        self._context = credentials.client(self._own.jurisdiction, [Role.STORAGE], cell=self._own.cell)
        self._peer = peer

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        outside: asyncio.StreamWriter | None = None
        try:
            async with asyncio.timeout(_CONNECT_SECONDS):
                startup = await read_message(reader)
                while code_of(startup) in (SSL_REQUEST, GSS_REQUEST):
                    writer.write(b"N")
                    startup = await read_message(reader)
                inside, outside = await self._connect()
            outside.write(framed(startup))
            await join(
                asyncio.create_task(copy(reader, outside)),
                asyncio.create_task(copy(inside, writer)),
            )
        except (OSError, TimeoutError, asyncio.IncompleteReadError, Refused, Forbidden, Unauthenticated) as error:
            warn("way-closed", error=type(error).__name__)
        finally:
            await close(outside, writer)

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Raises OSError or Forbidden where the other end is not this cluster's."""
        reader, writer = await asyncio.open_connection(self._peer.host, self._peer.port)
        try:
            writer.write(framed(struct.pack(">I", SSL_REQUEST)))
            if await reader.readexactly(1) != b"S":
                raise ConnectionRefusedError
            await writer.start_tls(self._context, server_hostname=self._peer.host)
            require(self._own, peer_of(writer.transport), Endpoint.REPLICATION)
        except BaseException:
            writer.close()
            raise
        return reader, writer
