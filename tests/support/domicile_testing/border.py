"""Two cells' real gateways, ``eu-1`` and ``us-1``, with a directory and a key service around them, and people in eu."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
from pydantic import BaseModel
from typer.testing import CliRunner, Result

from domicile.cells.border.api import ARRIVALS, RELEASES
from domicile.cells.border.wire import (
    Arrival,
    CheckedDeclaration,
    DeclareRequest,
    ReleasedRows,
    Releases,
    ReleaseStatus,
    RunRequest,
    SignedManifest,
)
from domicile.cells.gateway import GatewaySettings
from domicile.cells.serve import serving_cell
from domicile.client import KeyClient, Peer
from domicile.identity import Signer
from domicile.model import GLOBAL, Manifest, Role, SubjectKey
from domicile.ops.main import app
from domicile.ops.postgres import launched
from domicile.sample import Note, Profile
from domicile.sdk.home import Home, Vault
from domicile.sdk.store import RowStore, open_pool
from domicile.sdk.store.local import open_fence
from domicile.service import ProcessSettings, Service
from domicile_testing.certificates import Trust
from domicile_testing.conditions import until_true
from domicile_testing.databases import Storage
from domicile_testing.homes import Directory, Keys, manifest

PROGRAM = Path(sys.executable).with_name("domicile-cell")
PLANS = ("free", "pro", "team")
OPERATORS = {"eu": "fra", "us": "iad"}


async def _ready() -> None: ...


@dataclass
class Cells:
    """``gateways``: what ends each; ``roots``: the superuser in each database."""

    trust: Trust
    manifest: Manifest
    storages: dict[str, Storage]
    roots: dict[str, asyncpg.Connection]
    gateways: dict[str, AsyncExitStack]
    vault: Vault
    stack: AsyncExitStack
    emails: list[str] = field(default_factory=list)
    operators: dict[str, Peer] = field(default_factory=dict)
    running: set[str] = field(default_factory=set)

    def settings(self, cell: str) -> GatewaySettings:
        place = self.manifest.cells[cell]
        ((zone, where),) = place.zones.items()
        operators = self.trust.folder / "border-operators"
        made = self.trust.settings(
            place.jurisdiction,
            Role.GATEWAY,
            f"{cell}.{zone}",
            where.gateway,
            GatewaySettings,
            storage=[self.storages[cell].address],
            directory=[self.manifest.directory.sites[0].address],
            operators=operators,
        )
        assert isinstance(made, GatewaySettings)
        return made

    async def unlocked(self, statement: str, *values: object) -> None:
        """As a superuser of eu-1 who goes past the fences."""
        async with self.roots["eu-1"].transaction():
            await self.roots["eu-1"].execute("SET LOCAL session_replication_role = replica")
            await self.roots["eu-1"].execute(statement, *values)

    async def subjects(self) -> list[bytes]:
        return [row[0] for row in await self.roots["eu-1"].fetch("SELECT DISTINCT subject_key FROM profiles")]

    async def forget(self, others: Sequence[bytes] = ()) -> None:
        """Every row but those of ``others``."""
        for table in ("profiles", "notes"):
            await self.unlocked(f"DELETE FROM {table} WHERE subject_key <> ALL ($1)", list(others))

    async def start(self, cell: str) -> None:
        self.running.add(cell)
        await self.gateways[cell].enter_async_context(serving_cell(self.settings(cell)))

    async def stop(self, cell: str) -> None:
        self.running.discard(cell)
        await self.gateways[cell].aclose()

    @asynccontextmanager
    async def asking(self, cell: str, jurisdiction: str, role: Role, name: str) -> AsyncIterator[Peer]:
        """Anybody, calling a cell's gateway."""
        place = self.manifest.cells[cell]
        addresses = [zone.gateway for zone in place.zones.values()]
        credentials = self.trust.credentials(jurisdiction, role, name)
        async with Peer(
            credentials, addresses, jurisdiction=place.jurisdiction, role=Role.GATEWAY, cell=cell, deadline=20
        ) as peer:
            yield peer

    async def ask(self, cell: str, kind: type[Any], method: str, path: str, body: BaseModel | None = None) -> Any:
        """As an operator of the cell's own jurisdiction."""
        if cell not in self.operators:
            jurisdiction = self.manifest.cells[cell].jurisdiction
            asking = self.asking(cell, jurisdiction, Role.OPERATOR, OPERATORS[jurisdiction])
            self.operators[cell] = await self.stack.enter_async_context(asking)
        return await self.operators[cell].ask(kind, method, path, body=body)

    async def declare(self, text: str) -> CheckedDeclaration:
        found = await self.ask("eu-1", CheckedDeclaration, "POST", RELEASES, DeclareRequest(text=text))
        assert isinstance(found, CheckedDeclaration)
        return found

    async def begin(self, name: str, revision: int | None = None) -> ReleaseStatus:
        body = RunRequest.model_validate({"revision": revision})
        found = await self.ask("eu-1", ReleaseStatus, "POST", f"{RELEASES}/{name}/revisions", body)
        assert isinstance(found, ReleaseStatus)
        return found

    async def status(self, name: str, revision: int) -> ReleaseStatus:
        found = await self.ask("eu-1", ReleaseStatus, "GET", f"{RELEASES}/{name}/revisions/{revision}")
        assert isinstance(found, ReleaseStatus)
        return found

    async def run(self, name: str, revision: int | None = None) -> ReleaseStatus:
        """Until it was accepted or refused."""
        begun = await self.begin(name, revision)
        last = begun

        async def over() -> bool:
            nonlocal last
            last = await self.status(name, begun.revision)
            return last.state in ("accepted", "refused")

        await until_true(over)
        return last

    async def all(self, cell: str) -> Releases:
        found = await self.ask(cell, Releases, "GET", RELEASES)
        assert isinstance(found, Releases)
        return found

    async def rows(self, identifier: str) -> ReleasedRows:
        found = await self.ask("us-1", ReleasedRows, "GET", f"{ARRIVALS}/{identifier}/rows?after=0")
        assert isinstance(found, ReleasedRows)
        return found

    async def offer(self, given: SignedManifest, *, name: str = "eu-1.fra") -> Arrival:
        """As a gateway of eu."""
        async with self.asking("us-1", "eu", Role.GATEWAY, name) as peer:
            return await peer.ask(Arrival, "PUT", f"{ARRIVALS}/{given.id}", body=given)

    async def command(self, *arguments: str, jurisdiction: str = "eu") -> Result:
        """``domicile`` with these arguments, as an operator of a jurisdiction."""
        own = self.trust.credentials(jurisdiction, Role.OPERATOR, OPERATORS[jurisdiction])
        environment = {
            "DOMICILE_CERTIFICATE": str(own.certificate),
            "DOMICILE_KEY": str(own.key),
            "DOMICILE_AUTHORITIES": str(own.authorities),
            "DOMICILE_OPERATORS": str(self.trust.folder / "border-operators"),
            "DOMICILE_DIRECTORY": self.manifest.directory.sites[0].address,
            "DOMICILE_STATE": str(self.trust.folder / "commands"),
        }
        return await asyncio.to_thread(lambda: CliRunner().invoke(app, list(arguments), env=environment))

    def process(self, cell: str) -> subprocess.Popen[bytes]:
        """A gateway as a program, to be killed; the one in this process has been stopped."""
        settings = self.settings(cell)
        names = ["deployment", "process", "bind", "certificate", "key", "authorities", "state", "operators"]
        told = {f"DOMICILE_{name.upper()}": str(getattr(settings, name)) for name in names}
        told |= {"DOMICILE_DIRECTORY": settings.directory[0], "DOMICILE_STORAGE": settings.storage[0]}
        kept = {name: value for name, value in os.environ.items() if not name.startswith("DOMICILE_")}
        command = launched([str(PROGRAM), "serve"], ends_with=signal.SIGTERM)
        with (self.trust.folder / f"{cell}.log").open("ab") as log:
            return subprocess.Popen(command, env=kept | told, stdout=log, stderr=log)

    async def ledger(self, cell: str) -> list[str]:
        rows = await self.roots[cell].fetch("SELECT line FROM ledger.lines ORDER BY index")
        return [row[0] for row in rows]

    async def sign_up(self, number: int, *, plan: str, born: date | None, topic: str = "general") -> Home:
        """Somebody new, with a profile and a note."""
        key = SubjectKey(b"\x01" + uuid4().bytes)
        home = Home(self.vault, await open_fence(self.roots["eu-1"], key))
        email = f"person{number}.{uuid4().hex[:6]}@mail.example"
        self.emails.append(email)
        await home.put(home.new(Profile, user=f"user-{number}", email=email, password="x", born=born, plan=plan))
        await home.put(home.new(Note, text=f"a private note of {email}", topic=topic))
        return home


@asynccontextmanager
async def bordering(
    trust: Trust, eu: Storage, us: Storage, roots: dict[str, asyncpg.Connection]
) -> AsyncIterator[Cells]:
    """All of it, running; the schemas are applied."""
    world = manifest(eu.address)
    served = {name: cell for name, cell in world.cells.items() if name in roots}
    world = world.model_copy(update={"cells": served})
    directory, keys = Directory(world, Signer.load_or_create(trust.folder / "operator.key")), Keys()
    operators = trust.folder / "border-operators"
    operators.mkdir(exist_ok=True)
    (operators / "operator.pem").write_bytes(directory.operator.public_pem())
    async with AsyncExitStack() as stack:
        for place, bind, part in (
            ((GLOBAL, Role.DIRECTORY, "fra"), world.directory.sites[0].address, directory),
            (("eu", Role.KEYS, "fra"), world.jurisdictions["eu"].keys.service[0], keys),
        ):
            settings: ProcessSettings = trust.settings(*place, bind)
            service = Service(settings, _ready)
            part.routes(service)
            context = service.internal_context([Role.APP, Role.GATEWAY])
            await stack.enter_async_context(service.listen(settings.address(), context))
        own = trust.credentials("eu", Role.APP, "eu-1.fra")
        client = KeyClient.of_cell(own, world, "eu-1")
        stack.push_async_callback(client.close)
        pool = await open_pool(own, [eu.address], jurisdiction="eu", cell="eu-1", user="domicile_app")
        stack.callback(pool.terminate)
        vault = Vault(RowStore(pool, "eu"), client, "eu-1", "eu")
        gateways = {cell: await stack.enter_async_context(AsyncExitStack()) for cell in ("eu-1", "us-1")}
        cells = Cells(trust, world, {"eu-1": eu, "us-1": us}, roots, gateways, vault, stack)
        for cell in gateways:
            await cells.start(cell)
        yield cells
