"""A cell's whole surroundings for erasures: real directory, key service, gateway and storages, one of each."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg

from domicile.cells.gateway import GatewaySettings
from domicile.cells.keys import KeySettings, serve_keys
from domicile.cells.serve import serving_cell
from domicile.client import GatewayClient
from domicile.directory import DirectorySettings
from domicile.identity import Signer, verify_receipt
from domicile.model import GLOBAL, Conflict, Role, SubjectKey
from domicile.model.key_wire import ShredReceipt
from domicile.model.wire import ErasureResponse
from domicile.ops.postgres import launched
from domicile.sample import Note, Profile
from domicile.sdk import Home, Residency
from domicile.sdk.store import apply_schema
from domicile.service import ProcessSettings
from domicile_testing import Storage, Trust
from domicile_testing.cell import gateway_settings, key_section, key_settings, manifest, superuser
from domicile_testing.certificates import PEPPER
from domicile_testing.directories import RunningDirectory, directory_settings, serving

PROGRAM = Path(sys.executable).with_name("domicile-cell")


@dataclass
class Plan:
    """The addresses and settings of all, the same for every test of a module."""

    trust: Trust
    operator: Signer
    directory: DirectorySettings
    keys: KeySettings
    gateway: GatewaySettings
    storages: dict[str, Storage]

    @classmethod
    def of(cls, trust: Trust, cell: Storage, keys: Storage, directory: Storage) -> Plan:
        operator = Signer.load_or_create(trust.folder / "operator.key")
        asked = directory_settings(trust, directory.address, operator, alias_rate=1e6, alias_burst=1e6)
        (trust.folder / "pepper").write_text(PEPPER)
        operators = trust.folder / "operators"
        gateway = gateway_settings(trust, cell.address, asked.bind, operators=operators)
        storages = {"cell": cell, "keys": keys, "directory": directory}
        return cls(trust, operator, asked, key_settings(trust, keys), gateway, storages)

    def application(self, folder: Path) -> ProcessSettings:
        known: dict[str, Any] = {"directory": [self.directory.bind], "operators": self.trust.folder / "operators"}
        return self.trust.settings(
            "eu", Role.APP, "eu-1.fra", "127.0.0.1:3", state=folder, pepper=self.trust.folder / "pepper", **known
        )

    @contextmanager
    def gateway_process(self, log: Path) -> Iterator[subprocess.Popen[bytes]]:
        """The gateway as a program, to be killed."""
        names = ["deployment", "process", "bind", "certificate", "key", "authorities", "state", "operators"]
        told = {f"DOMICILE_{name.upper()}": str(getattr(self.gateway, name)) for name in names}
        told |= {"DOMICILE_DIRECTORY": self.directory.bind, "DOMICILE_STORAGE": self.storages["cell"].address}
        kept = {name: value for name, value in os.environ.items() if not name.startswith("DOMICILE_")}
        with log.open("ab") as stream:
            command = launched([str(PROGRAM), "serve"], ends_with=signal.SIGTERM)
            process = subprocess.Popen(command, env=kept | told, stdout=stream, stderr=stream)
        try:
            yield process
        finally:
            process.kill()
            process.wait(10)


@dataclass
class Running:
    """``cell``, ``keys_store`` and ``pins``: the superuser in each database. ``stops`` ends a part before its time."""

    plan: Plan
    residency: Residency
    cell: asyncpg.Connection
    keys_store: asyncpg.Connection
    pins: asyncpg.Connection
    stops: dict[str, AsyncExitStack]

    async def stop(self, part: str) -> None:
        await self.stops[part].aclose()

    async def start(self, part: str) -> None:
        await self.stops[part].enter_async_context(_part(self.plan, part))

    @asynccontextmanager
    async def asking(self, jurisdiction: str, role: Role, name: str) -> AsyncIterator[GatewayClient]:
        """Anybody, calling the gateway."""
        client = GatewayClient(self.plan.trust.credentials(jurisdiction, role, name), self.residency.manifest, "eu-1")
        try:
            yield client
        finally:
            await client.close()

    async def sign_up(self, user: str) -> Home:
        """With an alias, a profile and two notes."""
        home = await self.residency.claim(user, residence="DE", aliases={"email": f"{user}@example.eu"})
        fields: dict[str, Any] = {"user": user, "email": f"{user}@example.eu", "password": "x", "born": None}
        await home.put(home.new(Profile, **fields, plan="pro"))
        for _ in range(2):
            await home.put(home.new(Note, text=f"a note of {user}", topic="general"))
        return home

    async def rows(self, key: SubjectKey) -> int:
        count: int = await self.cell.fetchval(
            "SELECT (SELECT count(*) FROM notes WHERE subject_key = $1)"
            " + (SELECT count(*) FROM profiles WHERE subject_key = $1)",
            key,
        )
        return count

    async def fence(self, key: SubjectKey) -> tuple[str, int]:
        row = await self.cell.fetchrow("SELECT state, epoch FROM domicile.fences WHERE subject_key = $1", key)
        assert row is not None
        return row["state"], row["epoch"]

    async def pin(self, key: SubjectKey) -> tuple[str, int]:
        row = await self.pins.fetchrow("SELECT state, epoch FROM directory.pins WHERE subject_key = $1", key)
        assert row is not None
        return row["state"], row["epoch"]


@asynccontextmanager
async def _part(plan: Plan, part: str) -> AsyncIterator[None]:
    async with AsyncExitStack() as stack:
        if part == "directory":
            served = await stack.enter_async_context(serving(plan.directory, plan.trust, plan.operator))
            await _publish(plan, served)
        elif part == "keys":
            await stack.enter_async_context(serve_keys(plan.keys, key_section(service=[plan.keys.bind])))
        else:
            await stack.enter_async_context(serving_cell(plan.gateway))
        yield


async def _publish(plan: Plan, directory: RunningDirectory) -> None:
    topology = manifest(plan.gateway.bind, plan.keys.bind, plan.storages["cell"].address)
    try:
        operator = directory.client(GLOBAL, Role.OPERATOR)
        await operator.publish_topology(directory.signed(1, topology))
    except Conflict:
        pass  # it was published before


@asynccontextmanager
async def erasing(plan: Plan, folder: Path) -> AsyncIterator[Running]:
    """All of them, running; the gateway in this process."""
    async with AsyncExitStack() as stack:
        roots = {name: await stack.enter_async_context(superuser(storage)) for name, storage in plan.storages.items()}
        await apply_schema(roots["cell"], "eu-1", "eu", [Profile, Note])
        stops = {}
        for part in ("directory", "keys", "gateway"):
            stops[part] = await stack.enter_async_context(AsyncExitStack())
            await stops[part].enter_async_context(_part(plan, part))
        residency = await stack.enter_async_context(Residency.connect(plan.application(folder)))
        yield Running(plan, residency, roots["cell"], roots["keys"], roots["directory"], stops)


def read(answer: ErasureResponse) -> ShredReceipt:
    return verify_receipt(answer.receipt, "acme", answer.key.encode())


async def keys_of(world: Running, subject: UUID) -> int:
    count: int = await world.keys_store.fetchval("SELECT count(*) FROM keys.data_keys WHERE subject = $1", subject)
    return count


ARMED = """
CREATE OR REPLACE FUNCTION public.hold_up() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN PERFORM pg_advisory_xact_lock(7); RETURN NEW; END $$;
CREATE OR REPLACE TRIGGER hold_up BEFORE UPDATE ON domicile.erasures FOR EACH ROW EXECUTE FUNCTION public.hold_up();
"""


@asynccontextmanager
async def locked(storage: Storage, statement: str) -> AsyncIterator[asyncpg.Connection]:
    """Somebody who holds a lock, until the block ends; ``ARMED``: one that is met when a receipt is kept."""
    async with superuser(storage) as connection:
        if statement == ARMED:
            await connection.execute(statement)
            statement = "SELECT pg_advisory_xact_lock(7)"
        async with connection.transaction():
            await connection.execute(statement)
            yield connection
        await connection.execute("DROP FUNCTION IF EXISTS public.hold_up CASCADE")


async def lock_wanted(database: asyncpg.Connection) -> bool:
    """Whether anybody waits for a lock there."""
    return bool(await database.fetchval("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"))


async def has_receipt(world: Running, key: SubjectKey) -> bool:
    """Whether the erasure of a subject, or of a principal of it, is done."""
    kept = "SELECT receipt IS NOT NULL FROM domicile.erasures WHERE subject_key = $1"
    return bool(await world.cell.fetchval(kept, key))
