"""The door of a local PostgreSQL: mutual TLS outside, the server's private Unix socket inside.

It speaks the start of PostgreSQL's protocol (manual, "Message Flow", SSL Session Encryption), because any
client should be able to connect: it answers SSLRequest, takes the handshake, and reads the startup message,
whose ``user`` must be one that the certificate may be (``USERS``). Bytes then pass both ways unread. Without
a certificate of this cell, key store or directory, nobody reaches even PostgreSQL's own refusal.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import ssl
import struct
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

from domicile.identity import peer_of
from domicile.model.access import Endpoint, Identity, Role, may
from domicile.model.errors import Unauthenticated
from domicile.ops.postgres import DATABASE, SOCKET, SUPERUSER
from domicile.service import ProcessSettings, load_settings, run
from domicile.telemetry import warn

USERS: Final[dict[Role, frozenset[str]]] = {
    Role.APP: frozenset({"domicile_app", "domicile_cell"}),
    Role.GATEWAY: frozenset({"domicile_gateway", "domicile_abroad", "domicile_app", "domicile_eraser"}),
    Role.KEYS: frozenset({"domicile_keys"}),
    Role.DIRECTORY: frozenset({"domicile_directory"}),
    Role.OPERATOR: frozenset({SUPERUSER}),
}
_SSL_REQUEST: Final = 80877103
_CANCEL_REQUEST: Final = 80877102
_PROTOCOL_3: Final = 3
_MAX_STARTUP: Final = 10_000
_CHUNK: Final = 64 * 1024
_HANDSHAKE_SECONDS: Final = 5.0


class DoorSettings(ProcessSettings):
    """``socket``: the folder of the server's Unix socket; ``endpoint``: which storage this is."""

    socket: Path
    endpoint: Endpoint


class Refused(Exception):
    """What the client is told before the connection closes (SQLSTATE 28000)."""


def allowed(peer: Identity, storage: Identity, endpoint: Endpoint, startup: dict[str, str]) -> None:
    """Raise Refused unless this peer may open this storage as the user that it names. Pure."""
    if not may(peer, storage, endpoint):
        raise Refused(f"{peer.role} of {peer.jurisdiction} may not open this storage")
    if startup.get("user") not in USERS.get(peer.role, frozenset()):
        raise Refused(f"a certificate for {peer.role} does not log in as this user")
    if startup.get("database", startup.get("user")) != DATABASE:
        raise Refused(f"the database is {DATABASE}")
    if startup.get("replication", "false") not in ("false", "off", "no", "0"):
        raise Refused("replication does not pass this door")


def parse_startup(body: bytes) -> dict[str, str]:
    """Parameters of a startup message of protocol 3; raises Refused for anything else."""
    if len(body) < 5 or struct.unpack(">H", body[:2])[0] != _PROTOCOL_3 or body[-2:] != b"\0\0":
        raise Refused("not a startup message of protocol 3")
    parts = body[4:-2].split(b"\0")
    if len(parts) % 2:
        raise Refused("a startup message with a name and no value")
    try:
        names = [part.decode() for part in parts[::2]]
        values = [part.decode() for part in parts[1::2]]
    except UnicodeDecodeError:
        raise Refused("a startup message that is not UTF-8") from None
    if len(set(names)) != len(names):
        raise Refused("a startup message that names a parameter twice")
    return dict(zip(names, values, strict=True))


def refusal(text: str) -> bytes:
    fields = b"SFATAL\0VFATAL\0C28000\0M" + text.encode() + b"\0\0"
    return b"E" + struct.pack(">I", len(fields) + 4) + fields


async def _message(reader: asyncio.StreamReader) -> bytes:
    (length,) = struct.unpack(">I", await reader.readexactly(4))
    if not 8 <= length <= _MAX_STARTUP:
        raise Refused("a startup message of an impossible length")
    return await reader.readexactly(length - 4)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError, ssl.SSLError):
        while chunk := await reader.read(_CHUNK):
            writer.write(chunk)
            await writer.drain()


class Door:
    """Accepts connections for one server. ``context`` demands a certificate of the storage's own authority."""

    def __init__(self, storage: Identity, endpoint: Endpoint, folder: Path, context: ssl.SSLContext) -> None:
        self._storage = storage
        self._endpoint = endpoint
        self._socket = folder / SOCKET
        self._context = context

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
                startup = await self._greet(reader, writer)
                inner_reader, inner = await self._server()
            inner.write(struct.pack(">I", len(startup) + 4) + startup)
            pumps = {
                asyncio.create_task(_copy(reader, inner)),
                asyncio.create_task(_copy(inner_reader, writer)),
            }
            try:
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for pump in pumps:
                    pump.cancel()
                await asyncio.gather(*pumps, return_exceptions=True)
        except Refused as error:
            warn("door-refused", endpoint=str(self._endpoint))
            writer.write(refusal(str(error)))
        except (OSError, TimeoutError, asyncio.IncompleteReadError, Unauthenticated) as error:
            warn("door-closed", error=type(error).__name__, endpoint=str(self._endpoint))
        finally:
            for side in filter(None, (inner, writer)):
                side.close()
                with contextlib.suppress(OSError, ssl.SSLError):
                    await side.wait_closed()

    async def _greet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        first = await _message(reader)
        if struct.unpack(">I", first[:4])[0] != _SSL_REQUEST:
            raise Refused("this storage speaks TLS only (sslmode=verify-full)")
        writer.write(b"S")
        await writer.drain()
        await writer.start_tls(self._context)
        startup = await _message(reader)
        if struct.unpack(">I", startup[:4])[0] != _CANCEL_REQUEST:
            allowed(peer_of(writer.transport), self._storage, self._endpoint, parse_startup(startup))
        return startup


def main() -> None:
    """``python -m domicile.ops.door``; settings from the environment."""
    settings = load_settings(DoorSettings)
    identity = settings.credentials.identity

    @contextlib.asynccontextmanager
    async def serve() -> AsyncIterator[None]:
        context = settings.credentials.server([identity.jurisdiction], list(USERS))
        door = Door(identity, settings.endpoint, settings.socket, context)
        address = settings.address()
        server = await asyncio.start_server(door.accept, address.host, address.port)
        async with server:
            yield

    run(settings, serve)


if __name__ == "__main__":
    main()
