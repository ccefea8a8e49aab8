"""What a gateway's process is told, and what it opens by that: pools of its cell's database, and the keys to records.

The gateway serves with it, and so does a rotation, which runs beside it under the same certificate.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from pydantic import Field

from domicile.client import DirectoryClient, KeyClient
from domicile.model import Identity, InvalidInput, Role
from domicile.sdk.home import Vault
from domicile.sdk.store import RowStore, open_own
from domicile.service import ProcessSettings


class GatewaySettings(ProcessSettings):
    """What a gateway is told beside the common settings."""

    records: bool = Field(
        default=False,
        description="whether applications of this cell may put and read records here; it gives this process data keys",
    )


def own_cell(settings: GatewaySettings) -> Identity:
    """Of the certificate, which must be a gateway's. Raises InvalidInput for another, and without a database."""
    identity = settings.credentials.identity
    if identity.role is not Role.GATEWAY or identity.cell is None:
        raise InvalidInput(
            f"the certificate is for {identity.role}, not {Role.GATEWAY}", where=str(settings.certificate)
        )
    if not settings.storage:
        raise InvalidInput("no database", where="DOMICILE_STORAGE", remedy="name the cell's storage, host:port")
    return identity


class LateKeys:
    """The key service, by the signed topology: read when a key is first destroyed, since a gateway starts without."""

    def __init__(self, settings: ProcessSettings, directory: DirectoryClient) -> None:
        self._settings = settings
        self._directory = directory
        self._client: KeyClient | None = None

    async def client(self) -> KeyClient:
        """Raises TokenInvalid or Unavailable for no topology."""
        if self._client is None:
            credentials = self._settings.credentials
            manifest = await self._settings.topology(self._directory).load()
            assert credentials.identity.cell is not None
            if self._client is None:
                self._client = KeyClient.of_cell(credentials, manifest, credentials.identity.cell)
        return self._client

    async def close(self) -> None:
        if self._client is not None:
            await self._client.close()


@asynccontextmanager
async def open_vault(
    settings: GatewaySettings, directory: DirectoryClient, user: str = "domicile_app"
) -> AsyncIterator[Vault]:
    """What reads and writes records as the application does. Raises InvalidInput, TokenInvalid, Unavailable."""
    credentials, identity = settings.credentials, settings.credentials.identity
    assert identity.cell is not None
    manifest = await settings.topology(directory).load()
    async with AsyncExitStack() as stack:
        keys = KeyClient.of_cell(credentials, manifest, identity.cell)
        stack.push_async_callback(keys.close)
        pool = await open_own(stack, settings, user)
        rows = RowStore(pool, identity.jurisdiction, pooler=settings.storage_pooler)
        yield Vault(rows, keys, identity.cell, identity.jurisdiction)
