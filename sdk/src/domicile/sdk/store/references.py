"""Reference tables in a cell: made by a schema's application, filled by an operator, read by the application's role.

They have no fence, since they belong to no subject, and need none, since no role that a service logs in as has a right
to write them; ``loose_tables`` of ``sql/schema.sql`` holds them to that. What a load brings takes the place of all
that was there, in one transaction, so that the same file makes the same table in every cell. Where the manifest names
the cell that writes a table, it is loaded there alone, and the others' gateways pull it (``pulls``).
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final, NamedTuple

import asyncpg

from domicile.model.errors import Conflict, InvalidInput
from domicile.sdk.references import Reference
from domicile.sdk.store import ddl
from domicile.sdk.store.changes import Found, Refusal, Step
from domicile.sdk.store.port import Condition
from domicile.sdk.store.pulls import MAX_ROWS, PERSONAL
from domicile.sdk.store.queries import query
from domicile.sdk.tables import Column, ReferenceTable

MAX_ROW: Final = 1 << 20
"""Characters and bytes of one row: a page that another cell pulls holds one at least."""


@dataclass(frozen=True)
class Loaded:
    """``digest``: of the rows, the same in every cell that has the same. ``changed``: whether it had others before."""

    rows: int
    digest: str
    changed: bool


def recorded(table: ReferenceTable, column: Column) -> dict[str, Any]:
    """What ``domicile.reference_columns`` keeps of a field, beside the table's name."""
    return {
        "column_name": column.name,
        "category": column.field.category,
        "sql_type": column.kind.sql,
        "nullable": column.nullable,
        "default": ddl.default(column),
        "key_place": table.key.index(column.name) + 1 if column.name in table.key else None,
    }


def _note(table: ReferenceTable, column: Column) -> str:
    return ddl.upsert(
        "domicile.reference_columns",
        {"table_name": table.name, **recorded(table, column)},
        key=("table_name", "column_name"),
    )


def create(table: ReferenceTable) -> str:
    """The statements that make a reference table: the application's role reads it, and nobody else does anything."""
    name = ddl.place(table.name)
    columns = "".join(f"    {part},\n" for column in table.columns for part in ddl.columns_of(column))
    notes = "\n".join(_note(table, column) for column in table.columns)
    return f"""
CREATE TABLE {name} (
{columns}    PRIMARY KEY ({", ".join(map(ddl.quote, table.key))})
);
REVOKE ALL ON {name} FROM PUBLIC;
GRANT SELECT ON {name} TO domicile_app;
{notes}
""".strip()


def _drop(name: str) -> str:
    where = f"WHERE table_name = {ddl.literal(name)};"
    return (
        f"DROP TABLE IF EXISTS {ddl.place(name)};\n"
        f"DELETE FROM domicile.reference_columns {where}\nDELETE FROM domicile.reference_loads {where}\n"
        f"DELETE FROM domicile.reference_pulls {where}"
    )


class Changes(NamedTuple):
    """``used``: the drops that were named for something."""

    steps: list[Step]
    refusals: list[Refusal]
    used: set[str]


def compare(tables: Iterable[ReferenceTable], found: Found, drops: Collection[str]) -> Changes:
    """How to get from what is found to the classes' tables. Pure. Rows come anew with every load, so that a table that
    changed otherwise than by a new field is dropped, where that is said, and made again.
    """
    changes = Changes([], [], set())
    wanted = {table.name: table for table in tables}
    for name in sorted(set(drops) & found.references.keys()):
        changes.used.add(name)
        changes.steps.append(Step(f"drop table {name} and its rows", _drop(name)))
    for name in sorted(wanted):
        before = None if name in changes.used else found.references.get(name)
        if before is not None:
            _alter(wanted[name], before, changes)
        elif name in found.stored and name not in changes.used:
            changes.refusals.append(
                Refusal(name, "is a table that no class of references made", "give the class another table=")
            )
        else:
            changes.steps.append(Step(f"create table {name}", create(wanted[name])))
    return changes


def _alter(table: ReferenceTable, before: Mapping[str, Mapping[str, Any]], changes: Changes) -> None:
    added = [column for column in table.columns if column.name not in before]
    gone = sorted(before.keys() - table.by_name.keys())
    for column in table.columns:
        said = recorded(table, column)
        if column.name in before and said != {name: before[column.name].get(name) for name in said}:
            gone.append(column.name)
    fixed = [each.name for each in added if each.name in table.key or not (each.nullable or ddl.default(each))]
    if gone or fixed:
        what = f"changes {', '.join([*gone, *fixed])}, which rows that are there cannot follow"
        remedy = f"--drop {table.name}, then `domicile schema load` it again"
        changes.refusals.append(Refusal(table.name, what, remedy))
        return
    for column in added:
        parts = ", ".join(f"ADD COLUMN {part}" for part in ddl.columns_of(column))
        sql = f"ALTER TABLE {ddl.place(table.name)} {parts};\n{_note(table, column)}"
        changes.steps.append(Step(f"add {table.name}.{column.name}", sql))


def select(table: ReferenceTable, conditions: Sequence[Condition]) -> str:
    """Rows that meet every condition, in the order of their key."""
    columns = ", ".join(f't."{column.name}"' for column in table.columns)
    wheres = " AND ".join(f't."{each.column}" {each.operator.value} ${n}' for n, each in enumerate(conditions, start=1))
    order = ", ".join(f't."{name}"' + (' COLLATE "C"' if table.by_name[name].kind.python is str else "")
                      for name in table.key)  # fmt: skip
    return (
        f'SELECT {columns} FROM public."{table.name}" AS t '  # noqa: S608 - checked names
        f"{f'WHERE {wheres} ' if wheres else ''}ORDER BY {order}"
    )


def _spelled(value: Any) -> Any:
    """One spelling of what PostgreSQL gives back in another."""
    if isinstance(value, Decimal):
        return value.normalize() + 0
    return value.astimezone(UTC) if isinstance(value, datetime) else value


def _values(table: ReferenceTable, row: Mapping[str, Any]) -> tuple[Any, ...]:
    given = ((column, row[column.name]) for column in table.columns)
    return tuple(None if value is None else column.clear(column.kind.plain(value)) for column, value in given)


def digest(table: ReferenceTable, rows: Iterable[tuple[Any, ...]]) -> str:
    """Of rows in whatever order."""
    spelled = sorted(
        b",".join(
            b"null" if value is None else column.kind.dump(_spelled(value))
            for column, value in zip(table.columns, row, strict=True)
        )
        for row in rows
    )
    return hashlib.sha256(b"\n".join(spelled)).hexdigest()


def _check_impersonal(table: ReferenceTable, row: Reference, number: int) -> None:
    for name, value in vars(row).items():
        if isinstance(value, str | bytes) and (found := PERSONAL.findings(value, name)):
            raise InvalidInput(
                f"row {number} holds what looks personal ({found[0].rule})",
                where=f"{table.name}.{name}",
                remedy="a class of Record keeps it with its subject",
            )


def checked(table: ReferenceTable, rows: Sequence[Reference]) -> list[tuple[Any, ...]]:
    """Rows as they are stored. Raises InvalidInput for too many, for a key that is there twice and for a value that
    looks personal, which it doesn't quote.
    """
    if len(rows) > MAX_ROWS:
        raise InvalidInput(f"at most {MAX_ROWS:,} rows", where=table.name)
    seen: set[tuple[Any, ...]] = set()
    for number, row in enumerate(rows, start=1):
        key = tuple(getattr(row, name) for name in table.key)
        if key in seen:
            raise InvalidInput(f"row {number} has the key of one before it", where=table.name)
        seen.add(key)
        _check_impersonal(table, row, number)
        if sum(len(value) for value in vars(row).values() if isinstance(value, str | bytes)) > MAX_ROW:
            raise InvalidInput(f"row {number} has more than {MAX_ROW:,} characters", where=table.name)
    return [_values(table, vars(row)) for row in rows]


def _name_of(recorded: Mapping[str, Any]) -> str:
    return str(recorded["column_name"])


async def replace(
    connection: asyncpg.Connection, table: ReferenceTable, rows: list[tuple[Any, ...]], by: str
) -> Loaded:
    """In the caller's transaction, as the tables' owner. Raises Conflict where the table is not what the class says."""
    applied = await connection.fetch(query("reference_columns"), table.name)
    said_by_class = [{"table_name": table.name, **recorded(table, column)} for column in table.columns]
    if sorted(map(dict, applied), key=_name_of) != sorted(said_by_class, key=_name_of):
        raise Conflict("is not applied as its class says", where=table.name, remedy="run `domicile schema apply` first")
    if (writer := await connection.fetchval(query("reference_source"), table.name)) is not None:
        raise Conflict(
            f"is written in cell {writer}", where=table.name, remedy="load it there: the other cells' gateways pull it"
        )
    await connection.execute(f"LOCK TABLE {ddl.place(table.name)} IN SHARE ROW EXCLUSIVE MODE")
    names = [column.name for column in table.columns]
    there = await connection.fetch(select(table, ()))
    said = digest(table, rows)
    if digest(table, (_values(table, dict(row)) for row in there)) == said:
        return Loaded(len(rows), said, changed=False)
    await connection.execute(f"DELETE FROM {ddl.place(table.name)}")  # noqa: S608 - readers of before go on reading
    await connection.copy_records_to_table(table.name, schema_name="public", columns=names, records=rows)
    await connection.execute(query("note_load"), table.name, said, len(rows), by)
    return Loaded(len(rows), said, changed=True)
