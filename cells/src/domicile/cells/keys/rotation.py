"""The rotation of a key-encryption key, as an operator drives it: batch by batch, so that it may end anywhere.

How far it is stands in the key store alone (which version each key is wrapped under), so that to pause it is to end
it, and to resume it is to run it again.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from domicile.client import KeyOperatorClient
from domicile.identity import Credentials
from domicile.model.key_wire import KekProgress
from domicile.service import Addresses


class KeyOperatorSettings(BaseSettings):
    """An operator's own certificate, and where the key service is."""

    model_config = SettingsConfigDict(env_prefix="DOMICILE_", extra="ignore", frozen=True)

    certificate: Path = Field(description="the operator's certificate (PEM)")
    key: Path = Field(description="its private key (PEM)")
    authorities: Path = Field(description="folder of <jurisdiction>.pem, one authority each")
    keys: Addresses = Field(min_length=1, description="addresses of the key service, comma-separated")


async def rotate(
    settings: KeyOperatorSettings, domain: str, tell: Callable[[int], None], *, only_tell: bool = False
) -> KekProgress:
    """Begin a version, or go on with a rotation, until no key is under another; ``tell`` is told how many are left.

    Raises Conflict where only the holder can begin one and nothing is left to be re-wrapped.
    """
    credentials = Credentials(settings.certificate, settings.key, settings.authorities)
    client = KeyOperatorClient(credentials, settings.keys, jurisdiction=credentials.identity.jurisdiction)
    try:
        if only_tell:
            (now,) = [each for each in await client.keks() if each.domain == domain]
            return now
        now = await client.rotate(domain)
        while now.left:
            tell(now.left)
            now = await client.rewrap(domain)
        return now
    finally:
        await client.close()
