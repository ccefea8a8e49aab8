"""A cell whose data keys are rotated, and applications that go on meanwhile, for the tests of rotations."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated, Any
from uuid import UUID, uuid4

import asyncpg

from domicile.cells.gateway.rotation import Rotator
from domicile.cells.keys import serve_keys
from domicile.client import KeyClient, KeyTurnClient
from domicile.model import Role, SubjectKey, Unavailable
from domicile.model.key_wire import KeyTurn
from domicile.sdk import Home, Personal, Principal, Record, Shareable
from domicile.sdk.home import Vault
from domicile.sdk.store import ErasureStore, FenceReader, FenceStore, RowStore, apply_schema, open_pool
from domicile_testing import Storage, Trust
from domicile_testing.cell import key_section, key_settings, superuser

SECTION = key_section()
EMAIL = "hans@example.eu"
DOCTORS = uuid4(), uuid4()


class Patient(Record, table="patients"):
    email: Annotated[str, Personal("user.contact.email", find=True)]
    phone: Annotated[str | None, Personal("user.contact.phone_number", find="cell")] = None
    note: Annotated[str | None, Personal("user.health_and_medical")] = None
    plan: Annotated[str, Shareable("user.account.plan")] = "free"


class Letter(Record, table="letters"):
    text: Annotated[str, Personal("user.content")]


class Referral(Record, table="referrals"):
    doctor: Annotated[UUID, Principal("user.unique_id")]
    email: Annotated[str, Personal("user.contact.email", find=True)]


@dataclass
class World:
    """A cell's rows and its key service. ``keys`` of an application that holds keys for a minute."""

    trust: Trust
    address: str
    key_storage: Storage
    rows: RowStore
    turned: RowStore
    fences: FenceStore
    erasures: ErasureStore
    reader: FenceReader
    root: asyncpg.Connection
    closing: list[Callable[[], Awaitable[None]]]

    def key_client(self) -> KeyClient:
        credentials = self.trust.credentials("eu", Role.APP, "eu-1.fra")
        keys = KeyClient(credentials, [self.address], jurisdiction="eu", cell="eu-1", cache_seconds=60)
        self.closing.append(keys.close)
        return keys

    def turner(self, role: Role = Role.GATEWAY, name: str = "eu-1.fra", cell: str = "eu-1") -> KeyTurnClient:
        client = KeyTurnClient(self.trust.credentials("eu", role, name), [self.address], jurisdiction="eu", cell=cell)
        self.closing.append(client.close)
        return client

    def rotator(self, keys: Any = None) -> Rotator:
        async def pause(seconds: float) -> None:
            """Nobody waits for caches here: what a stale writer does is tried on purpose."""
            if seconds < SECTION.cache_seconds:
                await asyncio.sleep(0.01)

        vault = Vault(self.turned, keys or self.key_client(), "eu-1", "eu")
        return Rotator(self.turner(), self.fences, self.erasures, vault, SECTION.cache_seconds, pause)

    async def home(self, key: SubjectKey | None = None, keys: KeyClient | None = None) -> Home:
        """Of a new subject, or of one that is there, by an application of its own."""
        if key is None:
            key = SubjectKey(bytes([1]) + uuid4().bytes)
            await self.root.execute(
                "INSERT INTO domicile.fences (subject_key, epoch, state) VALUES ($1, 1, 'open')", key
            )
        fence = await self.reader.fence(key)
        assert fence is not None
        return Home(Vault(self.rows, keys or self.key_client(), "eu-1", "eu"), fence)

    async def generations(self, home: Home) -> list[int]:
        async with superuser(self.key_storage) as root:
            rows = await root.fetch(
                "SELECT generation FROM keys.data_keys WHERE subject = $1 ORDER BY 1", home.internal_id
            )
        return [row[0] for row in rows]


@asynccontextmanager
async def turning(
    trust: Trust, key_storage: Storage, cell_storage: Storage, cell: asyncpg.Connection
) -> AsyncIterator[World]:
    """A cell with rows to be turned, and its key service, both begun anew."""
    await apply_schema(cell, "eu-1", "eu", [Patient, Letter, Referral])
    await cell.execute("TRUNCATE patients, letters, referrals, domicile.turns, domicile.answers, domicile.erasures")
    await cell.execute("UPDATE domicile.cell SET newest_index = 1, oldest_index = 1")
    settings = key_settings(trust, key_storage)
    async with serve_keys(settings, SECTION):
        async with superuser(key_storage) as root:
            await root.execute("TRUNCATE keys.data_keys, keys.subjects, keys.rotations, keys.index_keys")
        pools = []
        users = {
            "domicile_app": Role.APP,
            "domicile_gateway": Role.GATEWAY,
            "domicile_eraser": Role.GATEWAY,
            "domicile_turner": Role.GATEWAY,
        }
        for user, role in users.items():
            credentials = trust.credentials("eu", role, "eu-1.fra")
            pools.append(
                await open_pool(credentials, [cell_storage.address], jurisdiction="eu", cell="eu-1", user=user, size=6)
            )
        made = World(
            trust, settings.bind, key_storage, RowStore(pools[0], "eu"), RowStore(pools[3], "eu"),
            FenceStore(pools[1]), ErasureStore(pools[2]), FenceReader(pools[0]), cell, [],
        )  # fmt: skip
        yield made
        for close in made.closing:
            await close()
        for pool in pools:
            pool.terminate()


def said(records: Sequence[Record]) -> list[dict[str, Any]]:
    """What they hold, whatever their versions."""
    return sorted((dict(record) for record in records), key=lambda fields: str(fields["id"]))


def patient(home: Home, **fields: Any) -> Patient:
    return home.new(Patient, **{"email": EMAIL, "phone": "+49 30 1", "note": "a cough", **fields})


async def stored(world: World, row: UUID) -> asyncpg.Record:
    found = await world.root.fetchrow("SELECT * FROM patients WHERE id = $1", row)
    assert found is not None
    return found


async def the_turn(world: World, home: Home) -> KeyTurn:
    await world.turner().rotation("go")
    (turn,) = [each for each in await world.turner().turns(None) if each.subject == home.internal_id]
    return turn


@asynccontextmanager
async def writers(
    world: World, homes: list[Home], count: int = 4, *, outages: bool = False
) -> AsyncIterator[dict[UUID, tuple[Home, str]]]:
    """Who put, update and find all the while; what was acknowledged last, by record. Their errors are ours."""
    acknowledged: dict[UUID, tuple[Home, str]] = {}
    stop = asyncio.Event()

    async def write(number: int) -> None:
        home = await world.home(homes[number % len(homes)].subject_key)
        turn = 0
        while not stop.is_set():
            turn += 1
            record = patient(home, email=f"{number}.{turn}@example.eu", note=f"{number}.{turn}")
            try:
                await home.put(record)
                read = await home.get(Patient, record.id)
                assert read is not None
                changed = await home.update(read, plan="pro")
                await home.update(changed, note=f"{number}.{turn}+")
                assert [each.id for each in await home.find(Patient, email=record.email)] == [record.id]
                referral = home.new(Referral, id=record.id, doctor=DOCTORS[turn % 2], email=record.email)
                await home.put(referral)
                assert said(await home.find(Referral, email=record.email)) == said([referral])
            except Unavailable:  # what was not acknowledged may hold or not
                if not outages:
                    raise
            else:
                acknowledged[record.id] = home, f"{number}.{turn}+"

    tasks = [asyncio.create_task(write(number)) for number in range(count)]
    try:
        yield acknowledged
    finally:
        stop.set()
        await asyncio.gather(*tasks)


async def check(world: World, acknowledged: dict[UUID, tuple[Home, str]]) -> None:
    found: dict[UUID, Patient] = {}
    about: dict[UUID, Referral] = {}
    for key in {home.subject_key for home, _ in acknowledged.values()}:
        fresh = await world.home(key)
        found |= {record.id: record for record in await fresh.all(Patient)}
        about |= {record.id: record for record in await fresh.all(Referral)}
    for row, (home, note) in acknowledged.items():
        assert about[row].email == found[row].email
        assert [record.id for record in await home.find(Referral, email=found[row].email)] == [row]
        assert (found[row].note, found[row].plan, found[row].version) == (note, "pro", 3)
