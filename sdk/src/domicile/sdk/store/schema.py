"""The schema of a cell, planned and applied by an operator: the system's own, then the record classes' tables.

The system's part is ``sql/system.sql`` with ``sql/ledger.sql``, which is numbered: a database with a higher number
keeps what it has. The tables' changes come from ``changes``, and all are known to be possible before the first is made.
Each is a transaction of its own, since one that held two tables would meet writers who hold them in the other order; it
gives way to whoever holds its table for long. Indexes of tables that are in use come last, built while writers
go on, and again where that was cut off. A revision is recorded with who applied it, its digest and statements.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final, TypeAlias

import asyncpg

from domicile.model.errors import Conflict, Unavailable
from domicile.sdk.records import Record
from domicile.sdk.references import Ref, Reference
from domicile.sdk.store import references
from domicile.sdk.store.changes import Found, Index, Plan, Refusal, Step, compare, recorded, recorded_about
from domicile.sdk.store.ddl import literal
from domicile.sdk.store.failures import untold
from domicile.sdk.store.queries import query, script
from domicile.sdk.store.references import Loaded
from domicile.sdk.tables import ReferenceTable, Table

LOCK_SECONDS: Final = 15.0
"""How long another schema change is waited for."""
Stored: TypeAlias = type[Record] | type[Reference]
ATTEMPTS: Final = 8
_PAUSE: Final = 0.25
_GIVE_WAY: Final = "SET LOCAL lock_timeout = '500ms'"  # below deadlock_timeout: writers are never the victims
_OWNED: Final = "SET LOCAL ROLE domicile_owner"
_NUMBER: Final = re.compile(r"COMMENT ON SCHEMA domicile IS 'schema (\d+)'")
_WHERE: Final = "schema"


@dataclass(frozen=True)
class Revision:
    """``digest``: of the classes as applied. ``id`` is None where nothing had to be done."""

    id: int | None
    digest: str
    plan: Plan


def system() -> tuple[str, int, str]:
    """The system schema, its number and its digest."""
    text = script("system") + script("ledger")
    (number,) = _NUMBER.findall(text)
    return text, int(number), hashlib.sha256(text.encode()).hexdigest()


def digest(tables: Sequence[Table], lists: Sequence[ReferenceTable] = ()) -> str:
    """Of what the classes say, whatever their order."""
    said: dict[str, Any] = {
        table.name: [
            [recorded(column) for column in table.columns],
            table.indexes,
            str(table.keep),
            *([recorded_about(table.about)] if table.about is not None else []),
        ]
        for table in tables
    }
    said |= {table.name: [references.recorded(table, column) for column in table.columns] for table in lists}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def _tables(classes: Sequence[Stored]) -> tuple[list[Table], list[ReferenceTable]]:
    tables = [each.domicile_table for each in classes if issubclass(each, Record)]
    lists = [each.domicile_reference for each in classes if issubclass(each, Reference)]
    names = [*(table.name for table in tables), *(table.name for table in lists)]
    if len(set(names)) != len(names):
        raise Conflict("two classes name one table", where=_WHERE, remedy="give each its own")
    return tables, lists


async def _check_cell(connection: asyncpg.Connection, cell: str, jurisdiction: str) -> bool:
    """Whether the database is this cell's already; raises Conflict for another's."""
    there = await connection.fetchrow(query("cell"))
    if there is not None and tuple(there) != (cell, jurisdiction):
        raise Conflict(
            f"this is cell {there['cell']} of {there['jurisdiction']}, not {cell} of {jurisdiction}",
            where=_WHERE,
            remedy="check the address",
        )
    return there is not None


async def _find(connection: asyncpg.Connection, *, lists: bool) -> Found:
    """``lists``: whether there are reference tables, which came later."""
    columns: dict[str, dict[str, dict[str, Any]]] = {}
    for row in await connection.fetch(query("applied_columns")):
        column = json.loads(row["column"])
        columns.setdefault(row["table_name"], {})[column["column_name"]] = column
    stored: dict[str, set[str]] = {}
    for row in await connection.fetch(query("stored_columns")):
        stored.setdefault(row["table_name"], set()).add(row["column_name"])
    indexes: dict[str, list[Index]] = {}
    for row in await connection.fetch(query("applied_indexes")):
        index = Index(tuple(row["columns"]), row["index_name"], row["valid"])
        indexes.setdefault(row["table_name"], []).append(index)
    across = {row["table_name"] for row in await connection.fetch(query("read_across"))}
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for row in await connection.fetch(query("reference_columns"), None) if lists else []:
        field = dict(row)
        found.setdefault(field.pop("table_name"), {})[field["column_name"]] = field
    return Found(columns, stored, indexes, across=across, references=found)


async def _system_step(connection: asyncpg.Connection, *, revisions: bool) -> Step | None:
    """The system schema, unless this very text, or a later one, was applied last."""
    text, number, written = system()
    last = await connection.fetchrow(query("last_revision")) if revisions else None
    if last is not None and (last["system"] > number or last["system_digest"] == written):
        return None
    return Step(f"system schema {number}", text, by_system=True)


async def _plan(
    connection: asyncpg.Connection, cell: str, jurisdiction: str, classes: Sequence[Stored], drops: Collection[str]
) -> Plan:
    tables, lists = _tables(classes)
    has = await connection.fetchrow(query("has_system"))
    assert has is not None
    founded = has["cell"] and await _check_cell(connection, cell, jurisdiction)
    found = await _find(connection, lists=has["lists"]) if has["cell"] else Found()
    if has["revisions"]:
        keep = {row["table_name"]: row["keep_seconds"] for row in await connection.fetch(query("applied_tables"))}
        found = replace(found, keep=keep)
    first = await _system_step(connection, revisions=has["revisions"])
    plan, others = compare(tables, found, jurisdiction, drops), references.compare(lists, found, drops)
    refusals = [*plan.refusals, *others.refusals]
    refusals += [
        Refusal(name, "is dropped, and is not there or not in question", "leave it out")
        for name in plan.unused
        if name not in others.used
    ]
    steps = [step for step in (first,) if step is not None]
    if not founded:
        values = f"{literal(cell)}, {literal(jurisdiction)}"
        sql = f"INSERT INTO domicile.cell (cell, jurisdiction) VALUES ({values});"  # noqa: S608 - quoted
        steps.append(Step(f"become {cell} of {jurisdiction}", sql))
    # before the record tables, whose indexes come last
    return replace(plan, steps=(*steps, *others.steps, *plan.steps), refusals=tuple(refusals))


@asynccontextmanager
async def _alone(connection: asyncpg.Connection) -> AsyncIterator[None]:
    deadline = time.monotonic() + LOCK_SECONDS
    while not await untold(connection.fetchval(query("schema_lock"))):
        if time.monotonic() > deadline:
            raise Unavailable("another schema change is under way", where=_WHERE, remedy="wait for its end")
        await asyncio.sleep(_PAUSE)
    try:
        yield
    finally:
        await untold(connection.execute(query("schema_unlock")))


async def _require_locks(connection: asyncpg.Connection) -> None:
    """Raise Conflict where a relation that a session can reach lacks one of its locks, whoever made it."""
    loose = await connection.fetch(query("loose_tables"))
    if loose:
        said = "; ".join(f"{row['table_name']} lacks {', '.join(row['lacks'])}" for row in loose)
        raise Conflict(said, where=_WHERE, remedy="put the lock back, or take every right on the relation away")


async def _take(connection: asyncpg.Connection, step: Step, revise: Callable[[], Awaitable[None]] | None) -> None:
    async with connection.transaction():
        await connection.execute(_GIVE_WAY)
        await connection.execute(step.sql if step.by_system else f"{_OWNED}; {step.sql}")
        if revise is not None:
            await revise()
        await _require_locks(connection)


async def _patiently(take: Callable[[], Awaitable[None]], what: str) -> None:
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return await untold(take())
        except Unavailable:
            if attempt == ATTEMPTS:
                break
        await asyncio.sleep(_PAUSE * attempt)
    raise Unavailable(
        f"somebody holds a table for too long to {what}; what came before it is applied, nothing after it",
        where=_WHERE,
        remedy="see pg_stat_activity for what runs longest, and apply again when it has ended",
    )


async def plan_schema(
    connection: asyncpg.Connection,
    cell: str,
    jurisdiction: str,
    classes: Sequence[Stored],
    *,
    drops: Collection[str] = (),
) -> Plan:
    """What ``apply_schema`` would do, and what it would refuse; changes nothing. Raises Conflict for another's cell."""
    _tables(classes)

    async def look() -> Plan:
        async with connection.transaction(readonly=True):
            return await _plan(connection, cell, jurisdiction, classes, drops)

    return await untold(look())


async def apply_schema(
    connection: asyncpg.Connection,
    cell: str,
    jurisdiction: str,
    classes: Sequence[Stored],
    *,
    drops: Collection[str] = (),
    by: str = "",
) -> Revision:
    """Make this database the storage of ``cell``, with a table for each class of records or references.

    ``connection`` is a superuser's. ``drops`` names tables and ``table.field``s whose values may go; ``by``, who
    applies. Raises Conflict, with nothing changed, for a database of another cell, for changes that would lose
    something and for two classes of one table; Conflict for a table that has lost a lock; Unavailable where
    another schema change is under way, or where somebody holds a table for long. Whatever ends it in the middle,
    applying again goes on from there.
    """
    said, number = digest(*_tables(classes)), None
    async with _alone(connection):
        plan = await untold(_plan(connection, cell, jurisdiction, classes, drops))
        if plan.refusals:
            raise Conflict("; ".join(map(str, plan.refusals)), where=_WHERE)

        async def revise() -> None:
            nonlocal number
            statements = [step.sql for step in plan.steps]
            number = await connection.fetchval(query("add_revision"), by, *system()[1:], said, statements)

        for step in plan.steps:
            if step.outside:
                await untold(connection.execute(step.sql), seconds=None)
            else:
                first = revise if number is None else None
                await _patiently(partial(_take, connection, step, first), step.what)
        if plan.steps and number is None:
            await untold(revise())
        await untold(_require_locks(connection))
    return Revision(number, said, plan)


async def load_reference(
    connection: asyncpg.Connection,
    cell: str,
    jurisdiction: str,
    kind: type[Ref],
    rows: Sequence[Ref],
    *,
    by: str = "",
) -> Loaded:
    """Make these the rows of a reference table, in the place of all that were there; readers see either.

    ``connection`` is a superuser's. Harmless to repeat. Raises Conflict for a database of another cell, a table that is
    not applied as the class says and one that somebody else can write, InvalidInput for a key that is given twice.
    """
    table = kind.domicile_reference
    given = references.checked(table, rows)

    async def work() -> Loaded:
        async with connection.transaction():
            has = await connection.fetchrow(query("has_system"))
            if has is None or not has["lists"]:
                raise Conflict("no schema was applied", where=_WHERE, remedy="run `domicile schema apply` first")
            await _check_cell(connection, cell, jurisdiction)
            await connection.execute(f"{_GIVE_WAY}; {_OWNED}")
            done = await references.replace(connection, table, given, by)
            await connection.execute("RESET ROLE")
            await _require_locks(connection)
            return done

    return await untold(work(), seconds=None)
