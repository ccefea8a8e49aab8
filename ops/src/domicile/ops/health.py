"""Ask each process of a world whether it is ready: over mutual TLS where it speaks HTTP, else by connecting."""

from __future__ import annotations

import asyncio
import os
import ssl
from pathlib import Path

import aiohttp

from domicile.identity import Credentials
from domicile.model.access import GLOBAL, Role
from domicile.model.errors import InvalidInput
from domicile.model.manifest import Address
from domicile.ops.layout import Layout
from domicile.ops.record import ProcessRecord

RUNNING, STOPPED, UNREADY = "running", "stopped", "unready"


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

    def __init__(self, layout: Layout, *, timeout: float = 2.0) -> None:
        self._credentials = operator(layout)
        self._timeout = timeout
        self._contexts: dict[tuple[str, str], ssl.SSLContext] = {}

    async def state(self, record: ProcessRecord) -> str:
        """``running``, ``unready`` (alive, not serving) or ``stopped``."""
        if record.process() is None:
            return STOPPED
        return RUNNING if await self.ready(record) else UNREADY

    async def ready(self, record: ProcessRecord) -> bool:
        try:
            async with asyncio.timeout(self._timeout):
                if record.role == "postgres":
                    return _postgres_ready(Path(record.address).parent)
                if not record.health:
                    address = Address(record.address)
                    _, writer = await asyncio.open_connection(address.host, address.port)
                    writer.close()
                    return True
                return await self._readyz(record)
        except (OSError, TimeoutError, aiohttp.ClientError):
            return False

    async def _readyz(self, record: ProcessRecord) -> bool:
        kind = (record.jurisdiction, record.role)
        if kind not in self._contexts:
            self._contexts[kind] = self._credentials.client(record.jurisdiction, [Role(record.role)])
        connector = aiohttp.TCPConnector(ssl=self._contexts[kind], force_close=True)
        async with (
            aiohttp.ClientSession(connector=connector, trust_env=False) as session,
            session.get(f"https://{record.address}/readyz") as answer,
        ):
            return answer.status == 200


def _postgres_ready(folder: Path) -> bool:
    """By the status line that the server keeps in its lock file (PostgreSQL 10 and later)."""
    try:
        return (folder / "data" / "postmaster.pid").read_text().rstrip().endswith("ready")
    except FileNotFoundError:
        return False
