"""Tables that belong to no subject: nothing personal is declared in one, and no application writes one."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID, uuid4

import asyncpg
import pytest
import sqlalchemy as sa
from domicile_testing import Storage, Trust
from domicile_testing.commands import run_schema

from domicile.model import Role, SubjectKey
from domicile.sample import Note, Profile
from domicile.sdk import (
    Conflict,
    Home,
    InvalidInput,
    ModelError,
    Personal,
    Principal,
    Record,
    Reference,
    Residency,
    Shareable,
    UnsupportedQuery,
)
from domicile.sdk.admission import admitted
from domicile.sdk.store import Loaded, apply_schema, load_reference, plan_schema
from domicile.sdk.store.queries import query

Somebody = Callable[[], tuple[str, SubjectKey]]
OURS = Shareable("system.operations")


class Plan(Reference, table="plans", key=("plan",)):
    plan: Annotated[str, OURS]
    price: Annotated[Decimal, OURS]
    since: Annotated[datetime | None, OURS] = None
    code: Annotated[UUID | None, OURS] = None


FREE, PRO = Plan(plan="free", price=Decimal(0)), Plan(plan="pro", price=Decimal("9.90"), code=UUID(int=7))


# -- what a class may say ------------------------------------------------------------------------------


def personal() -> None:
    class Bad(Reference, table="bads", key=("name",)):
        name: Annotated[str, Personal("user.name", sealed=False)]


def about_somebody() -> None:
    class Bad(Reference, table="bads", key=("name",)):
        name: Annotated[UUID, Principal("user.unique_id")]


def of_users() -> None:
    class Bad(Reference, table="bads", key=("name",)):
        name: Annotated[str, Shareable("user.account.plan")]


def unclassified() -> None:
    class Bad(Reference, table="bads", key=("name",)):
        name: str


def no_table() -> None:
    class Bad(Reference, key=("name",)):
        name: Annotated[str, OURS]


def no_key() -> None:
    class Bad(Reference, table="bads"):
        name: Annotated[str, OURS]


def unknown_key() -> None:
    class Bad(Reference, table="bads", key=("name", "other")):
        name: Annotated[str, OURS]


def key_that_may_be_none() -> None:
    class Bad(Reference, table="bads", key=("name",)):
        name: Annotated[str | None, OURS] = None


def key_of_decimals() -> None:
    class Bad(Reference, table="bads", key=("name",)):
        name: Annotated[Decimal, OURS]


def system_column() -> None:
    class Bad(Reference, table="bads", key=("subject_key",)):
        subject_key: Annotated[str, OURS]


@pytest.mark.parametrize(
    ("define", "where", "what"),
    [
        (personal, "Bad.name", "a personal field"),
        (about_somebody, "Bad.name", "a personal field"),
        (of_users, "Bad.name", "a category of users"),
        (unclassified, "Bad.name", "not classified"),
        (no_table, "Bad", "names no table"),
        (no_key, "Bad", "no key"),
        (unknown_key, "Bad", "no key"),
        (key_that_may_be_none, "Bad.name", "a key that may be None"),
        (key_of_decimals, "Bad.name", "several spellings"),
        (system_column, "Bad.subject_key", "no column"),
    ],
)
def test_a_class_that_could_hold_something_of_a_person_is_refused(
    define: Callable[[], None], where: str, what: str
) -> None:
    with pytest.raises(ModelError) as refusal:
        define()
    assert refusal.value.where == where
    assert what in refusal.value.what
    assert refusal.value.remedy


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM plans",
        "DELETE FROM plans WHERE plan = 'free' RETURNING *",
        "UPDATE plans SET price = 0",
        "INSERT INTO plans VALUES ('x', 1)",
        "WITH gone AS (DELETE FROM plans RETURNING *) SELECT * FROM gone",
        "SELECT plans FROM plans",
        "SELECT * FROM domicile.reference_loads",
        "SELECT * FROM other.plans",
    ],
)
def test_statements_that_would_write_one_are_not_admitted(statement: str) -> None:
    with pytest.raises(UnsupportedQuery):
        admitted(statement, [])


# -- in a cell -----------------------------------------------------------------------------------------


@pytest.fixture
async def root(eu_root: asyncpg.Connection) -> asyncpg.Connection:
    """The superuser of ``eu-1``, where two plans are on offer."""
    await apply_schema(eu_root, "eu-1", "eu", [Plan, Note, Profile])
    await load_reference(eu_root, "eu-1", "eu", Plan, [FREE, PRO])
    return eu_root


@pytest.fixture
async def home(root: asyncpg.Connection, residency: Residency, somebody: Somebody) -> Home:
    home = await residency.claim(somebody()[0], residence="DE")
    await home.put(home.new(Profile, user="u", email="e", password="p", plan="pro"))
    return home


@pytest.fixture
async def app(eu: Storage, root: asyncpg.Connection) -> AsyncIterator[asyncpg.Connection]:
    """Whoever has taken the application's certificate."""
    connection = await asyncpg.connect(
        host=eu.host, port=eu.port, user="domicile_app", database="domicile", ssl=eu.context(Role.APP, "eu-1.fra")
    )
    yield connection
    await connection.close()


async def test_they_are_joined_with_a_subjects_rows(home: Home, residency: Residency) -> None:
    assert await residency.look_up(Plan) == [FREE, PRO]
    statement = "SELECT p.plan, l.price FROM profiles p JOIN plans l ON l.plan = p.plan WHERE l.price > $1"
    plans, profiles = sa.table("plans", sa.column("plan"), sa.column("price")), sa.table("profiles", sa.column("plan"))
    core = sa.select(plans.c.price).join_from(profiles, plans, plans.c.plan == profiles.c.plan)
    async with home.transaction() as transaction:
        assert await transaction.sql(statement, Decimal(1)) == [{"plan": "pro", "price": Decimal("9.90")}]
        assert await transaction.sql(core) == [{"price": Decimal("9.90")}]
        (found,) = await transaction.sql("SELECT * FROM plans WHERE price > 0", into=Plan)
        assert found == PRO
        with pytest.raises(UnsupportedQuery, match="price"):
            await transaction.sql("SELECT plan FROM plans", into=Plan)


async def test_a_subject_hides_in_no_reference(home: Home) -> None:
    """It is not put by the calls for records, whatever the type checker would have said."""
    attempts: list[Callable[[], Any]] = [
        lambda: home.put(FREE),  # type: ignore[arg-type]
        lambda: home.put_many([FREE]),  # type: ignore[list-item]
        lambda: home.all(Plan),
        lambda: home.delete(Plan, uuid4()),  # type: ignore[arg-type]
    ]
    for attempt in attempts:
        with pytest.raises(AttributeError):
            await attempt()


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO plans (plan, price) VALUES ('anna@example.eu', 1)",
        "UPDATE plans SET plan = 'anna@example.eu'",
        "DELETE FROM plans",
        "TRUNCATE plans",
        "COPY plans FROM STDIN",
        "MERGE INTO plans USING (SELECT 1) s ON true WHEN MATCHED THEN DELETE",
        "SELECT * FROM plans FOR UPDATE",
        "BEGIN; LOCK TABLE plans IN ACCESS EXCLUSIVE MODE",
        "ALTER TABLE plans ADD COLUMN note text",
        "CREATE TRIGGER t AFTER INSERT ON plans EXECUTE FUNCTION domicile.check_row()",
        "CREATE TABLE mine (plan text REFERENCES plans)",
        "CREATE RULE r AS ON INSERT TO plans DO NOTHING",
        "COMMENT ON TABLE plans IS 'anna@example.eu'",
        "SECURITY LABEL ON TABLE plans IS 'anna@example.eu'",
        "GRANT INSERT ON plans TO domicile_app; INSERT INTO plans VALUES ('anna@example.eu', 1)",
        "SET ROLE domicile_owner",
        "INSERT INTO domicile.reference_columns (table_name, column_name, category, sql_type, nullable) "
        "VALUES ('notes', 'text', 'system', 'bytea', true)",
        "UPDATE domicile.reference_loads SET digest = 'anna@example.eu'",
        "SELECT * FROM domicile.reference_columns",
    ],
)
async def test_the_applications_role_cannot_leave_a_trace_in_one(app: asyncpg.Connection, statement: str) -> None:
    with pytest.raises(asyncpg.PostgresError) as refusal:
        await app.execute(statement)
    assert refusal.value.sqlstate in ("42501", "22023")  # no right; no provider of labels
    await app.execute("ROLLBACK")
    assert await app.fetchval("SELECT count(*) FROM plans") == 2


@pytest.mark.parametrize("user", ["domicile_abroad", "domicile_gateway", "domicile_cell"])
async def test_no_other_role_has_any_right_on_one(root: asyncpg.Connection, user: str) -> None:
    rights = "SELECT, INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER"
    assert not await root.fetchval("SELECT has_table_privilege($1, 'plans', $2)", user, rights)


LOOSE = {
    "GRANT INSERT ON plans TO domicile_app": "the fence trigger",
    "GRANT UPDATE (price) ON plans TO domicile_app": "the fence trigger",
    "GRANT DELETE ON plans TO PUBLIC": "the fence trigger",
    "GRANT TRUNCATE ON plans TO domicile_cell": "the fence trigger",
    "CREATE ROLE writers; CREATE ROLE somebody LOGIN IN ROLE writers; GRANT UPDATE ON plans TO writers": "the fence",
    "GRANT SELECT ON plans TO domicile_abroad": "the rights of each role",
    "ALTER TABLE plans OWNER TO domicile_app": "the owner that nobody logs in as",
    "ALTER TABLE plans ADD COLUMN email text": "a class that says what each column is",
    "ALTER TABLE plans ALTER COLUMN plan TYPE varchar": "a class that says what each column is",
    "CREATE TABLE child () INHERITS (plans)": "rows of its own alone",
    "CREATE TABLE lists (a text); GRANT SELECT ON lists TO domicile_app": "the fence trigger",
    "CREATE SCHEMA other; CREATE TABLE other.plans (plan text); "
    "GRANT SELECT ON other.plans TO PUBLIC": "the fence trigger",
    "ALTER TABLE plans RENAME TO offers; "
    "CREATE VIEW plans AS SELECT * FROM notes; GRANT SELECT ON plans TO domicile_app": "being a table",
    # a table of records is one, also where it is said to belong to nobody, and stands in for no lock of its own
    "INSERT INTO domicile.reference_columns (table_name, column_name, category, sql_type, nullable) "
    "SELECT table_name, column_name, 'system', sql_type, nullable FROM domicile.columns WHERE table_name = 'notes'; "
    "DROP TRIGGER domicile_check ON notes": "the fence trigger",
}


@pytest.mark.parametrize("statement", LOOSE)
async def test_one_that_could_be_written_or_holds_more_than_its_class_says_is_refused(
    root: asyncpg.Connection, statement: str
) -> None:
    assert await root.fetch(query("loose_tables")) == []
    transaction = root.transaction()
    await transaction.start()
    try:
        await root.execute(statement)
        lacks = [lack for row in await root.fetch(query("loose_tables")) for lack in row["lacks"]]
    finally:
        await transaction.rollback()
    assert any(LOOSE[statement] in lack for lack in lacks)


async def test_one_that_could_be_written_is_neither_filled_nor_planned_around(root: asyncpg.Connection) -> None:
    await root.execute("GRANT INSERT ON plans TO domicile_app")
    try:
        for work in (load_reference(root, "eu-1", "eu", Plan, [FREE]), apply_schema(root, "eu-1", "eu", [Plan])):
            with pytest.raises(Conflict, match="plans lacks the fence trigger"):
                await work
    finally:
        await root.execute("REVOKE INSERT ON plans FROM domicile_app")
    assert await root.fetchval("SELECT count(*) FROM plans") == 2


# -- loads ---------------------------------------------------------------------------------------------


async def test_the_same_rows_have_the_same_digest_and_are_written_once(root: asyncpg.Connection) -> None:
    when = datetime(2026, 1, 1, tzinfo=UTC)
    rows = [FREE, PRO.model_copy(update={"since": when, "price": Decimal("9.9")})]
    first = await load_reference(root, "eu-1", "eu", Plan, rows, by="spiffe://acme/eu/operator/root")
    assert (first.rows, first.changed) == (2, True)
    written = await root.fetchval("SELECT xmin::text FROM plans LIMIT 1")
    spelled_otherwise = [
        rows[1].model_copy(
            update={"price": Decimal("9.900"), "since": datetime.fromisoformat("2026-01-01T02:00+02:00")}
        ),
        FREE,
    ]
    again = await load_reference(root, "eu-1", "eu", Plan, spelled_otherwise)
    assert again == Loaded(2, first.digest, changed=False)
    assert await root.fetchval("SELECT xmin::text FROM plans LIMIT 1") == written
    await root.execute("UPDATE plans SET price = 1 WHERE plan = 'pro'")
    assert (await load_reference(root, "eu-1", "eu", Plan, rows)).changed, "what lies there counts, not what was noted"
    kept = await root.fetchrow("SELECT digest, rows FROM domicile.reference_loads WHERE table_name = 'plans'")
    assert kept is not None
    assert tuple(kept) == (first.digest, 2)


async def test_readers_see_the_rows_of_before_or_those_after(root: asyncpg.Connection, app: asyncpg.Connection) -> None:
    async with app.transaction(isolation="repeatable_read", readonly=True):
        assert await app.fetchval("SELECT count(*) FROM plans") == 2
        await load_reference(root, "eu-1", "eu", Plan, [])
        assert await app.fetchval("SELECT count(*) FROM plans") == 2
    assert await app.fetchval("SELECT count(*) FROM plans") == 0


class LaterPlan(Reference, table="plans", key=("plan",)):
    plan: Annotated[str, OURS]
    price: Annotated[Decimal, OURS]
    since: Annotated[datetime | None, OURS] = None
    code: Annotated[UUID | None, OURS] = None
    seats: Annotated[int, OURS] = 1


class OtherPlan(Reference, table="plans", key=("plan",)):
    plan: Annotated[str, OURS]
    price: Annotated[int, OURS]


class NotesOfNobody(Reference, table="notes", key=("topic",)):
    topic: Annotated[str, OURS]


class Currency(Reference, table="currencies", key=("name",)):
    name: Annotated[str, OURS]


class RecordedCurrency(Record, table="currencies"):
    name: Annotated[str, Shareable("user.account.plan")]


async def test_a_class_may_gain_a_field_and_loses_one_only_with_the_table(root: asyncpg.Connection) -> None:
    await apply_schema(root, "eu-1", "eu", [Currency])
    for kinds, where in (([OtherPlan], "plans"), ([NotesOfNobody], "notes"), ([RecordedCurrency], "currencies")):
        assert [each.where for each in (await plan_schema(root, "eu-1", "eu", kinds)).refusals] == [where]
    with pytest.raises(Conflict, match="two classes"):
        await plan_schema(root, "eu-1", "eu", [Currency, RecordedCurrency])
    with pytest.raises(Conflict, match="not applied"):
        await load_reference(root, "eu-1", "eu", LaterPlan, [])
    with pytest.raises(Conflict, match="this is cell eu-1"):
        await load_reference(root, "us-1", "us", Plan, [])
    transaction = root.transaction()
    await transaction.start()
    try:
        (step,) = (await plan_schema(root, "eu-1", "eu", [LaterPlan])).steps
        await root.execute(step.sql)
        assert [row["seats"] for row in await root.fetch("SELECT * FROM plans")] == [1, 1]
    finally:
        await transaction.rollback()
    dropped = await apply_schema(root, "eu-1", "eu", [OtherPlan], drops=["plans"])
    assert [step.what for step in dropped.plan.steps] == ["drop table plans and its rows", "create table plans"]
    await apply_schema(root, "eu-1", "eu", [], drops=["plans"])
    assert await root.fetchval("SELECT to_regclass('plans')") is None
    assert await root.fetchval("SELECT count(*) FROM domicile.reference_columns WHERE table_name = 'plans'") == 0


async def test_without_a_table_a_look_up_says_what_to_do(root: asyncpg.Connection, residency: Residency) -> None:
    await apply_schema(root, "eu-1", "eu", [], drops=["plans"])
    with pytest.raises(InvalidInput, match="schema apply"):
        await residency.look_up(Plan)


# -- the command ---------------------------------------------------------------------------------------

MODULE = """
from decimal import Decimal
from typing import Annotated
from domicile.sdk import Reference, Shareable

class Rate(Reference, table="rates", key=("country",)):
    country: Annotated[str, Shareable("system.operations")]
    percent: Annotated[Decimal, Shareable("system.operations")]
"""


async def test_an_operator_fills_one_from_a_file(
    trust: Trust, eu: Storage, eu_root: asyncpg.Connection, tmp_path: Path
) -> None:
    (tmp_path / "rates.py").write_text(MODULE)
    rows, where = tmp_path / "rates.jsonl", ("--cell", "eu-1", "--jurisdiction", "eu")
    rows.write_text('{"country": "DE", "percent": 19}\n{"country": "FR", "percent": "20.0"}\n')

    def run(command: str, *arguments: str) -> Any:
        return run_schema(trust, eu, "rates", *arguments, *where, command=command, PYTHONPATH=str(tmp_path))

    assert run("apply").returncode == 0
    done = run("load", "rates", str(rows), "--json")
    assert (done.returncode, done.stderr) == (0, "")
    said = json.loads(done.stdout)
    assert (said["ok"], said["table"], said["rows"], said["changed"]) == (True, "rates", 2, True)
    assert "2 rows of rates, as before" in run("load", "rates", str(rows)).stdout
    assert [tuple(row) for row in await eu_root.fetch("SELECT country, percent FROM rates ORDER BY 1")] == [
        ("DE", Decimal(19)), ("FR", Decimal("20.0")),
    ]  # fmt: skip
    rows.write_text('{"country": "DE", "percent": 19}\n{"country": "DE", "percent": 7}\n')
    for arguments, what in (
        (("rates", str(rows)), "row 2 has the key"),
        (("rates", str(tmp_path / "none.jsonl")), "cannot be read (FileNotFoundError)"),
        (("plans", str(rows)), "table='plans'"),
        (("rates", str(tmp_path / "rates.py")), "rates.py:1: body: json_invalid"),
    ):
        failed = run("load", *arguments, "--json")
        assert failed.returncode == 1
        assert what in failed.stderr
        assert len(failed.stderr.splitlines()) == 1
        assert json.loads(failed.stdout)["ok"] is False
    assert await eu_root.fetchval("SELECT count(*) FROM rates") == 2
