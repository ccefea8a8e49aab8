"""``domicile audit show|export|heads|verify``: the ledger for an auditor, as an operator, and offline as anybody."""

from __future__ import annotations

import asyncio
import json
import sys
from contextlib import AbstractContextManager, ExitStack
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar

import jwt
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from domicile.cells.ledger import asking
from domicile.cells.ledger.checking import Finding, check
from domicile.cells.ledger.export import Export, KeptHead, read, read_heads, write, write_heads
from domicile.cells.ledger.heads import GOOD
from domicile.cells.ledger.page import page
from domicile.cells.ledger.summary import Summary, Wanted, parse_since
from domicile.identity import verify_head
from domicile.model import InvalidInput, Unavailable
from domicile.model.crossings import CrossingKind
from domicile.service.operators import refusals

FOUND: Final = 3
"""Exit status where something is not as it was signed, as ``audit scan`` has it."""
MISSING: Final = 1
"""Where a ledger could not be asked."""
Result = TypeVar("Result")
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of a table.")]
AsOption = Annotated[
    str | None,
    typer.Option("--as", help="Jurisdiction whose operator you are, beside a local world; else your certificate says."),
]
SinceOption = Annotated[str | None, typer.Option(help="A span such as 1d or 12h, or a date; else all.")]


def _refusals(command: str, *, as_json: bool) -> AbstractContextManager[None]:
    return refusals(f"audit {command}", as_json=as_json, interrupted=", nothing is changed")


def _emit(document: Any) -> None:
    sys.stdout.write(json.dumps(document, indent=1, ensure_ascii=False) + "\n")


def _table(columns: dict[str, bool], rows: list[list[str]]) -> None:
    """``columns``: whether each holds numbers."""
    view = Table(box=None, pad_edge=False, header_style="bold")
    for name, number in columns.items():
        view.add_column(name, justify="right" if number else "left", overflow="fold")
    for row in rows:
        view.add_row(*map(Text, row))
    Console(width=None if sys.stdout.isatty() else 240, highlight=False).print(view)


def _finding(cell: str, found: Finding) -> dict[str, Any]:
    return {
        "cell": cell,
        "ok": found.ok,
        "first": found.first,
        "size": found.size,
        "heads": found.heads,
        "witnesses": sorted(found.witnesses),
        "problems": found.problems,
        "notes": found.notes,
    }


def _tell(ledgers: list[dict[str, Any]]) -> None:
    for each in ledgers:
        held = f", held also by {', '.join(each['witnesses'])}" if each["witnesses"] else ""
        state = "as it was signed" if each["ok"] else "NOT AS IT WAS SIGNED"
        shown = f"{each['size'] - each['first']:,} lines of {each['size']:,}"
        typer.echo(f"{each['cell']}: {shown} {state}, by {each['heads']} heads{held}")
        for problem in each["problems"]:
            typer.echo(f"  {problem}")
        for note in each["notes"]:
            typer.echo(f"  note: {note}")


def show_command(
    source: Annotated[
        str | None, typer.Option("--from", help="Jurisdiction that the bytes came from; else any.")
    ] = None,
    destination: Annotated[str | None, typer.Option("--to", help="Jurisdiction that they went to; else any.")] = None,
    since: SinceOption = None,
    kind: Annotated[CrossingKind | None, typer.Option(help="One kind of crossing only.")] = None,
    html: Annotated[Path | None, typer.Option(help="Write one self-contained page to this file.")] = None,
    operator_of: AsOption = None,
    json_output: JsonOption = False,
) -> None:
    """Show what crossed a border and what was refused: by kind, way, caller and purpose, from verified ledgers.

    Asks every cell of your jurisdiction, checks what it tells against the head that its gateway signs and against the
    heads that other jurisdictions hold, and adds up. Exit status 3: a ledger is not as it was signed. 1: a cell did
    not answer, so that its lines are missing.

    Example: domicile audit show --from eu --to us --since 1d
    """
    with _refusals("show", as_json=json_output):
        now = datetime.now(UTC)
        wanted = Wanted(source, destination, None if since is None else parse_since(since, now), kind)
        document = asyncio.run(_show(wanted, now))
        if html is not None:
            html.write_text(page(document))
    if json_output:
        _emit(document)
    else:
        columns = dict.fromkeys(("cell", "kind", "from", "to", "outcome", "caller", "purpose", "what"), False)
        columns |= {"lines": True, "rows": True, "bytes": True, "days": True, "last": False}
        rows = [
            [f"{row[name]:,}" if number else str(row[name] or "-")[:19 if name == "last" else None]
             for name, number in columns.items()]
            for row in document["rows"]
        ]  # fmt: skip
        if rows:
            _table(columns, rows)
        else:
            typer.echo("nothing crossed, and nothing was refused")
        _tell(document["ledgers"])
        for each in document["missing"]:
            typer.echo(f"{each['cell']}: MISSING HERE: {each['reason']}")
        for note in document["notes"]:
            typer.echo(f"note: {note}")
    if not document["ok"]:
        raise typer.Exit(FOUND if not all(each["ok"] for each in document["ledgers"]) else MISSING)


async def _show(wanted: Wanted, now: datetime) -> dict[str, Any]:
    auditor = await asking.auditor()
    jurisdiction = auditor.identity.jurisdiction
    for name in (wanted.source, wanted.destination):
        if name is not None and name not in auditor.manifest.jurisdictions:
            known = ", ".join(sorted(auditor.manifest.jurisdictions))
            raise InvalidInput(f"no jurisdiction {name}", where="--from/--to", remedy=f"one of {known}")
    held, notes = await asking.witnesses(auditor)
    summary = Summary(wanted)
    ledgers: list[dict[str, Any]] = []
    missing: list[dict[str, str]] = []
    for cell in auditor.cells():
        try:
            async with asking.exporting(auditor, cell, wanted.since, []) as export:
                found = check(
                    export,
                    held,
                    lambda head: auditor.verify(head, jurisdiction),
                    partial(summary.add, cell),
                )
        except Unavailable as error:  # what the others say counts all the same
            missing.append({"cell": cell, "code": error.code, "reason": str(error)})
        else:
            ledgers.append(_finding(cell, found))
    if missing and not ledgers:
        raise Unavailable("no cell's ledger can be asked", where=", ".join(each["cell"] for each in missing))
    if summary.missing:
        notes.append(f"{summary.missing:,} reports of routers are missing: their bytes are not in these sums")
    if summary.repeated:
        notes.append(f"{summary.repeated:,} reports of routers came twice, and count once")
    return {
        "ok": all(each["ok"] for each in ledgers) and not missing,
        "deployment": auditor.manifest.deployment,
        "jurisdiction": jurisdiction,
        "made": now.isoformat(),
        "asked": {
            "from": wanted.source,
            "to": wanted.destination,
            "since": wanted.since.isoformat() if wanted.since else None,
            "kind": wanted.kind,
        },
        "rows": summary.rows(),
        "ledgers": ledgers,
        "missing": missing,
        "notes": notes,
    }


def export_command(
    out: Annotated[Path, typer.Option(help="Folder for the files, one for each cell.")],
    since: SinceOption = None,
    operator_of: AsOption = None,
    json_output: JsonOption = False,
) -> None:
    """Export your jurisdiction's ledgers with their signed heads, to be checked offline by `domicile audit verify`.

    Example: domicile audit export --out ledgers
    """
    with _refusals("export", as_json=json_output):
        moment = None if since is None else parse_since(since, datetime.now(UTC))
        out.mkdir(parents=True, exist_ok=True)
        files = asyncio.run(_export(out, moment))
    if json_output:
        _emit({"ok": True, "files": files})
    else:
        for each in files:
            typer.echo(f"{each['file']}: {each['lines']:,} lines of {each['cell']}")


async def _export(out: Path, since: datetime | None) -> list[dict[str, Any]]:
    auditor = await asking.auditor()
    files = []
    for cell in auditor.cells():
        async with asking.exporting(auditor, cell, since, []) as export:
            path = out / f"{cell}.jsonl"
            with path.open("wb") as stream:
                files.append({"cell": cell, "file": str(path), "lines": write(export, stream)})
    return files


def heads_command(
    out: Annotated[
        Path | None, typer.Option(help="Write the held heads to this file, for `domicile audit verify`.")
    ] = None,
    operator_of: AsOption = None,
    json_output: JsonOption = False,
) -> None:
    """Show what your jurisdiction holds of other jurisdictions' ledgers, and the alarms. Exit status 3 for an alarm.

    Example: domicile audit heads --out us.heads.jsonl
    """
    with _refusals("heads", as_json=json_output):
        rows, alarms, kept = asyncio.run(_heads())
        if out is not None:
            with out.open("wb") as stream:
                write_heads(kept, stream)
    bad = [row for row in rows if row["verdict"] not in {*GOOD, "unseen"}] + alarms
    if json_output:
        _emit({"ok": not bad, "heads": rows, "alarms": alarms})
    else:
        _table(
            {"held by": False, "ledger of": False, "lines": True, "state": False, "last seen": False},
            [[row["by"], row["cell"], f"{row['size']:,}", row["verdict"], row["seen"] or "-"] for row in rows],
        )
        for alarm in alarms:
            typer.echo(f"ALARM: {alarm['by']} found the ledger of {alarm['cell']} {alarm['verdict']} at {alarm['at']}")
    if bad:
        raise typer.Exit(FOUND)


def _time(moment: float | None) -> str | None:
    return None if moment is None else datetime.fromtimestamp(moment, UTC).isoformat(timespec="seconds")


async def _heads() -> tuple[list[dict[str, Any]], list[dict[str, Any]], list[KeptHead]]:
    auditor = await asking.auditor()
    rows, alarms, kept = [], [], []
    for cell in auditor.cells():
        held = await asking.held_by(auditor, cell)
        for each in held.heads:
            size = 0 if each.head is None else auditor.verify(each.head, each.jurisdiction).size
            rows.append(
                {"by": cell, "cell": each.cell, "size": size, "verdict": each.verdict, "seen": _time(each.seen)}
            )
            if each.head is not None:
                kept.append(KeptHead(by=cell, head=each.head))
        for alarm in held.alarms:
            alarms.append({"by": cell, "cell": alarm.cell, "verdict": alarm.verdict, "at": _time(alarm.at)})
            kept += [KeptHead(by=cell, head=alarm.held), KeptHead(by=cell, head=alarm.told)]
    return rows, alarms, kept


def verify_command(
    exports: Annotated[list[Path], typer.Argument(help="Exports of ledgers.")],
    authorities: Annotated[
        Path,
        typer.Option(
            help="Folder of <jurisdiction>.pem: the authorities, as you know them.", envvar="DOMICILE_AUTHORITIES"
        ),
    ],
    deployment: Annotated[str, typer.Option(help="The deployment that they must be of.", envvar="DOMICILE_DEPLOYMENT")],
    held: Annotated[
        list[Path] | None, typer.Option(help="Heads that another jurisdiction held, by `domicile audit heads --out`.")
    ] = None,
    json_output: JsonOption = False,
) -> None:
    """Check exported ledgers offline, without any secret: every line against every signed head.

    A line that was changed, taken out, put in or moved, and an end that was cut off, is found by any head of later.
    Heads that another jurisdiction held find what the cell itself signed anew. Exit status 3: not as it was signed.

    Example: domicile audit verify ledgers/eu-1.jsonl --held us.heads.jsonl --authorities trust --deployment acme
    """
    with _refusals("verify", as_json=json_output), ExitStack() as stack:
        heads: list[KeptHead] = []
        for path in held or []:
            heads += read_heads(stack.enter_context(path.open("rb")), str(path))
        ledgers = [_verify(path, heads, authorities, deployment) for path in exports]
    good = all(each["ok"] for each in ledgers)
    if json_output:
        _emit({"ok": good, "ledgers": ledgers})
    else:
        _tell(ledgers)
    if not good:
        raise typer.Exit(FOUND)


def _verify(path: Path, heads: list[KeptHead], authorities: Path, deployment: str) -> dict[str, Any]:
    with path.open("rb") as stream:
        export: Export = read(stream, str(path))
        place = export.place
        if place.deployment != deployment:
            raise InvalidInput(f"is of deployment {place.deployment}, not {deployment}", where=str(path))
        authority = asking.authority_of(place.jurisdiction, authorities)
        mine = [each for each in heads if _of(each) in (None, place.cell)]
        found = check(export, mine, lambda head: verify_head(head, deployment, authority))
    return {"file": str(path), **_finding(place.cell, found)}


def _of(kept: KeptHead) -> str | None:
    """The cell that a head says it is of, unverified: another cell's may be by another authority. None for no head."""
    try:
        return str(jwt.decode(kept.head.signed, options={"verify_signature": False}).get("cell"))
    except jwt.InvalidTokenError:
        return None
