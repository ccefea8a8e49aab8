"""The schema: applied once or many times, refused where it doesn't fit, and readable abroad only where shareable."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Annotated, Any
from uuid import uuid4

import asyncpg
import pytest
from domicile_testing import Storage, Trust
from domicile_testing.commands import run_schema as run

import domicile.sdk
import domicile.sdk.store
from domicile.model import PinGrant, Role, SubjectKey
from domicile.model.abroad import AbroadQuery
from domicile.sample import Note, Profile
from domicile.sdk import Conflict, FenceRefused, InvalidInput, NotFound, Personal, Record, Shareable, UnsupportedQuery
from domicile.sdk.store import AbroadStore, FenceStore, apply_schema, open_pool

Somebody = Callable[[], tuple[str, SubjectKey]]


class Renamed(Record, table="notes"):
    """A class of an existing table that says less of it than the one that was applied."""

    text: Annotated[str, Shareable("user.content.private")]
    topic: Annotated[str, Shareable("user.content.topic")]


class Extra(Record, table="extras"):
    name: Annotated[str, Personal("user.name")]


async def test_applying_again_changes_nothing(us_root: asyncpg.Connection) -> None:
    before = await us_root.fetchrow("SELECT cell, jurisdiction, incarnation FROM domicile.cell")
    await apply_schema(us_root, "us-1", "us", [Profile, Note])
    assert await us_root.fetchrow("SELECT cell, jurisdiction, incarnation FROM domicile.cell") == before
    columns = await us_root.fetch(
        "SELECT column_name, class, category, sealed FROM domicile.columns WHERE table_name = 'profiles'"
    )
    assert {tuple(row) for row in columns} == {
        ("user", "personal", "user.unique_id", True),
        ("email", "personal", "user.contact.email", True),
        ("password", "personal", "user.authorization.password", True),
        ("born", "personal", "user.demographic.date_of_birth", False),
        ("plan", "shareable", "user.account.plan", False),
    }


@pytest.mark.parametrize(
    ("cell", "jurisdiction", "records"),
    [
        ("us-2", "us", [Profile]),
        ("us-1", "eu", [Profile]),
        ("us-1", "us", [Extra, Renamed]),
        ("us-1", "us", [Extra, Note, Renamed]),
    ],
)
async def test_what_does_not_fit_is_refused_as_a_whole(
    us_root: asyncpg.Connection, cell: str, jurisdiction: str, records: list[type[Record]]
) -> None:
    with pytest.raises(Conflict):
        await apply_schema(us_root, cell, jurisdiction, records)
    assert await us_root.fetchval("SELECT to_regclass('public.extras')") is None


async def test_the_label_comes_first_and_nothing_belongs_to_those_who_log_in(us_root: asyncpg.Connection) -> None:
    first = await us_root.fetch(
        "SELECT attname FROM pg_attribute WHERE attrelid = 'profiles'::regclass AND attnum > 0 ORDER BY attnum LIMIT 4"
    )
    assert [row[0] for row in first] == ["jurisdiction", "subject_key", "principal_key", "id"]
    owners = await us_root.fetch("SELECT DISTINCT tableowner FROM pg_tables WHERE schemaname IN ('public', 'domicile')")
    assert [row[0] for row in owners] == ["domicile_owner"]
    assert not await us_root.fetchval("SELECT rolcanlogin FROM pg_roles WHERE rolname = 'domicile_owner'")
    loose = await us_root.fetch(
        "SELECT proname FROM pg_proc WHERE pronamespace = 'domicile'::regnamespace AND (NOT prosecdef "
        "OR NOT coalesce('search_path=pg_catalog, pg_temp' = ANY (proconfig), false) "
        "OR has_function_privilege('public', oid, 'EXECUTE'))"
    )
    assert loose == []


# -- abroad ------------------------------------------------------------------------------------------


@pytest.fixture
async def abroad_pool(trust: Trust, us: Storage) -> AsyncIterator[asyncpg.Pool]:
    credentials = trust.credentials("us", Role.GATEWAY, "us-1.iad")
    pool = await open_pool(credentials, [us.address], jurisdiction="us", cell="us-1", user="domicile_abroad")
    yield pool
    pool.terminate()


@pytest.fixture
async def plans(us_fences: FenceStore, us_root: asyncpg.Connection, somebody: Somebody) -> SubjectKey:
    """A subject with two profiles; their plans are ``free`` and ``pro``."""
    _, key = somebody()
    now = int(time.time())
    await us_fences.open(
        PinGrant(
            iss="acme",
            sub=key,
            jur="us",
            cell="us-1",
            epoch=1,
            incarnation=await us_fences.incarnation(),
            iat=now,
            exp=now + 60,
        ),
        {},
    )
    for plan in ("free", "pro"):
        await us_root.execute(
            'INSERT INTO profiles (jurisdiction, subject_key, principal_key, id, epoch, "user", email, email_index, '
            "password, born, plan) VALUES ('us', $1, $1, $2, 1, '\\x00', '\\x00', '\\x00', '\\x00', '1912-06-23', $3)",
            key,
            uuid4(),
            plan,
        )
    return key


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT * FROM profiles",
        "SELECT email FROM profiles",
        "SELECT email_index FROM profiles",
        "SELECT born FROM profiles",
        "SELECT profiles FROM profiles",
        "SELECT count(*) FROM profiles WHERE born = '1912-06-23'",
        "SELECT plan FROM profiles ORDER BY born",
        "SELECT created_at FROM profiles",
        "COPY profiles TO STDOUT",
        "UPDATE profiles SET plan = 'x'",
        "DELETE FROM profiles",
        "SELECT * FROM domicile.fences",
        "SELECT domicile.hold_fence('\\x00', 1)",
    ],
)
async def test_the_abroad_role_can_select_nothing_personal(abroad_pool: asyncpg.Pool, statement: str) -> None:
    async with abroad_pool.acquire() as connection:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute(statement)


async def test_shareable_rows_of_one_subject(
    abroad_pool: asyncpg.Pool, plans: SubjectKey, us_root: asyncpg.Connection, somebody: Somebody
) -> None:
    store = AbroadStore(abroad_pool)
    rows, withheld, more = await store.rows("profiles", plans, AbroadQuery())
    assert sorted(row["plan"] for row in rows) == ["free", "pro"]
    assert all(row.keys() == {"id", "plan"} for row in rows)
    assert more is None
    assert withheld == {
        "user": "user.unique_id",
        "email": "user.contact.email",
        "password": "user.authorization.password",
        "born": "user.demographic.date_of_birth",
    }
    assert [row["plan"] for row in (await store.rows("profiles", plans, AbroadQuery({"plan": "pro"}))).rows] == ["pro"]
    assert len((await store.rows("profiles", plans, AbroadQuery(size=1))).rows) == 1
    assert (await store.rows("notes", plans, AbroadQuery())).rows == []
    async with abroad_pool.acquire() as connection:
        assert await connection.fetchval("SELECT count(plan) FROM profiles") == 0
    await us_root.execute("UPDATE domicile.fences SET state = 'closed' WHERE subject_key = $1", plans)
    for key in (plans, somebody()[1]):
        with pytest.raises(FenceRefused):
            await store.rows("profiles", key, AbroadQuery())


@pytest.mark.parametrize(
    ("table", "conditions", "error"),
    [
        ("fences", {}, NotFound),
        ('profiles" --', {}, NotFound),
        ("profiles", {"born": "1912-06-23"}, UnsupportedQuery),
        ("profiles", {"email_index": "x"}, UnsupportedQuery),
        ("profiles", {"subject_key": "x"}, UnsupportedQuery),
        ("profiles", {"plan.nearly": "x"}, UnsupportedQuery),
        ("profiles", {"plan\" = '' OR \"born": "x"}, UnsupportedQuery),
        ("profiles", {"id": "canary-not-a-uuid"}, InvalidInput),
    ],
)
async def test_what_may_not_be_asked_from_abroad(
    abroad_pool: asyncpg.Pool, plans: SubjectKey, table: str, conditions: dict[str, str], error: type[Exception]
) -> None:
    with pytest.raises(error) as refusal:
        await AbroadStore(abroad_pool).rows(table, plans, AbroadQuery(conditions))
    assert "canary" not in str(refusal.value)
    assert refusal.value.__context__ is None


async def test_the_gateway_opens_fences_and_writes_nothing_else(
    us_fences: FenceStore, us: Storage, trust: Trust
) -> None:
    credentials = trust.credentials("us", Role.GATEWAY, "us-1.iad")
    pool = await open_pool(credentials, [us.address], jurisdiction="us", cell="us-1", user="domicile_gateway")
    try:
        for statement in (
            "SELECT * FROM profiles",
            "UPDATE domicile.fences SET state = 'open'",
            "DELETE FROM domicile.border_events",
            "UPDATE domicile.border_events SET verdict = 'allowed'",
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await pool.execute(statement)
    finally:
        pool.terminate()


async def test_a_pool_for_another_cell_never_says_a_word_to_this_one(trust: Trust, us: Storage) -> None:
    credentials = trust.credentials("us", Role.APP, "us-1.iad")
    pool = await open_pool(credentials, [us.address], jurisdiction="us", cell="us-2", user="domicile_app")
    try:
        with pytest.raises((OSError, asyncpg.PostgresError)):
            await pool.fetchval("SELECT 1")
    finally:
        pool.terminate()


# -- the command -------------------------------------------------------------------------------------


def test_the_command_applies_a_modules_records(trust: Trust, us: Storage) -> None:
    done = run(trust, us, "domicile.sample", "--cell", "us-1", "--jurisdiction", "us", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    said = json.loads(done.stdout)
    assert (said["ok"], said["cell"], said["tables"]) == (True, "us-1", ["notes", "profiles"])
    assert (said["revision"], said["steps"]) == (None, []), "it was applied before"


CHANGED = """
from typing import Annotated
from domicile.sdk import Personal, Record, Shareable

class Note(Record, table="notes"):
    text: Annotated[str, Personal("user.content.private")]
    topic: Annotated[str, Shareable("user.content.topic")]
    stars: Annotated[int, Shareable("user.content.rating")] = 3
"""


async def test_a_plan_prints_the_sql_and_changes_nothing(
    trust: Trust, us: Storage, us_root: asyncpg.Connection, tmp_path: Path
) -> None:
    (tmp_path / "planned.py").write_text(CHANGED)
    (tmp_path / "shorter.py").write_text(CHANGED.replace("    topic:", "    subject:"))
    where = ("--cell", "us-1", "--jurisdiction", "us")
    names = {"command": "plan", "PYTHONPATH": str(tmp_path)}
    revisions = await us_root.fetchval("SELECT count(*) FROM domicile.revisions")
    planned = run(trust, us, "planned", *where, **names)
    assert (planned.returncode, planned.stderr) == (0, "")
    assert "-- add notes.stars\n" in planned.stdout
    assert "ADD COLUMN \"stars\" bigint NOT NULL DEFAULT '3'::bigint;" in planned.stdout
    said = json.loads(run(trust, us, "planned", *where, "--json", **names).stdout)
    assert [step["what"] for step in said["steps"]] == ["add notes.stars"]
    refused = run(trust, us, "shorter", *where, "--json", **names)
    assert refused.returncode == 1
    said = json.loads(refused.stdout)
    assert [(each["where"], said["ok"]) for each in said["refusals"]] == [
        ("notes.topic", False),
        ("notes.subject", False),
    ]
    refused = run(trust, us, "shorter", *where, **names)
    assert (refused.returncode, len(refused.stderr.splitlines())) == (1, 2)
    applied = run(trust, us, "shorter", *where, PYTHONPATH=str(tmp_path))
    assert (applied.returncode, "notes.topic" in applied.stderr) == (1, True)
    assert await us_root.fetchval("SELECT count(*) FROM domicile.revisions") == revisions
    listed = json.loads(run(trust, us, *where, "--json", command="revisions").stdout)["revisions"]
    assert len(listed) == revisions


@pytest.mark.parametrize(
    ("arguments", "changes", "what"),
    [
        (("domicile.sample", "--cell", "us-2", "--jurisdiction", "us"), {}, "cannot be reached"),
        (("domicile.sample", "--cell", "us-1", "--jurisdiction", "eu"), {}, "cannot be reached"),
        (("domicile.model", "--cell", "us-1", "--jurisdiction", "us"), {}, "names no class of records"),
        (("", "--cell", "us-1", "--jurisdiction", "us"), {}, "cannot be imported: ValueError"),
        ((".shop", "--cell", "us-1", "--jurisdiction", "us"), {}, "cannot be imported: TypeError"),
        (("domicile.sample", "--cell", "EU 1", "--jurisdiction", "us"), {}, "--cell"),
        (("domicile.sample", "--cell", "us-1", "--jurisdiction", "../us"), {}, "--jurisdiction"),
        (("domicile.sample", "--cell", "us-1", "--jurisdiction", "fr"), {}, "no authority for fr"),
        (("domicile.sample", "--cell", "us-1", "--jurisdiction", "us", "--drop", "no.such"), {}, "no.such: is dropped"),
        (("domicile.sample", "--cell", "us-1", "--jurisdiction", "us"), {"DOMICILE_STORAGE": "nowhere"}, "nowhere"),
        (
            ("domicile.sample", "--cell", "us-1", "--jurisdiction", "us"),
            {"DOMICILE_STORAGE": "127.0.0.1:1"},
            "cannot be reached",
        ),
        (
            ("domicile.sample", "--cell", "us-1", "--jurisdiction", "us"),
            {"DOMICILE_CERTIFICATE": "/no/such.pem"},
            "/no/such.pem",
        ),
        (
            ("domicile.sample", "--cell", "us-1", "--jurisdiction", "us"),
            {"DOMICILE_KEY": "/dev/null"},
            "/dev/null",
        ),
        (("no.such", "--cell", "us-1", "--jurisdiction", "us"), {}, "no such module"),
        (("domicile.sample", "--cell", "us-1", "--jurisdiction", "us"), {"DOMICILE_STORAGE": ""}, "DOMICILE_STORAGE"),
        (
            ("domicile.sample", "--cell", "us-1", "--jurisdiction", "us"),
            {"DOMICILE_DEPLOYMENT": "other"},
            "not for deployment other",
        ),
    ],
)
def test_the_command_says_why_not_in_one_line(
    trust: Trust, us: Storage, arguments: tuple[str, ...], changes: dict[str, Any], what: str
) -> None:
    failed = run(trust, us, *arguments, **changes)
    assert failed.returncode == 1
    assert what in failed.stderr
    assert len(failed.stderr.strip().splitlines()) == 1


# -- the facades -------------------------------------------------------------------------------------


def test_the_public_names_are_these() -> None:
    assert domicile.sdk.__all__ == [
        "Abroad",
        "AbroadPage",
        "AbroadRow",
        "CellSession",
        "Conflict",
        "CrossBorderAccess",
        "Destroyed",
        "DomicileError",
        "FenceRefused",
        "Forbidden",
        "Found",
        "Home",
        "InvalidInput",
        "KeyDestroyed",
        "ModelError",
        "NotFound",
        "Page",
        "Personal",
        "Principal",
        "Range",
        "Record",
        "Reference",
        "Residency",
        "Shareable",
        "Stale",
        "Transaction",
        "Unavailable",
        "UnknownSubject",
        "UnsupportedQuery",
        "Withheld",
        "WrongCell",
        "WrongJurisdiction",
        "evenly",
        "extend_taxonomy",
    ]
    assert domicile.sdk.store.__all__ == [
        "AbroadStore",
        "AcrossStore",
        "ArrivalStore",
        "Condition",
        "Erasure",
        "ErasureStore",
        "Fence",
        "FenceReader",
        "FenceStore",
        "KeptArrival",
        "KeptDeclaration",
        "KeptRelease",
        "Loaded",
        "Lookups",
        "NewRow",
        "Once",
        "Operator",
        "Plan",
        "Reading",
        "RecordedColumn",
        "ReferenceStore",
        "ReleaseStore",
        "Revision",
        "RowStore",
        "Rows",
        "Selection",
        "ShareableRows",
        "Standby",
        "Store",
        "StoredRow",
        "Work",
        "apply_schema",
        "load_reference",
        "open_own",
        "open_pool",
        "plan_schema",
    ]
