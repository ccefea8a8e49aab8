"""The key service as a process: its place, its key domains and who holds them, as the signed topology says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final

from pydantic import Field

from domicile.cells.keys.api import KeyApi
from domicile.cells.keys.audit import BEAT_SECONDS, prune
from domicile.cells.keys.custody import Custody
from domicile.cells.keys.customer import CustomerHolder
from domicile.cells.keys.guarded import GuardedHolder
from domicile.cells.keys.own import OwnHolder
from domicile.cells.keys.shreds import Shredder
from domicile.cells.keys.storage import KeyStore
from domicile.cells.keys.transit import TransitHolder, read_token
from domicile.client import DirectoryClient
from domicile.model import GLOBAL, Address, InvalidInput, Role
from domicile.model.key_domains import DEFAULT_DOMAIN, KeySection
from domicile.service import ProcessSettings, Service, ended, repeated

KEK_FOLDER: Final = "kek"


class KeySettings(ProcessSettings):
    """What a key service is told beside the rest.

    Processes of one service, in several zones, hold the same key-encryption keys and each a state folder of its own.
    """

    keks: Path | None = Field(default=None, description="folder of the key-encryption keys; kek in the state folder")
    transit_token: Path | None = Field(default=None, description="file of the token for every transit key")
    transit_authority: Path | None = Field(
        default=None, description="who signs the transit servers' certificates (PEM)"
    )


async def _section(settings: KeySettings, jurisdiction: str) -> KeySection:
    directory = DirectoryClient(settings.credentials, settings.directory)
    try:
        manifest = await settings.topology(directory).load()
    finally:
        await directory.close()
    if jurisdiction not in manifest.jurisdictions:
        raise InvalidInput(f"names jurisdiction {jurisdiction}, which the manifest does not", where="certificate")
    return manifest.jurisdictions[jurisdiction].keys


async def _holders(
    stack: AsyncExitStack, settings: KeySettings, section: KeySection, store: KeyStore
) -> dict[str, GuardedHolder]:
    jurisdiction = settings.credentials.identity.jurisdiction
    keks = settings.keks or settings.state / KEK_FOLDER
    own = OwnHolder(keks / DEFAULT_DOMAIN, jurisdiction, DEFAULT_DOMAIN, store)
    await own.start()
    holders = {DEFAULT_DOMAIN: GuardedHolder(DEFAULT_DOMAIN, own, remote=False)}
    for name, domain in section.domains.items():
        held: CustomerHolder | TransitHolder
        if domain.transit is not None:
            held = TransitHolder(domain.transit, read_token(settings.transit_token), settings.transit_authority)
        else:
            held = CustomerHolder(settings.credentials, jurisdiction, name, domain.holder)
        stack.push_async_callback(held.close)
        holders[name] = GuardedHolder(name, held, unverified=domain.transit is not None)
    return holders


@asynccontextmanager
async def serve_keys(settings: KeySettings, section: KeySection | None = None) -> AsyncIterator[None]:
    """The key service of the certificate's jurisdiction, listening inside the context.

    ``section``: the manifest's, which is otherwise taken from the signed topology. Raises InvalidInput for settings or
    a key-encryption key that it must not start with, Unavailable for no database or no topology.
    """
    identity = settings.credentials.identity
    if identity.role is not Role.KEYS:
        raise InvalidInput(f"the certificate is for {identity.role}, not {Role.KEYS}", where=str(settings.certificate))
    if not settings.storage:
        raise InvalidInput("no database", where="DOMICILE_STORAGE", remedy="name the key store's host:port")
    section = section or await _section(settings, identity.jurisdiction)
    addresses = [Address(each) for each in settings.storage]
    async with KeyStore.connect(settings.credentials, addresses) as store, AsyncExitStack() as stack:
        await store.prepare()
        holders = await _holders(stack, settings, section, store)
        shredder = Shredder(store, settings.credentials, section, settings.state)
        await store.on_return(shredder.destroy_again)
        service = Service(settings, store.probe)
        custody = Custody(store, identity.jurisdiction, holders)
        KeyApi(custody, shredder, store, section.cache_seconds).routes(service)
        context = service.internal_context([Role.APP, Role.GATEWAY, Role.BACKUP], [identity.jurisdiction, GLOBAL])
        pruning = asyncio.create_task(
            repeated(lambda: prune(store, section.audit_days), BEAT_SECONDS, "key-audit-not-pruned")
        )
        stack.push_async_callback(ended, pruning)
        forgetting = asyncio.create_task(repeated(shredder.forget_expired, BEAT_SECONDS, "shreds-not-forgotten"))
        stack.push_async_callback(ended, forgetting)
        async with service.listen(settings.address(), context):
            yield
