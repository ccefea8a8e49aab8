"""``domicile schema``: what an operator runs against a cell's storage."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import asyncpg
import typer
from asyncpg.connect_utils import SessionAttribute

from domicile.identity import Credentials
from domicile.model.access import Role
from domicile.model.addresses import Address, AddressField
from domicile.model.errors import DomicileError, InvalidInput
from domicile.model.ids import JurisdictionName, Name
from domicile.sdk.store.changes import Plan
from domicile.sdk.store.failures import untold
from domicile.sdk.store.inputs import checked, classes_in, reference_in, rows_in, table_of
from domicile.sdk.store.pool import CONNECT_SECONDS, DATABASE
from domicile.sdk.store.queries import query
from domicile.sdk.store.schema import apply_schema, load_reference, plan_schema

app = typer.Typer(help="Bring a cell's storage to what the record classes say.", no_args_is_help=True)
EXAMPLE = "Example: domicile schema {} shop.records --cell eu-1 --jurisdiction eu"

Module = Annotated[str, typer.Argument(help="the Python module that names the classes of records and references")]
CellOption = Annotated[str, typer.Option("--cell", help="the cell whose storage DOMICILE_STORAGE is")]
JurisdictionOption = Annotated[str, typer.Option("--jurisdiction", help="the cell's jurisdiction")]
Drops = Annotated[
    list[str] | None, typer.Option("--drop", help="a TABLE, or TABLE.FIELD, whose values may go; may be repeated")
]
AsJson = Annotated[bool, typer.Option("--json", help="print one JSON object")]


@app.callback(epilog=EXAMPLE.format("plan"))
def _schema() -> None:
    """Bring a cell's storage to what the record classes say.

    The operator's certificate and the storage's address come from DOMICILE_DEPLOYMENT, _CERTIFICATE, _KEY,
    _AUTHORITIES and _STORAGE.
    """


def _setting(name: str) -> str:
    value = os.environ.get(f"DOMICILE_{name}")
    if not value:
        raise InvalidInput("is not set", where=f"DOMICILE_{name}", remedy="set it")
    return value


@asynccontextmanager
async def _storage(cell: str, jurisdiction: str) -> AsyncIterator[tuple[asyncpg.Connection, str]]:
    """The cell's storage as its superuser, and who that is by certificate."""
    credentials = Credentials(Path(_setting("CERTIFICATE")), Path(_setting("KEY")), Path(_setting("AUTHORITIES")))
    deployment = _setting("DEPLOYMENT")
    if credentials.identity.deployment != deployment:
        raise InvalidInput(f"the certificate is not for deployment {deployment}", where="DOMICILE_CERTIFICATE")
    cell = checked(Name, cell, "--cell", "eu-1")
    jurisdiction = checked(JurisdictionName, jurisdiction, "--jurisdiction", "eu")
    places = [
        Address(checked(AddressField, each.strip(), "DOMICILE_STORAGE", "127.10.1.1:5432"))
        for each in _setting("STORAGE").split(",")
    ]
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
        yield connection, credentials.identity.uri
    finally:
        await connection.close(timeout=CONNECT_SECONDS)


def _run(command: str, as_json: bool, work: Callable[[], Coroutine[Any, Any, dict[str, Any]]]) -> dict[str, Any]:
    """What ``work`` has to say; a refusal is one line, and exit status 1."""
    try:
        said = asyncio.run(work())
    except DomicileError as error:
        if as_json:
            typer.echo(json.dumps({"ok": False, "code": error.code, "detail": str(error)}))
        typer.echo(f"domicile schema {command}: {error}", err=True)
        raise typer.Exit(1) from None
    if as_json:
        typer.echo(json.dumps(said))
    return said


def _spelled(plan: Plan) -> dict[str, Any]:
    return {
        "ok": not plan.refusals,
        "steps": [{"what": step.what, "sql": step.sql, "transaction": not step.outside} for step in plan.steps],
        "refusals": [refusal._asdict() for refusal in plan.refusals],
    }


@app.command(epilog=EXAMPLE.format("plan"))
def plan(
    module: Module, cell: CellOption, jurisdiction: JurisdictionOption, drop: Drops = None, as_json: AsJson = False
) -> None:
    """Print the SQL that apply would run, and what it would refuse; change nothing.

    Exit status 1 where something is refused.
    """

    async def work() -> dict[str, Any]:
        async with _storage(cell, jurisdiction) as (connection, _):
            return _spelled(await plan_schema(connection, cell, jurisdiction, classes_in(module), drops=drop or ()))

    said = _run("plan", as_json, work)
    if not as_json:
        for step in said["steps"]:
            where = "" if step["transaction"] else " (after the transaction; writers go on)"
            typer.echo(f"-- {step['what']}{where}\n{step['sql']}\n")
        if not said["steps"]:
            typer.echo(f"-- {cell} is as declared in {module}")
        for refusal in said["refusals"]:
            typer.echo(f"refused: {refusal['where']} {refusal['what']} ({refusal['remedy']})", err=True)
    if not said["ok"]:
        raise typer.Exit(1)


@app.command(epilog=EXAMPLE.format("apply"))
def apply(
    module: Module, cell: CellOption, jurisdiction: JurisdictionOption, drop: Drops = None, as_json: AsJson = False
) -> None:
    """Apply what plan prints; repeating it changes nothing, and nothing is lost without --drop.

    Processes of before the change go on meanwhile and after it.
    """

    async def work() -> dict[str, Any]:
        classes = classes_in(module)
        async with _storage(cell, jurisdiction) as (connection, who):
            done = await apply_schema(connection, cell, jurisdiction, classes, drops=drop or (), by=who)
        return {
            "ok": True,
            "cell": cell,
            "tables": [table_of(each) for each in classes],
            "revision": done.id,
            "digest": done.digest,
            "steps": [step.what for step in done.plan.steps],
        }

    said = _run("apply", as_json, work)
    if not as_json:
        for step in said["steps"]:
            typer.echo(f"  {step}")
        typer.echo(f"{cell}: {', '.join(said['tables'])} as declared in {module}")


@app.command(epilog="Example: domicile schema load shop.records plans plans.jsonl --cell eu-1 --jurisdiction eu")
def load(
    module: Module,
    table: Annotated[str, typer.Argument(help="the reference table to fill")],
    file: Annotated[Path, typer.Argument(help="its rows as JSON Lines, one object a line")],
    cell: CellOption,
    jurisdiction: JurisdictionOption,
    as_json: AsJson = False,
) -> None:
    """Make the rows of a file those of a table that belongs to no subject; readers see the old ones or the new.

    Run it against every cell with the same file: cells that print the same digest hold the same rows.
    """

    async def work() -> dict[str, Any]:
        kind = reference_in(module, table)
        rows = rows_in(kind, file)
        async with _storage(cell, jurisdiction) as (connection, who):
            done = await load_reference(connection, cell, jurisdiction, kind, rows, by=who)
        return {"ok": True, "cell": cell, "table": table, **asdict(done)}

    said = _run("load", as_json, work)
    if not as_json:
        state = "" if said["changed"] else ", as before"
        typer.echo(f"{cell}: {said['rows']:,} rows of {table}{state} ({said['digest'][:16]})")


@app.command(epilog="Example: domicile schema revisions --cell eu-1 --jurisdiction eu")
def revisions(cell: CellOption, jurisdiction: JurisdictionOption, as_json: AsJson = False) -> None:
    """Who applied which schema, and when; the last one first."""

    async def work() -> dict[str, Any]:
        async with _storage(cell, jurisdiction) as (connection, _):
            rows = await untold(connection.fetch(query("revisions")))
        return {"ok": True, "revisions": [dict(row) | {"applied_at": row["applied_at"].isoformat()} for row in rows]}

    said = _run("revisions", as_json, work)
    if not as_json:
        for row in said["revisions"]:
            typer.echo(f"{row['id']}  {row['applied_at']}  {row['applied_by']}  {row['digest'][:16]}")
