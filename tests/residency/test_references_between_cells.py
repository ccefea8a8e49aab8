"""Reference tables cross borders by themselves, so they are a way out: nothing of a person takes it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated

import asyncpg
import pytest
from domicile_testing import Storage, Trust
from domicile_testing.pulling import Pulling, pulling

from domicile.model import InvalidInput, NotFound, Role
from domicile.sample import Note, Profile
from domicile.sdk import Reference, Shareable
from domicile.sdk.store import apply_schema

CANARY = "canary-7c1f@example.eu"


class Tip(Reference, table="tips", key=("name",)):
    name: Annotated[str, Shareable("system.operations")]


@pytest.fixture
async def world(
    trust: Trust, eu: Storage, us: Storage, eu_root: asyncpg.Connection, us_root: asyncpg.Connection, tmp_path: Path
) -> AsyncIterator[Pulling]:
    roots = {"eu-1": ("eu", eu_root), "us-1": ("us", us_root)}
    for cell, (jurisdiction, root) in roots.items():
        await apply_schema(root, cell, jurisdiction, [Tip, Profile, Note])
    try:
        async with pulling(trust, tmp_path, {"eu-1": eu, "us-1": us}, {"eu-1": eu_root, "us-1": us_root}) as running:
            await running.name(tips="eu-1", notes="eu-1")
            yield running
    finally:
        for cell, (jurisdiction, root) in roots.items():
            await apply_schema(root, cell, jurisdiction, [], drops=["tips"])
            await root.execute("DELETE FROM domicile.reference_sources")
            await root.execute("DELETE FROM domicile.reference_columns WHERE table_name = 'notes'")
            await root.execute("DELETE FROM domicile.reference_loads WHERE table_name = 'notes'")


async def test_what_looks_personal_is_not_taken_whoever_wrote_it_into_the_table(world: Pulling) -> None:
    await world.load(Tip, [Tip(name="plain")])
    await world.puller().pull_all()
    # past `schema load`, which refuses it, too; and as if it had been loaded
    await world.root["eu-1"].execute("INSERT INTO tips (name) VALUES ($1)", CANARY)
    await world.root["eu-1"].execute(
        "UPDATE domicile.reference_loads SET version = version + 1, rows = 2, "
        "content = domicile.reference_content('tips') WHERE table_name = 'tips'"
    )
    with pytest.raises(InvalidInput, match="looks personal") as refusal:
        await world.puller().pull_all()
    assert CANARY not in str(refusal.value)
    root = world.root["us-1"]
    assert [row["name"] for row in await root.fetch("SELECT name FROM tips")] == ["plain"]
    assert await root.fetchval("SELECT count(*) FROM domicile.reference_pages") == 0
    assert await root.fetchval("SELECT count(*) FROM domicile.reference_pulls") == 0


async def test_a_table_of_records_is_served_to_nobody_whatever_is_on_record_of_it(world: Pulling) -> None:
    path = "/.domicile/v1/references/notes"
    root = world.root["eu-1"]
    async with world.caller("us", Role.GATEWAY, "us-1.iad") as peer:
        with pytest.raises(NotFound):
            await peer.call("GET", path)
        await root.execute(
            "INSERT INTO domicile.reference_columns (table_name, column_name, category, sql_type, nullable, key_place) "
            "SELECT table_name, column_name, 'system', sql_type, nullable, 1 FROM domicile.columns "
            "WHERE table_name = 'notes'"
        )
        await root.execute(
            "INSERT INTO domicile.reference_loads (table_name, digest, rows, loaded_by, content) "
            "VALUES ('notes', repeat('0', 64), 1, 'x', repeat('0', 64))"
        )
        with pytest.raises(NotFound):
            await peer.call("GET", path)
    assert await world.crossings() == [("us", "gateway/us-1.iad", "reference-pull", "refused")] * 2


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO tips (name) VALUES ('x')",
        "SELECT name FROM tips",
        "INSERT INTO domicile.reference_pages (table_name, place, page) VALUES ('tips', 0, '[]')",
        "SELECT * FROM domicile.reference_pulls",
        "UPDATE domicile.reference_sources SET cell = 'us-1'",
        "UPDATE domicile.reference_loads SET version = 9",
    ],
)
async def test_a_gateways_own_role_has_functions_and_no_right_on_a_table(
    world: Pulling, us: Storage, statement: str
) -> None:
    connection = await asyncpg.connect(
        host=us.host,
        port=us.port,
        user="domicile_gateway",
        database="domicile",
        ssl=us.context(Role.GATEWAY, "us-1.iad"),
    )
    try:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute(statement)
        with pytest.raises(asyncpg.PostgresError, match="another cell writes this table"):
            await connection.fetchval("SELECT domicile.begin_pull('tips', 'us-1', 9, 'x', 'x', 1, '[]')")
    finally:
        await connection.close()
