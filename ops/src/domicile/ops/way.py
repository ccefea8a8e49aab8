"""The way from a node's own PostgreSQL to the other node's: plain on this side, mutual TLS outside.

The PostgreSQL from PyPI is built without TLS, its walreceiver, pg_basebackup and pg_rewind too. They connect here,
to a listener of their own zone; the other node's door sees this node's certificate, and its server then asks for
the password of the replicating role, end to end: who merely reaches this listener gets no further.
"""

from __future__ import annotations

import asyncio
from typing import Final

from domicile.identity import Credentials
from domicile.model.access import Endpoint, Role
from domicile.model.errors import Forbidden, Unauthenticated
from domicile.model.manifest import Address
from domicile.ops.startup import Refused, close, copy, framed, join, reach, read_startup
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
                startup = await read_startup(reader, writer)
                inside, outside = await reach(self._peer, self._own, self._context, Endpoint.REPLICATION)
            outside.write(framed(startup))
            await join(
                asyncio.create_task(copy(reader, outside)),
                asyncio.create_task(copy(inside, writer)),
            )
        except (OSError, TimeoutError, asyncio.IncompleteReadError, Refused, Forbidden, Unauthenticated) as error:
            warn("way-closed", error=type(error).__name__)
        finally:
            await close(outside, writer)
