"""Rows about another person than their subject: under that person's key alone, in every way that they are read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated
from uuid import UUID, uuid4

import asyncpg
import pytest
from domicile_testing import Storage
from domicile_testing.homes import Surroundings

from domicile.model import DomicileError, Role, SubjectKey
from domicile.sdk import (
    Forbidden,
    Home,
    InvalidInput,
    Personal,
    Principal,
    Record,
    Residency,
    Shareable,
    UnsupportedQuery,
    Withheld,
)
from domicile.sdk.store import apply_schema

Somebody = Callable[[], tuple[str, SubjectKey]]
ANNA, BERT = uuid4(), uuid4()


class Letter(Record, table="letters_received"):
    sender: Annotated[UUID, Principal("user.unique_id")]
    text: Annotated[str, Personal("user.content.private")]
    pages: Annotated[int, Shareable("user.content.length")] = 1


class OlderLetter(Record, table="letters_received"):
    """Of an application that did not know senders yet."""

    text: Annotated[str, Personal("user.content.private")]
    pages: Annotated[int, Shareable("user.content.length")] = 1


class Visit(Record, table="visits_received"):
    visitor: Annotated[UUID, Principal("user.unique_id")]
    note: Annotated[str | None, Personal("user.content.private")] = None


@pytest.fixture
async def home(residency: Residency, somebody: Somebody, eu_root: asyncpg.Connection) -> Home:
    """With a letter from Anna, one from Bert, and one of the subject's own."""
    await apply_schema(eu_root, "eu-1", "eu", [Letter, Visit])
    home = await residency.claim(somebody()[0], residence="DE")
    senders = ((ANNA, "anna"), (BERT, "bert"), (home.internal_id, "own"))
    await home.put_many([home.new(Letter, sender=sender, text=text) for sender, text in senders])
    return home


async def test_a_row_lies_under_a_random_id_and_the_key_of_whom_it_is_about(
    home: Home, around: Surroundings, eu_root: asyncpg.Connection
) -> None:
    rows = await eu_root.fetch(
        "SELECT principal_key FROM letters_received WHERE subject_key = $1 ORDER BY 1", home.subject_key
    )
    expected = [b"\0" + ANNA.bytes, b"\0" + BERT.bytes, bytes(home.subject_key)]
    assert [bytes(row[0]) for row in rows] == sorted(expected)
    held = {principal for subject, principal in around.keys.keys if subject == home.internal_id}
    assert held == {ANNA, BERT, home.internal_id}
    assert [each.sender for each in await home.find(Letter, sender=home.internal_id)] == [home.internal_id]


async def test_rows_of_people_who_never_had_a_key_are_read(home: Home) -> None:
    visitors = [uuid4(), uuid4()]
    await home.put_many([home.new(Visit, visitor=visitor) for visitor in visitors])
    assert {visit.visitor for visit in await home.all(Visit)} == set(visitors)


async def test_a_value_opens_in_no_row_about_somebody_else(home: Home, eu_root: asyncpg.Connection) -> None:
    await eu_root.execute(
        "ALTER TABLE letters_received DISABLE TRIGGER domicile_check;"
        f"UPDATE letters_received SET principal_key = '\\x00{BERT.hex}' WHERE principal_key = '\\x00{ANNA.hex}' "
        f"AND subject_key = '\\x{home.subject_key}';"
        "ALTER TABLE letters_received ENABLE TRIGGER domicile_check"
    )
    with pytest.raises(DomicileError, match="does not belong in its place"):
        await home.find(Letter, sender=BERT)


async def test_the_database_takes_no_principal_that_nobody_could_shred(
    home: Home, eu: Storage, somebody: Somebody
) -> None:
    app = await asyncpg.connect(
        host=eu.host, port=eu.port, user="domicile_app", database="domicile", ssl=eu.context(Role.APP, "eu-1.fra")
    )
    insert = (
        "INSERT INTO letters_received (jurisdiction, subject_key, principal_key, id, epoch, text) "
        "VALUES ('eu', $1, $2, gen_random_uuid(), $3, '\\x00')"
    )
    other = bytes(somebody()[1])
    try:
        await app.execute(f"SET domicile.subject = '{home.subject_key}'")
        for principal in (other, b"", b"\0", b"\0" + bytes(15), b"\0" * 18, b"\2" + ANNA.bytes):
            with pytest.raises(asyncpg.PostgresError) as refused:
                await app.execute(insert, home.subject_key, principal, home.epoch)
            assert refused.value.sqlstate == "DM003"
        for principal in (other, bytes(home.subject_key), b"\0" + BERT.bytes):
            with pytest.raises(asyncpg.PostgresError) as refused:
                await app.execute(
                    "UPDATE letters_received SET principal_key = $1 WHERE principal_key = $2",
                    principal,
                    b"\0" + ANNA.bytes,
                )
            assert refused.value.sqlstate == "DM003"
    finally:
        await app.close()


async def test_raw_sql_makes_records_that_say_whom_they_are_about(home: Home) -> None:
    statement = "SELECT * FROM letters_received WHERE pages = $1"
    async with home.transaction() as transaction:
        letters = await transaction.sql(statement, 1, into=Letter)
        assert {(each.sender, each.text) for each in letters} == {
            (ANNA, "anna"), (BERT, "bert"), (home.internal_id, "own"),
        }  # fmt: skip
        with pytest.raises(UnsupportedQuery, match="principal_key"):
            await transaction.sql("SELECT id, version, text, pages FROM letters_received", into=Letter)


async def test_from_abroad_the_person_is_withheld(
    residency: Residency, around: Surroundings, somebody: Somebody, us_root: asyncpg.Connection
) -> None:
    await apply_schema(us_root, "us-1", "us", [Letter])
    user, key = somebody()
    around.directory.pin(key, "us-1")
    await around.us_fences.open(around.directory.grant(key, "us-1", await around.us_fences.incarnation()), {})
    await us_root.execute(
        "INSERT INTO letters_received (jurisdiction, subject_key, principal_key, id, epoch, text) "
        "VALUES ('us', $1, $2, gen_random_uuid(), 1, '\\x00')",
        key,
        b"\0" + ANNA.bytes,
    )
    (seen,) = await (await residency.abroad(user)).all(Letter)
    assert (seen.pages, repr(seen.sender)) == (1, "<withheld user.unique_id in us>")
    assert isinstance(seen.sender, Withheld)
    with pytest.raises(UnsupportedQuery):
        await (await residency.abroad(user)).find(Letter, sender=ANNA)


async def test_older_code_reads_such_rows_and_overwrites_none(home: Home) -> None:
    (anna,) = await home.find(Letter, sender=ANNA)
    assert {each.text for each in await home.all(OlderLetter)} == {"anna", "bert", "own"}
    with pytest.raises(Forbidden):
        await home.put(home.new(OlderLetter, id=anna.id, text="x"))
    assert {each.text for each in await home.all(Letter)} == {"anna", "bert", "own"}


async def test_who_looks_across_subjects_finds_rows_about_one_person(
    home: Home, residency: Residency, somebody: Somebody
) -> None:
    carla = uuid4()
    homes = [home, await residency.claim(somebody()[0], residence="DE")]
    for number, each in enumerate(homes):
        await each.put(each.new(Letter, sender=carla, text=f"carla {number}"))
    async with residency.cell(purpose="support:T-7") as cell:
        found = await cell.find(Letter, sender=carla)
    assert [(each.record.sender, each.record.text) for each in found] == [(carla, "carla 0"), (carla, "carla 1")]


async def test_a_person_is_no_condition_but_a_uuid_and_shows_in_no_representation(home: Home) -> None:
    for wanted in (None, str(ANNA)):
        with pytest.raises(InvalidInput):
            await home.find(Letter, sender=wanted)
    with pytest.raises(UnsupportedQuery):
        await home.page(Letter, order_by="sender")
    (letter,) = await home.find(Letter, sender=ANNA)
    assert str(ANNA) not in repr(letter)
    assert "<personal user.unique_id>" in repr(letter)
