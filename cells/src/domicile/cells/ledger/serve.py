"""The ledger as a part of a cell's gateway: its pool, writer and routes, and its exchange with other jurisdictions."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from functools import partial
from typing import Final

from domicile.cells.ledger.api import HeadMaker, LedgerApi
from domicile.cells.ledger.appending import Ledger
from domicile.cells.ledger.exchange import BEAT_SECONDS, Ask, Exchange
from domicile.cells.ledger.storage import POOL_SIZE, USER, LedgerStore
from domicile.client import DirectoryClient, GatewayClient, Gateways
from domicile.identity import HeadSigner, verify_head
from domicile.model import Manifest, TokenInvalid
from domicile.model.ledger_wire import HeadAnswer, SignedHead, TreeHead
from domicile.sdk.store import open_own
from domicile.service import ProcessSettings, Service, ended, repeated
from domicile.telemetry import warn

HEAD_KEY_FILE: Final = "ledger-head.key"


class HeadVerifier:
    """By the authorities that this process trusts."""

    def __init__(self, settings: ProcessSettings) -> None:
        self._settings = settings

    def __call__(self, head: SignedHead, jurisdiction: str) -> TreeHead:
        path = self._settings.authorities / f"{jurisdiction}.pem"
        if not path.exists():
            raise TokenInvalid(f"a tree head of {jurisdiction}, whose authority is not known here")
        said = verify_head(head, self._settings.deployment, path.read_bytes())
        if said.jur != jurisdiction:
            raise TokenInvalid(f"a tree head of {said.jur}, told by {jurisdiction}")
        return said


class LedgerPart:
    """``ledger``: the port; ``note``: what ``/readyz`` says of it."""

    def __init__(self, settings: ProcessSettings, store: LedgerStore, directory: DirectoryClient) -> None:
        self._settings = settings
        self._store = store
        self._directory = directory
        self._own = settings.credentials.identity
        self._begun: Exchange | None = None
        self._beginning = asyncio.Lock()
        self._manifest: Manifest | None = None
        self._gateways = Gateways(settings.credentials)
        self.ledger = Ledger(store)

    def note(self) -> dict[str, str]:
        alarms = self._begun.alarms() if self._begun is not None else {}
        return {"ledger": "; ".join(f"{cell}: {verdict}" for cell, verdict in sorted(alarms.items())) or "no alarm"}

    async def exchange(self) -> Exchange:
        """Begun anew from what is held, once the database answers."""
        async with self._beginning:
            if self._begun is None:
                last = {cell: each.head for cell, each in (await self._store.last_held()).items()}
                self._begun = Exchange(self._own, self._store, self.ledger, HeadVerifier(self._settings), last)
            return self._begun

    async def look(self) -> None:
        exchange = await self.exchange()
        manifest = self._manifest or await self._settings.topology(self._directory).load()
        asks: dict[str, tuple[str, Ask]] = {
            name: (cell.jurisdiction, partial(_ask, self._gateways.of(manifest, name)))
            for name, cell in manifest.cells.items()
            if cell.jurisdiction != self._own.jurisdiction
        }
        if asks:  # else there is nobody yet to exchange heads with
            self._manifest = manifest
        await exchange.look(asks)

    async def close(self) -> None:
        await self._gateways.close()


async def _ask(client: GatewayClient, since: int) -> HeadAnswer:
    return await client.ledger_head(since)


async def open_ledger(
    stack: AsyncExitStack, settings: ProcessSettings, directory: DirectoryClient, service: Service
) -> LedgerPart:
    """The ledger of the certificate's cell, its routes served by ``service``; ended with the stack."""
    store = LedgerStore(await open_own(stack, settings, USER, size=POOL_SIZE))
    part = LedgerPart(settings, store, directory)
    stack.push_async_callback(part.close)
    stack.push_async_callback(part.ledger.close, asyncio.create_task(part.ledger.run()))
    signer = HeadSigner(settings.credentials, settings.state / HEAD_KEY_FILE)
    LedgerApi(settings.credentials.identity, store, HeadMaker(store, signer), part.ledger, part.exchange).routes(
        service
    )
    if settings.operators is None:
        warn("ledger-heads-not-exchanged", reason="no-operators")
    else:
        looking = asyncio.create_task(repeated(part.look, BEAT_SECONDS, "ledger-heads-not-exchanged"))
        stack.push_async_callback(ended, looking)
    return part
