"""The gateway's description is what it does."""

from __future__ import annotations

import asyncio
import json
from typing import Annotated, Any
from uuid import uuid4

import asyncpg
import pytest
import requests
from domicile_testing import Trust
from domicile_testing.cell import Directory, caller
from domicile_testing.generated import session, storm
from domicile_testing.long import full_seconds

from domicile.model import GLOBAL, Pepper, Role
from domicile.sdk import Record, Shareable
from domicile.sdk.store import apply_schema

# the gateway draws its jitter while another thread draws a case, and Hypothesis takes it for the strategy's
pytestmark = pytest.mark.filterwarnings("ignore:Do not use the `random` module inside strategies")
HANS = Pepper(1, b"p" * 32).subject_key("hans")
FENCES = "/.domicile/v1/fences/{subject_key}"
ABROAD = "/.domicile/v1/abroad/{subject_key}/{table}"


class Seat(Record, table="seats"):
    plan: Annotated[str, Shareable("user.account.plan")]


async def described(trust: Trust, gateway: str) -> dict[str, Any]:
    async with caller(trust, gateway, "us", Role.APP, "us-1.iad") as client:
        document: dict[str, Any] = json.loads(await client.call("GET", "/openapi.json"))
        return document


def answered(trust: Trust, gateway: str, document: dict[str, Any], examples: int) -> int:
    def client_for(method: str, path: str) -> requests.Session:
        who = {f"{FENCES}/rekey": ("eu", Role.OPERATOR, "fra"), FENCES: ("eu", Role.APP, "eu-1.fra")}
        health = (GLOBAL, Role.OPERATOR, "fra")
        place = who.get(path, ("us", Role.APP, "us-1.iad") if path in (ABROAD, "/openapi.json") else health)
        return session(trust.credentials(*place), "eu")

    return storm(gateway, document, client_for, examples, without={"/metrics"})


@pytest.fixture
async def seats(cell: asyncpg.Connection) -> None:
    await apply_schema(cell, "eu-1", "eu", [Seat])
    await cell.execute("INSERT INTO domicile.fences (subject_key, epoch, state) VALUES ($1, 3, 'open')", HANS)
    await cell.execute(
        "INSERT INTO seats (jurisdiction, subject_key, principal_key, id, epoch, plan) "
        "VALUES ('eu', $1, $1, $2, 3, 'p')",
        HANS,
        uuid4(),
    )


@pytest.mark.usefixtures("seats")
async def test_generated_requests_are_answered_as_described(trust: Trust, gateway: str, directory: Directory) -> None:
    document = await described(trust, gateway)
    assert {FENCES, f"{FENCES}/rekey", ABROAD, "/openapi.json"} < set(document["paths"])
    assert await asyncio.to_thread(answered, trust, gateway, document, 12) > 25
    async with caller(trust, gateway, "us", Role.APP, "us-1.iad") as client:
        assert b'"plan":"p"' in await client.call("GET", f"/.domicile/v1/abroad/{HANS}/seats")


@pytest.mark.full
@pytest.mark.usefixtures("seats")
async def test_many_generated_requests_are_answered_as_described(
    trust: Trust, gateway: str, directory: Directory
) -> None:
    examples = max(50, int(full_seconds()) // 3)
    assert await asyncio.to_thread(answered, trust, gateway, await described(trust, gateway), examples) > 100
