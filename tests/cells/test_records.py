"""The record API as an application in another language sees it: JSON over mutual TLS, under every lock of the SDK's.

In one place, however long: what it shares with the SDK is tried by the same homes and rows.
"""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, Literal
from urllib.parse import quote
from uuid import UUID, uuid4

import aiohttp
import asyncpg
import pytest
from domicile_testing import Storage, Trust
from domicile_testing.cell import Directory, gateway_settings, key_client, key_section, key_settings, manifest
from domicile_testing.databases import until
from domicile_testing.generated import session, storm
from domicile_testing.logged import logged
from domicile_testing.long import seeded
from pydantic import BaseModel, Field, StringConstraints

from domicile.cells.keys import serve_keys
from domicile.cells.serve import serving_cell
from domicile.identity import Signer, sign_topology
from domicile.model import Endpoint, Role, SubjectKey
from domicile.sdk import Personal, Principal, Record, Shareable
from domicile.sdk.store import apply_schema
from domicile.telemetry.metrics import REGISTRY

CANARY = "canary-hans@example.eu"
FIELDS: dict[str, Any] = {"email": CANARY, "born": "1970-05-17", "photo": "AP_-", "plan": "pro", "seats": 5}


class Member(Record, table="members"):
    email: Annotated[str, Personal("user.contact.email", find=True)]
    born: Annotated[date, Personal("user.demographic.date_of_birth", sealed=False)]
    photo: Annotated[bytes | None, Personal("user.biometric")] = None
    plan: Annotated[str, Shareable("user.account.plan")]
    seats: Annotated[int | None, Shareable("user.account.plan")] = None


class Guest(Record, table="guests"):
    """Somebody who stays with a member."""

    person: Annotated[UUID, Principal("user.unique_id")]
    name: Annotated[str, Personal("user.name")]
    nights: Annotated[int, Shareable("user.account.plan")]


class Pet(Record, table="pets"):
    name: Annotated[str, Shareable("user.account.plan")]


class GrownPet(Pet, table="pets"):
    """The same, a release later: every kind of field with a default."""

    food: Annotated[str, Personal("user.behavior")] = "hay"
    chip: Annotated[bytes, Personal("user.unique_id")] = b"\x00\xff\xfe"
    home: Annotated[str, Personal("user.contact.address", sealed=False)] = "stable"
    plan: Annotated[str, Shareable("user.account.plan")] = "free"
    legs: Annotated[int, Shareable("user.account.plan")] = 4
    tone: Annotated[str | None, Shareable("user.account.plan")] = "loud"
    note: Annotated[str | None, Personal("user.content")] = "none yet"


class Size(Enum):
    SMALL = "s"
    LARGE = "l"


Code = Annotated[str, StringConstraints(strip_whitespace=True, pattern="^[a-z]{4}$")]


class Place(BaseModel):
    street: Annotated[str, Field(max_length=20)]
    floor: int | None = None
    care_of: Place | None = None


class Parcel(Record, table="parcels"):
    """Fields that may not hold whatever their type does."""

    to: Annotated[Place, Personal("user.contact.address")]
    code: Annotated[
        str, StringConstraints(strip_whitespace=True, pattern="^[a-z]{4}$"), Personal("user.unique_id", find=True)
    ]
    size: Annotated[Size, Shareable("user.account.plan")] = Size.SMALL
    rate: Annotated[Literal[1, 2, 3] | None, Shareable("user.account.plan")] = None
    grams: Annotated[int, Field(ge=1, lt=30_000), Shareable("user.account.plan")]
    sent: Annotated[date, Field(ge=date(2020, 1, 1)), Personal("user.behavior", sealed=False)]
    price: Annotated[Decimal | None, Field(gt=0, decimal_places=2), Shareable("user.account.plan")] = None
    seal: Annotated[bytes | None, Field(max_length=3), Personal("user.biometric")] = None


PARCEL: dict[str, Any] = {"to": {"street": "An der Alster 1"}, "code": " abcd ", "grams": 900, "sent": "2026-01-31"}


@dataclass
class Client:
    """Somebody with a certificate."""

    trust: Trust
    address: str
    keys: str = ""

    async def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        headers: dict[str, str] | None = None,
        peer: tuple[str, Role, str] = ("eu", Role.APP, "eu-1.par"),
    ) -> tuple[int, Any]:
        context = self.trust.credentials(*peer).client("eu", [Role.GATEWAY])
        async with (
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)) as session,
            session.request(method, f"https://{self.address}{path}", json=body, headers=headers) as response,
        ):
            text = await response.text()
            assert response.status < 300 or CANARY not in text
            assert response.status >= 300 or response.headers["Cache-Control"] == "no-store"
            return response.status, await response.json(content_type=None) if text else None


def written(**changes: Any) -> dict[str, Any]:
    return {"jurisdiction": "eu", "fields": FIELDS, **changes}


@pytest.fixture
async def subject(cell: asyncpg.Connection) -> SubjectKey:
    await apply_schema(cell, "eu-1", "eu", [Member, Guest])
    key = SubjectKey(bytes([1]) + uuid4().bytes)
    await cell.execute("INSERT INTO domicile.fences (subject_key, epoch, state) VALUES ($1, 3, 'open')", key)
    return key


@pytest.fixture
async def client(
    trust: Trust, key_storage: Storage, cell_storage: Storage, directory: Directory, subject: SubjectKey
) -> AsyncIterator[Client]:
    """An application of ``eu-1``; the gateway keeps its keys at a real key service."""
    operator = Signer.load_or_create(trust.folder / "operator.key")
    operators = trust.folder / "operators"
    operators.mkdir(exist_ok=True)
    (operators / "operator.pem").write_bytes(operator.public_pem())
    keys = key_settings(trust, key_storage)
    settings = gateway_settings(
        trust, cell_storage.address, directory.address, records=True, operators=operators,
    )  # fmt: skip
    (settings.state / "topology.json").unlink(missing_ok=True)
    topology = manifest(settings.bind, keys.bind).topology()
    directory.topology = sign_topology(operator, "acme", 1, topology)
    async with serve_keys(keys, key_section(cache_seconds=1)), serving_cell(settings):
        yield Client(trust, settings.bind, keys.bind)


def at(subject: SubjectKey, row: object) -> str:
    return f"/.domicile/v1/records/{subject}/members/{row}"


async def test_a_record_lives_and_its_personal_fields_lie_sealed(
    client: Client, subject: SubjectKey, cell: asyncpg.Connection
) -> None:
    row = uuid4()
    assert await client.ask("PUT", at(subject, row), written(version=0)) == (200, {"id": str(row), "version": 1})
    document = {"jurisdiction": "eu", "id": str(row), "version": 1, "fields": FIELDS}
    assert await client.ask("GET", at(subject, row)) == (200, document)
    stored = await cell.fetchrow("SELECT * FROM members WHERE id = $1", row)
    assert stored is not None
    assert (stored["plan"], stored["born"], stored["epoch"]) == ("pro", date(1970, 5, 17), 3)
    assert CANARY.encode() not in bytes(stored["email"])
    assert bytes(stored["photo"]) != b"\x00\xff\xfe"
    changed = written(fields=FIELDS | {"plan": "free"}, version=1)
    assert (await client.ask("PUT", at(subject, row), changed))[1]["version"] == 2
    assert (await client.ask("PUT", at(subject, row), changed))[0] == 409
    for conditions, count in (({"email": CANARY}, 1), ({"email": "x"}, 0), ({"plan": "free", "seats": 5}, 1), ({}, 1)):
        status, page = await client.ask("POST", at(subject, "find"), {"conditions": conditions})
        assert (status, len(page["records"])) == (200, count)
    assert (await client.ask("DELETE", at(subject, row)))[0] == 204
    assert (await client.ask("DELETE", at(subject, row)))[0] == 404
    assert (await client.ask("GET", at(subject, row)))[0] == 404


async def test_pages_lead_through_all_records(client: Client, subject: SubjectKey) -> None:
    ids = {str(uuid4()) for _ in range(5)}
    for row in ids:
        assert (await client.ask("PUT", at(subject, row), written()))[0] == 200
    seen: list[str] = []
    after = None
    while True:
        asked = {"size": 2, "order_by": "-created_at", "after": after}
        status, page = await client.ask("POST", at(subject, "find"), asked)
        assert status == 200
        seen += [record["id"] for record in page["records"]]
        after = page.get("next")
        if after is None:
            break
    assert len(seen) == 5
    assert set(seen) == ids


async def test_each_lock_refuses_by_itself(client: Client, subject: SubjectKey, cell: asyncpg.Connection) -> None:
    row, stranger = uuid4(), SubjectKey(bytes([1]) + uuid4().bytes)
    attempts: list[tuple[str, str, Any, int]] = [
        ("PUT", at(subject, row), written(jurisdiction="us"), 403),
        ("PUT", at(subject, row), {"fields": FIELDS}, 422),
        ("PUT", at(subject, row), written(fields=FIELDS | {"extra": CANARY}), 422),
        ("PUT", at(subject, row), written(fields=FIELDS | {"born": CANARY}), 422),
        ("PUT", at(subject, row), written(fields=FIELDS | {"jurisdiction": "us"}), 422),
        ("PUT", at(subject, row), written(fields={"plan": "pro"}), 422),
        ("PUT", at(subject, "x"), written(), 422),
        ("PUT", at(stranger, row), written(), 421),
        ("GET", at(stranger, row), None, 421),
        ("PUT", f"/.domicile/v1/records/{subject}/fences/{row}", written(), 404),
        ("POST", at(subject, "find"), {"conditions": {"photo": "AP_-"}}, 422),
        ("POST", at(subject, "find"), {"conditions": {"nobody": 1}}, 422),
        ("POST", at(subject, "find"), {"conditions": {"seats": CANARY}}, 422),
        ("POST", at(subject, "find"), {"conditions": {"seats": None}}, 422),
        ("POST", at(subject, "find"), {"after": "forged"}, 422),
    ]
    for method, path, body, expected in attempts:
        assert (await client.ask(method, path, body))[0] == expected, (method, path, body)
    for epoch, expected in (("3", 200), ("2", 421), ("4", 421), ("x", 421)):
        status, _ = await client.ask("PUT", at(subject, row), written(), headers={"Domicile-Epoch": epoch})
        assert status == expected
    await cell.execute("UPDATE domicile.fences SET state = 'closed' WHERE subject_key = $1", subject)
    for method, body in (("PUT", written()), ("GET", None), ("DELETE", None)):
        assert (await client.ask(method, at(subject, row), body))[0] == 421
    assert await cell.fetchval("SELECT count(*) FROM members WHERE subject_key = $1", subject) == 1


async def test_a_row_is_deleted_at_the_version_that_is_named(client: Client, subject: SubjectKey) -> None:
    row = uuid4()
    for _ in range(2):
        assert (await client.ask("PUT", at(subject, row), written()))[0] == 200
    for query in ("version=77", "version=1"):
        status, problem = await client.ask("DELETE", f"{at(subject, row)}?{query}")
        assert (status, problem["code"]) == (409, "conflict")
    for query in ("version=0", "version=", "version=x", "version=2.0", "version=2&version=2", "Version=2", "soft=1"):
        assert (await client.ask("DELETE", f"{at(subject, row)}?{query}"))[0] == 422, query
    assert (await client.ask("DELETE", f"{at(subject, row)}?version=2"))[0] == 204
    assert (await client.ask("DELETE", f"{at(subject, row)}?version=2"))[0] == 404


async def test_a_query_parameter_that_means_nothing_is_refused(client: Client, subject: SubjectKey) -> None:
    row = uuid4()
    for method, place, body in (
        ("PUT", at(subject, row), written()),
        ("GET", at(subject, row), None),
        ("POST", at(subject, "find"), {}),
    ):
        status, problem = await client.ask(method, f"{place}?version=1", body)
        assert (status, problem["code"]) == (422, "invalid-input")
        assert (await client.ask(method, f"{place}?{CANARY}", body))[0] == 422
    assert (await client.ask("GET", at(subject, row)))[0] == 404


async def test_a_put_is_carried_out_once_under_its_idempotency_key(client: Client, subject: SubjectKey) -> None:
    row, once = uuid4(), {"Idempotency-Key": '"4f1e"'}
    for _ in range(2):
        answer = await client.ask("PUT", at(subject, row), written(), headers=once)
        assert answer == (200, {"id": str(row), "version": 1})
    for place, fields in ((row, FIELDS | {"plan": "free"}), (uuid4(), FIELDS)):
        status, problem = await client.ask("PUT", at(subject, place), written(fields=fields), headers=once)
        assert (status, problem["code"]) == (409, "conflict")
    assert (await client.ask("PUT", at(subject, row), written()))[1]["version"] == 2
    assert (await client.ask("PUT", at(subject, row), written(), headers=once))[1]["version"] == 1
    assert (await client.ask("GET", at(subject, row)))[1]["version"] == 2
    for wrong in ("", "a b", "x" * 257):
        status, _ = await client.ask("PUT", at(subject, row), written(), headers={"Idempotency-Key": wrong})
        assert status == 422


async def test_many_records_are_put_at_once_or_not_at_all(
    client: Client, subject: SubjectKey, cell: asyncpg.Connection
) -> None:
    place, ids = at(subject, "batch"), [str(uuid4()) for _ in range(3)]
    records = [{"id": row, "fields": FIELDS | {"seats": seats}} for seats, row in enumerate(ids)]
    once = {"Idempotency-Key": "b1"}
    for _ in range(2):
        status, answer = await client.ask("POST", place, {"jurisdiction": "eu", "records": records}, headers=once)
        assert (status, answer) == (200, {"records": [{"id": row, "version": 1} for row in ids]})
    spoilt = [
        {"jurisdiction": "eu", "records": [*records, {"id": str(uuid4()), "fields": FIELDS | {"born": CANARY}}]},
        {"jurisdiction": "eu", "records": [*records, records[0]]},
        {"jurisdiction": "eu", "records": [*records, {"id": "x", "fields": FIELDS}]},
        {"jurisdiction": "eu", "records": [{"id": str(uuid4()), "fields": FIELDS | {"id": str(uuid4())}}]},
        {"jurisdiction": "eu", "records": []},
        {"jurisdiction": "eu", "records": [{"id": str(uuid4()), "fields": {}} for _ in range(1001)]},
        {"records": records},
    ]
    for body in spoilt:
        assert (await client.ask("POST", place, body))[0] == 422
    labelled = {"jurisdiction": "us", "records": records}
    assert (await client.ask("POST", place, labelled))[0] == 403
    fewer = {"jurisdiction": "eu", "records": records[:2]}
    assert (await client.ask("POST", place, fewer, headers=once))[0] == 409, "another request under the same key"
    found = await cell.fetch("SELECT version, email FROM members WHERE subject_key = $1", subject)
    assert [row["version"] for row in found] == [1, 1, 1]
    assert all(CANARY.encode() not in bytes(row["email"]) for row in found)


async def test_fields_of_a_record_are_changed_at_the_version_that_is_named(
    client: Client, subject: SubjectKey, cell: asyncpg.Connection
) -> None:
    row, once = uuid4(), {"Idempotency-Key": "c1"}
    assert (await client.ask("PATCH", at(subject, row), written(version=1)))[0] == 404
    assert (await client.ask("PUT", at(subject, row), written()))[0] == 200
    sealed = await cell.fetchval("SELECT email FROM members WHERE id = $1", row)
    change = written(fields={"plan": "free", "seats": None}, version=1)
    for _ in range(2):
        answer = await client.ask("PATCH", at(subject, row), change, headers=once)
        assert answer == (200, {"id": str(row), "version": 2})
    assert await cell.fetchval("SELECT email FROM members WHERE id = $1", row) == sealed, "nothing else is written"
    assert (await client.ask("PATCH", at(subject, row), change))[0] == 409
    other = written(fields={"plan": "pro"}, version=1)
    assert (await client.ask("PATCH", at(subject, row), other, headers=once))[0] == 409
    assert (await client.ask("PATCH", at(subject, row), written(fields={"email": "new"}, version=2)))[1]["version"] == 3
    assert (await client.ask("PATCH", at(subject, row), change, headers=once))[1]["version"] == 2, "as it was first"
    kept = {**FIELDS, "plan": "free", "seats": None, "email": "new"}
    assert (await client.ask("GET", at(subject, row)))[1]["fields"] == kept
    _, page = await client.ask("POST", at(subject, "find"), {"conditions": {"email": "new"}})
    assert len(page["records"]) == 1
    attempts: list[tuple[Any, int]] = [
        (written(fields={"plan": "x"}), 422),
        (written(fields={}, version=3), 422),
        (written(fields={"plan": "x"}, version=0), 422),
        (written(fields={"plan": None}, version=3), 422),
        (written(fields={"born": CANARY}, version=3), 422),
        (written(fields={"nothing": CANARY}, version=3), 422),
        (written(fields={"id": str(uuid4())}, version=3), 422),
        (written(fields={"jurisdiction": "us"}, version=3), 422),
        (written(fields={"plan": "x"}, version=3, jurisdiction="us"), 403),
        (written(fields={"plan": "x"}, version=9), 409),
    ]
    for body, expected in attempts:
        assert (await client.ask("PATCH", at(subject, row), body))[0] == expected, body
    assert (await client.ask("GET", at(subject, row)))[1]["version"] == 3


async def test_ranges_and_orders_are_of_what_lies_in_clear(client: Client, subject: SubjectKey) -> None:
    days = ["1970-05-17", "1980-05-17", "1990-05-17"]
    records = [{"id": str(uuid4()), "fields": FIELDS | {"seats": seats, "born": day}} for seats, day in enumerate(days)]
    assert (await client.ask("POST", at(subject, "batch"), {"jurisdiction": "eu", "records": records}))[0] == 200
    asked: list[tuple[dict[str, Any], list[int]]] = [
        ({"ranges": {"seats": {"at_least": 1}}, "order_by": "-seats"}, [2, 1]),
        ({"ranges": {"seats": {"above": 0, "below": 2}}}, [1]),
        ({"ranges": {"born": {"at_most": "1980-05-17"}}, "order_by": "born"}, [0, 1]),
        ({"ranges": {"born": {"below": "1990-01-01"}, "seats": {"above": 0}}, "conditions": {"plan": "pro"}}, [1]),
        ({"ranges": {"seats": {"above": 2}}}, []),
    ]
    for body, expected in asked:
        status, page = await client.ask("POST", at(subject, "find"), body)
        assert (status, [record["fields"]["seats"] for record in page["records"]]) == (200, expected), body
    refused: list[dict[str, Any]] = [
        {"ranges": {"email": {"above": CANARY}}},
        {"ranges": {"photo": {"above": "AP_-"}}},
        {"ranges": {"nothing": {"above": 1}}},
        {"ranges": {"seats": {}}},
        {"ranges": {"seats": {"bellow": 1}}},
        {"ranges": {"seats": {"above": "1"}}},
        {"ranges": {"seats": {"above": None}}},
        {"ranges": {"seats": 1}},
        {"ranges": {"seats": {"above": 1}}, "conditions": {"seats": 1}},
        {"order_by": "email"},
        {"order_by": "-photo"},
    ]
    for body in refused:
        assert (await client.ask("POST", at(subject, "find"), body))[0] == 422, body


async def test_a_condition_of_another_type_is_refused_and_finds_nothing_else(
    client: Client, subject: SubjectKey
) -> None:
    assert (await client.ask("PUT", at(subject, uuid4()), written(fields=FIELDS | {"seats": 1})))[0] == 200
    for name, values, said in (
        ("seats", (True, "1", 1.0, [1]), "seats is a whole number"),
        ("plan", (1, True, ["pro"]), "plan is a string"),
        ("email", (1, {"x": 1}), "email is a string"),
        ("born", (0, 1e9, "1970-05-17T00:00:00Z"), "born is a date"),
    ):
        for value in values:
            status, problem = await client.ask("POST", at(subject, "find"), {"conditions": {name: value}})
            assert (status, problem.get("code")) == (422, "invalid-input"), (name, value)
            assert problem["detail"].startswith(said), (name, value)
    everything = {"seats": 1, "plan": "pro", "email": CANARY, "born": "1970-05-17"}
    _, page = await client.ask("POST", at(subject, "find"), {"conditions": everything})
    assert len(page["records"]) == 1


async def test_a_field_with_a_default_may_be_left_out_and_is_read_of_older_rows(
    client: Client, subject: SubjectKey, cell: asyncpg.Connection
) -> None:
    await apply_schema(cell, "eu-1", "eu", [Member, Guest, Pet])
    before, after = (at(subject, uuid4()).replace("members", "pets") for _ in range(2))
    old = written(fields={"name": "Ann"})
    assert (await client.ask("PUT", before, old))[0] == 200
    await apply_schema(cell, "eu-1", "eu", [Member, Guest, GrownPet])
    defaults = {"food": "hay", "chip": "AP_-", "home": "stable", "plan": "free", "legs": 4}
    fields = {"name": "Ann", **defaults, "tone": None, "note": None}
    assert (await client.ask("GET", before))[1]["fields"] == fields
    assert (await client.ask("PUT", after, old))[0] == 200, "a client of before"
    assert (await client.ask("GET", after))[1]["fields"] == fields | {"tone": "loud", "note": "none yet"}
    for name in defaults:
        status, problem = await client.ask("PUT", after, written(fields={"name": "Ann", name: None}))
        assert (status, problem["code"]) == (422, "invalid-input"), name
    whole = written(fields={"name": "Ann", "note": None, "food": "oats"})
    assert (await client.ask("PUT", after, whole))[0] == 200
    kept = (await client.ask("GET", after))[1]["fields"]
    assert (kept["food"], kept["chip"], kept["note"]) == ("oats", "AP_-", None)


@pytest.mark.parametrize(
    "peer",
    [
        ("us", Role.APP, "us-1.iad"),
        ("us", Role.APP, "eu-1.par"),
        ("eu", Role.APP, "eu-2.par"),
        ("eu", Role.ROUTER, "fra"),
        ("eu", Role.OPERATOR, "root"),
        ("eu", Role.GATEWAY, "eu-1.par"),
    ],
)
async def test_nobody_else_is_answered(client: Client, subject: SubjectKey, peer: tuple[str, Role, str]) -> None:
    row = uuid4()
    assert (await client.ask("PUT", at(subject, row), written()))[0] == 200
    for method, body in (("GET", None), ("PUT", written()), ("DELETE", None)):
        try:
            status, problem = await client.ask(method, at(subject, row), body, peer=peer)
        except (aiohttp.ClientError, ssl.SSLError):
            continue  # refused in the handshake
        assert (status, problem["code"]) == (403, "forbidden")
    assert (await client.ask("GET", at(subject, row)))[1]["version"] == 1


async def test_refusals_are_on_the_record_and_name_nobody(
    client: Client, subject: SubjectKey, caplog: pytest.LogCaptureFixture
) -> None:
    def counted(kind: str, peer: str = "eu") -> float:
        labels = {"from_jurisdiction": peer, "to_jurisdiction": "eu", "kind": kind, "verdict": "refused"}
        return REGISTRY.get_sample_value("domicile_border_crossings_total", labels) or 0.0

    row, stranger = uuid4(), SubjectKey(bytes([1]) + uuid4().bytes)
    attempts: list[tuple[str, str, Any, str]] = [
        ("PUT", at(subject, row), written(jurisdiction="us"), "wrong-jurisdiction"),
        ("GET", at(stranger, row), None, "fence-refused"),
        ("DELETE", at(stranger, row), None, "fence-refused"),
        ("POST", at(subject, "find"), {"conditions": {"photo": CANARY}}, "invalid-input"),
    ]
    kinds = ["record-put", "record-get", "record-delete", "record-find"]
    before = [counted(kind) for kind in kinds]
    for method, path, body, _ in attempts:
        assert (await client.ask(method, path, body))[0] >= 400
    assert (await client.ask("GET", at(subject, row)))[0] == 404, "an answer, and no refusal"
    assert [counted(kind) for kind in kinds] == [count + 1 for count in before]
    told = [line for line in caplog.records if line.msg == "record-refused"]
    expected = [
        {"kind": kind, "code": code, "from_jurisdiction": "eu"}
        for kind, (_, _, _, code) in zip(kinds, attempts, strict=True)
    ]
    assert [vars(line)["domicile_fields"] for line in told] == expected
    foreign = counted(str(Endpoint.RECORDS), "us")
    assert (await client.ask("GET", at(subject, row), peer=("us", Role.APP, "us-1.iad")))[0] == 403
    assert counted(str(Endpoint.RECORDS), "us") == foreign + 1
    (line,) = (line for line in caplog.records if line.msg == "peer-refused")
    assert vars(line)["domicile_fields"]["from_jurisdiction"] == "us"
    assert str(subject) not in caplog.text
    assert CANARY not in caplog.text


async def test_abroad_sees_no_more_than_before(client: Client, subject: SubjectKey) -> None:
    row = uuid4()
    await client.ask("PUT", at(subject, row), written())
    path = f"/.domicile/v1/abroad/{subject}/members"
    status, answer = await client.ask("GET", path, peer=("us", Role.APP, "us-1.iad"))
    assert (status, answer["rows"]) == (200, [{"id": str(row), "plan": "pro", "seats": 5}])
    assert CANARY not in str(answer)


async def test_a_record_about_somebody_else_is_lost_with_that_persons_key_alone(
    client: Client, subject: SubjectKey, cell: asyncpg.Connection
) -> None:
    people = [uuid4(), uuid4()]
    rows = [at(subject, uuid4()).replace("members", "guests") for _ in people]
    for person, row in zip(people, rows, strict=True):
        fields = {"person": str(person), "name": CANARY, "nights": 2}
        assert (await client.ask("PUT", row, written(fields=fields)))[0] == 200
        assert (await client.ask("PUT", row, written(fields=fields | {"person": str(uuid4())})))[0] == 403
    internal = await cell.fetchval("SELECT internal_id FROM domicile.fences WHERE subject_key = $1", subject)
    async with key_client(client.trust, client.keys) as keys:
        await keys.shred(UUID(int=internal.int), people[0])

    async def forgotten() -> bool:
        return bool((await client.ask("GET", rows[0]))[1].get("destroyed"))

    await until(forgotten, "the gateway's cache to end")
    gone, kept = [(await client.ask("GET", row))[1] for row in rows]
    assert (gone["fields"], gone["destroyed"]) == ({"person": str(people[0]), "nights": 2}, ["name"])
    assert kept["fields"]["name"] == CANARY
    path = at(subject, "find").replace("members", "guests")
    status, page = await client.ask("POST", path, {"conditions": {"person": str(people[0])}})
    assert (status, [each["destroyed"] for each in page["records"]]) == (200, [["name"]])
    assert (await client.ask("PUT", rows[0], written(fields=gone["fields"] | {"name": "x"})))[0] == 410
    assert (await client.ask("PATCH", rows[0], written(fields={"nights": 3}, version=gone["version"])))[0] == 410
    assert (await client.ask("PATCH", rows[1], written(fields={"nights": 3}, version=kept["version"])))[0] == 200
    assert (await client.ask("PATCH", rows[1], written(fields={"person": str(uuid4())}, version=2)))[0] == 422
    assert (await client.ask("DELETE", rows[0]))[0] == 204


async def test_what_a_class_says_of_its_fields_holds_over_http_and_is_described(
    client: Client, subject: SubjectKey, cell: asyncpg.Connection
) -> None:
    await apply_schema(cell, "eu-1", "eu", [Parcel])
    paths, row = f"/.domicile/v1/records/{subject}/parcels", uuid4()
    good = {"size": "l", "rate": 2, "price": "1.20", "seal": "AAAA", **PARCEL}
    assert (await client.ask("PUT", f"{paths}/{row}", written(fields=good)))[0] == 200
    read = (await client.ask("GET", f"{paths}/{row}"))[1]["fields"]
    assert read == {**good, "code": "abcd"}, "what the class makes of a text is made of it here, too"
    found = await client.ask("POST", f"{paths}/find", {"conditions": {"code": "abcd  ", "size": "l", "rate": 2}})
    assert [each["id"] for each in found[1]["records"]] == [str(row)]
    for name, value in (
        ("to", {"street": CANARY * 2}), ("to", {"floor": 1}), ("to", {"street": "x", "care_of": {}}), ("to", CANARY),
        ("code", "abc"), ("code", 1234),
        ("size", "m"), ("size", None), ("rate", 4), ("rate", "2"), ("grams", 0), ("grams", 30_000), ("grams", "7"),
        ("grams", True), ("sent", "2019-12-31"), ("sent", 0), ("price", "0"), ("price", "1.001"), ("seal", "AAAAAA"),
    ):  # fmt: skip
        for method, body in (
            ("PUT", written(fields={**good, name: value})),
            ("PATCH", written(fields={name: value}, version=1)),
        ):
            status, problem = await client.ask(method, f"{paths}/{row}", body)
            assert (status, problem["code"]) == (422, "invalid-input"), (method, name, value)
        batch = {"jurisdiction": "eu", "records": [{"id": str(uuid4()), "fields": {**good, name: value}}]}
        assert (await client.ask("POST", f"{paths}/batch", batch))[0] == 422
    for name, value in (("size", "m"), ("rate", 4), ("grams", 0), ("code", "x")):
        assert (await client.ask("POST", f"{paths}/find", {"conditions": {name: value}}))[0] == 422
    assert await cell.fetchval("SELECT array_agg(version) FROM parcels") == [1]
    document = await described(client)
    schemas = document["components"]["schemas"]
    fields = schemas["parcels"]["properties"]
    assert fields["size"]["enum"] == ["s", "l"]
    assert fields["size"]["default"] == "s"
    assert fields["code"]["pattern"] == "^[a-z]{4}$"
    assert (fields["grams"]["minimum"], fields["grams"]["exclusiveMaximum"]) == (1, 30_000)
    assert "maxLength" not in str(fields["seal"]), "of bytes, and not of their spelling"
    assert schemas[fields["to"]["$ref"].rpartition("/")[2]]["properties"]["street"]["maxLength"] == 20
    assert set(schemas["parcels"]["required"]) == set(PARCEL)
    put = document["paths"]["/.domicile/v1/records/{subject_key}/parcels/{id}"]["put"]
    body = schemas[put["requestBody"]["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]]
    assert body["properties"]["fields"]["$ref"] == "#/components/schemas/parcels"
    assert [each["name"] for each in put["parameters"]] == ["subject_key", "id", "Idempotency-Key"]


async def described(client: Client) -> dict[str, Any]:
    context = client.trust.credentials("eu", Role.APP, "eu-1.par").client("eu", [Role.GATEWAY])
    async with (
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)) as http,
        http.get(f"https://{client.address}/openapi.json") as response,
    ):
        assert response.status == 200
        document: dict[str, Any] = await response.json()
        return document


async def test_it_is_off_unless_it_is_asked_for(trust: Trust, gateway: str, subject: SubjectKey) -> None:
    assert (await Client(trust, gateway).ask("GET", at(subject, uuid4())))[0] == 404


# the gateway's beats draw their jitter in another thread meanwhile
@pytest.mark.filterwarnings("ignore:Do not use the `random` module")
async def test_generated_requests_are_answered_as_described(client: Client, subject: SubjectKey) -> None:
    document = await described(client)
    records = {
        path: methods
        for path, methods in document["paths"].items()
        if "/records/{subject_key}/{table}" in path or "/members" in path
    }
    methods_of = sorted(method for methods in records.values() for method in methods)
    assert methods_of == sorted(["delete", "get", "patch", "post", "post", "put"] * 2), "of any table, and of this one"
    for methods in records.values():  # the subject and the table are real ones, so that more than the path is tried
        for operation in methods.values():
            for parameter in operation["parameters"]:
                known = {"subject_key": str(subject), "table": "members"}.get(parameter["name"])
                if known:
                    parameter["schema"] = {"const": known}
    credentials = client.trust.credentials("eu", Role.APP, "eu-1.par")

    def session_for(_: str, __: str) -> Any:
        return session(credentials, "eu")

    described_paths = {**document, "paths": records}
    assert await asyncio.to_thread(storm, client.address, described_paths, session_for, 10) > 60
    assert isinstance(UUID((await client.ask("PUT", at(subject, uuid4()), written()))[1]["id"]), UUID)


async def test_no_generated_value_is_told_or_lies_in_clear(
    client: Client, subject: SubjectKey, cell: asyncpg.Connection
) -> None:
    with logged() as lines:
        spelled = await _told(client, subject)
    rows = "".join(row[0] for row in await cell.fetch("SELECT m::text FROM members m"))
    assert FIELDS["born"] in rows
    assert lines.getvalue().count("\n") >= 8 * 11, "what a library says of them is heard"
    assert not any(value in rows + lines.getvalue() for value in spelled)


async def _told(client: Client, subject: SubjectKey) -> list[str]:
    """Generated values, each put, looked for and refused in whatever place; as they might be written."""
    chance, spelled = seeded(), []
    for _ in range(8):
        canary = "".join(chance.choices("aZ9ä§漢'\"\\%{}", k=14)) + str(uuid4())[:8]
        spelled += [canary, json.dumps(canary)[1:-1], canary.encode().hex()]
        row, fields = uuid4(), {**FIELDS, "email": canary, "photo": base64.urlsafe_b64encode(canary.encode()).decode()}
        assert (await client.ask("PUT", at(subject, row), written(fields=fields)))[0] == 200
        found = await client.ask("POST", at(subject, "find"), {"conditions": {"email": canary}, "size": 1})
        assert [record["fields"]["email"] for record in found[1]["records"]] == [canary]
        for method, path, body in (
            ("PUT", at(subject, row), written(fields=fields | {"born": canary})),
            ("PUT", at(subject, row), written(fields=fields | {"seats": canary})),
            ("PUT", at(subject, row), written(fields=fields | {"plan": canary + "\0"})),
            ("PUT", at(subject, row), written(fields=fields | {canary: canary})),
            ("PUT", at(subject, row), written(fields=fields, jurisdiction=canary)),
            ("PUT", at(subject, row), written(fields=fields, version=7)),
            ("PUT", at(subject, canary), written(fields=fields)),
            ("GET", f"/.domicile/v1/records/{subject}/{canary}/{row}", None),
            ("POST", at(subject, "find"), {"conditions": {"photo": canary}}),
            ("POST", at(subject, "find"), {"conditions": {"email": canary}, "after": canary}),
            ("POST", at(subject, "find"), {"conditions": {}, "order_by": canary}),
        ):
            status, problem = await client.ask(method, quote(path), body)
            assert 400 <= status < 500
            logging.getLogger("library").error("refused %s", canary)
            told = json.dumps(problem, ensure_ascii=False)
            assert not any(value in told for value in spelled), (status, method, body)
    return spelled
