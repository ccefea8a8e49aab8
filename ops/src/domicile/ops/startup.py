"""The first messages of PostgreSQL's protocol (manual, "Message Flow"), as doors and ways read and write them."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import struct
from collections.abc import Callable
from typing import Final

from domicile.identity import peer_of
from domicile.model.access import Endpoint, Identity, require
from domicile.model.manifest import Address

SSL_REQUEST: Final = 80877103
GSS_REQUEST: Final = 80877104
CANCEL_REQUEST: Final = 80877102
_PROTOCOL_3: Final = 3
_MAX_STARTUP: Final = 10_000
_CHUNK: Final = 64 * 1024


class Refused(Exception):
    """What the client is told before the connection closes."""

    sqlstate = b"28000"


class NotLeading(Refused):
    """SQLSTATE 57P03 (cannot_connect_now): a client with several addresses tries the next one."""

    sqlstate = b"57P03"


def code_of(message: bytes) -> int:
    """The number that a first message begins with: a request's, or the protocol's version."""
    code: int = struct.unpack(">I", message[:4])[0]
    return code


def framed(body: bytes) -> bytes:
    return struct.pack(">I", len(body) + 4) + body


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


def refusal(error: Refused) -> bytes:
    fields = b"SFATAL\0VFATAL\0C" + error.sqlstate + b"\0M" + str(error).encode() + b"\0\0"
    return b"E" + framed(fields)


async def read_message(reader: asyncio.StreamReader) -> bytes:
    """The body of a message that has no kind. Raises Refused for one of an impossible length."""
    (length,) = struct.unpack(">I", await reader.readexactly(4))
    if not 8 <= length <= _MAX_STARTUP:
        raise Refused("a startup message of an impossible length")
    return await reader.readexactly(length - 4)


async def read_startup(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    """The first message of a client on this side that is plain: each encryption that it asks for is declined."""
    startup = await read_message(reader)
    while code_of(startup) in (SSL_REQUEST, GSS_REQUEST):
        writer.write(b"N")
        startup = await read_message(reader)
    return startup


async def reach(
    door: Address, own: Identity, context: ssl.SSLContext, endpoint: Endpoint
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A door over mutual TLS, before its first message. Raises OSError, IncompleteReadError, or, where somebody
    answers who may not hold the endpoint, Forbidden or Unauthenticated."""
    reader, writer = await asyncio.open_connection(door.host, door.port)
    try:
        writer.write(framed(struct.pack(">I", SSL_REQUEST)))
        if await reader.readexactly(1) != b"S":
            raise ConnectionRefusedError
        await writer.start_tls(context, server_hostname=door.host)
        require(own, peer_of(writer.transport), endpoint)
    except BaseException:
        writer.close()
        raise
    return reader, writer


def _always() -> bool:
    return True


async def copy(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, may_pass: Callable[[], bool] = _always
) -> None:
    """Bytes as they come, until the end, or until one may not pass."""
    with contextlib.suppress(ConnectionError, ssl.SSLError):
        while (chunk := await reader.read(_CHUNK)) and may_pass():
            writer.write(chunk)
            await writer.drain()


async def join(*ends: asyncio.Task[None]) -> None:
    """Until the first of them ends; then all of them have."""
    try:
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for end in ends:
            end.cancel()
        await asyncio.gather(*ends, return_exceptions=True)


async def close(*sides: asyncio.StreamWriter | None) -> None:
    for side in filter(None, sides):
        side.close()
        with contextlib.suppress(OSError, ssl.SSLError):
            await side.wait_closed()
