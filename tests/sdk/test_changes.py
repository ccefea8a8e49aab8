"""What a change of a class costs its table: applied where nothing is lost, else refused with the remedy."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Annotated, Any
from uuid import UUID

import pytest

from domicile.sdk import ModelError, Personal, Principal, Record, Shareable
from domicile.sdk.store import ddl
from domicile.sdk.store.changes import Found, Index, Plan, compare, recorded, recorded_about
from domicile.sdk.tables import KINDS, Table

PRIVATE = Personal("user.content.private")
TOPIC = Shareable("user.content.topic")


class Before(Record, table="notes"):
    text: Annotated[str, PRIVATE]
    topic: Annotated[str, TOPIC]
    found: Annotated[str | None, Personal("user.name", find=True)] = None
    clear: Annotated[int | None, Personal("user.demographic.age_range", sealed=False)] = None


def found(table: Table, *, indexes: Collection[Index] | None = None, **changes: Any) -> Found:
    """A database to which this table was applied."""
    columns = {column.name: recorded(column) | changes for column in table.columns}
    if table.about is not None:
        columns[table.about.name] = recorded_about(table.about)
    stored = {name for name, _, _ in table.stored} | {"id", "expires_at"}
    built = [Index(columns, f"index_{number}", True) for number, columns in enumerate(ddl.indexes_of(table))]
    keep = {} if table.keep is None else {table.name: round(table.keep.total_seconds())}
    there = built if indexes is None else indexes
    return Found({table.name: columns}, {table.name: stored}, {table.name: there}, keep, [table.name])


def plan(record: type[Record], *drops: str, before: type[Record] = Before, **changes: Any) -> Plan:
    return compare([record.domicile_table], found(before.domicile_table, **changes), "eu", drops)


def altered(name: str, annotation: Any, default: Any = ...) -> type[Record]:
    """``Before`` with one field declared otherwise, or added."""
    namespace: dict[str, Any] = {"__annotations__": {name: annotation}, "__module__": __name__}
    if default is not ...:
        namespace[name] = default
    return type("After", (Before,), namespace, table="notes")


def test_what_was_applied_needs_nothing() -> None:
    assert plan(Before) == Plan(())


def test_a_new_table_comes_with_every_lock() -> None:
    made = compare([Before.domicile_table], Found(), "eu")
    (step,) = made.steps
    assert not step.outside
    for lock in ("CHECK (jurisdiction = 'eu')", "domicile_check", "ROW LEVEL SECURITY", "CREATE POLICY", "REVOKE ALL"):
        assert lock in step.sql
    assert step.sql.count("INSERT INTO domicile.columns") == 4


@pytest.mark.parametrize(
    ("annotation", "default", "expected"),
    [
        (Annotated[str | None, TOPIC], None, 'ADD COLUMN "added" text;'),
        (Annotated[str, TOPIC], "it's", "ADD COLUMN \"added\" text NOT NULL DEFAULT 'it''s'::text;"),
        (Annotated[bool, TOPIC], True, "DEFAULT 'true'::boolean;"),
        (Annotated[int, TOPIC], 0, "DEFAULT '0'::bigint;"),
        (Annotated[Decimal, TOPIC], Decimal("1.50"), "DEFAULT '1.50'::numeric;"),
        (Annotated[float, TOPIC], 0.5, "DEFAULT '0.5'::double precision;"),
        (Annotated[bytes, TOPIC], b"\0'", "DEFAULT '\\x0027'::bytea;"),
        (Annotated[date, TOPIC], date(2020, 2, 29), "DEFAULT '2020-02-29'::date;"),
        (Annotated[UUID, TOPIC], UUID(int=1), "DEFAULT '00000000-0000-0000-0000-000000000001'::uuid;"),
        (Annotated[datetime, TOPIC], datetime(2020, 1, 1, tzinfo=UTC), "DEFAULT '2020-01-01T00:00:00+00:00'"),
        (Annotated[str, PRIVATE], "unknown", 'ADD COLUMN "added" bytea;'),
        (Annotated[str | None, Personal("user.name", find=True)], None, 'ADD COLUMN "added_index" bytea;'),
    ],
)
def test_a_new_field_is_applied_where_rows_of_before_have_a_value(annotation: Any, default: Any, expected: str) -> None:
    made = plan(altered("added", annotation, default))
    assert made.refusals == ()
    assert expected in made.steps[0].sql
    assert not made.steps[0].outside
    shown = 'GRANT SELECT ("added")' in made.steps[0].sql
    assert shown == (TOPIC in annotation.__metadata__), "abroad sees what is shareable, and nothing else"


@pytest.mark.parametrize(
    ("name", "annotation", "default", "why"),
    [
        ("added", Annotated[str, TOPIC], ..., "no value"),
        ("added", Annotated[str, PRIVATE], ..., "no value"),
        ("added", Annotated[str, Personal("user.name", find=True)], "x", "found by its default"),
        ("text", Annotated[str, Personal("user.content.private", sealed=False)], ..., "was sealed and is clear"),
        ("clear", Annotated[int | None, Personal("user.demographic.age_range")], None, "was clear and is sealed"),
        ("text", Annotated[str, TOPIC], ..., "was personal and is shareable"),
        ("topic", Annotated[str, PRIVATE], ..., "was shareable and is personal"),
        ("topic", Annotated[int, TOPIC], ..., "was a str and is a int"),
        ("text", Annotated[bytes, PRIVATE], ..., "was a str and is a bytes"),
        ("text", Annotated[str, Personal("user.content.private", find=True)], ..., "found by"),
        ("found", Annotated[str | None, Personal("user.name")], None, "found by"),
        ("found", Annotated[str | None, Personal("user.name", find="cell")], None, "found by"),
        ("clear", Annotated[int, Personal("user.demographic.age_range", sealed=False)], ..., "may be None"),
    ],
)
def test_what_would_lose_or_confuse_something_is_refused(name: str, annotation: Any, default: Any, why: str) -> None:
    (refusal,) = plan(altered(name, annotation, default)).refusals
    assert refusal.where == f"notes.{name}"
    assert why in refusal.what
    assert refusal.remedy


@pytest.mark.parametrize(
    ("name", "annotation", "default"),
    [
        ("clear", Annotated[str | None, Personal("user.demographic.age_range")], None),
        ("topic", Annotated[int, TOPIC], 0),
    ],
)
def test_a_change_whose_values_were_given_up_drops_and_adds(name: str, annotation: Any, default: Any) -> None:
    made = plan(altered(name, annotation, default), f"notes.{name}")
    assert made.refusals == ()
    dropped, added = made.steps
    assert f'DROP COLUMN "{name}"' in dropped.sql
    assert f'ADD COLUMN "{name}"' in added.sql


def test_a_field_that_is_gone_is_dropped_by_name_only() -> None:
    class After(Record, table="notes"):
        text: Annotated[str, PRIVATE]
        clear: Annotated[int | None, Personal("user.demographic.age_range", sealed=False)] = None

    assert [refusal.where for refusal in plan(After).refusals] == ["notes.found", "notes.topic"]
    assert [refusal.where for refusal in plan(After, "notes.topic").refusals] == ["notes.found"]
    made = plan(After, "notes.topic", "notes.found")
    assert made.refusals == ()
    assert 'DROP COLUMN "found", DROP COLUMN "found_index"' in made.steps[0].sql
    assert plan(Before, "notes.topic", "orders").unused == ("notes.topic", "orders")


def test_a_renamed_field_is_refused_whatever_it_looks_like() -> None:
    class After(Record, table="notes"):
        body: Annotated[str, PRIVATE]
        topic: Annotated[str, TOPIC]
        found: Annotated[str | None, Personal("user.name", find=True)] = None
        clear: Annotated[int | None, Personal("user.demographic.age_range", sealed=False)] = None

    assert [refusal.where for refusal in plan(After).refusals] == ["notes.text", "notes.body"]


def test_what_loses_nothing_is_changed_in_place() -> None:
    (step,) = plan(altered("topic", Annotated[str | None, TOPIC], None)).steps
    assert 'ALTER COLUMN "topic" DROP NOT NULL' in step.sql
    (step,) = plan(altered("topic", Annotated[str, TOPIC], "general")).steps
    assert "SET DEFAULT 'general'" in step.sql
    (step,) = plan(Before, before=altered("topic", Annotated[str, TOPIC], "general")).steps
    assert 'ALTER COLUMN "topic" DROP DEFAULT' in step.sql
    (step,) = plan(altered("text", Annotated[str, Personal("user.content")])).steps
    assert "ALTER TABLE" not in step.sql, "a category is a matter of record"
    assert "'user.content'" in step.sql


def test_an_index_of_a_table_in_use_holds_no_writer_up_and_comes_last() -> None:
    class After(Before, table="notes", indexes=("topic",)):
        added: Annotated[str | None, Personal("user.name", find="cell")] = None

    made = plan(After)
    assert [step.outside for step in made.steps] == [False, True, True]
    assert [step.sql for step in made.steps[1:]] == [
        'CREATE INDEX CONCURRENTLY ON public."notes" ("added_index");',
        'CREATE INDEX CONCURRENTLY ON public."notes" ("subject_key", "topic", "id");',
    ]


def test_what_is_left_of_an_index_whose_build_was_cut_off_is_built_again() -> None:
    left = Index(("subject_key", "found_index"), "left", False)
    assert [step.sql for step in plan(Before, indexes=[left]).steps] == [
        'DROP INDEX CONCURRENTLY public."left";',
        'CREATE INDEX CONCURRENTLY ON public."notes" ("subject_key", "found_index");',
    ]


def test_how_long_rows_are_kept_is_told_to_the_database() -> None:
    class Kept(Before, table="notes", keep=timedelta(days=1)):
        pass

    kept, index = plan(Kept).steps
    assert "make_interval(secs => 86400)" in kept.sql
    assert index.sql.endswith('("expires_at") WHERE expires_at IS NOT NULL;')
    (forever,) = plan(Before, before=Kept).steps
    assert "SET DEFAULT NULL" in forever.sql
    assert "DELETE FROM domicile.retention" in forever.sql


def test_a_table_of_before_the_looks_across_subjects_is_opened_to_them() -> None:
    before = replace(found(Before.domicile_table), across=())
    (step,) = compare([Before.domicile_table], before, "eu").steps
    assert "FOR SELECT TO domicile_cell" in step.sql


def test_a_table_is_dropped_by_name_only_and_never_one_of_a_class() -> None:
    assert compare([], found(Before.domicile_table), "eu").steps == ()
    (step,) = compare([], found(Before.domicile_table), "eu", ["notes"]).steps
    assert 'DROP TABLE IF EXISTS public."notes"' in step.sql
    (refusal,) = plan(Before, "notes").refusals
    assert "a class names it" in refusal.what


def test_a_table_that_nobody_applied_is_not_taken_over_and_a_lost_one_not_made_anew() -> None:
    (refusal,) = compare([Before.domicile_table], Found(stored={"notes": ["id"]}), "eu").refusals
    assert "no class of records made" in refusal.what
    applied = found(Before.domicile_table)
    (refusal,) = compare([Before.domicile_table], Found(applied.columns), "eu").refusals
    assert "is not there" in refusal.what


def test_fields_applied_before_their_types_were_recorded_are_recorded() -> None:
    made = plan(Before, kind=None)
    assert made.refusals == ()
    assert [step.sql.partition(" ")[0] for step in made.steps] == ["INSERT"] * 4


@pytest.mark.parametrize("annotation", [Annotated[str, PRIVATE], Annotated[str | None, PRIVATE]])
def test_a_default_that_no_column_holds_is_recorded(annotation: Any) -> None:
    said = recorded(altered("added", annotation, "x").domicile_table.by_name["added"])
    assert (said["given"], said["default"], said["nullable"]) == ('"x"', None, True)
    assert said["optional"] == (annotation == Annotated[str | None, PRIVATE])
    made = plan(altered("added", annotation, "y"), before=altered("added", annotation, "x"))
    (step,) = made.steps
    assert (step.what, step.sql.partition(" ")[0]) == ("record the type and the default of notes.added", "INSERT")


def test_fields_applied_before_their_defaults_were_recorded_are_recorded() -> None:
    made = plan(Before, optional=None)
    assert made.refusals == ()
    assert [step.sql.partition(" ")[0] for step in made.steps] == ["INSERT"] * 4


def test_every_type_of_a_field_can_be_a_default() -> None:
    for kind in KINDS.values():
        example: Any = {
            str: "x", int: 1, UUID: UUID(int=1), date: date.min, bool: False, float: 1.5, bytes: b"x",
            datetime: datetime.now(UTC), time: time.min, Decimal: Decimal(1),
        }[kind.python]  # fmt: skip
        assert ddl.value(example, kind.sql).endswith(f"'::{kind.sql}")


def test_a_default_index_or_term_that_cannot_be_is_refused_where_it_is_written() -> None:
    attempts: list[Callable[[], type[Record]]] = [
        lambda: altered("added", Annotated[int, TOPIC], "one"),
        lambda: type("A", (Before,), {"__module__": __name__}, table="notes", indexes=("text",)),
        lambda: type("A", (Before,), {"__module__": __name__}, table="notes", indexes=("nowhere",)),
        lambda: type("A", (Before,), {"__module__": __name__}, table="notes", indexes=("topic", "topic")),
        lambda: type("A", (Before,), {"__module__": __name__}, table="notes", keep=timedelta(0)),
    ]
    for declared in attempts:
        with pytest.raises(ModelError):
            declared()


class About(Before, table="notes"):
    sender: Annotated[UUID, Principal("user.unique_id")]


class Renamed(Before, table="notes"):
    writer: Annotated[UUID | None, Principal("user.unique_id")] = None


def test_a_principal_comes_without_a_column_of_its_own() -> None:
    made = compare([About.domicile_table], Found(), "eu")
    assert "VALUES ('notes', 'sender', 'principal', 'user.unique_id'" in made.steps[0].sql
    assert plan(About, before=About) == Plan(())
    for changed, before in ((About, Before), (Renamed, About)):
        (step,) = plan(changed, before=before).steps
        assert "ALTER TABLE" not in step.sql
    assert "column_name = 'sender'" in step.sql


def test_a_principal_is_forgotten_only_when_that_is_said() -> None:
    assert [refusal.where for refusal in plan(Before, before=About).refusals] == ["notes.sender"]
    (step,) = plan(Before, "notes.sender", before=About).steps
    assert step.sql.startswith("DELETE FROM domicile.columns")
    assert "ALTER TABLE" not in step.sql
