"""``domicile pin``: what an operator does with the whole map, and sees of a reconciliation."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Annotated, Any, BinaryIO, TypeVar

import asyncpg
import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from domicile.client import DirectoryClient
from domicile.directory import bulk
from domicile.directory.topology import PublishedTopology
from domicile.identity import Credentials
from domicile.model import Address, DomicileError, InvalidInput

JsonOption = Annotated[bool, typer.Option("--json", help="print one JSON object")]
Result = TypeVar("Result")

app = typer.Typer(help="Export and import the map of pins; see how a reconciliation stands.", no_args_is_help=True)


@app.callback()
def _pin() -> None:
    """Export and import the map of pins; see how a reconciliation stands."""


def _setting(name: str) -> str:
    value = os.environ.get(f"DOMICILE_{name}")
    if not value:
        raise InvalidInput("is not set", where=f"DOMICILE_{name}", remedy="set it")
    return value


def _credentials() -> Credentials:
    credentials = Credentials(Path(_setting("CERTIFICATE")), Path(_setting("KEY")), Path(_setting("AUTHORITIES")))
    if credentials.identity.deployment != _setting("DEPLOYMENT"):
        raise InvalidInput("the certificate is for another deployment", where="DOMICILE_CERTIFICATE")
    return credentials


@asynccontextmanager
async def _database() -> AsyncIterator[asyncpg.Connection]:
    async with bulk.connected(_credentials(), Address(_setting("STORAGE"))) as connection:
        yield connection


async def _homes(connection: asyncpg.Connection) -> frozenset[bytes]:
    folder = Path(_setting("OPERATORS"))
    keys = [path.read_bytes() for path in sorted(folder.glob("*.pem"))]
    if not keys:
        raise InvalidInput("holds no key (*.pem)", where=str(folder), remedy="see DOMICILE_OPERATORS")
    topology = PublishedTopology(_setting("DEPLOYMENT"), keys)
    return bulk.homes_of(topology.read(await bulk.published(connection)))


def _run(command: str, main: Coroutine[Any, Any, Result], *, as_json: bool) -> Result:
    try:
        return asyncio.run(main)
    except (DomicileError, OSError) as error:
        if isinstance(error, DomicileError):
            code, detail, where = error.code, str(error), error.where
        else:
            code, where = "invalid-input", str(error.filename or "")
            detail = f"{where}: {(error.strerror or type(error).__name__).lower()}"
        if as_json:
            typer.echo(json.dumps({"ok": False, "code": code, "detail": detail, "where": where}))
        else:
            typer.echo(f"domicile pin {command}: {detail}", err=True)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        typer.echo(f"domicile pin {command}: interrupted, nothing is changed", err=True)
        raise typer.Exit(130) from None


@contextmanager
def _progress(what: str) -> Iterator[Callable[[int], None]]:
    """Told how many so far; shown on a terminal only."""
    columns = (TextColumn(what), BarColumn(), TextColumn("{task.completed:,}"), TimeElapsedColumn())
    with Progress(*columns, disable=not sys.stderr.isatty(), transient=True) as progress:
        task = progress.add_task(what, total=None)
        yield lambda done: progress.update(task, completed=done)


def _lines(stream: BinaryIO) -> Iterator[bytes]:
    while line := stream.readline(bulk.MAX_LINE_BYTES + 2):
        yield line


def _reading(path: Path | None) -> BinaryIO:
    return os.fdopen(os.dup(0), "rb") if path is None else open(path, "rb")


def _writing(path: Path | None) -> BinaryIO:
    return os.fdopen(os.dup(1), "wb") if path is None else open(path, "xb")


async def _export(path: Path | None) -> int:
    draft = None if path is None else path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with _writing(draft) as stream, _progress("exported") as tell:
            count = -1  # the head is no pin

            async def write(data: bytes) -> None:
                nonlocal count
                stream.write(data)
                count += data.count(b"\n")
                tell(count)

            async with _database() as connection:
                exported = await bulk.export_pins(connection, write)
            stream.flush()
            if draft is not None:
                os.fsync(stream.fileno())
        if draft is not None and path is not None:
            draft.replace(path)
        return exported
    finally:
        if draft is not None:
            draft.unlink(missing_ok=True)


@app.command("export")
def export_command(
    file: Annotated[Path, typer.Argument(help="where to; - is standard output")] = Path("-"),
    force: Annotated[bool, typer.Option("--force", help="replace a file that is there")] = False,
    as_json: JsonOption = False,
) -> None:
    """Write every pin, as of one moment, as tab-separated text: subject_key, jurisdiction, cell, epoch, state.

    The operator's certificate and the directory's database come from DOMICILE_DEPLOYMENT, _CERTIFICATE, _KEY,
    _AUTHORITIES and _STORAGE. Subject keys are pseudonymous, and personal data in law: keep the file as such.

    Example: domicile pin export pins.tsv
    """
    path = None if str(file) == "-" else file
    if path is not None and path.exists() and not force:
        typer.echo(f"domicile pin export: {path}: is there already (--force replaces it)", err=True)
        raise typer.Exit(1)
    exported = _run("export", _export(path), as_json=as_json)
    if as_json:
        typer.echo(json.dumps({"ok": True, "exported": exported}), err=path is None)
    else:
        typer.echo(f"{exported:,} pins exported", err=True)


async def _import(path: Path | None, *, keep: bool) -> bulk.Imported:
    with _reading(path) as stream, _progress("read") as tell:
        async with _database() as connection:
            homes = await _homes(connection)
            return await bulk.import_pins(connection, _lines(stream), homes, keep=keep, progress=tell)


@app.command("import")
def import_command(
    file: Annotated[Path, typer.Argument(help="where from; - is standard input")] = Path("-"),
    keep: Annotated[
        bool, typer.Option("--keep", help="where a line contradicts a pin that stands, keep the pin")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Merge a file of pins, all of it or nothing: new ones, and those at a higher epoch than what stands.

    A bad line is refused by its number; so is one that contradicts a pin at the same or a higher epoch. Routers
    hear of each pin by the change log. How full cells are counted to be does not change. Settings as for export,
    and DOMICILE_OPERATORS: cells are checked against the published topology.

    Example: domicile pin import pins.tsv
    """
    done = _run("import", _import(None if str(file) == "-" else file, keep=keep), as_json=as_json)
    if as_json:
        typer.echo(json.dumps({"ok": True} | done._asdict()))
    else:
        changed = f"{done.inserted:,} new, {done.updated:,} at a higher epoch"
        typer.echo(f"{changed}, {done.unchanged:,} as they were, {done.kept:,} kept")


async def _reconciliation() -> dict[str, Any]:
    addresses = [each.strip() for each in _setting("DIRECTORY").split(",") if each.strip()]
    directory = DirectoryClient(_credentials(), addresses)
    try:
        return (await directory.reconciliation()).model_dump(mode="json")
    finally:
        await directory.close()


@app.command("reconcile")
def reconcile_command(as_json: JsonOption = False) -> None:
    """Tell whether the directory's database has lost pins, and which cells it still waits for; exit status 1 if so.

    The cells' gateways tell their fences by themselves. DOMICILE_DIRECTORY names the directory's addresses.

    Example: until domicile pin reconcile; do sleep 5; done
    """
    found = _run("reconcile", _reconciliation(), as_json=as_json)
    if as_json:
        typer.echo(json.dumps({"ok": not found["reconciling"]} | found))
    elif not found["reconciling"]:
        typer.echo("nothing is to be reconciled")
    else:
        if found["wait_seconds"]:
            typer.echo(f"cells are asked in {found['wait_seconds']} s, when no older grant is good any more")
        for cell in found["cells"]:
            told = "all" if cell["done"] else "so far"
            typer.echo(
                f"{cell['cell']}: {cell['fences']:,} fences told ({told}), {cell['contradictions']:,} contradict"
            )
        if found["waiting_for"]:
            typer.echo(f"waiting for {', '.join(found['waiting_for'])}")
        if found["revision"] < found["wanted_revision"]:
            typer.echo(f"waiting for topology revision {found['wanted_revision']}: publish it with `domicile apply`")
    if found["reconciling"]:
        raise typer.Exit(1)
