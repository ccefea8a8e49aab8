"""``domicile schema``: what an operator runs against a cell's storage."""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import sys
from pathlib import Path
from typing import Annotated

import asyncpg
import typer
from asyncpg.connect_utils import SessionAttribute

from domicile.identity import Credentials
from domicile.model.access import Role
from domicile.model.errors import DomicileError, InvalidInput
from domicile.model.manifest import Address
from domicile.sdk.records import Record
from domicile.sdk.store.failures import untold
from domicile.sdk.store.pool import CONNECT_SECONDS, DATABASE
from domicile.sdk.store.schema import apply_schema

app = typer.Typer(help="Apply record classes to a cell's storage.", no_args_is_help=True)


@app.callback()
def _schema() -> None:
    """Apply record classes to a cell's storage."""


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


async def _connect_and_apply(cell: str, jurisdiction: str, records: list[type[Record]]) -> None:
    credentials = Credentials(Path(_setting("CERTIFICATE")), Path(_setting("KEY")), Path(_setting("AUTHORITIES")))
    deployment = _setting("DEPLOYMENT")
    if credentials.identity.deployment != deployment:
        raise InvalidInput(f"the certificate is not for deployment {deployment}", where="DOMICILE_CERTIFICATE")
    places = [Address(each.strip()) for each in _setting("STORAGE").split(",")]
    connection = await untold(
        asyncpg.connect(
            host=[place.host for place in places],
            port=[place.port for place in places],
            target_session_attrs=SessionAttribute.primary,
            user="postgres",
            database=DATABASE,
            ssl=credentials.client(jurisdiction, [Role.STORAGE], cell=cell),
            timeout=CONNECT_SECONDS,
        )
    )
    try:
        await apply_schema(connection, cell, jurisdiction, records)
    finally:
        await connection.close(timeout=CONNECT_SECONDS)


@app.command()
def apply(
    module: Annotated[str, typer.Argument(help="the Python module that names the record classes")],
    cell: Annotated[str, typer.Option(help="the cell whose storage DOMICILE_STORAGE is")],
    jurisdiction: Annotated[str, typer.Option(help="the cell's jurisdiction")],
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object")] = False,
) -> None:
    """Create the system schema and a table for each record class; repeating it changes nothing.

    The operator's certificate and the storage's address come from DOMICILE_DEPLOYMENT, _CERTIFICATE, _KEY,
    _AUTHORITIES and _STORAGE.
    """
    try:
        records = records_in(module)
        asyncio.run(_connect_and_apply(cell, jurisdiction, records))
    except DomicileError as error:
        if as_json:
            typer.echo(json.dumps({"ok": False, "code": error.code, "detail": str(error)}))
        typer.echo(f"domicile schema apply: {error}", err=True)
        raise typer.Exit(1) from None
    tables = [record.domicile_table.name for record in records]
    typer.echo(
        json.dumps({"ok": True, "cell": cell, "tables": tables})
        if as_json
        else f"{cell}: {', '.join(tables)} as declared in {module}"
    )
