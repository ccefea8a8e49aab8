"""The schema of a cell, applied by an operator: the system's own, then one table for each record class.

The system's part is ``sql/system.sql``; a record table is written from its class here, since only the class
knows the columns. Names come from classes that ``describe`` accepted, and are quoted all the same. Applying
the same classes again changes nothing; a class that no longer fits its table is refused as a whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import asyncpg

from domicile.model.errors import Conflict
from domicile.sdk.records import Record
from domicile.sdk.store.failures import untold
from domicile.sdk.store.queries import query, script
from domicile.sdk.tables import Column, Table


def _quote(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def create_table(table: Table, jurisdiction: str) -> str:
    """The statements that make a record table, its trigger, its row security and its grants. Pure."""
    name = f"public.{_quote(table.name)}"
    columns = "".join(
        f"    {_quote(column)} {sql_type}{'' if nullable else ' NOT NULL'},\n"
        for column, sql_type, nullable in table.stored
    )
    indexes = "".join(
        f"CREATE INDEX ON {name} ({'' if column.find == 'cell' else 'subject_key, '}{_quote(column.index)});\n"
        for column in table.columns
        if column.find
    )
    abroad = ", ".join(["id", "subject_key", *(_quote(column.name) for column in table.columns if not column.personal)])
    return f"""
CREATE TABLE {name} (
    jurisdiction text NOT NULL CHECK (jurisdiction = {_literal(jurisdiction)}),
    subject_key bytea NOT NULL,
    principal_key bytea NOT NULL,
    id uuid NOT NULL,
    epoch bigint NOT NULL,
    version bigint NOT NULL DEFAULT 1,
{columns}    created_at timestamp with time zone NOT NULL DEFAULT clock_timestamp(),
    updated_at timestamp with time zone NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (subject_key, id)
);
{indexes}CREATE TRIGGER domicile_check BEFORE INSERT OR UPDATE OR DELETE ON {name}
    FOR EACH ROW EXECUTE FUNCTION domicile.check_row();
ALTER TABLE {name} ENABLE ROW LEVEL SECURITY;
CREATE POLICY domicile_subject ON {name} TO domicile_app, domicile_abroad
    USING (subject_key = (SELECT decode(current_setting('domicile.subject', true), 'hex')));
REVOKE ALL ON {name} FROM PUBLIC;
GRANT SELECT, INSERT, UPDATE, DELETE ON {name} TO domicile_app;
GRANT SELECT ({abroad}) ON {name} TO domicile_abroad;
"""  # noqa: S608 - names of classes that were checked


def describe_column(column: Column) -> tuple[Any, ...]:
    """What ``domicile.columns`` keeps of a column, after the table's name."""
    return (
        column.name,
        "personal" if column.personal else "shareable",
        column.field.category,
        column.sealed,
        column.find,
        column.sql_type,
        column.nullable,
    )


async def _apply_table(connection: asyncpg.Connection, table: Table, jurisdiction: str) -> None:
    wanted = {describe_column(column) for column in table.columns}
    applied = {tuple(row) for row in await connection.fetch(query("applied_columns"), table.name)}
    if applied == wanted:
        return
    if applied:
        raise Conflict(
            f"table {table.name} was applied with other columns or classes",
            where="schema",
            remedy="give the changed record a table of its own",
        )
    await connection.execute(create_table(table, jurisdiction))
    for column in table.columns:
        await connection.execute(query("note_column"), table.name, *describe_column(column))


async def _apply(connection: asyncpg.Connection, cell: str, jurisdiction: str, tables: Sequence[Table]) -> None:
    async with connection.transaction():
        await connection.execute(query("one_at_a_time"))
        await connection.execute(script("system"))
        there = await connection.fetchrow(query("cell"))
        if there is None:
            await connection.execute(query("found_cell"), cell, jurisdiction)
        elif tuple(there) != (cell, jurisdiction):
            raise Conflict(
                f"this is cell {there['cell']} of {there['jurisdiction']}, not {cell} of {jurisdiction}",
                where="schema",
                remedy="check the address",
            )
        for table in tables:
            await _apply_table(connection, table, jurisdiction)


async def apply_schema(
    connection: asyncpg.Connection, cell: str, jurisdiction: str, records: Sequence[type[Record]]
) -> None:
    """Make this database the storage of ``cell``, with a table for each record class; all of it or nothing.

    ``connection`` is a superuser's. Raises Conflict for a database of another cell, for a table that was
    applied from another shape of its class, and for two classes of one table.
    """
    tables = [record.domicile_table for record in records]
    names = [table.name for table in tables]
    if len(set(names)) != len(names):
        raise Conflict("two record classes name one table", where="schema", remedy="give each its own")
    await untold(_apply(connection, cell, jurisdiction, tables))
