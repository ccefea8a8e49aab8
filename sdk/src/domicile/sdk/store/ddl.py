"""The SQL of a record table, with every lock that it must have: written from its class, since only that knows it.

Names come from classes that ``describe`` accepted, and are quoted all the same. All of it is pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, time, timedelta
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

from domicile.sdk.tables import Column, Table

EXPIRES: Final = "expires_at"


def quote(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _sql(value: str | bool | int | None) -> str:
    if value is None:
        return "NULL"
    return literal(value) if isinstance(value, str) else str(value).lower()


def upsert(table: str, row: Mapping[str, Any], key: tuple[str, ...]) -> str:
    """The statement that puts a row into a table of the system's own."""
    changes = ", ".join(f"{quote(name)} = excluded.{quote(name)}" for name in row if name not in key)
    names, values = ", ".join(map(quote, row)), ", ".join(map(_sql, row.values()))
    return (
        f"INSERT INTO {table} ({names}) VALUES ({values})\n"  # noqa: S608 - quoted
        f"ON CONFLICT ({', '.join(key)}) DO UPDATE SET {changes};"
    )


def place(table: str) -> str:
    return f"public.{quote(table)}"


def value(given: Any, sql_type: str) -> str:
    """A default of a class as SQL."""
    match given:
        case bool():
            text = str(given).lower()
        case bytes():
            text = f"\\x{given.hex()}"
        case date() | time():  # a datetime is one too
            text = given.isoformat()
        case str() | int() | float() | Decimal() | UUID():
            text = str(given)
        case _:
            raise AssertionError(type(given))
    return f"{literal(text)}::{sql_type}"


def default(column: Column) -> str | None:
    """What rows hold that were written without the column; None where that is NULL."""
    if column.default is None or column.sql_nullable:
        return None
    return value(column.clear(column.default), column.sql_type)


def columns_of(column: Column) -> list[str]:
    """The definitions of what one field is stored in: its column, and its blind index."""
    given = default(column)
    tail = ("" if column.sql_nullable else " NOT NULL") + ("" if given is None else f" DEFAULT {given}")
    found = [f"{quote(column.name)} {column.sql_type}{tail}"]
    if column.find:
        found.append(f"{quote(column.index)} bytea{'' if column.sql_nullable else ' NOT NULL'}")
    return found


def expiry(keep: timedelta | None) -> str:
    """The default of ``expires_at``."""
    if keep is None:
        return "NULL"
    return f"clock_timestamp() + make_interval(secs => {keep.total_seconds():.0f})"


def indexes_of(table: Table) -> list[tuple[str, ...]]:
    """The columns of each index beside the primary key, in their order."""
    found: list[tuple[str, ...]] = [
        (column.index,) if column.find == "cell" else ("subject_key", column.index)
        for column in table.columns
        if column.find
    ]
    found += [("subject_key", name, "id") for name in table.indexes]
    return [*found, (EXPIRES,)] if table.keep is not None else found


def create_index(table: str, columns: tuple[str, ...], *, concurrently: bool) -> str:
    how = "CREATE INDEX CONCURRENTLY" if concurrently else "CREATE INDEX"
    rows = f" WHERE {EXPIRES} IS NOT NULL" if columns == (EXPIRES,) else ""
    return f"{how} ON {place(table)} ({', '.join(map(quote, columns))}){rows};"


def show_abroad(table: str, columns: list[str]) -> str:
    """Another jurisdiction may read these columns and no others."""
    return f"GRANT SELECT ({', '.join(columns)}) ON {place(table)} TO domicile_abroad;"


def across(table: str) -> str:
    """The role that looks across a cell's subjects may read, and nothing else."""
    return f"""CREATE POLICY domicile_across ON {place(table)} FOR SELECT TO domicile_cell USING (true);
GRANT SELECT ON {place(table)} TO domicile_cell;"""


def create_table(table: Table, jurisdiction: str) -> str:
    """The statements that make a record table, its trigger, its row security, its grants and its indexes."""
    name = place(table.name)
    columns = "".join(f"    {definition},\n" for column in table.columns for definition in columns_of(column))
    indexes = "".join(create_index(table.name, index, concurrently=False) + "\n" for index in indexes_of(table))
    abroad = ["id", "subject_key", *(quote(column.name) for column in table.columns if not column.personal)]
    return f"""
CREATE TABLE {name} (
    jurisdiction text NOT NULL CHECK (jurisdiction = {literal(jurisdiction)}),
    subject_key bytea NOT NULL,
    principal_key bytea NOT NULL,
    id uuid NOT NULL,
    epoch bigint NOT NULL,
    version bigint NOT NULL DEFAULT 1,
{columns}    created_at timestamp with time zone NOT NULL DEFAULT clock_timestamp(),
    updated_at timestamp with time zone NOT NULL DEFAULT clock_timestamp(),
    {EXPIRES} timestamp with time zone DEFAULT {expiry(table.keep)},
    PRIMARY KEY (subject_key, id)
);
{indexes}CREATE TRIGGER domicile_check BEFORE INSERT OR UPDATE OR DELETE ON {name}
    FOR EACH ROW EXECUTE FUNCTION domicile.check_row();
ALTER TABLE {name} ENABLE ROW LEVEL SECURITY;
CREATE POLICY domicile_subject ON {name} TO domicile_app, domicile_abroad
    USING (subject_key = (SELECT decode(current_setting('domicile.subject', true), 'hex')));
{across(table.name)}
REVOKE ALL ON {name} FROM PUBLIC;
GRANT SELECT, INSERT, UPDATE, DELETE ON {name} TO domicile_app;
{show_abroad(table.name, abroad)}
""".strip()  # noqa: S608 - names of classes that were checked
