"""What another jurisdiction gets through the gateway: shareable columns of subjects at home, and all on the record."""

from __future__ import annotations

from datetime import date
from typing import Annotated
from uuid import UUID, uuid4

import asyncpg
import pytest
from domicile_testing import Storage, Trust
from domicile_testing.cell import application, caller

from domicile.model import (
    GLOBAL,
    DomicileError,
    Forbidden,
    InvalidInput,
    NotFound,
    Pepper,
    Personal,
    Role,
    Shareable,
    Unavailable,
    UnknownSubject,
    UnsupportedQuery,
)
from domicile.model.crossings import Crossing
from domicile.model.wire import AbroadRows
from domicile.sdk.records import Record
from domicile.sdk.store import apply_schema
from domicile.telemetry import render_metrics

PEPPER = Pepper(1, b"p" * 32)
HANS, GRETE = PEPPER.subject_key("hans"), PEPPER.subject_key("grete")
SECRET = b"sealed hans@example.eu"
BORN = date(1970, 5, 17)


class Plan(Record, table="tariffs"):
    email: Annotated[str, Personal("user.contact.email", find=True)]
    born: Annotated[date, Personal("user.demographic.date_of_birth", sealed=False)]
    plan: Annotated[str, Shareable("user.account.plan")]
    seats: Annotated[int | None, Shareable("user.account.plan")]


@pytest.fixture
async def rows(cell: asyncpg.Connection) -> list[UUID]:
    """Two plans of Hans and one of Grete, both at home at epoch 3."""
    await apply_schema(cell, "eu-1", "eu", [Plan])
    await cell.execute("TRUNCATE tariffs")
    ids = sorted(uuid4() for _ in range(3))
    for key in (HANS, GRETE):
        await cell.execute("INSERT INTO domicile.fences (subject_key, epoch, state) VALUES ($1, 3, 'open')", key)
    for key, number, plan, seats in ((HANS, 0, "pro", 5), (HANS, 1, "free", None), (GRETE, 2, "pro", 9)):
        await cell.execute(
            "INSERT INTO tariffs"
            " (jurisdiction, subject_key, principal_key, id, epoch, email, email_index, born, plan, seats)"
            " VALUES ('eu', $1, $1, $2, 3, $3, $3, $4, $5, $6)",
            key,
            ids[number],
            SECRET,
            BORN,
            plan,
            seats,
        )
    return ids


async def events(cell: asyncpg.Connection) -> list[tuple[str, str, str, str]]:
    """What the ledger says: to where, who asked, what, and how it ended."""
    found = await cell.fetch("SELECT line FROM ledger.lines ORDER BY index")
    lines = [Crossing.parse(row["line"]) for row in found]
    return [(each.destination, each.caller.partition("/")[0], each.kind, each.outcome) for each in lines]


def crossings(kind: str, verdict: str) -> float:
    """The metric of crossings from ``us`` to ``eu``."""
    series = (
        f'domicile_border_crossings_total{{from_jurisdiction="us",kind="{kind}",to_jurisdiction="eu",'
        f'verdict="{verdict}"}} '
    )
    lines = render_metrics()[0].decode().splitlines()
    return sum(float(line.removeprefix(series)) for line in lines if line.startswith(series))


async def test_another_jurisdiction_reads_shareable_columns_and_is_recorded(
    trust: Trust, gateway: str, cell: asyncpg.Connection, rows: list[UUID]
) -> None:
    before = crossings("abroad-read", "allowed")
    async with application(trust, gateway, "us", "us-1.iad") as app:
        answer = await app.abroad(HANS, "tariffs", {})
    assert answer == AbroadRows(
        jurisdiction="eu",
        cell="eu-1",
        rows=[
            {"id": str(rows[0]), "plan": "pro", "seats": 5},
            {"id": str(rows[1]), "plan": "free", "seats": None},
        ],
        withheld={"email": "user.contact.email", "born": "user.demographic.date_of_birth"},
    )
    assert await events(cell) == [("us", "app", "abroad-read", "passed")]
    assert crossings("abroad-read", "allowed") == before + 1


async def test_no_personal_byte_is_in_the_answer(
    trust: Trust, gateway: str, cell: asyncpg.Connection, rows: list[UUID]
) -> None:
    async with caller(trust, gateway, "us", Role.APP, "us-1.iad") as app:
        raw = await app.call("GET", f"/.domicile/v1/abroad/{HANS}/tariffs")
    assert b"pro" in raw
    for trace in (b"hans", b"example.eu", b"1970", SECRET.hex().encode()):
        assert trace not in raw


@pytest.mark.parametrize(
    ("conditions", "expected"),
    [
        ({"plan": "pro"}, ["pro"]),
        ({"plan": "pro", "seats": "5"}, ["pro"]),
        ({"plan": "pro", "seats": "6"}, []),
        ({"plan": "' OR true --"}, []),
        ({"plan": "x" * 256}, []),
        ({"plan": "\N{SNOWMAN}"}, []),
    ],
)
async def test_conditions_are_equality_on_shareable_columns(
    trust: Trust, gateway: str, rows: list[UUID], conditions: dict[str, str], expected: list[str]
) -> None:
    async with application(trust, gateway, "us", "us-1.iad") as app:
        answer = await app.abroad(HANS, "tariffs", conditions)
    assert [row["plan"] for row in answer.rows] == expected


@pytest.mark.parametrize(
    ("path", "refusal"),
    [
        (f"{HANS}/tariffs?born=1970-05-17", UnsupportedQuery),
        (f"{HANS}/tariffs?email=x", UnsupportedQuery),
        (f"{HANS}/tariffs?subject_key=x", UnsupportedQuery),
        (f"{HANS}/tariffs?nothing=x", UnsupportedQuery),
        (f"{HANS}/tariffs?seats=many", InvalidInput),
        (f"{HANS}/tariffs?plan=a&plan=b", InvalidInput),
        (f"{HANS}/tariffs?plan=" + "x" * 257, InvalidInput),
        (f"{HANS}/tariffs?plan=%00", InvalidInput),
        (f"{HANS}/tariffs?" + "&".join(f"c{n}=x" for n in range(17)), InvalidInput),
        (f"{HANS}/tariffs?%22;drop=x", InvalidInput),
        ("hans/tariffs", InvalidInput),
        (f"{HANS}/nothing", NotFound),
        (f"{HANS}/fences", NotFound),
        (f"{HANS}/pg_authid", NotFound),
        (f"{PEPPER.subject_key('nobody')}/tariffs", UnknownSubject),
    ],
)
async def test_what_may_not_be_asked_is_refused_and_recorded(
    trust: Trust,
    gateway: str,
    cell: asyncpg.Connection,
    rows: list[UUID],
    path: str,
    refusal: type[DomicileError],
) -> None:
    before = crossings("abroad-read", "refused")
    async with caller(trust, gateway, "us", Role.APP, "us-1.iad") as app:
        with pytest.raises(refusal) as refused:
            await app.call("GET", f"/.domicile/v1/abroad/{path}")
    assert type(refused.value) is refusal
    assert "1970" not in str(refused.value)
    assert await events(cell) == [("us", "app", "abroad-read", "refused")]
    assert crossings("abroad-read", "refused") == before + 1


@pytest.mark.parametrize("state", ["closed", "retired"])
async def test_a_subject_whose_fence_is_not_open_is_unknown(
    trust: Trust, gateway: str, cell: asyncpg.Connection, rows: list[UUID], state: str
) -> None:
    await cell.execute("UPDATE domicile.fences SET state = $1 WHERE subject_key = $2", state, HANS)
    async with application(trust, gateway, "us", "us-1.iad") as app:
        with pytest.raises(UnknownSubject):
            await app.abroad(HANS, "tariffs", {})
        assert len((await app.abroad(GRETE, "tariffs", {})).rows) == 1
    assert [verdict for *_, verdict in await events(cell)] == ["refused", "passed"]


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
async def test_nothing_is_written_from_abroad(
    trust: Trust, gateway: str, cell: asyncpg.Connection, rows: list[UUID], method: str
) -> None:
    before = crossings("abroad-write", "refused")
    async with caller(trust, gateway, "us", Role.APP, "us-1.iad") as app:
        with pytest.raises(Forbidden):
            await app.call(method, f"/.domicile/v1/abroad/{HANS}/tariffs")
    assert await events(cell) == [("us", "app", "abroad-write", "refused")]
    assert crossings("abroad-write", "refused") == before + 1
    assert await cell.fetchval("SELECT count(*) FROM tariffs") == 3


async def test_at_most_a_hundred_rows_cross_at_once(
    trust: Trust, gateway: str, cell: asyncpg.Connection, rows: list[UUID]
) -> None:
    await cell.execute(
        "INSERT INTO tariffs (jurisdiction, subject_key, principal_key, id, epoch, email, email_index, born, plan)"
        " SELECT jurisdiction, subject_key, principal_key, gen_random_uuid(), epoch, email, email_index, born, plan"
        " FROM tariffs, generate_series(1, 120) WHERE id = $1",
        rows[0],
    )
    async with application(trust, gateway, "us", "us-1.iad") as app:
        assert len((await app.abroad(HANS, "tariffs", {})).rows) == 100


async def test_what_cannot_be_recorded_does_not_cross(
    trust: Trust, gateway: str, cell: asyncpg.Connection, rows: list[UUID]
) -> None:
    await cell.execute("REVOKE EXECUTE ON FUNCTION ledger.append FROM domicile_ledger")
    try:
        async with application(trust, gateway, "us", "us-1.iad") as app:
            with pytest.raises(Unavailable):
                await app.abroad(HANS, "tariffs", {})
    finally:
        await cell.execute("GRANT EXECUTE ON FUNCTION ledger.append TO domicile_ledger")


@pytest.mark.parametrize(
    ("jurisdiction", "name"), [("eu", "eu-1.fra"), ("eu", "eu-2.fra"), ("us", "us-1.iad"), (GLOBAL, "eu-1.fra")]
)
async def test_an_application_of_any_jurisdiction_may_ask(
    trust: Trust, gateway: str, cell: asyncpg.Connection, rows: list[UUID], jurisdiction: str, name: str
) -> None:
    async with application(trust, gateway, jurisdiction, name) as app:
        assert len((await app.abroad(GRETE, "tariffs", {})).rows) == 1
    assert await events(cell) == [(jurisdiction, "app", "abroad-read", "passed")]


@pytest.mark.parametrize(
    ("jurisdiction", "role", "name", "refusal"),
    [
        ("us", Role.OPERATOR, "iad", Forbidden),
        ("eu", Role.OPERATOR, "fra", Forbidden),
        (GLOBAL, Role.OPERATOR, "root", Forbidden),
        ("us", Role.GATEWAY, "us-1.iad", Forbidden),
        ("us", Role.ROUTER, "iad", Forbidden),
        ("us", Role.KEYS, "iad", Unavailable),
        ("us", Role.STORAGE, "iad", Unavailable),
        ("us", Role.LOAD, "iad", Unavailable),
        ("eu", Role.ROUTER, "fra", Forbidden),
        (GLOBAL, Role.DIRECTORY, "fra", Unavailable),
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_nobody_but_an_application_reads_abroad(
    trust: Trust,
    gateway: str,
    rows: list[UUID],
    method: str,
    jurisdiction: str,
    role: Role,
    name: str,
    refusal: type[DomicileError],
) -> None:
    async with caller(trust, gateway, jurisdiction, role, name) as somebody:
        with pytest.raises(refusal):
            await somebody.call(method, f"/.domicile/v1/abroad/{GRETE}/tariffs")


async def test_the_role_that_reads_has_no_right_on_personal_columns(
    cell_storage: Storage, rows: list[UUID], cell: asyncpg.Connection
) -> None:
    """The gateway could be wrong: the database refuses all the same."""
    connection = await asyncpg.connect(
        host=cell_storage.host,
        port=cell_storage.port,
        user="domicile_abroad",
        database="domicile",
        ssl=cell_storage.context(Role.GATEWAY, "eu-1.fra"),
    )
    try:
        for statement in ("SELECT email FROM tariffs", "SELECT * FROM tariffs", "DELETE FROM tariffs"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(statement)
        assert await connection.fetch("SELECT plan FROM tariffs") == []
    finally:
        await connection.close()
