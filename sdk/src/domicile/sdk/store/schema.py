"""The schema of a cell, applied by an operator: the system's own, then one table for each record class.

The system's part is ``sql/system.sql``; a record table is written from its class here, since only the class
knows the columns. Names come from classes that ``describe`` accepted, and are quoted all the same. Applying
the same classes again changes nothing; a class that has changed is brought to its table by ``upgrades``, all of it or
nothing, one operator at a time, and what was done is kept in ``domicile.revisions``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import asyncpg

from domicile.model.errors import Conflict
from domicile.sdk.records import Record
from domicile.sdk.store.failures import untold
from domicile.sdk.store.queries import query, script
from domicile.sdk.store.upgrades import Step, applied_of, index_statement, quote, steps
from domicile.sdk.tables import Column, Table


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def create_table(table: Table, jurisdiction: str) -> str:
    """The statements that make a record table, its trigger, its row security and its grants. Pure."""
    name = f"public.{quote(table.name)}"
    columns = "".join(
        f"    {quote(column)} {sql_type}{'' if nullable else ' NOT NULL'},\n"
        for column, sql_type, nullable in table.stored
    )
    indexes = "".join(f"{index_statement(table, column)};\n" for column in table.columns if column.find)
    abroad = ", ".join(["id", "subject_key", *(quote(column.name) for column in table.columns if not column.personal)])
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
CREATE POLICY domicile_across ON {name} FOR SELECT TO domicile_cell USING (true);
REVOKE ALL ON {name} FROM PUBLIC;
GRANT SELECT ON {name} TO domicile_cell;
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


@dataclass(frozen=True, slots=True)
class Plan:
    """What brings a cell's storage to some record classes. ``loses``: what is gone for good then, in words.

    ``new``: whether the database is no cell yet, so that the system schema comes first.
    """

    statements: tuple[str, ...]
    loses: tuple[str, ...]
    new: bool


async def _plan_table(connection: asyncpg.Connection, table: Table, jurisdiction: str) -> list[Step]:
    applied = [applied_of(row) for row in await connection.fetch(query("applied_columns"), table.name)]
    if not applied:
        return [Step(create_table(table, jurisdiction).strip(), column.name) for column in table.columns[:1]] + [
            Step("", column.name) for column in table.columns[1:]
        ]
    return steps(table, {column.name: column for column in applied})


async def _check_cell(connection: asyncpg.Connection, cell: str, jurisdiction: str) -> bool:
    """Whether the database has been founded as this cell. Raises Conflict for another's."""
    there = await connection.fetchrow(query("cell"))
    if there is not None and tuple(there) != (cell, jurisdiction):
        raise Conflict(
            f"this is cell {there['cell']} of {there['jurisdiction']}, not {cell} of {jurisdiction}",
            where="schema",
            remedy="check the address",
        )
    return there is not None


def _plan(changes: Mapping[Table, Sequence[Step]], *, new: bool) -> Plan:
    every = [step for found in changes.values() for step in found]
    loses = [f"{table.name}: {step.loses}" for table, found in changes.items() for step in found if step.loses]
    return Plan(tuple(step.sql for step in every if step.sql), tuple(dict.fromkeys(loses)), new)


async def _plan_all(
    connection: asyncpg.Connection, cell: str, jurisdiction: str, tables: Sequence[Table]
) -> tuple[dict[Table, list[Step]], Plan]:
    founded = await _check_cell(connection, cell, jurisdiction)
    changes = {table: await _plan_table(connection, table, jurisdiction) for table in tables}
    return changes, _plan(changes, new=not founded)


async def _note(connection: asyncpg.Connection, table: Table, found: Sequence[Step]) -> None:
    for name in {step.column: None for step in found}:
        await connection.execute(query("forget_column"), table.name, name)
        if name in table.by_name:
            await connection.execute(query("note_column"), table.name, *describe_column(table.by_name[name]))


async def _apply(
    connection: asyncpg.Connection, cell: str, jurisdiction: str, tables: Sequence[Table], *, destructive: bool
) -> Plan:
    async with connection.transaction():
        await connection.execute(query("wait_for_locks"))
        await connection.execute(query("one_at_a_time"))
        await connection.execute(script("system"))
        changes, plan = await _plan_all(connection, cell, jurisdiction, tables)
        if plan.new:
            await connection.execute(query("found_cell"), cell, jurisdiction)
        if plan.loses and not destructive:
            raise Conflict(
                f"something would be lost: {'; '.join(plan.loses)}",
                where="schema",
                remedy="`domicile schema plan` shows the statements, `apply --destructive` runs them",
            )
        for table, found in changes.items():
            for step in found:
                if step.sql:
                    await connection.execute(step.sql)
            await _note(connection, table, found)
        if plan.statements:
            await connection.execute(query("note_revision"), list(plan.statements))
    return plan


async def _dry(connection: asyncpg.Connection, cell: str, jurisdiction: str, tables: Sequence[Table]) -> Plan:
    async with connection.transaction(readonly=True):
        if await connection.fetchval(query("is_cell")):
            return (await _plan_all(connection, cell, jurisdiction, tables))[1]
        changes = {table: [Step(create_table(table, jurisdiction).strip(), "")] for table in tables}
        return _plan(changes, new=True)


def _tables(records: Sequence[type[Record]]) -> list[Table]:
    tables = [record.domicile_table for record in records]
    names = [table.name for table in tables]
    if len(set(names)) != len(names):
        raise Conflict("two record classes name one table", where="schema", remedy="give each its own")
    return tables


async def plan_schema(
    connection: asyncpg.Connection, cell: str, jurisdiction: str, records: Sequence[type[Record]]
) -> Plan:
    """What ``apply_schema`` would do; changes nothing. Raises what it raises, but for what would be lost."""
    return await untold(_dry(connection, cell, jurisdiction, _tables(records)))


async def apply_schema(
    connection: asyncpg.Connection,
    cell: str,
    jurisdiction: str,
    records: Sequence[type[Record]],
    *,
    destructive: bool = False,
) -> Plan:
    """Make this database the storage of ``cell``, with a table for each record class; all of it or nothing.

    ``connection`` is a superuser's. ``destructive``: whether something may be lost. Raises Conflict for a database of
    another cell, for a change that cannot be made or was not allowed, and for two classes of one table; Unavailable
    where a table stays in use, so that others are not held up behind it.
    """
    return await untold(_apply(connection, cell, jurisdiction, _tables(records), destructive=destructive))
