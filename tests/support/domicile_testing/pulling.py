"""Two real cells for tests of reference tables between cells: ``eu-1`` writes, its gateway serves; ``us-1`` pulls."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg

from domicile.cells.gateway import GatewaySettings
from domicile.cells.gateway.references import Puller, Source
from domicile.cells.serve import serving_cell
from domicile.client import Gateways, Peer
from domicile.identity import Credentials, Signer, sign_topology
from domicile.model import Identity, Manifest, Role
from domicile.model.crossings import Crossing
from domicile.model.wire import ReferencePage, ReferenceState
from domicile.sdk import Reference
from domicile.sdk.store import ReferenceStore, load_reference, open_pool
from domicile_testing import Storage, Trust
from domicile_testing.cell import Directory, forget_ledger, running_directory
from domicile_testing.certificates import DEPLOYMENT
from domicile_testing.homes import manifest

PLACES = {"eu-1": ("eu", "eu-1.fra"), "us-1": ("us", "us-1.iad")}


@dataclass
class Watched:
    """A cell's gateways as a puller sees them: ``asked`` keeps its questions, ``answer`` may change the answers."""

    inner: Source
    asked: list[tuple[int | None, int]] = field(default_factory=list)
    answer: Callable[[ReferencePage], Awaitable[ReferencePage]] | None = None

    async def references(self, table: str, *, known: int | None = None, after: int = 0) -> ReferencePage:
        self.asked.append((known, after))
        page = await self.inner.references(table, known=known, after=after)
        return page if self.answer is None else await self.answer(page)


@dataclass
class Pulling:
    """``root`` are the superusers, by cell. ``named`` says which cell writes which table, as the manifest does."""

    trust: Trust
    manifest: Manifest
    directory: Directory
    root: dict[str, asyncpg.Connection]
    stores: dict[str, ReferenceStore]
    gateways: Gateways
    settings: GatewaySettings
    watched: Watched | None = None

    def credentials(self, cell: str) -> Credentials:
        jurisdiction, name = PLACES[cell]
        return self.trust.credentials(jurisdiction, Role.GATEWAY, name)

    async def name(self, **sources: str) -> None:
        """The manifest says so, and every gateway has heard of it."""
        self.manifest = self.manifest.model_copy(update={"references": sources})
        operator = Signer.load_or_create(self.trust.folder / "operator.key")
        self.directory.topology = sign_topology(operator, DEPLOYMENT, 1, self.manifest.topology())
        for store in self.stores.values():
            await store.name_sources(sources)

    def puller(self, cell: str = "us-1") -> Puller:
        """One that has just started; what it asks is in ``watched``."""
        jurisdiction, name = PLACES[cell]

        async def topology() -> Manifest:
            return self.manifest

        def source(known: Manifest, writer: str) -> Source:
            if self.watched is None:
                self.watched = Watched(self.gateways.of(known, writer))
            return self.watched

        return Puller(Identity(DEPLOYMENT, jurisdiction, Role.GATEWAY, name), self.stores[cell], topology, source)

    async def load(self, kind: type[Reference], rows: list[Any], cell: str = "eu-1") -> None:
        await load_reference(self.root[cell], cell, PLACES[cell][0], kind, rows)

    async def state(self, table: str, cell: str = "us-1") -> ReferenceState:
        return next(state for state in await self.stores[cell].states() if state.table == table)

    async def crossings(self) -> list[tuple[str, str, str, str]]:
        """What the ledger of ``eu-1`` says: where to, who, what, and how it came out."""
        lines = [
            Crossing.parse(row["line"])
            for row in await self.root["eu-1"].fetch("SELECT line FROM ledger.lines ORDER BY index")
        ]
        return [(line.destination, line.caller, str(line.kind), str(line.outcome)) for line in lines]

    def caller(self, jurisdiction: str, role: Role, name: str) -> Peer:
        """Anybody, calling the gateway of ``eu-1``."""
        credentials = self.trust.credentials(jurisdiction, role, name)
        return Peer(credentials, [self.settings.bind], jurisdiction="eu", role=Role.GATEWAY, cell="eu-1")


@asynccontextmanager
async def pulling(
    trust: Trust, folder: Path, storages: dict[str, Storage], root: dict[str, asyncpg.Connection]
) -> AsyncIterator[Pulling]:
    """The gateway of ``eu-1`` runs inside the context; nobody pulls but who is told to."""
    await forget_ledger(root["eu-1"])
    known = manifest(storages["eu-1"].address)
    pools, stores = [], {}
    for cell, (jurisdiction, name) in PLACES.items():
        pool = await open_pool(
            trust.credentials(jurisdiction, Role.GATEWAY, name),
            [storages[cell].address],
            jurisdiction=jurisdiction,
            cell=cell,
            user="domicile_gateway",
        )
        pools.append(pool)
        stores[cell] = ReferenceStore(pool)
    gateways = Gateways(trust.credentials("us", Role.GATEWAY, "us-1.iad"))
    operators = trust.folder / "operators"
    operators.mkdir(exist_ok=True)
    operator = Signer.load_or_create(trust.folder / "operator.key")
    (operators / "operator.pem").write_bytes(operator.public_pem())
    async with running_directory(trust, folder) as directory:
        settings = trust.settings(
            "eu",
            Role.GATEWAY,
            "eu-1.fra",
            known.cells["eu-1"].zones["fra"].gateway,
            GatewaySettings,
            storage=[storages["eu-1"].address],
            directory=[directory.address],
            operators=operators,
            state=folder,
        )
        assert isinstance(settings, GatewaySettings)
        world = Pulling(trust, known, directory, root, stores, gateways, settings)
        await world.name()
        try:
            async with serving_cell(settings):
                yield world
        finally:
            await gateways.close()
            for pool in pools:
                pool.terminate()
