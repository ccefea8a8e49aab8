"""A condition is what its field makes of it, so that a find meets what a record was put with."""

from __future__ import annotations

from typing import Annotated, Any

import pytest
from pydantic import AfterValidator, Field, StringConstraints, ValidationInfo, field_validator

from domicile.sdk import Home, InvalidInput, Personal, Range, Record, Shareable
from domicile.sdk.records import as_stored
from domicile.sdk.testing import MemoryStore, memory_abroad, memory_home

SECRET = "canary-51d0"


def refuse(value: str) -> str:
    if value == SECRET:
        raise ValueError(f"{value} is not liked")
    return value


class Person(Record, table="persons", indexes=("nick",)):
    email: Annotated[
        str, StringConstraints(to_lower=True, strip_whitespace=True), Personal("user.contact.email", find=True)
    ]
    nick: Annotated[str, Shareable("user.name.nick"), Field(min_length=2), AfterValidator(refuse)]
    rank: Annotated[int | None, Shareable("user.account.rank"), Field(ge=0)] = None
    team: Annotated[str, Shareable("user.account.team")] = "none"

    @field_validator("nick")
    @classmethod
    def _capital(cls, value: str) -> str:
        return value.capitalize()

    @field_validator("team")
    @classmethod
    def _after_the_nick(cls, value: str, info: ValidationInfo) -> str:
        return value if info.data["nick"] else ""


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
async def home(store: MemoryStore) -> Home:
    home = memory_home("eu", store=store)
    for nick, rank in (("anna", 1), ("Bea", 2)):
        await home.put(home.new(Person, email=f" {nick}@Example.EU ", nick=nick, rank=rank))
    return home


async def test_values_are_normalised_as_the_records_are(home: Home, store: MemoryStore) -> None:
    abroad = memory_abroad(home, store, Person)
    assert [each.nick for each in await home.find(Person, email="ANNA@example.eu ")] == ["Anna"]
    assert [each.nick for each in await home.find(Person, nick="bea")] == ["Bea"]
    assert [each.nick for each in await home.find(Person, nick=Range(at_least="bea"))] == ["Bea"]
    assert [each.nick for each in (await home.page(Person, {"nick": "anna"})).records] == ["Anna"]
    assert [each.nick for each in await abroad.find(Person, nick="bea")] == ["Bea"]
    assert [each.nick for each in await abroad.find(Person, nick=Range(below="bea"))] == ["Anna"]


@pytest.mark.parametrize(
    "condition",
    [{"nick": "x"}, {"nick": SECRET}, {"rank": -1}, {"rank": Range(below=-1)}, {"rank": "1"}, {"team": SECRET}],
)
async def test_a_value_that_no_record_has_is_an_error_that_does_not_hold_it(
    home: Home, store: MemoryStore, condition: dict[str, Any]
) -> None:
    for read in (home.find, memory_abroad(home, store, Person).find):
        with pytest.raises(InvalidInput) as refusal:
            await read(Person, **condition)
        assert SECRET not in f"{refusal.value!r} {refusal.value.__cause__} {refusal.value.__context__}"
        assert refusal.value.__context__ is None


def test_a_field_is_as_its_class_has_it() -> None:
    assert as_stored(Person, "email", " A@B.eu ") == "a@b.eu"
    assert as_stored(Person, "rank", None) is None
