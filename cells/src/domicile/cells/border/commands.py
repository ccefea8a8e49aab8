"""``domicile release check|declare|run|list|show|rows``: an operator's side of the border."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar

import typer
from pydantic import BaseModel
from rich.console import Console
from rich.table import Table
from rich.text import Text

from domicile.cells.border.api import ARRIVALS, RELEASES
from domicile.cells.border.wire import (
    CheckedDeclaration,
    DeclareRequest,
    ReleasedRows,
    Releases,
    ReleaseStatus,
    RunRequest,
)
from domicile.client import Peer
from domicile.model import InvalidInput, Role
from domicile.service.operators import operator_and_topology, refusals

Answer = TypeVar("Answer")
Model = TypeVar("Model", bound=BaseModel)
LOOK_SECONDS: Final = 0.5
PATIENCE_SECONDS: Final = 30.0
MAX_FILE: Final = 400_000
_OVER: Final = ("accepted", "refused")

CellOption = Annotated[str, typer.Option("--cell", help="The cell that the rows are at home in; of your jurisdiction.")]
AsOption = Annotated[
    str | None,
    typer.Option("--as", help="Jurisdiction whose operator you are, beside a local world; else your certificate says."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of a table.")]
FileArgument = Annotated[Path, typer.Argument(help="The declaration (YAML), see docs/border.md.")]
NameArgument = Annotated[str, typer.Argument(help="The declaration's name.")]


@asynccontextmanager
async def _gateway(cell: str) -> AsyncIterator[Peer]:
    credentials, manifest = await operator_and_topology()
    place = manifest.cells.get(cell)
    own = credentials.identity.jurisdiction
    if place is None or place.jurisdiction != own:
        cells = ", ".join(sorted(name for name, each in manifest.cells.items() if each.jurisdiction == own))
        raise InvalidInput(f"no cell {cell} of {own}", where="--cell", remedy=f"one of: {cells or 'none'}")
    zones = place.zones.values()
    async with Peer(
        credentials,
        [zone.gateway for zone in zones],
        jurisdiction=own,
        role=Role.GATEWAY,
        cell=cell,
        networks=[zone.network for zone in zones],
        deadline=PATIENCE_SECONDS,
    ) as peer:
        yield peer


def _run(command: str, main: Coroutine[Any, Any, Answer], *, as_json: bool) -> Answer:
    left = "; what is begun goes on in the gateway"
    with refusals(f"release {command}", as_json=as_json, interrupted=left):
        return asyncio.run(main)


def _emit(document: Any) -> None:
    sys.stdout.write(json.dumps(document, ensure_ascii=False) + "\n")


def _table(columns: list[str], rows: list[list[str]]) -> None:
    console = Console(width=None if sys.stdout.isatty() else 200, highlight=False)
    view = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        view.add_column(column, overflow="fold")
    for row in rows:
        view.add_row(*map(Text, row))
    console.print(view)


def _text(file: Path) -> str:
    with file.open("rb") as stream:
        raw = stream.read(MAX_FILE + 1)
    if len(raw) > MAX_FILE:
        raise InvalidInput(f"more than {MAX_FILE} bytes", where=str(file), remedy="shorten its hierarchies")
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise InvalidInput("not text in UTF-8", where=str(file)) from None


async def _declared(cell: str, file: Path, path: str) -> CheckedDeclaration:
    body = DeclareRequest(text=_text(file))
    async with _gateway(cell) as peer:
        return await peer.ask(CheckedDeclaration, "POST", path, body=body)


def _tell_declared(done: CheckedDeclaration, as_json: bool) -> None:
    if as_json:
        return _emit({"ok": True, **done.model_dump()})
    _table(
        ["column", "leaves as"],
        [[each.name, "pseudonym" if each.pseudonym else each.type] for each in done.columns]
        + [[name, "(dropped)"] for name in done.dropped],
    )
    return typer.echo(f"{done.name} to {done.to}: {done.digest[:16]}")


def check_command(
    file: FileArgument, cell: CellOption, operator_of: AsOption = None, json_output: JsonOption = False
) -> None:
    """Hold a declaration to what is recorded in the cell, and keep nothing.

    Example: domicile release check plans.yaml --cell eu-1 --as eu
    """
    done = _run("check", _declared(cell, file, f"{RELEASES}/check"), as_json=json_output)
    _tell_declared(done, json_output)


def declare_command(
    file: FileArgument, cell: CellOption, operator_of: AsOption = None, json_output: JsonOption = False
) -> None:
    """Keep a declaration; the last one of a name is in force. Nothing leaves yet.

    Example: domicile release declare plans.yaml --cell eu-1 --as eu
    """
    done = _run("declare", _declared(cell, file, RELEASES), as_json=json_output)
    _tell_declared(done, json_output)


async def _ran(cell: str, name: str, revision: int | None, *, wait: bool, shown: bool) -> ReleaseStatus:
    body = RunRequest.model_validate({"revision": revision})
    async with _gateway(cell) as peer:
        now = await peer.ask(ReleaseStatus, "POST", f"{RELEASES}/{name}/revisions", body=body)
        told = ""
        while wait and now.state not in _OVER:
            await asyncio.sleep(LOOK_SECONDS)
            now = await peer.ask(ReleaseStatus, "GET", f"{RELEASES}/{name}/revisions/{now.revision}")
            if shown and told != (told := _progress(now)):
                typer.echo(told, err=True)
    return now


def _progress(now: ReleaseStatus) -> str:
    if now.state == "building":
        return f"{now.done:,} rows read"
    return f"{now.state}: {now.done:,} of {now.of:,} pages"


def run_command(
    name: NameArgument,
    cell: CellOption,
    revision: Annotated[int | None, typer.Option(help="Which release; else the one under way, or the next.")] = None,
    wait: Annotated[bool, typer.Option(help="Wait until it was accepted or refused.")] = True,
    operator_of: AsOption = None,
    json_output: JsonOption = False,
) -> None:
    """Make a release, send it, and wait until the other side has accepted it.

    The gateway does the work: end this at any time, and run it again with the same revision to see how far it is.

    Example: domicile release run plans --cell eu-1 --as eu --revision 1
    """
    shown = sys.stderr.isatty() and not json_output
    done = _run("run", _ran(cell, name, revision, wait=wait, shown=shown), as_json=json_output)
    _tell_status(done, json_output)
    if done.state == "refused" or (wait and done.state != "accepted"):
        raise typer.Exit(1)


def _tell_status(done: ReleaseStatus, as_json: bool) -> None:
    if as_json:
        return _emit({"ok": done.state != "refused", **done.model_dump()})
    _table(
        ["release", "to", "state", "rows", "left out", "k", "pages", "id"],
        [_line(done)],
    )
    if done.reason:
        typer.echo(done.reason, err=True)
    return None


def _line(each: ReleaseStatus) -> list[str]:
    counts = [f"{each.rows:,}", f"{each.suppressed:,}", str(each.k)] if each.id else ["", "", ""]
    return [f"{each.name} {each.revision}", each.to, each.state, *counts, f"{each.done}/{each.of}", each.id[:16]]


async def _asked(cell: str, kind: type[Model], path: str) -> Model:
    async with _gateway(cell) as peer:
        return await peer.ask(kind, "GET", path)


def show_command(
    name: NameArgument,
    revision: Annotated[int, typer.Argument(help="The release's revision.")],
    cell: CellOption,
    operator_of: AsOption = None,
    json_output: JsonOption = False,
) -> None:
    """How far a release is, and why it was refused.

    Example: domicile release show plans 1 --cell eu-1 --as eu
    """
    path = f"{RELEASES}/{name}/revisions/{revision}"
    _tell_status(_run("show", _asked(cell, ReleaseStatus, path), as_json=json_output), json_output)


def list_command(cell: CellOption, operator_of: AsOption = None, json_output: JsonOption = False) -> None:
    """What is declared in a cell, what it released, and what other jurisdictions released to it.

    Example: domicile release list --cell us-1 --as us
    """
    found = _run("list", _asked(cell, Releases, RELEASES), as_json=json_output)
    if json_output:
        return _emit({"ok": True, **found.model_dump()})
    if found.declared:
        _table(
            ["declared", "to", "columns", "digest"],
            [
                [each.name, each.to, ", ".join(column.name for column in each.columns) or "(fits no longer)",
                 each.digest[:16]]
                for each in found.declared
            ],
        )  # fmt: skip
    if found.made:
        _table(["release", "to", "state", "rows", "left out", "k", "pages", "id"], [_line(each) for each in found.made])
    if found.arrived:
        _table(
            ["arrived", "from", "state", "rows", "k", "id"],
            [
                [f"{each.name} {each.revision}", f"{each.source}/{each.cell}", each.state, f"{each.rows:,}",
                 str(each.k), each.id]
                for each in found.arrived
            ],
        )  # fmt: skip
    if not (found.declared or found.made or found.arrived):
        typer.echo(f"{cell}: nothing is declared, and nothing has arrived")
    return None


async def _rows(cell: str, identifier: str) -> int:
    count, after = 0, 0
    async with _gateway(cell) as peer:
        while True:
            page = await peer.ask(ReleasedRows, "GET", f"{ARRIVALS}/{identifier}/rows?after={after}")
            for row in page.rows:
                _emit(dict(zip(page.columns, row, strict=True)))
            count, after = count + len(page.rows), page.after + 1
            if not page.rows:
                return count


def rows_command(
    identifier: Annotated[str, typer.Argument(help="The id of a release that arrived, see `domicile release list`.")],
    cell: CellOption,
    operator_of: AsOption = None,
) -> None:
    """Rows of a release that was accepted here, as JSON Lines.

    Example: domicile release rows 3f… --cell us-1 --as us > plans.jsonl
    """
    count = _run("rows", _rows(cell, identifier), as_json=False)
    if sys.stderr.isatty():
        typer.echo(f"{count:,} rows", err=True)
