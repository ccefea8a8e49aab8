"""A record class that isn't fully classified is refused where it is defined; a record tells no personal value."""

from __future__ import annotations

import re
import traceback
from collections.abc import Callable
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID, uuid4

import pytest
from pydantic import BaseModel, ConfigDict, Field

import domicile.sdk
from domicile.sample import Profile
from domicile.sdk import InvalidInput, ModelError, Personal, Principal, Record, Reference, Shareable, UnsupportedQuery
from domicile.sdk.store import Condition, NewRow, Operator, Selection, StoredRow
from domicile.sdk.store.ddl import create_table
from domicile.sdk.store.port import Place
from domicile.sdk.tables import KINDS

CANARY = "canary-7c1f"


def unclassified() -> None:
    class Bad(Record, table="bads"):
        email: str


def classified_inside_an_option() -> None:
    class Bad(Record, table="bads"):
        email: Annotated[str, Personal("user.contact.email")] | None


def classified_twice() -> None:
    class Bad(Record, table="bads"):
        email: Annotated[str, Personal("user.contact.email"), Shareable("user.contact.email")]


def personal_key() -> None:
    class Bad(Record, table="bads"):
        id: Annotated[UUID, Personal("user.unique_id")]


def key_of_text() -> None:
    class Bad(Record, table="bads"):
        id: str  # type: ignore[assignment]


def default_jurisdiction() -> None:
    class Bad(Record, table="bads"):
        jurisdiction: str = "eu"


def unsupported_type() -> None:
    class Bad(Record, table="bads"):
        tags: Annotated[list[str], Shareable("user.account.tags")]


def unsupported_find() -> None:
    class Bad(Record, table="bads"):
        weight: Annotated[float, Personal("user.health_and_medical.weight", find=True)]


def no_table() -> None:
    class Bad(Record):
        plan: Annotated[str, Shareable("user.account.plan")]


def table_with_a_quote() -> None:
    class Bad(Record, table='x"; drop table y'):
        plan: Annotated[str, Shareable("user.account.plan")]


def system_column() -> None:
    class Bad(Record, table="bads"):
        subject_key: Annotated[str, Shareable("user.account.plan")]


def column_like_an_index() -> None:
    class Bad(Record, table="bads"):
        email_index: Annotated[str, Shareable("user.account.plan")]


def principal_by_name() -> None:
    class Bad(Record, table="bads"):
        sender: Annotated[str, Principal("user.unique_id")]


def principal_and_personal() -> None:
    class Bad(Record, table="bads"):
        sender: Annotated[UUID, Principal("user.unique_id"), Personal("user.unique_id")]


def principal_by_default() -> None:
    class Bad(Record, table="bads"):
        sender: Annotated[UUID, Principal("user.unique_id")] = UUID(int=1)


def two_principals() -> None:
    class Bad(Record, table="bads"):
        sender: Annotated[UUID, Principal("user.unique_id")]
        receiver: Annotated[UUID | None, Principal("user.unique_id")] = None


def principal_of_no_category() -> None:
    Principal("sender")


def named_as_what_new_takes() -> None:
    class Bad(Record, table="bads"):
        idempotency_key: Annotated[str, Shareable("user.account.plan")]


def default_of_another_type() -> None:
    class Bad(Record, table="bads"):
        plan: Annotated[int | None, Shareable("user.account.plan")] = "free"  # type: ignore[assignment]


def with_an_alias() -> None:
    class Bad(Record, table="bads"):
        plan: Annotated[str, Shareable("user.account.plan")] = Field(alias="planName")


def with_an_alias_to_read_by() -> None:
    class Bad(Record, table="bads"):
        id: UUID = Field(validation_alias="key")


def with_an_alias_to_write_by() -> None:
    class Bad(Reference, table="bads", key=("plan",)):
        plan: Annotated[str, Shareable("system.operations"), Field(serialization_alias="planName")]


def with_aliases_for_all() -> None:
    class Bad(Record, table="bads"):
        model_config = ConfigDict(alias_generator=str.upper)


def not_frozen() -> None:
    class Bad(Record, table="bads", frozen=False):
        plan: Annotated[str, Shareable("user.account.plan")]


def with_fields_of_any_name() -> None:
    class Bad(Record, table="bads"):
        model_config = ConfigDict(extra="allow")


def that_tells_values() -> None:
    class Bad(Record, table="bads"):
        model_config = ConfigDict(hide_input_in_errors=False)


@pytest.mark.parametrize(
    ("define", "where", "what"),
    [
        (unclassified, "Bad.email", "not classified"),
        (classified_inside_an_option, "Bad.email", "not classified"),
        (classified_twice, "Bad.email", "classified twice"),
        (personal_key, "Bad.id", "personal primary key"),
        (key_of_text, "Bad.id", "not a UUID"),
        (default_jurisdiction, "Bad", "without a default"),
        (unsupported_type, "Bad.tags", "cannot be stored"),
        (unsupported_find, "Bad.weight", "cannot be found"),
        (no_table, "Bad", "names no table"),
        (table_with_a_quote, "Bad", "names no table"),
        (system_column, "Bad.subject_key", "no column"),
        (column_like_an_index, "Bad.email_index", "no column"),
        (principal_by_name, "Bad.sender", "not a UUID"),
        (principal_and_personal, "Bad.sender", "classified as something else"),
        (principal_by_default, "Bad.sender", "by default"),
        (two_principals, "Bad", "two principals"),
        (principal_of_no_category, "", "data category"),
        (named_as_what_new_takes, "Bad.idempotency_key", "home.new"),
        (default_of_another_type, "Bad.plan", "as its default"),
        (with_an_alias, "Bad.plan", "alias"),
        (with_an_alias_to_read_by, "Bad.id", "alias"),
        (with_an_alias_to_write_by, "Bad.plan", "alias"),
        (with_aliases_for_all, "Bad", "configures alias_generator"),
        (not_frozen, "Bad", "configures frozen"),
        (with_fields_of_any_name, "Bad", "configures extra"),
        (that_tells_values, "Bad", "configures hide_input_in_errors"),
    ],
)
def test_a_class_that_does_not_say_what_it_holds_is_refused(define: Callable[[], None], where: str, what: str) -> None:
    with pytest.raises(ModelError) as refusal:
        define()
    assert refusal.value.where == where
    assert what in refusal.value.what
    assert refusal.value.remedy


def profile(**changes: Any) -> Profile:
    values = {"user": CANARY, "email": f"{CANARY}@example.eu", "password": CANARY, "plan": "free"}
    return Profile(**{"jurisdiction": "eu", "id": uuid4(), **values, **changes})


def test_a_record_shows_no_personal_value() -> None:
    record = profile(born=date(1912, 6, 23))
    for text in (repr(record), str(record), f"{record}", repr([record])):
        assert CANARY not in text
        assert "1912" not in text
        assert "free" in text
    assert "<personal user.contact.email>" in repr(record)


def test_the_classes_on_the_applications_page_are_accepted() -> None:
    page = (Path(__file__).parents[2] / "docs" / "application.md").read_text()
    _, *blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    names = {**vars(domicile.sdk), "Annotated": Annotated, "Decimal": Decimal, "UUID": UUID, "__name__": __name__}
    for block in (each for each in blocks if each.startswith("class ")):
        exec(block, names)
    assert {"Message", "Plan"} <= names.keys()
    assert names["Message"].domicile_table.about.name == "sender"


class Envelope(BaseModel):
    profile: Profile


@pytest.mark.parametrize(
    "attempt",
    [
        lambda: profile(born=CANARY),
        lambda: profile(**{"nickname": CANARY}),
        lambda: Profile.model_validate({"jurisdiction": "eu", "email": CANARY}),
        lambda: Profile.model_validate_json(f'{{"jurisdiction": "eu", "born": "{CANARY}"}}'),
        lambda: Envelope.model_validate({"profile": {"email": CANARY}}),
        lambda: profile().model_copy(update={"born": CANARY}),
        lambda: profile().model_copy(update={"nickname": CANARY}),
        lambda: Profile.model_validate_json(f'{{"email": "{CANARY}",'),
        lambda: Profile.model_validate_json(f'{{"email": "{CANARY}\ud800"}}'),
        lambda: Profile.model_validate_json(f'"{CANARY}'.encode() + b"\xff"),
        lambda: setattr(profile(), "email", CANARY),
        lambda: setattr(profile(), "nickname", CANARY),
        lambda: setattr(profile(), CANARY, 1),
        lambda: delattr(profile(email=CANARY), "email"),
    ],
)
def test_a_value_that_does_not_fit_is_not_told(attempt: Callable[[], Any]) -> None:
    with pytest.raises(InvalidInput) as refusal:
        attempt()
    error: BaseException | None = refusal.value
    while error is not None:
        assert CANARY not in f"{error} {error!r} {error.args} {vars(error)}"
        error = error.__cause__ or error.__context__
    assert CANARY not in "".join(traceback.format_exception(refusal.value))


def test_a_record_is_changed_by_a_checked_copy_alone() -> None:
    read = Profile._stored(dict(profile()), 3)
    with pytest.raises(UnsupportedQuery, match=r"home.update.*model_copy"):
        read.plan = "pro"  # type: ignore[misc]
    copy = read.model_copy(update={"plan": "pro"})
    assert (copy.plan, copy.version, read.plan, read.version) == ("pro", 3, "free", 3)
    assert copy.model_copy(update={"id": uuid4()}).version == 0
    assert read.model_copy() == read


def test_a_field_that_a_record_was_made_without_is_missed_by_name() -> None:
    made = Profile.model_construct(email=CANARY)  # type: ignore[call-arg]
    with pytest.raises(InvalidInput, match="made without") as refusal:
        _ = made.password
    assert refusal.value.where == "Profile.password"
    assert CANARY not in repr(made)
    assert not hasattr(made, "nickname")


def test_rows_and_conditions_show_no_value() -> None:
    place = Place(uuid4(), CANARY)
    told = (
        StoredRow(uuid4(), 1, {"plan": CANARY}, CANARY, principal := uuid4()),
        NewRow(uuid4(), {"plan": CANARY}, principal),
        Selection((Condition("plan", Operator.EQUAL, CANARY),), after=place),
    )
    for text in (repr(told), f"{told[0]} {told[1]} {told[2]}"):
        assert CANARY not in text
        assert str(principal) not in text
        assert "plan" in text


def test_a_record_without_a_jurisdiction_is_refused() -> None:
    with pytest.raises(InvalidInput, match="jurisdiction: missing"):
        Profile(id=uuid4(), user="a", email="b", password="c", plan="d")  # type: ignore[call-arg]


@pytest.mark.parametrize(
    "value",
    [
        "Íñigo\0\u2603",
        -(2**62),
        True,
        0.1,
        b"\xff\x00",
        date(1, 1, 1),
        datetime(2026, 3, 29, 1, 30, tzinfo=UTC),
        uuid4(),
        Decimal("0.10"),
    ],
)
def test_every_type_of_field_has_one_spelling_that_reads_back(value: Any) -> None:
    kind = KINDS[type(value)]
    back = kind.load(kind.dump(value))
    assert back == value
    assert type(back) is type(value)


@pytest.mark.parametrize(("kind", "value"), [(str, 5), (int, True), (date, CANARY), (str, "\ud800"), (bool, 1)])
def test_a_value_of_another_type_is_refused_untold(kind: type, value: Any) -> None:
    with pytest.raises(InvalidInput) as refusal:
        KINDS[kind].dump(value)
    assert CANARY not in str(refusal.value)
    assert refusal.value.__context__ is None


def test_a_time_without_a_zone_is_refused() -> None:
    with pytest.raises(InvalidInput, match="without a zone"):
        KINDS[datetime].check(datetime(2026, 1, 1))


def test_a_jurisdiction_with_a_quote_stays_a_literal() -> None:
    assert "(jurisdiction = 'e''u')" in create_table(Profile.domicile_table, "e'u")
