"""The door of a local PostgreSQL: mutual TLS outside, the server's private Unix socket inside.

It speaks the start of PostgreSQL's protocol (manual, "Message Flow", SSL Session Encryption), because any
client should be able to connect: it answers SSLRequest, takes the handshake, and reads the startup message,
whose ``user`` must be one that the certificate may be (``USERS``). Bytes then pass both ways unread. Without
a certificate of this cell, key store or directory, nobody reaches even PostgreSQL's own refusal.

Under Patroni a door lets nobody but the other node in unless its server is proved to lead, and ends every session
when that is over. An application's session that says as it begins that it takes what is out of date (``STALE_READS``)
is let in at a server that does not lead. The same process keeps the way to the other node (``domicile.ops.way``).

It serves no HTTP: its counters lie in ``door.prom`` of its state folder, as node_exporter's textfile collector reads
them. A stranger's certificate, of a foreign standby too, is refused as ``unauthenticated``, one of ours in the wrong
place as ``forbidden``.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import ssl
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Final

from domicile.identity import peer_of
from domicile.model.access import STALE_READS, Endpoint, Identity, Role, may
from domicile.model.errors import Forbidden, Unauthenticated
from domicile.model.manifest import Address, AddressField
from domicile.ops.leadership import Leadership, Patroni
from domicile.ops.postgres import BACKUP_USER, DATABASE, REPLICATION_USER, REWIND_USER, SOCKET, SUPERUSER
from domicile.ops.startup import (
    CANCEL_REQUEST,
    SSL_REQUEST,
    NotLeading,
    Refused,
    close,
    code_of,
    copy,
    framed,
    join,
    parse_startup,
    read_message,
    refusal,
)
from domicile.ops.way import Way
from domicile.service import ProcessSettings, ended, load_settings, repeated, run
from domicile.telemetry import REFUSALS, render_metrics, warn

USERS: Final[dict[Role, frozenset[str]]] = {
    Role.APP: frozenset({"domicile_app", "domicile_cell"}),
    Role.GATEWAY: frozenset(
        {
            "domicile_gateway",
            "domicile_abroad",
            "domicile_app",
            "domicile_turner",
            "domicile_eraser",
            "domicile_ledger",
            "domicile_border",
        }
    ),
    Role.KEYS: frozenset({"domicile_keys"}),
    Role.DIRECTORY: frozenset({"domicile_directory"}),
    Role.OPERATOR: frozenset({SUPERUSER}),
    Role.BACKUP: frozenset({BACKUP_USER}),
    Role.STORAGE: frozenset({REPLICATION_USER, REWIND_USER}),
}
_HANDSHAKE_SECONDS: Final = 5.0
EXPOSE_SECONDS: Final = 5.0


class DoorSettings(ProcessSettings):
    """``socket``: the folder of the server's Unix socket; ``endpoint``: which storage this is.

    In a cluster, ``patroni``: the address of this node's; ``way``: where its server reaches the other node;
    ``peer``: the other node's door.
    """

    socket: Path
    endpoint: Endpoint
    patroni: AddressField | None = None
    way: AddressField | None = None
    peer: AddressField | None = None


def allowed(peer: Identity, storage: Identity, endpoint: Endpoint, startup: dict[str, str]) -> None:
    """Raise Refused unless this peer may open this storage as the user that it names. Pure."""
    wanted = {Role.STORAGE: Endpoint.REPLICATION, Role.BACKUP: Endpoint.BACKUP_STREAM}.get(peer.role, endpoint)
    if not may(peer, storage, wanted):
        raise Refused(f"{peer.role} of {peer.jurisdiction} may not open this storage")
    if startup.get("user") not in USERS.get(peer.role, frozenset()):
        raise Refused(f"a certificate for {peer.role} does not log in as this user")
    replicating = startup.get("replication", "false") not in ("false", "off", "no", "0")
    if peer.role is Role.STORAGE or (peer.role is Role.BACKUP and replicating):
        return
    if startup.get("database", startup.get("user")) != DATABASE:
        raise Refused(f"the database is {DATABASE}")
    if replicating:
        raise Refused("replication passes between the nodes of a cluster, and to a backup, only")


class Door:
    """Accepts connections for one server. ``context`` demands a certificate of the storage's own authority.

    ``leadership``: of a server in a cluster; without one it always leads.
    """

    def __init__(
        self,
        storage: Identity,
        endpoint: Endpoint,
        folder: Path,
        context: ssl.SSLContext,
        leadership: Leadership | None = None,
    ) -> None:
        self._storage = storage
        self._endpoint = endpoint
        self._socket = folder / SOCKET
        self._context = context
        self._leadership = leadership

    async def _server(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if sys.platform != "linux":
            return await asyncio.open_unix_connection(self._socket)
        # by the folder's descriptor: a socket's path is limited to some 100 bytes, a state folder's is not
        folder = os.open(self._socket.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            return await asyncio.open_unix_connection(f"/proc/self/fd/{folder}/{SOCKET}")
        finally:
            os.close(folder)

    async def probe(self) -> None:
        """Raises OSError unless the server takes connections."""
        _, writer = await self._server()
        writer.close()

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner: asyncio.StreamWriter | None = None
        try:
            async with asyncio.timeout(_HANDSHAKE_SECONDS):
                startup, leadership = await self._greet(reader, writer)
                inner_reader, inner = await self._server()
            inner.write(framed(startup))
            if leadership is None:
                await join(asyncio.create_task(copy(reader, inner)), asyncio.create_task(copy(inner_reader, writer)))
            else:
                await join(
                    asyncio.create_task(copy(reader, inner, leadership.holds)),
                    asyncio.create_task(copy(inner_reader, writer, leadership.holds)),
                    asyncio.create_task(leadership.lost()),
                )
        except NotLeading as error:
            writer.write(refusal(error))
        except Refused as error:
            REFUSALS.labels(Forbidden.code).inc()
            warn("door-refused", endpoint=str(self._endpoint))
            writer.write(refusal(error))
        except (OSError, TimeoutError, asyncio.IncompleteReadError, Unauthenticated) as error:
            if isinstance(error, (ssl.SSLCertVerificationError, Unauthenticated)):
                REFUSALS.labels(Unauthenticated.code).inc()
            warn("door-closed", error=type(error).__name__, endpoint=str(self._endpoint))
        finally:
            await close(inner, writer)

    async def _greet(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> tuple[bytes, Leadership | None]:
        """The startup message, and what must hold for as long as the session lasts."""
        if code_of(await read_message(reader)) != SSL_REQUEST:
            raise Refused("this storage speaks TLS only (sslmode=verify-full)")
        writer.write(b"S")
        await writer.drain()
        await writer.start_tls(self._context)
        startup = await read_message(reader)
        if code_of(startup) == CANCEL_REQUEST:
            return startup, None
        peer = peer_of(writer.transport)
        said = parse_startup(startup)
        allowed(peer, self._storage, self._endpoint, said)
        if self._leadership is None or peer.role is Role.STORAGE:
            return startup, None
        if not self._leadership.holds():
            if peer.role is Role.APP and STALE_READS in said:
                return startup, None  # it asks the server itself how old its answers are
            raise NotLeading("this server is not proved to lead its cluster")
        return startup, self._leadership


async def _listen(
    accept: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Any], place: Address
) -> asyncio.Server:
    """Beside a door of before that still listens, so that a restart leaves no time without one."""
    return await asyncio.start_server(accept, place.host, place.port, reuse_port=True)


async def _expose(folder: Path) -> None:
    new = folder / "door.prom.new"
    new.write_bytes(render_metrics()[0])
    new.replace(folder / "door.prom")


def main() -> None:
    """``python -m domicile.ops.door``; settings from the environment."""
    settings = load_settings(DoorSettings)
    identity = settings.credentials.identity

    @contextlib.asynccontextmanager
    async def serve() -> AsyncIterator[None]:
        async with contextlib.AsyncExitStack() as stack:
            exposing = repeated(lambda: _expose(settings.state), EXPOSE_SECONDS, "door-not-exposed")
            stack.push_async_callback(ended, asyncio.create_task(exposing))
            leadership = None
            if settings.patroni is not None:
                own = settings.credentials.client(identity.jurisdiction, [Role.STORAGE], cell=identity.cell)
                leadership = Leadership(Patroni(settings.patroni, own).leads)
                stack.push_async_callback(ended, asyncio.create_task(leadership.watch()))
            if settings.way is not None and settings.peer is not None:
                way, place = Way(settings.credentials, Address(settings.peer)), Address(settings.way)
                await stack.enter_async_context(await _listen(way.accept, place))
            context = settings.credentials.server([identity.jurisdiction], list(USERS))
            door = Door(identity, settings.endpoint, settings.socket, context, leadership)
            await stack.enter_async_context(await _listen(door.accept, settings.address()))
            yield

    run(settings, serve)


if __name__ == "__main__":
    main()
