"""Ask each process of a world whether it is ready: over mutual TLS where it speaks HTTP, else by connecting."""

from __future__ import annotations

import asyncio
import json
import os
import ssl
from base64 import b64encode
from pathlib import Path
from typing import Any, Final

import aiohttp

from domicile.identity import Credentials
from domicile.model.access import GLOBAL, Role
from domicile.model.errors import InvalidInput, Unavailable
from domicile.model.manifest import Address
from domicile.ops.clusters import PATRONI_USER
from domicile.ops.layout import Layout
from domicile.ops.record import ProcessRecord

PATRONI: Final = "patroni"
ORDER_SECONDS: Final = 40.0
PROBE_SECONDS: Final = 5.0
"""For a process's word on how it is: on a busy machine an answer takes seconds."""
RUNNING, STOPPED, UNREADY, SILENT = "running", "stopped", "unready", "silent"


def operator(layout: Layout, jurisdiction: str = GLOBAL) -> Credentials:
    folder = layout.operator(jurisdiction)
    return Credentials(folder / "cert.pem", folder / "key.pem", layout.authorities)


def operator_given(layout: Layout, jurisdiction: str) -> Credentials:
    """Those of DOMICILE_CERTIFICATE, _KEY and _AUTHORITIES, else the state folder's. Raises InvalidInput."""
    given = [os.environ.get(f"DOMICILE_{name}") for name in ("CERTIFICATE", "KEY", "AUTHORITIES")]
    if any(given):
        if not all(given):
            raise InvalidInput("only some are set", where="DOMICILE_CERTIFICATE, _KEY, _AUTHORITIES", remedy="set all")
        return Credentials(*(Path(each or "") for each in given))
    return operator(layout, jurisdiction)


class Prober:
    """Probes of one world; contexts are made once for each kind of peer."""

    def __init__(self, layout: Layout, *, timeout: float = PROBE_SECONDS) -> None:
        self._layout = layout
        self._timeout = timeout
        self._contexts: dict[tuple[str, str], ssl.SSLContext] = {}

    async def state(self, record: ProcessRecord) -> str:
        """``running``, ``unready`` (it says so, or nothing listens), ``silent`` (no word in time) or ``stopped``."""
        return STOPPED if record.process() is None else await self._word(record)

    async def ready(self, record: ProcessRecord) -> bool:
        return await self._word(record) == RUNNING

    async def _word(self, record: ProcessRecord) -> str:
        try:
            async with asyncio.timeout(self._timeout):
                return RUNNING if await self._ready(record) else UNREADY
        except TimeoutError:
            return SILENT
        except (OSError, aiohttp.ClientError):
            return UNREADY

    async def _ready(self, record: ProcessRecord) -> bool:
        if record.role == "postgres":
            return _postgres_ready(Path(record.address).parent)
        if record.role == PATRONI:
            return await self._get(record, Role.STORAGE, "/health") is not None
        if not record.health:
            address = Address(record.address)
            _, writer = await asyncio.open_connection(address.host, address.port)
            writer.close()
            return True
        return await self._get(record, Role(record.role), "/readyz") is not None

    async def cluster(self, record: ProcessRecord) -> dict[str, Any] | None:
        """What a Patroni says of its cluster; None where it doesn't answer."""
        try:
            async with asyncio.timeout(self._timeout):
                body = await self._get(record, Role.STORAGE, "/cluster")
            document: dict[str, Any] | None = None if body is None else json.loads(body)
            return document
        except (OSError, TimeoutError, aiohttp.ClientError, ValueError):
            return None

    async def order(self, record: ProcessRecord, password: str, path: str, body: dict[str, str]) -> None:
        """Tell a Patroni to do something. Raises Unavailable with what it says where it does not."""
        own = b64encode(f"{PATRONI_USER}:{password}".encode()).decode()
        connector = aiohttp.TCPConnector(ssl=self._context(record, Role.STORAGE), force_close=True)
        timeout = aiohttp.ClientTimeout(total=ORDER_SECONDS)
        try:
            async with (
                aiohttp.ClientSession(connector=connector, timeout=timeout, trust_env=False) as session,
                session.post(
                    f"https://{record.address}{path}", json=body, headers={"Authorization": f"Basic {own}"}
                ) as answer,
            ):
                if answer.status != 200:
                    raise Unavailable(f"{path} was refused: {await answer.text()}", where=record.name)
        except (OSError, TimeoutError, aiohttp.ClientError) as error:
            raise Unavailable(f"{path} was not answered: {type(error).__name__}", where=record.name) from None

    def _context(self, record: ProcessRecord, role: Role) -> ssl.SSLContext:
        kind = (record.jurisdiction, role)
        if kind not in self._contexts:
            own = operator(self._layout, record.jurisdiction if role is Role.STORAGE else GLOBAL)
            self._contexts[kind] = own.client(record.jurisdiction, [role])
        return self._contexts[kind]

    async def _get(self, record: ProcessRecord, role: Role, path: str) -> bytes | None:
        """The body of a 200; None for another status. A database's own jurisdiction is the only one that it takes."""
        connector = aiohttp.TCPConnector(ssl=self._context(record, role), force_close=True)
        async with (
            aiohttp.ClientSession(connector=connector, trust_env=False) as session,
            session.get(f"https://{record.address}{path}") as answer,
        ):
            return await answer.read() if answer.status == 200 else None


def _postgres_ready(folder: Path) -> bool:
    """By the status line that the server keeps in its lock file (PostgreSQL 10 and later)."""
    try:
        return (folder / "data" / "postmaster.pid").read_text().rstrip().endswith("ready")
    except FileNotFoundError:
        return False
