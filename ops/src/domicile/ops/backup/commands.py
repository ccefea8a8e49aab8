"""``domicile backup`` and ``domicile restore``."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from collections.abc import Callable, Coroutine, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from domicile.model.access import GLOBAL
from domicile.model.errors import DomicileError, InvalidInput
from domicile.ops.backup.agent import open_target
from domicile.ops.backup.base import take
from domicile.ops.backup.catalog import Base, Line, line_from, number_of, spans
from domicile.ops.backup.place import Database, Place
from domicile.ops.backup.report import report
from domicile.ops.backup.restore import Restored, parse_moment, restore, verify
from domicile.ops.layout import Layout
from domicile.ops.output import JsonOption, StateOption, emit_json, refusals, table

app = typer.Typer(help="Backups of each database, in its own jurisdiction's target.", no_args_is_help=True)
Result = TypeVar("Result")
Names = Annotated[list[str] | None, typer.Argument(help="Databases, such as eu-1, keys-eu, directory; else all.")]
OneName = Annotated[str, typer.Argument(help="A database, such as eu-1, keys-eu or directory.")]
AtOption = Annotated[str | None, typer.Option("--at", help="A time with its offset; the last moment without it.")]
ExactOption = Annotated[bool, typer.Option("--exact", help="Refuse where the log in the target ends before --at.")]
BaseOption = Annotated[str | None, typer.Option("--base", help="Begin with this base backup; see `backup list`.")]


def _run(main: Coroutine[Any, Any, Result]) -> Result:
    """Ctrl-C and SIGTERM end it in order: what was begun is cleaned up before the exit, with status 130."""

    async def told() -> Result:
        task = asyncio.current_task()
        assert task is not None
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        return await main

    try:
        return asyncio.run(told())
    except (KeyboardInterrupt, asyncio.CancelledError):
        typer.echo("interrupted; what was begun is removed, and what was there is as before", err=True)
        raise typer.Exit(130) from None


def _teller(name: str, *, quiet: bool) -> Callable[[str], None]:
    """Progress on a terminal, none in a pipe; at most ten lines a second."""
    shown = sys.stderr.isatty() and not quiet
    told_at = 0.0

    def tell(what: str) -> None:
        nonlocal told_at
        if shown and time.monotonic() - told_at > 0.1:
            told_at = time.monotonic()
            typer.echo(f"\r\x1b[K  {name:<12} {what}", nl=False, err=True)

    return tell


def _bytes(tell: Callable[[str], None]) -> Callable[[int, int], None]:
    return lambda done, total: tell(f"{done / 1e6:,.0f} of {total / 1e6:,.0f} MB")


def _done(*, quiet: bool) -> None:
    if sys.stderr.isatty() and not quiet:
        typer.echo("\r\x1b[K", nl=False, err=True)


@app.command("adopt", epilog="Example: domicile backup adopt eu")
def adopt_command(
    jurisdiction: Annotated[str, typer.Argument(help="Whose target; global is the directory's.")],
    state: StateOption = None,
    json_output: JsonOption = False,
) -> None:
    """Make the folder that the manifest names the jurisdiction's target, where its first one is lost for good.

    Backups in a target that is only away (unmounted) come back with it: mount it instead.
    """
    with refusals(as_json=json_output):
        place = Place(Layout.at(state))
        if jurisdiction not in (*place.manifest.jurisdictions, GLOBAL):
            raise InvalidInput(f"no jurisdiction {jurisdiction}", remedy="one of the manifest's, or global")
        open_target(place.manifest, jurisdiction, place.layout.root).adopt()
    if json_output:
        emit_json({"ok": True, "jurisdiction": jurisdiction})
    else:
        typer.echo(f"the target is {jurisdiction}'s; the next base backups are due now, see `domicile backup list`")


@app.command("take", epilog="Example: domicile backup take eu-1")
def take_command(names: Names = None, state: StateOption = None, json_output: JsonOption = False) -> None:
    """Take a base backup of each database now, while it is used; then delete what the manifest's keep_days let go."""
    with refusals(as_json=json_output):
        place = Place(Layout.at(state))
        unusable: dict[str, DomicileError] = {}

        async def work() -> list[Base]:
            taken = []
            for database in place.databases(names):
                tell = _teller(database.name, quiet=json_output)
                async with place.store(database) as store, place.passage(database).open() as socket:
                    taken.append(await take(socket, store, _bytes(tell)))
                    unusable.update((await store.prune(timedelta(days=place.keep_days(database)))).unusable)
            return taken

        taken = _run(work())
    _done(quiet=json_output)
    if json_output:
        emit_json(
            {"ok": True, "backups": [base.model_dump(mode="json") for base in taken], "unusable": _reasons(unusable)}
        )
        return
    columns = ["database", "base", "seconds", "data", "in the target"]
    table(columns, [[b.database, b.id, f"{_seconds(b):.1f}", _size(b.plain), _size(b.size)] for b in taken])
    _tell_unusable(unusable)


def _reasons(unusable: Mapping[str, DomicileError]) -> dict[str, str]:
    return {name: error.what for name, error in unusable.items()}


def _tell_unusable(unusable: Mapping[str, DomicileError]) -> None:
    for name, reason in _reasons(unusable).items():
        typer.echo(f"{name}: cannot be used: {reason}", err=True)


def _seconds(base: Base) -> float:
    return (base.ended - base.started).total_seconds()


def _size(count: int) -> str:
    return f"{count / 1e6:,.1f} MB"


@app.command("list", epilog="Example: domicile backup list eu-1 --json")
def list_command(names: Names = None, state: StateOption = None, json_output: JsonOption = False) -> None:
    """Tell what can be restored: base backups, and how far the log goes on from each without a hole.

    Exit status 1 where a database has no base backup, where its log has a hole after the last one, and where a base
    backup can't be used: damaged, another's, or its key is not to be had.
    """
    with refusals(as_json=json_output):
        place = Place(Layout.at(state))
        rows: list[dict[str, Any]] = []
        missing: list[str] = []
        unusable: dict[str, DomicileError] = {}

        async def work() -> None:
            for database in place.databases(names):
                async with place.store(database) as store:
                    bases, others = await store.survey()
                    unusable.update(others)
                    lines = {system: await store.lines(system) for system in {base.system for base in bases}}
                    found = [_row(base, store.log(base.system), line_from(base, lines[base.system])) for base in bases]
                    rows.extend(found)
                    if not found or found[-1]["holes"]:
                        missing.append(database.name)

        _run(work())
    if json_output:
        found = {"backups": rows, "incomplete": missing, "unusable": _reasons(unusable)}
        emit_json({"ok": not missing and not unusable, **found})
    else:
        columns = ["database", "id", "ended", "size", "segments", "holes"]
        table(columns, [[str(row[column]) for column in columns] for row in rows], failed=lambda row: row[5] != "0")
        _tell_unusable(unusable)
        for name in missing:
            typer.echo(
                f"{name}: no base backup whose log is whole; take one with `domicile backup take {name}`", err=True
            )
    if missing or unusable:
        raise typer.Exit(1)


def _row(base: Base, segments: list[str], line: Line) -> dict[str, Any]:
    first = number_of(base.first)
    after = [segment for segment in segments if line.has(segment) and number_of(segment) >= first]
    covered = range(number_of(base.first), number_of(base.last) + 1)
    found = spans([*after, *(f"{0:08X}{n // 256:08X}{n % 256:08X}" for n in covered)])
    return base.model_dump(mode="json") | {"segments": len(after), "holes": len(found) - 1}


def _asked(name: str, at: str | None, exact: bool, state: Path | None) -> tuple[Place, Database, datetime | None]:
    """Which database, as it was when. Raises InvalidInput."""
    if exact and at is None:
        raise InvalidInput("exact about which time?", where="--exact", remedy="name it with --at")
    place = Place(Layout.at(state))
    (database,) = place.databases([name])
    return place, database, None if at is None else parse_moment(at)


@app.command("verify", epilog="Example: domicile backup verify eu-1 --at 2026-11-25T15:04:05Z")
def verify_command(
    name: OneName,
    at: AtOption = None,
    exact: ExactOption = False,
    base: BaseOption = None,
    state: StateOption = None,
    json_output: JsonOption = False,
) -> None:
    """Restore into a scratch database of the jurisdiction; check files, tables and indexes; count rows; remove it."""
    with refusals(as_json=json_output):
        place, database, moment = _asked(name, at, exact, state)
        found = _run(verify(place, database, moment, base, _teller(name, quiet=json_output), exact=exact))
    _done(quiet=json_output)
    if json_output:
        emit_json({"ok": True, **found.document()})
        return
    table(["table", "rows"], [[place_, f"{rows:,}"] for place_, rows in found.rows.items()])
    typer.echo(f"\n{name}: base backup {found.base.id} restores up to {_moment(found.upto)}, {counted(found.rows)}")
    _tell_reach(found, moment)
    typer.echo("every check passed")


def counted(rows: Mapping[str, int]) -> str:
    """Of tables in ``public``, where an application's lie, and of Domicile's own apart."""
    theirs = [count for name, count in rows.items() if name.startswith("public.")]
    own = [count for name, count in rows.items() if not name.startswith("public.")]
    said = f"{sum(own):,} rows in {len(own)} tables of Domicile's own"
    return f"{sum(theirs):,} rows in {len(theirs)} tables, and {said}" if theirs else said


def _tell_reach(found: Restored, asked: datetime | None) -> None:
    if not found.reached:
        typer.echo(f"the log in the target holds no commit as late as {_moment(asked)}: this is as far as it goes")


def _moment(moment: datetime | None) -> str:
    return "its own end" if moment is None else moment.astimezone(UTC).isoformat()


@app.command("prune", epilog="Example: domicile backup prune")
def prune_command(names: Names = None, state: StateOption = None, json_output: JsonOption = False) -> None:
    """Delete base backups and log that no moment of the last keep_days needs, and what interrupted writers left.

    The newest base backup of a database and its log are never deleted.
    """
    gone: list[str] = []
    unusable: dict[str, DomicileError] = {}
    with refusals(as_json=json_output):
        place = Place(Layout.at(state))

        async def work() -> None:
            for database in place.databases(names):
                async with place.store(database) as store:
                    pruned = await store.prune(timedelta(days=place.keep_days(database)))
                    gone.extend(pruned.deleted)
                    unusable.update(pruned.unusable)

        _run(work())
    if json_output:
        emit_json({"ok": True, "deleted": gone, "unusable": _reasons(unusable)})
    else:
        typer.echo(f"{len(gone):,} objects deleted")
        _tell_unusable(unusable)


def restore_command(
    name: OneName,
    at: AtOption = None,
    exact: ExactOption = False,
    base: BaseOption = None,
    state: StateOption = None,
    json_output: JsonOption = False,
) -> None:
    """Put a database back as it was at a time, or as late as its log goes, in the place of the one there is.

    Where the log in the target ends before --at, it is put back as far as that goes, which is told; --exact refuses.
    A running world goes on meanwhile; the database is stopped for the switch alone. A cell comes back with its fences
    closed and opens each as the directory says; a directory refuses claims until the cells have told their fences: see
    `domicile backup report`. The data of before stays beside. Example: domicile restore eu-1 --at 2026-11-25T15:04:05Z
    """
    with refusals(as_json=json_output):
        place, database, moment = _asked(name, at, exact, state)
        found = _run(restore(place, database, moment, base, _teller(name, quiet=json_output), exact=exact))
    _done(quiet=json_output)
    if json_output:
        emit_json({"ok": True, **found.document()})
        return
    typer.echo(f"{name}: as of {_moment(found.upto)}, {counted(found.rows)}")
    _tell_reach(found, moment)
    if found.dropped_segments:
        typer.echo(f"{found.dropped_segments} segments of the log lie after that moment and are not in it")
    if found.closed is not None:
        typer.echo(f"{found.closed:,} fences are closed; `domicile backup report {name}` tells how they are settled")
    if found.before is not None:
        typer.echo(f"the data of before: {found.before}; delete it when you need it no more")


@app.command("report", epilog="Example: until domicile backup report eu-1; do sleep 5; done")
def report_command(name: OneName, state: StateOption = None, json_output: JsonOption = False) -> None:
    """Tell how far a restored cell or directory is, and what it found different; exit status 1 until it is over."""
    with refusals(as_json=json_output):
        place = Place(Layout.at(state))
        (database,) = place.databases([name])
        found = _run(report(place, database))
    if json_output:
        emit_json({"ok": found.over, **found.document})
    else:
        for line in found.lines:
            typer.echo(line)
    if not found.over:
        raise typer.Exit(1)
