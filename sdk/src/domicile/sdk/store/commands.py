"""``domicile schema``: what an operator runs against a cell's storage."""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Annotated

import asyncpg
import typer

from domicile.identity import Credentials
from domicile.model.access import Role
from domicile.model.errors import DomicileError, InvalidInput
from domicile.model.manifest import Address
from domicile.sdk.records import Record
from domicile.sdk.store.failures import untold
from domicile.sdk.store.pool import CONNECT_SECONDS, DATABASE
from domicile.sdk.store.schema import Plan, apply_schema, plan_schema

app = typer.Typer(help="Bring a cell's storage to record classes.", no_args_is_help=True)
ModuleArgument = Annotated[str, typer.Argument(help="the Python module that names the record classes")]
CellOption = Annotated[str, typer.Option(help="the cell whose storage DOMICILE_STORAGE is")]
JurisdictionOption = Annotated[str, typer.Option(help="the cell's jurisdiction")]
JsonOption = Annotated[bool, typer.Option("--json", help="print one JSON object")]
Work = Callable[[asyncpg.Connection, Sequence[type[Record]]], Awaitable[Plan]]


def records_in(module: str) -> list[type[Record]]:
    """The record classes that a module names, in the order of their tables. Raises InvalidInput for none."""
    sys.path.insert(0, os.getcwd())
    try:
        loaded = importlib.import_module(module)
    except ModuleNotFoundError:
        raise InvalidInput("no such module", where=module, remedy="run this where it can be imported") from None
    finally:
        sys.path.pop(0)
    found = {
        value
        for value in vars(loaded).values()
        if isinstance(value, type) and issubclass(value, Record) and value is not Record
    }
    if not found:
        raise InvalidInput("names no record class", where=module)
    return sorted(found, key=lambda record: record.domicile_table.name)


def _setting(name: str) -> str:
    value = os.environ.get(f"DOMICILE_{name}")
    if not value:
        raise InvalidInput("is not set", where=f"DOMICILE_{name}", remedy="set it")
    return value


async def _connected(cell: str, jurisdiction: str, records: Sequence[type[Record]], work: Work) -> Plan:
    credentials = Credentials(Path(_setting("CERTIFICATE")), Path(_setting("KEY")), Path(_setting("AUTHORITIES")))
    deployment = _setting("DEPLOYMENT")
    if credentials.identity.deployment != deployment:
        raise InvalidInput(f"the certificate is not for deployment {deployment}", where="DOMICILE_CERTIFICATE")
    address = Address(_setting("STORAGE"))
    connection = await untold(
        asyncpg.connect(
            host=address.host,
            port=address.port,
            user="postgres",
            database=DATABASE,
            ssl=credentials.client(jurisdiction, [Role.STORAGE], cell=cell),
            timeout=CONNECT_SECONDS,
        )
    )
    try:
        return await work(connection, records)
    finally:
        await connection.close(timeout=CONNECT_SECONDS)


def _run(command: str, module: str, cell: str, jurisdiction: str, work: Work, *, as_json: bool) -> tuple[str, Plan]:
    """The names of the tables, and what is or was to be done; a refusal is one line and exit status 1."""
    try:
        records = records_in(module)
        plan = asyncio.run(_connected(cell, jurisdiction, records, work))
    except DomicileError as error:
        if as_json:
            typer.echo(json.dumps({"ok": False, "code": error.code, "detail": str(error)}))
        typer.echo(f"domicile schema {command}: {error}", err=True)
        raise typer.Exit(1) from None
    return ", ".join(record.domicile_table.name for record in records), plan


@app.command()
def plan(
    module: ModuleArgument, cell: CellOption, jurisdiction: JurisdictionOption, as_json: JsonOption = False
) -> None:
    """Print the SQL that apply would run, and change nothing. What would be lost is marked."""

    async def work(connection: asyncpg.Connection, records: Sequence[type[Record]]) -> Plan:
        return await plan_schema(connection, cell, jurisdiction, records)

    _, found = _run("plan", module, cell, jurisdiction, work, as_json=as_json)
    if as_json:
        body = {"ok": True, "cell": cell, "new": found.new, "statements": found.statements, "loses": found.loses}
        typer.echo(json.dumps(body))
        return
    if found.new:
        typer.echo("-- the system schema")
    for statement in found.statements:
        typer.echo(f"{statement.removesuffix(';')};")
    for lost in found.loses:
        typer.echo(f"-- lost for good: {lost}")


@app.command()
def apply(
    module: ModuleArgument,
    cell: CellOption,
    jurisdiction: JurisdictionOption,
    destructive: Annotated[bool, typer.Option("--destructive", help="also what loses something for good")] = False,
    as_json: JsonOption = False,
) -> None:
    """Create the system schema and a table for each record class, or bring them up; repeating it changes nothing.

    The operator's certificate and the storage's address come from DOMICILE_DEPLOYMENT, _CERTIFICATE, _KEY,
    _AUTHORITIES and _STORAGE.
    """

    async def work(connection: asyncpg.Connection, records: Sequence[type[Record]]) -> Plan:
        return await apply_schema(connection, cell, jurisdiction, records, destructive=destructive)

    tables, _ = _run("apply", module, cell, jurisdiction, work, as_json=as_json)
    typer.echo(
        json.dumps({"ok": True, "cell": cell, "tables": tables.split(", ")})
        if as_json
        else f"{cell}: {tables} as declared in {module}"
    )
