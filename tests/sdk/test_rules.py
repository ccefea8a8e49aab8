"""What is recorded of a field's rules is what a class that was made of the record holds values to."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Annotated, Any, Literal

import pytest
from pydantic import AfterValidator, Field, StringConstraints

from domicile.sdk import InvalidInput, Personal, Record, Shareable
from domicile.sdk.recorded import record_class
from domicile.sdk.store import RecordedColumn
from domicile.sdk.store.changes import recorded

SHARED = Shareable("user.account.plan")


class Ruled(Record, table="ruled"):
    name: Annotated[str, StringConstraints(strip_whitespace=True, to_lower=True, max_length=4), SHARED] = "x"
    code: Annotated[str | None, Field(pattern=re.compile("^[a-z]+$")), Personal("user.name", find=True)] = None
    size: Annotated[Literal["s", "l"], SHARED] = "s"
    when: Annotated[datetime | None, Field(le=datetime(2100, 1, 1)), SHARED] = None
    even: Annotated[int | None, Field(multiple_of=2, lt=9), AfterValidator(lambda value: value), SHARED] = None
    born: Annotated[date, Field(gt=date(1900, 1, 1)), Personal("user.name", sealed=False)] = date(2000, 1, 1)
    seen: Annotated[datetime, Field(le=datetime(2100, 1, 1, tzinfo=UTC)), SHARED] = datetime(2026, 1, 1, tzinfo=UTC)
    cost: Annotated[Decimal, Field(ge=0, max_digits=4, decimal_places=2), SHARED] = Decimal(1)
    face: Annotated[bytes, Field(min_length=2), Personal("user.biometric")] = b"ab"
    tags: Annotated[list[int], Field(max_length=2), Personal("user.name")] = Field(default_factory=list)
    free: Annotated[str, SHARED] = ""


def again() -> type[Record]:
    """The class as a gateway makes it of what lies in the database."""
    columns = []
    for said in map(recorded, Ruled.domicile_table.columns):
        names = ("column_name", "class", "category", "sealed", "find", "optional", "kind", "given", "rules")
        columns.append(RecordedColumn(*(said[name] for name in names)))
    return record_class("ruled", tuple(columns))


def made(kind: type[Record], fields: Mapping[str, Any]) -> Record:
    own = {"jurisdiction": "eu", "id": "00000000-0000-4000-8000-000000000001", "tags": [], **fields}
    return kind.model_validate_json(json.dumps(own))


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("name", " ABCD ", "abcde"), ("code", "abc", "a1"), ("size", "l", "m"), ("even", 8, 7), ("even", 8, 10),
        ("born", "1900-01-02", "1900-01-01"), ("seen", "2100-01-01T00:00:00Z", "2100-01-01T00:00:01Z"),
        ("cost", "99.99", "999.99"), ("cost", "0", "-1"), ("cost", "0.01", "0.001"), ("tags", [1, 2], [1, 2, 3]),
    ],
)  # fmt: skip
def test_a_value_is_taken_by_both_or_by_neither(name: str, good: Any, bad: Any) -> None:
    kind = again()
    assert getattr(made(kind, {name: good}), name) == getattr(made(Ruled, {name: good}), name)
    for each in (kind, Ruled):
        with pytest.raises(InvalidInput):
            made(each, {name: bad})


def test_what_cannot_be_recorded_is_left_to_the_application() -> None:
    rules = {said["column_name"]: said["rules"] for said in map(recorded, Ruled.domicile_table.columns)}
    assert rules["when"] is None, "a time without a zone is no value of the field"
    assert rules["free"] is None
    assert json.loads(rules["even"]) == {"constraints": {"lt": 9, "multiple_of": 2}}, "a function is not told"
    assert json.loads(rules["face"]) == {"constraints": {"min_length": 2}}
