"""A home over real storage: what is put is read back, what lies at rest is sealed, and refusals are told apart."""

from __future__ import annotations

import io
from collections.abc import Callable
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal
from uuid import UUID, uuid4

import asyncpg
import pytest
from domicile_testing import Storage
from domicile_testing.homes import Surroundings

from domicile.model import SubjectKey
from domicile.model.sealed import prefix
from domicile.sample import Note, Profile
from domicile.sdk import (
    Conflict,
    CrossBorderAccess,
    DomicileError,
    FenceRefused,
    InvalidInput,
    NotFound,
    Personal,
    Record,
    Residency,
    Shareable,
    Unavailable,
    UnknownSubject,
    UnsupportedQuery,
    Withheld,
    WrongCell,
)
from domicile.sdk.store import apply_schema

Somebody = Callable[[], tuple[str, SubjectKey]]
CANARY = "canary-51d0"


class Everything(Record, table="everything"):
    """A field of each type, sealed, clear and shareable."""

    name: Annotated[str | None, Personal("user.name", find=True)] = None
    number: Annotated[int, Personal("user.government_id", find="cell")]
    when: Annotated[datetime, Personal("user.behavior")]
    clear: Annotated[Decimal, Personal("user.financial", sealed=False)]
    photo: Annotated[bytes, Personal("user.biometric")]
    other: Annotated[UUID, Shareable("user.account.other")]
    active: Annotated[bool, Shareable("user.account.active")]
    score: Annotated[float | None, Shareable("user.account.score")] = None
    joined: Annotated[date, Shareable("user.account.joined")]


@pytest.fixture(autouse=True)
async def _schema(eu_root: asyncpg.Connection) -> None:
    await apply_schema(eu_root, "eu-1", "eu", [Profile, Note, Everything])


def everything(**changes: Any) -> dict[str, Any]:
    values = {
        "name": "Zoë",
        "number": 7,
        "when": datetime(2026, 1, 1, tzinfo=UTC),
        "clear": Decimal("1.10"),
        "photo": b"\x00\xff",
        "other": uuid4(),
        "active": True,
        "joined": date(2020, 2, 29),
    }
    return {**values, **changes}


def profile(**changes: Any) -> dict[str, Any]:
    values = {"user": CANARY, "email": f"{CANARY}@example.eu", "password": CANARY, "plan": "free"}
    return {**values, **changes}


async def test_every_kind_of_field_is_read_back_as_it_was(residency: Residency, somebody: Somebody) -> None:
    home = await residency.claim(somebody()[0], residence="DE")
    records = [home.new(Everything, **everything()), home.new(Everything, **everything(name=None, score=0.5))]
    for record in records:
        assert await home.put(record) == 1
    assert [row.model_dump() for row in await home.all(Everything)] == [record.model_dump() for record in records]
    found = await home.get(Everything, records[1].id)
    assert found is not None
    assert (found.model_dump(), found.version) == (records[1].model_dump(), 1)
    assert await home.get(Everything, uuid4()) is None


async def test_find_by_what_can_be_found(residency: Residency, somebody: Somebody) -> None:
    home = await residency.claim(somebody()[0], residence="DE")
    stranger = await residency.claim(somebody()[0], residence="DE")
    assert await home.find(Everything, name="Zoë") == []
    one = home.new(Everything, **everything(number=1))
    await home.put(one)
    await home.put(home.new(Everything, **everything(name="Ann", number=2)))
    await stranger.put(stranger.new(Everything, **everything(number=1)))
    for condition in ({"name": "Zoë"}, {"number": 1}, {"other": one.other}, {"name": "Zoë", "number": 1}):
        assert [row.id for row in await home.find(Everything, **condition)] == [one.id], condition
    assert len(await home.find(Everything, clear=Decimal("1.1"), active=True)) == 2
    assert await home.find(Everything, name="Zoë", number=2) == []


@pytest.mark.parametrize(
    "conditions",
    [{}, {"when": datetime(2026, 1, 1, tzinfo=UTC)}, {"photo": b"x"}, {"name": None}, {"id": uuid4()}, {"nick": "x"}],
)
async def test_what_cannot_be_found_is_refused(
    residency: Residency, somebody: Somebody, conditions: dict[str, Any]
) -> None:
    home = await residency.claim(somebody()[0], residence="DE")
    with pytest.raises(UnsupportedQuery):
        await home.find(Everything, **conditions)


async def test_a_row_is_replaced_at_the_version_that_was_read(residency: Residency, somebody: Somebody) -> None:
    home = await residency.claim(somebody()[0], residence="DE")
    record = home.new(Note, text="one", topic="a")
    assert await home.put(record, version=0) == 1
    with pytest.raises(Conflict):
        await home.put(record, version=0)
    assert await home.put(record.model_copy(update={"text": "two"}), version=1) == 2
    with pytest.raises(Conflict):
        await home.put(record, version=1)
    assert await home.put(record.model_copy(update={"text": "three"})) == 3
    found = await home.get(Note, record.id)
    assert found is not None
    assert (found.text, found.version) == ("three", 3)
    assert await home.delete(Note, record.id) is True
    assert await home.delete(Note, record.id) is False
    with pytest.raises(Conflict):
        await home.put(record, version=3)
    assert await home.all(Note) == []


async def test_a_transaction_holds_together(residency: Residency, somebody: Somebody) -> None:
    home = await residency.claim(somebody()[0], residence="DE")
    async with home.transaction() as transaction:
        note = transaction.new(Note, text="kept", topic="a")
        await transaction.put(note)
        assert [row.text for row in await transaction.all(Note)] == ["kept"]
        with pytest.raises(Conflict):
            await transaction.put(note, version=7)
    with pytest.raises(ZeroDivisionError):  # noqa: PT012
        async with home.transaction() as transaction:
            await transaction.put(transaction.new(Note, text="lost", topic="a"))
            raise ZeroDivisionError
    assert [row.text for row in await home.all(Note)] == ["kept"]


async def test_a_failed_statement_does_not_pass_for_a_commit(
    residency: Residency, somebody: Somebody, eu_root: asyncpg.Connection
) -> None:
    home = await residency.claim(somebody()[0], residence="DE")
    await eu_root.execute("ALTER TABLE notes ADD CONSTRAINT refused CHECK (topic <> 'refused')")
    try:
        with pytest.raises(Conflict, match="rolled back"):  # noqa: PT012
            async with home.transaction() as transaction:
                await transaction.put(transaction.new(Note, text="x", topic="a"))
                with pytest.raises(DomicileError):
                    await transaction.put(transaction.new(Note, text="x", topic="refused"))
    finally:
        await eu_root.execute("ALTER TABLE notes DROP CONSTRAINT refused")
    assert await home.all(Note) == []


async def test_a_text_that_postgresql_does_not_store_is_refused_by_the_sdk(
    residency: Residency, somebody: Somebody
) -> None:
    home = await residency.claim(somebody()[0], residence="DE")
    for topic in ("NUL \0", "lone \ud800"):
        record = home.new(Note, text="x", topic="a").model_copy(update={"topic": topic})
        with pytest.raises(InvalidInput, match="does not store"):
            await home.put(record)
        with pytest.raises(InvalidInput, match="does not store"):
            await home.find(Note, topic=topic)


async def test_a_closed_fence_is_an_error_for_reads_and_writes_alike(
    residency: Residency, somebody: Somebody, eu_root: asyncpg.Connection
) -> None:
    user, key = somebody()
    home = await residency.claim(user, residence="DE")
    note = home.new(Note, text="x", topic="a")
    await home.put(note)
    await eu_root.execute("UPDATE domicile.fences SET state = 'closed' WHERE subject_key = $1", key)
    for attempt in (
        home.put(note),
        home.get(Note, note.id),
        home.all(Note),
        home.find(Note, topic="a"),
        home.delete(Note, note.id),
        home.delete(Note, uuid4()),
        residency.home(user),
    ):
        with pytest.raises(FenceRefused):
            await attempt


async def test_a_home_of_an_older_epoch_is_over(residency: Residency, around: Surroundings, somebody: Somebody) -> None:
    user, key = somebody()
    old = await residency.claim(user, residence="DE")
    await old.put(old.new(Note, text="x", topic="a"))
    around.directory.pin(key, epoch=2)
    await residency.admit(key, 2)
    with pytest.raises(FenceRefused):
        await old.all(Note)
    with pytest.raises(FenceRefused):
        await old.put(old.new(Note, text="y", topic="a"))
    new = await residency.home(user)
    assert new.epoch == 2
    assert [note.text for note in await new.all(Note)] == ["x"]


# -- where a home is ---------------------------------------------------------------------------------


async def test_claims_elsewhere_name_the_place_and_store_nothing(
    residency: Residency, around: Surroundings, somebody: Somebody, eu_root: asyncpg.Connection
) -> None:
    user, key = somebody()
    with pytest.raises(CrossBorderAccess) as abroad:
        await residency.claim(user, residence="US", aliases={"email": f"{user}@example.us"})
    assert (abroad.value.jurisdiction, abroad.value.public_host) == ("us", "us.example")
    with pytest.raises(CrossBorderAccess):
        await residency.home(user)
    assert around.directory.aliases == {}
    sibling, sibling_key = somebody()
    around.directory.place["eu"] = "eu-2"
    with pytest.raises(WrongCell) as elsewhere:
        await residency.claim(sibling, observed_country="FR")
    assert (elsewhere.value.cell, elsewhere.value.subject_key) == ("eu-2", str(sibling_key))
    with pytest.raises(WrongCell):
        await residency.home(sibling)
    with pytest.raises(UnknownSubject):
        await residency.home(somebody()[0])
    with pytest.raises(InvalidInput):
        await residency.claim(somebody()[0], residence="JP")
    fences = await eu_root.fetchval(
        "SELECT count(*) FROM domicile.fences WHERE subject_key = ANY($1)", [key, sibling_key]
    )
    assert fences == 0


async def test_a_known_subject_is_served_without_the_directory(
    residency: Residency, around: Surroundings, somebody: Somebody
) -> None:
    user, _ = somebody()
    await residency.claim(user, residence="DE")
    await around.stop("directory")
    home = await residency.home(user)
    await home.put(home.new(Note, text="x", topic="a"))
    assert len(await home.all(Note)) == 1
    with pytest.raises(Unavailable):
        await residency.home(somebody()[0])


async def test_an_alias_leads_home_and_is_kept_beside_the_fence(
    residency: Residency, somebody: Somebody, eu_root: asyncpg.Connection
) -> None:
    user, key = somebody()
    email = f"{user}@example.eu"
    await residency.claim(user, residence="DE")
    await residency.claim(user, residence="DE", aliases={"email": email.upper()})
    assert await residency.resolve_alias("email", email) == key
    assert (await residency.home_of(key)).subject_key == key
    kept = await eu_root.fetchval("SELECT alias_keys ->> 'email' FROM domicile.fences WHERE subject_key = $1", key)
    assert len(kept) == 34
    with pytest.raises(Conflict):
        await residency.claim(somebody()[0], residence="DE", aliases={"email": email})
    with pytest.raises(UnknownSubject):
        await residency.resolve_alias("email", f"no.{email}")


@pytest.mark.parametrize(
    "change",
    [
        {"name": "eu-2.fra"},
        {"name": "eu-9.fra"},
        {"name": "eu-1.ams"},
        {"jurisdiction": "us"},
        {"bind": "127.0.0.1:9"},
        {"storage": "127.30.1.1:5432"},
    ],
)
async def test_it_does_not_start_where_certificate_and_manifest_disagree(
    around: Surroundings, change: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(InvalidInput):
        async with Residency.connect(around.settings(state=tmp_path, **change)):
            pass


# -- at rest -----------------------------------------------------------------------------------------


async def copied(root: asyncpg.Connection, table: str, form: Literal["text", "binary"]) -> bytes:
    out = io.BytesIO()
    await root.copy_from_table(table, output=out, format=form)
    return out.getvalue()


async def test_no_sealed_value_is_in_the_tables_bytes(
    residency: Residency, somebody: Somebody, eu_root: asyncpg.Connection, eu: Storage
) -> None:
    home = await residency.claim(somebody()[0], residence="DE")
    await home.put(home.new(Profile, **profile(plan="in-clear-9e2b")))
    text, binary = await copied(eu_root, "profiles", "text"), await copied(eu_root, "profiles", "binary")
    for form in (CANARY.encode(), CANARY.encode().hex().encode()):
        assert form not in text
        assert form not in binary
    assert b"in-clear-9e2b" in text
    assert prefix("eu") in binary
    await eu_root.execute("CHECKPOINT")
    hits = {"canary": 0, "control": 0}
    for path in (eu.folder / "data").rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            hits["canary"] += CANARY.encode() in content
            hits["control"] += b"in-clear-9e2b" in content
    assert hits["canary"] == 0
    assert hits["control"] >= 2


async def test_equal_values_differ_at_rest_and_open_nowhere_else(
    residency: Residency, somebody: Somebody, eu_root: asyncpg.Connection
) -> None:
    (user, key), (other_user, other_key) = somebody(), somebody()
    home = await residency.claim(user, residence="DE")
    other = await residency.claim(other_user, residence="DE")
    one, two = (home.new(Profile, **profile(password="pw")) for _ in range(2))
    foreign = other.new(Profile, **profile(password="pw", id=one.id))
    await home.put(one)
    await home.put(two)
    await other.put(foreign)
    rows = await eu_root.fetch(
        "SELECT email, password, email_index FROM profiles WHERE subject_key = ANY($1)", [key, other_key]
    )
    assert len({row["email"] for row in rows} | {row["password"] for row in rows}) == 6
    assert len({row["email_index"] for row in rows}) == 2  # equal for one subject, different for two

    async def moved(into: str, take: str, subject: SubjectKey, row: UUID) -> None:
        value = await eu_root.fetchval(f"SELECT {take} FROM profiles WHERE subject_key = $1 AND id = $2", subject, row)
        await eu_root.execute(f"UPDATE profiles SET {into} = $3 WHERE subject_key = $1 AND id = $2", key, one.id, value)
        with pytest.raises(DomicileError, match="does not belong"):
            await home.get(Profile, one.id)
        await home.put(one)
        assert await home.get(Profile, one.id) is not None

    await moved("password", "password", key, two.id)  # another row
    await moved("password", "email", key, one.id)  # another column
    await moved("password", "password", other_key, one.id)  # another subject


async def test_a_value_without_its_key_is_gone(
    around: Surroundings, residency: Residency, somebody: Somebody, tmp_path: Path
) -> None:
    user, _ = somebody()
    home = await residency.claim(user, residence="DE")
    note = home.new(Note, text=CANARY, topic="a")
    await home.put(note)
    around.keys.keys.clear()
    async with Residency.connect(around.settings(state=tmp_path / "anew")) as anew:
        with pytest.raises(NotFound):
            await (await anew.home(user)).get(Note, note.id)


async def test_no_key_service_no_sealed_write(
    around: Surroundings, residency: Residency, somebody: Somebody, eu_root: asyncpg.Connection
) -> None:
    user, key = somebody()
    home = await residency.claim(user, residence="DE")
    await around.stop("keys")
    with pytest.raises(Unavailable):
        await home.put(home.new(Note, text="x", topic="a"))
    assert await eu_root.fetchval("SELECT count(*) FROM notes WHERE subject_key = $1", key) == 0


# -- from abroad -------------------------------------------------------------------------------------


async def test_from_abroad_shareable_fields_are_seen_and_personal_ones_withheld(
    residency: Residency, around: Surroundings, somebody: Somebody, us_root: asyncpg.Connection
) -> None:
    user, key = somebody()
    around.directory.pin(key, "us-1")
    fence = await around.us_fences.open(around.directory.grant(key, "us-1", await around.us_fences.incarnation()), {})
    row = uuid4()
    await us_root.execute(
        'INSERT INTO profiles (jurisdiction, subject_key, principal_key, id, epoch, "user", email, email_index, '
        "password, born, plan) VALUES ('us', $1, $1, $2, $3, '\\x00', '\\x00', '\\x00', '\\x00', '1912-06-23', 'pro')",
        key,
        row,
        fence.epoch,
    )
    abroad = await residency.abroad(user)
    assert (abroad.jurisdiction, abroad.cell) == ("us", "us-1")
    seen = await abroad.get(Profile, row)
    assert seen is not None
    assert (seen.id, seen.plan, seen.jurisdiction) == (row, "pro", "us")
    for name in ("user", "email", "password", "born"):
        value = getattr(seen, name)
        assert isinstance(value, Withheld)
        assert value.jurisdiction == "us"
    assert seen.email.category == "user.contact.email"
    assert [one.id for one in await abroad.find(Profile, plan="pro")] == [row]
    assert await abroad.find(Profile, plan="free") == []
    assert await abroad.get(Profile, uuid4()) is None
    for condition in ({"born": date(1912, 6, 23)}, {"email": "x"}, {"subject_key": "x"}):
        with pytest.raises(UnsupportedQuery):
            await abroad.find(Profile, **condition)
    with pytest.raises(UnknownSubject):
        await residency.abroad(somebody()[0])


async def test_at_home_the_view_from_abroad_is_the_same(residency: Residency, somebody: Somebody) -> None:
    user, _ = somebody()
    home = await residency.claim(user, residence="DE")
    record = home.new(Everything, **everything(score=0.25))
    await home.put(record)
    (seen,) = await (await residency.abroad(user)).find(Everything, active=True, joined=record.joined)
    assert (seen.other, seen.active, seen.score, seen.joined) == (record.other, True, 0.25, record.joined)
    assert isinstance(seen.clear, Withheld)
