"""Reading across the subjects of a cell: by its own role, for a purpose that is kept, and nothing but reading."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Annotated
from uuid import uuid4

import asyncpg
import pytest
from domicile_testing import Storage

from domicile.model import Role, SubjectKey
from domicile.model.key_wire import CellIndexKey
from domicile.sample import Note, Profile
from domicile.sdk import InvalidInput, NotFound, Personal, Range, Record, Residency, Shareable, UnsupportedQuery
from domicile.sdk.cell import CellSession
from domicile.sdk.home import Home
from domicile.sdk.store import apply_schema
from domicile.sdk.testing.memory import MemoryKeys

Somebody = Callable[[], tuple[str, SubjectKey]]


class Account(Record, table="accounts"):
    number: Annotated[str, Personal("user.financial.account_number", find="cell")]
    name: Annotated[str, Personal("user.name", find=True)]
    plan: Annotated[str, Shareable("user.account.plan")]
    state: Annotated[str, Shareable("user.account.status")] = "dormant"  # as a fence has one


@pytest.fixture(autouse=True)
async def _schema(eu_root: asyncpg.Connection) -> None:
    await apply_schema(eu_root, "eu-1", "eu", [Profile, Note, Account])
    await eu_root.execute("DELETE FROM domicile.cell_sessions")


async def test_records_of_any_subject_are_found_and_lead_to_its_home(
    residency: Residency, somebody: Somebody, eu_root: asyncpg.Connection
) -> None:
    homes = [await residency.claim(somebody()[0], residence="DE") for _ in range(3)]
    plan = f"plan-{uuid4()}"
    for number, home in enumerate(homes):
        await home.put(home.new(Account, number=f"{plan}/{number}", name="Ann", plan=plan))
    async with residency.cell(purpose="support:T-1042") as cell:
        (found,) = await cell.find(Account, number=f"{plan}/1")
        assert (found.home.subject_key, found.record.name) == (homes[1].subject_key, "Ann")
        assert (found.record.state, found.home.epoch) == ("dormant", 1)
        changed = await found.home.update(found.record, name="Beth")
        assert changed.version == 2
        assert [each.record.name for each in await cell.find(Account, plan=plan)] == ["Ann", "Beth", "Ann"]
        assert len(await cell.find(Account, limit=2, plan=Range(at_least=plan, at_most=plan))) == 2
        assert await cell.find(Account, number="nobody's") == []
        await eu_root.execute(
            "UPDATE domicile.fences SET state = 'closed' WHERE subject_key = $1", homes[0].subject_key
        )
        assert len(await cell.find(Account, plan=plan)) == 2, "who has moved away is not shown"
        for wrong in ({"name": "Ann"}, {"nick": "x"}, {"plan": None}):
            with pytest.raises(UnsupportedQuery):
                await cell.find(Account, **wrong)
    kept = await eu_root.fetch("SELECT purpose FROM domicile.cell_sessions")
    assert [row["purpose"] for row in kept] == ["support:T-1042"]


@pytest.mark.parametrize(
    "purpose",
    [
        *("", "because Ann called", "anna@example.eu", "x" * 101, "a\nb"),
        *("4111111111111111", "support:4111-1111-1111-1111", "DE89370400440532013000", "audit:DE89370400440532013000"),
    ],
)
async def test_a_purpose_is_a_code(residency: Residency, eu_root: asyncpg.Connection, purpose: str) -> None:
    with pytest.raises(InvalidInput) as refusal:
        async with residency.cell(purpose=purpose):
            pass
    assert not purpose or purpose not in str(refusal.value)
    assert await eu_root.fetchval("SELECT count(*) FROM domicile.cell_sessions") == 0


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE accounts SET plan = 'x'",
        "DELETE FROM accounts",
        "INSERT INTO accounts (plan) VALUES ('x')",
        "SELECT * FROM accounts FOR UPDATE",
        "SELECT * FROM domicile.fences",
        "SELECT * FROM domicile.cell_sessions",
        "DELETE FROM domicile.cell_sessions",
        "UPDATE domicile.cell_sessions SET purpose = 'x'",
        "INSERT INTO domicile.cell_sessions (purpose, time) VALUES ('x', '1970-01-01')",
        "SELECT domicile.hold_fence('\\x00', 1)",
        "SELECT domicile.recall('\\x00', 1, '\\x00', '\\x00')",
    ],
)
async def test_its_role_reads_and_does_nothing_else(eu: Storage, statement: str) -> None:
    connection = await asyncpg.connect(
        host=eu.host, port=eu.port, user="domicile_cell", database="domicile", ssl=eu.context(Role.APP, "eu-1.fra")
    )
    try:
        await connection.fetch("SELECT plan FROM accounts")
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute(statement)
    finally:
        await connection.close()


class NoIndex(MemoryKeys):
    """Of a cell that never had a secret of its own."""

    async def cell_index_key(self) -> CellIndexKey:
        raise NotFound("no index key was made")


async def test_what_was_never_indexed_finds_nobody(residency: Residency, somebody: Somebody) -> None:
    home, plan = await residency.claim(somebody()[0], residence="DE"), f"plan-{uuid4()}"
    await home.put(home.new(Account, number="1", name="Ann", plan=plan))
    async with residency.cell(purpose="support:T-1042") as cell:
        keyless = CellSession(replace(cell._vault, keys=NoIndex()), cell._across)
        assert await keyless.find(Account, number="1") == []
        assert await keyless.find(Account, number="1", plan=plan) == []


async def test_a_subject_whose_key_was_destroyed_hides_nobody_else(residency: Residency, somebody: Somebody) -> None:
    claimed = [await residency.claim(somebody()[0], residence="DE") for _ in range(2)]
    plan, keys = f"plan-{uuid4()}", MemoryKeys()
    async with residency.cell(purpose="support:T-1042") as cell:
        session = CellSession(vault := replace(cell._vault, keys=keys), cell._across)
        for home in (homes := [Home(vault, each._fence) for each in claimed]):
            await home.put(home.new(Account, number=plan, name="Ann", plan=plan))
        keys.shred(homes[0])
        for some in (await session.find(Account, plan=plan), await session.find(Account, number=plan)):
            gone, kept = [found.record for found in some]
            assert (gone.destroyed, gone.plan) == (frozenset({"number", "name"}), plan)
            assert (kept.destroyed, kept.name) == (frozenset(), "Ann")
    with pytest.raises(NotFound):
        await homes[0].all(Account)
