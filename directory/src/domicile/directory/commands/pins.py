"""The whole map out and in, and how a reconciliation stands."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import asyncpg
import typer

from domicile.directory import bulk
from domicile.directory.commands.common import (
    JsonOption,
    asking,
    credentials,
    lines_of,
    progressing,
    published_topology,
    reading,
    refuse,
    run,
    second_zone,
)
from domicile.service.operators import addresses


@asynccontextmanager
async def _database() -> AsyncIterator[asyncpg.Connection]:
    async with bulk.connected(credentials(), addresses("STORAGE")) as connection:
        yield connection


def _writing(path: Path | None) -> BinaryIO:
    if path is None:
        return os.fdopen(os.dup(1), "wb")
    return open(path, "xb", opener=lambda name, flags: os.open(name, flags, 0o600))  # subject keys are personal data


async def _export(path: Path | None) -> int:
    draft = None if path is None else path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with _writing(draft) as stream, progressing("exported") as tell:
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
        refuse("export", "invalid-input", f"{path}: is there already (--force replaces it)", str(path), as_json=as_json)
    exported = run("export", _export(path), as_json=as_json)
    if as_json:
        typer.echo(json.dumps({"ok": True, "exported": exported}), err=path is None)
    else:
        typer.echo(f"{exported:,} pins exported", err=True)


async def _import(path: Path | None, *, keep: bool) -> bulk.Imported:
    wanted = second_zone()
    with reading(path) as stream, progressing("read") as tell:
        async with _database() as connection:
            homes = bulk.homes_of(published_topology().read(await bulk.published(connection)))
            return await bulk.import_pins(
                connection,
                lines_of(stream, bulk.MAX_LINE_BYTES),
                homes,
                keep=keep,
                second_zone=wanted,
                progress=tell,
            )


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
    and DOMICILE_OPERATORS: cells are checked against the published topology. DOMICILE_SECOND_ZONE=required, as for the
    directory's processes, refuses where no second zone takes part.

    Example: domicile pin import pins.tsv
    """
    path = None if str(file) == "-" else file
    again = "either every line counts by now, or none: run it again"
    done = run("import", _import(path, keep=keep), as_json=as_json, interrupted=again)
    if as_json:
        typer.echo(json.dumps({"ok": True} | done._asdict()))
    else:
        changed = f"{done.inserted:,} new, {done.updated:,} at a higher epoch"
        typer.echo(f"{changed}, {done.unchanged:,} as they were, {done.kept:,} kept")


async def _reconciliation() -> dict[str, Any]:
    async with asking() as directory:
        return (await directory.reconciliation()).model_dump(mode="json")


def reconcile_command(as_json: JsonOption = False) -> None:
    """Tell whether the directory's database has lost pins, and which cells it still waits for; exit status 1 if so.

    The cells' gateways tell their fences by themselves. DOMICILE_DIRECTORY names the directory's addresses.

    Example: until domicile pin reconcile; do sleep 5; done
    """
    _tell(run("reconcile", _reconciliation(), as_json=as_json), as_json=as_json)


def _tell(found: dict[str, Any], *, as_json: bool) -> None:
    """How it stands; exit status 1 while it is not over."""
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
                f"{cell['cell']}: {cell['fences']:,} fences told ({told}), {cell['contradictions']:,} contradict,"
                f" {cell['superseded']:,} superseded"
            )
        if found["waiting_for"]:
            typer.echo(f"waiting for {', '.join(found['waiting_for'])}")
        if found["revision"] < found["wanted_revision"]:
            typer.echo(f"waiting for topology revision {found['wanted_revision']}: publish it with `domicile apply`")
    if found["reconciling"]:
        raise typer.Exit(1)


async def _rebuild(revision: int) -> bool:
    async with _database() as connection:
        return await bulk.begin_rebuild(connection, revision)


def rebuild_command(
    revision: Annotated[
        int, typer.Option(min=0, help="the topology's revision that was published last, where it is known")
    ] = 0,
    as_json: JsonOption = False,
) -> None:
    """Rebuild a lost map from what the cells hold: every fence, retired ones too, and the aliases beside them.

    Run it on the empty database that a directory process has just made, before the topology is published. Claims,
    grants and "no such pin" are refused until every cell has told all of its fences. Where two cells hold one subject
    the higher epoch counts and is told (superseded); at one epoch nobody is believed, and it is not over until an
    operator has settled it (contradict). Settings as for export. See how it stands with `domicile pin reconcile`.

    Example: domicile pin rebuild && domicile apply && until domicile pin reconcile; do sleep 5; done
    """
    begun = run("rebuild", _rebuild(revision), as_json=as_json)
    if as_json:
        typer.echo(json.dumps({"ok": True, "begun": begun}))
    else:
        typer.echo("cells are asked for their fences" if begun else "cells are being asked for their fences already")
