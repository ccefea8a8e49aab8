"""A role may change its own settings. None that it can set stops the application's writes or changes what they mean."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, cast
from uuid import uuid4

import asyncpg
import pytest
from domicile_testing.harm import HARM

from domicile.model import SubjectKey
from domicile.ops.testing import Cell, PostgresCell
from domicile.sdk import Home, Record, Shareable
from domicile.sdk.home import Vault
from domicile.sdk.store import FenceStore, RowStore, apply_schema, local, plan_schema, settings
from domicile.sdk.testing import MemoryKeys

PLACE = ("eu-1", "eu")


class Page(Record, table="pages"):
    topic: Annotated[str, Shareable("user.content")]


@asynccontextmanager
async def as_application(cell: PostgresCell) -> AsyncIterator[asyncpg.Connection]:
    """As the role itself, by a client of its own."""
    connection = await asyncpg.connect(host=str(cell.folder), user="domicile_app", database="domicile")
    try:
        yield connection
    finally:
        await connection.close()


@pytest.fixture
async def cell(domicile_postgres: Cell) -> AsyncIterator[PostgresCell]:
    """Whose application's role has done to itself what it can."""
    found = cast("PostgresCell", domicile_postgres)
    async with found.home(Page):
        pass
    async with local.superuser(found.folder) as root:
        try:
            async with as_application(found) as application:
                for name, value in HARM.items():
                    for where in ("", " IN DATABASE domicile"):
                        await application.execute(f"ALTER ROLE domicile_app{where} SET {name} = '{value}'")
            yield found
        finally:
            await root.execute("ALTER ROLE domicile_app IN DATABASE domicile RESET ALL")
            await apply_schema(root, *PLACE, [Page])


async def test_a_role_that_changed_its_settings_writes_as_before(cell: PostgresCell) -> None:
    assert settings.WATCHED - {"transaction_timeout", "role"} == {name.lower() for name in HARM}
    async with local.superuser(cell.folder) as root:
        fence = await local.open_fence(root, SubjectKey(b"\1" + uuid4().bytes))
    async with local.application(cell.folder) as pool:
        home = Home(Vault(RowStore(pool, "eu"), MemoryKeys(), *PLACE), fence)
        await home.put(home.new(Page, topic="it's \\"))
        async with home.transaction() as tx:
            await tx.put(home.new(Page, topic="b"))
            counted = (
                "SELECT topic FROM pages WHERE topic = '\\' OR topic = 'it''s \\' AND coalesce(topic = NULL, true)"
            )
            assert await tx.sql(counted) == [{"topic": "it's \\"}]
            (said,) = await tx.sql("SELECT CAST('2020-03-04 00:00+00'::timestamptz AS text) AS t")
            assert said == {"t": "2020-03-04 00:00:00+00"}
        async with pool.acquire() as connection:
            for name, value in settings.of_session().items():
                assert await connection.fetchval("SELECT current_setting($1)", name) == value


async def test_plan_tells_what_a_role_has_set_and_apply_takes_it_back(cell: PostgresCell) -> None:
    async with local.superuser(cell.folder) as root:
        plan = await plan_schema(root, *PLACE, [Page])
        said = {step.what for step in plan.steps}
        assert {f"take back {name} of role domicile_app" for name in HARM} == said
        async with asyncpg.create_pool(host=str(cell.folder), user="domicile_gateway", database="domicile") as pool:
            told = await FenceStore(pool).role_settings()
            assert {f"domicile_app sets {name}" for name in HARM} == set(told)
            await apply_schema(root, *PLACE, [Page])
            assert await FenceStore(pool).role_settings() == []
        assert (await plan_schema(root, *PLACE, [Page])).steps == ()
    async with as_application(cell) as application:
        assert await application.fetchval("SELECT current_setting('synchronous_commit')") == "on"
        assert await application.fetchval("SELECT current_setting('search_path')") == "public"


@pytest.mark.parametrize("name", ["domicile.subject", "domicile.epoch", "domicile.keys", "session_replication_role"])
async def test_what_only_an_operator_sets(domicile_postgres: Cell, name: str) -> None:
    async with as_application(cast("PostgresCell", domicile_postgres)) as application:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await application.execute(f"ALTER ROLE domicile_app SET {name} = '1'")
