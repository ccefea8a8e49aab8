"""docs/border.md: what it declares is accepted, and what it tells to run is there."""

from __future__ import annotations

import re
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from domicile.cells.border import lineage, parse_declaration, treatments
from domicile.cells.border.plan import plan
from domicile.sample import Note, Profile
from domicile.sdk.store import RecordedColumn
from domicile.sdk.tables import Column

PAGE = (Path(__file__).parents[2] / "docs" / "border.md").read_text()


def recorded(column: Column) -> RecordedColumn:
    return RecordedColumn(
        column.name,
        "personal" if column.personal else "shareable",
        column.field.category,
        column.sealed,
        column.find,
        column.nullable,
        column.kind.python.__name__,
        None,
    )


CLASSES = {kind.domicile_table.name: tuple(map(recorded, kind.domicile_table.columns)) for kind in (Profile, Note)}


@pytest.mark.parametrize("text", re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL), ids=["records", "sql"])
def test_its_declarations_are_accepted_by_the_sample(text: str) -> None:
    made = plan(parse_declaration(text), CLASSES, "eu")
    assert made.grouped is ("sql:" in text)


def test_its_commands_are_there() -> None:
    there = {each.name for each in entry_points(group="domicile.commands.release")}
    assert set(re.findall(r"domicile release (\w+)", PAGE)) == there


def test_it_names_every_treatment_and_every_function() -> None:
    kinds = re.findall(r"^\| `([a-z-]+)`", PAGE.partition("| treatment |")[2].partition("A column's class")[0], re.M)
    assert set(kinds) == {
        "shareable", "drop", "generalise", "truncate", "pseudonym", "date", "topcode", "remove-text",
    }  # fmt: skip
    assert {kind.__name__ for kind in treatments._TAKES} <= {
        "AsItIs", "Truncate", "Pseudonym", "Coarsen", "TopCode", "RemoveText",
    }  # fmt: skip
    for function in (*lineage._FUNCTIONS, *lineage._AGGREGATES):
        said = {"cast": "casts", "timestamp_trunc": "date_trunc"}.get(name := function.sql_name().lower(), name)
        assert said in PAGE, said
