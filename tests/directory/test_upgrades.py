"""A newer schema under processes of an older one: nothing is lost, nobody is held up, and nothing goes back.

``schemas/`` holds each schema that a database may have, by its number.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import pytest
from domicile_testing import Storage, Trust
from domicile_testing.cell import superuser
from domicile_testing.certificates import DEPLOYMENT
from domicile_testing.directories import RunningDirectory, any_key, directory_settings, forget_marks, manifest, serving

from domicile.directory.placement import Round, place
from domicile.directory.second_zone import SecondZone
from domicile.directory.storage import SCHEMA
from domicile.directory.storage import Storage as DirectoryStorage
from domicile.directory.transactions import SQL
from domicile.identity import Signer, sign_topology
from domicile.model import GLOBAL, Address, AliasKey, Pin, Role, SubjectKey, Unavailable
from domicile.model.wire import ClaimRequest

SCHEMAS = {int(path.stem): path.read_text() for path in (Path(__file__).parent / "schemas").glob("*.sql")}
OLDER = sorted(set(SCHEMAS) - {SCHEMA})
GERMANY, AMERICA = ClaimRequest(residence="DE"), ClaimRequest(residence="US")
EU = {"eu-1": 100, "eu-2": 100}
ADD_PIN = (
    "INSERT INTO directory.pins (subject_key, jurisdiction, cell, epoch, state) VALUES ($1, 'eu', $2, 1, 'active')"
    " ON CONFLICT (subject_key) DO NOTHING RETURNING subject_key"
)
PUT_ALIAS = "INSERT INTO directory.aliases (kind, alias_key, subject_key) VALUES ('email', $1, $2)"
READ_ALL = "LOCK TABLE directory.pins, directory.clock, directory.changes, directory.aliases IN ACCESS SHARE MODE"
"""As a logical backup holds them to its end."""


async def begin(database: asyncpg.Connection, number: int, operator: Signer) -> None:
    """A database as it was when schema ``number`` was the newest, with a topology published."""
    await database.execute("DROP SCHEMA IF EXISTS directory CASCADE")
    await database.execute("SET ROLE domicile_directory")
    await database.execute(SCHEMAS[number])
    await database.execute("RESET ROLE")
    document = sign_topology(operator, DEPLOYMENT, 1, manifest().topology())
    await database.execute(
        "INSERT INTO directory.topology (revision, signed) VALUES ($1, $2)", document.revision, document.signed
    )


async def old_claim(connection: asyncpg.Connection, key: SubjectKey) -> Pin:
    """As processes of every schema claim: the same statements in the same order, but for looks at what is new."""
    async with connection.transaction():
        await connection.execute(SQL["share_topology"], 0x646F6D74)
        await connection.fetchrow(SQL["find_topology_version"])
        await connection.fetchrow(SQL["find_pins"], [key])
        await connection.execute(SQL["begin_round"], "eu")
        held = Round.model_validate_json(await connection.fetchval(SQL["lock_round"], "eu"))
        cell, after = place(held, EU, key)
        await connection.fetchval(ADD_PIN, key, cell)
        await connection.execute(SQL["keep_round"], "eu", after.model_dump_json())
    return Pin(subject_key=key, jurisdiction="eu", cell=cell, epoch=1)


@asynccontextmanager
async def starting(trust: Trust, storage: Storage) -> AsyncIterator[None]:
    """What a directory process does at its start, before anything else."""
    credentials = trust.credentials(GLOBAL, Role.DIRECTORY, "fra")
    async with DirectoryStorage.connect(credentials, [Address(storage.address)], SecondZone.ABSENT):
        yield


async def placed(database: asyncpg.Connection) -> dict[str, int]:
    held = Round.model_validate_json(
        await database.fetchval("SELECT cells FROM directory.rounds WHERE jurisdiction = 'eu'")
    )
    return {cell: share.placed for cell, share in held.root.items()}


@pytest.mark.parametrize("number", OLDER)
async def test_an_older_database_is_brought_up_to_date_with_all_that_is_in_it(
    trust: Trust, storage: Storage, database: asyncpg.Connection, operator: Signer, number: int
) -> None:
    await begin(database, number, operator)
    forget_marks(trust)
    pins = [await old_claim(database, any_key()) for _ in range(20)]
    alias = AliasKey(any_key())
    await database.fetchrow(PUT_ALIAS, alias, pins[0].subject_key)
    logged = await database.fetchval("SELECT count(*) FROM directory.changes") if number > 1 else None
    async with serving(directory_settings(trust, storage.address, operator), trust, operator) as directory:
        app = directory.app
        assert [await app.claim(pin.subject_key, GERMANY) for pin in pins] == pins
        assert await app.alias("email", alias) == pins[0].subject_key
        new = [await app.claim(any_key(), GERMANY) for _ in range(20)]
        by_cell = {cell: sum(pin.cell == cell for pin in pins + new) for cell in EU}
        assert await placed(database) == by_cell, "the counts went on"
        async with directory.client("eu", Role.ROUTER).snapshot() as snapshot:
            position = await snapshot.head()
            block = await snapshot.block()
        assert block is not None
        assert {record[0] for record in block} == {pin.subject_key for pin in pins + new}
        assert position.sequence == (logged or 0) + len(new), "readers of before go on where they were"
    with pytest.raises(asyncpg.PostgresError, match="never deleted"):
        await database.execute("DELETE FROM directory.pins")


def test_a_schema_that_changes_gets_the_next_number() -> None:
    assert max(SCHEMAS) == SCHEMA
    assert SCHEMAS[SCHEMA] == SQL["schema"], "number the change, and copy the text to schemas/<number>.sql"


async def test_a_process_of_an_older_program_brings_nothing_back(
    directory: RunningDirectory, trust: Trust, storage: Storage, database: asyncpg.Connection
) -> None:
    await database.execute(f"COMMENT ON SCHEMA directory IS 'schema {SCHEMA + 1}'")
    await database.execute(
        "CREATE OR REPLACE FUNCTION directory.history() RETURNS text LANGUAGE sql AS $$ SELECT 'new' $$"
    )
    await database.execute("UPDATE directory.clock SET history = 'new'")
    async with starting(trust, storage):
        assert await database.fetchval("SELECT directory.history()") == "new"
        assert (await directory.app.claim(any_key(), GERMANY)).epoch == 1


@asynccontextmanager
async def old_claims(storage: Storage) -> AsyncIterator[list[Pin]]:
    """Eight claimers of older processes; none of them is ever refused."""
    pins: list[Pin] = []
    ended = asyncio.Event()

    async def claim() -> None:
        async with superuser(storage) as connection:
            while not ended.is_set():
                pins.append(await old_claim(connection, any_key()))

    async with asyncio.TaskGroup() as group:
        for _ in range(8):
            group.create_task(claim())
        await until(lambda: len(pins) > 20)
        yield pins
        seen = len(pins)
        await until(lambda: len(pins) > seen + 20)
        ended.set()


@pytest.mark.parametrize("number", OLDER)
async def test_claims_of_older_processes_go_on_while_the_schema_is_brought_up_to_date(
    trust: Trust, storage: Storage, database: asyncpg.Connection, operator: Signer, number: int
) -> None:
    """Several times over, since it takes chance to meet a claim between two of its statements."""
    for _ in range(5):
        await begin(database, number, operator)
        async with old_claims(storage) as pins, starting(trust, storage):
            pass
        found = await database.fetch("SELECT subject_key, cell FROM directory.pins")
        assert {row["subject_key"]: row["cell"] for row in found} == {pin.subject_key: pin.cell for pin in pins}


async def test_an_upgrade_gives_way_to_a_backup_and_claims_do_not_wait_for_either(
    trust: Trust, storage: Storage, database: asyncpg.Connection, operator: Signer
) -> None:
    await begin(database, OLDER[-1], operator)
    async with old_claims(storage):
        async with superuser(storage) as backup, backup.transaction():
            await backup.execute(READ_ALL)
            with pytest.raises(Unavailable, match="tables for too long"):
                async with starting(trust, storage):
                    raise AssertionError
        assert await database.fetchval(SQL["find_schema"]) < SCHEMA
        async with starting(trust, storage):
            assert await database.fetchval(SQL["find_schema"]) == SCHEMA


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 - the claimers tell nobody
            await asyncio.sleep(0.005)


async def test_processes_that_start_again_and_again_hold_no_claim_up(
    directory: RunningDirectory, trust: Trust, storage: Storage
) -> None:
    """Also while somebody reads every table for long, as a logical backup does."""
    async with superuser(storage) as backup, backup.transaction():
        await backup.execute(READ_ALL)
        for _ in range(5):
            async with starting(trust, storage):
                for residence in ("DE", "US"):
                    answer = await directory.ask("PUT", f"/v1/pins/{any_key()}", {"residence": residence})
                    assert answer.status == 201
