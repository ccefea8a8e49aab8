"""How a table comes from the classes that were applied to the one that is wanted: as statements, on plain data.

What only adds is done while old code runs: a new column allows NULL, which old code writes and old rows have. What
loses something, or lets something cross the border that could not before, is *destructive* and wants a word from the
operator. What would leave rows unread or unfound is refused: a field of its own is the way.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from domicile.model.errors import Conflict
from domicile.sdk.tables import INDEX_SUFFIX, Column, Table


@dataclass(frozen=True, slots=True)
class Applied:
    """A column as ``domicile.columns`` has it."""

    name: str
    personal: bool
    category: str
    sealed: bool
    find: str | None
    sql_type: str
    nullable: bool

    @classmethod
    def of(cls, column: Column) -> Applied:
        return cls(
            column.name,
            column.personal,
            column.field.category,
            column.sealed,
            column.find,
            column.sql_type,
            column.nullable,
        )


@dataclass(frozen=True, slots=True)
class Step:
    """A statement, or none. ``loses``: what it takes away for good, or None; ``column``: whose record in
    ``domicile.columns`` changes with it, to what the class says now."""

    sql: str
    column: str
    loses: str | None = None


def quote(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def index_statement(table: Table, column: Column) -> str:
    """For a column that can be found by."""
    scope = "" if column.find == "cell" else "subject_key, "
    return f"CREATE INDEX ON public.{quote(table.name)} ({scope}{quote(column.index)})"


def steps(table: Table, applied: Mapping[str, Applied]) -> list[Step]:
    """What changes a table of ``applied`` columns into this class's. Raises Conflict for what cannot be done.

    New columns first, then changes, then what goes. Pure.
    """
    found: list[Step] = []
    for column in table.columns:
        before = applied.get(column.name)
        found += _added(table, column) if before is None else _changed(table, column, before)
    for name in applied.keys() - table.by_name.keys():
        found += _removed(table, applied[name])
    return sorted(found, key=lambda step: step.loses is not None)


def _refuse(table: Table, column: str, what: str, remedy: str) -> Conflict:
    return Conflict(what, where=f"schema: {table.name}.{column}", remedy=remedy)


def _alter(table: Table, change: str) -> str:
    return f"ALTER TABLE public.{quote(table.name)} {change}"


def _added(table: Table, column: Column) -> list[Step]:
    if not column.nullable:
        raise _refuse(
            table,
            column.name,
            "a new field that does not allow None, which rows that are there have, and old code writes",
            "type | None = None",
        )
    parts = [_alter(table, f"ADD COLUMN {quote(column.name)} {column.sql_type}")]
    if column.find:
        parts += [_alter(table, f"ADD COLUMN {quote(column.index)} bytea"), index_statement(table, column)]
    if not column.personal:
        parts.append(f"GRANT SELECT ({quote(column.name)}) ON public.{quote(table.name)} TO domicile_abroad")
    return [Step(sql, column.name) for sql in parts]


def _changed(table: Table, column: Column, before: Applied) -> list[Step]:
    now = Applied.of(column)
    name = quote(column.name)
    if (now.sql_type, now.sealed) != (before.sql_type, before.sealed):
        raise _refuse(table, column.name, "another type, or another way to lie at rest", "a field of its own")
    if now.find != before.find and now.find is not None:
        raise _refuse(table, column.name, "rows that are there have no such index", "a field of its own")
    found: list[Step] = []
    if before.find is not None and now.find is None:
        drop = _alter(table, f"DROP COLUMN {quote(column.name + INDEX_SUFFIX)}")
        found.append(Step(drop, column.name, f"{column.name} can no longer be found by"))
    if now.nullable and not before.nullable:
        found.append(Step(_alter(table, f"ALTER COLUMN {name} DROP NOT NULL"), column.name))
    if before.nullable and not now.nullable:
        stricter = _alter(table, f"ALTER COLUMN {name} SET NOT NULL")
        found.append(Step(stricter, column.name, f"old code that writes no {column.name} is refused"))
    grant = f"SELECT ({name}) ON public.{quote(table.name)}"
    if before.personal and not now.personal:
        found.append(Step(f"GRANT {grant} TO domicile_abroad", column.name, f"{column.name} may cross the border"))
    if now.personal and not before.personal:
        found.append(Step(f"REVOKE {grant} FROM domicile_abroad", column.name))
    if now.category != before.category and not found:
        found.append(Step("", column.name))  # on record alone
    return found


def _removed(table: Table, before: Applied) -> list[Step]:
    names = [before.name] + ([before.name + INDEX_SUFFIX] if before.find else [])
    return [
        Step(_alter(table, f"DROP COLUMN {quote(name)}"), before.name, f"every value of {before.name}")
        for name in names
    ]


def applied_of(row: Any) -> Applied:
    """From a row of ``domicile.columns``."""
    return Applied(
        row["column_name"],
        row["class"] == "personal",
        row["category"],
        row["sealed"],
        row["find"],
        row["sql_type"],
        row["nullable"],
    )
