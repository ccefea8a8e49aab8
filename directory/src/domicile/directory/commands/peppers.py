"""The rotation of the pepper: what each names, a new one's announcement, the campaign, and an old one's end."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer

from domicile.directory import rekeying
from domicile.directory.commands.common import (
    JsonOption,
    asking,
    credentials,
    lines_of,
    progressing,
    published_topology,
    reading,
    run,
)
from domicile.directory.rekeying import Outcome
from domicile.model import DomicileError, InvalidInput, Peppers
from domicile.service.operators import setting

COUNT_SECONDS = 300.0
Version = Annotated[int, typer.Argument(help="a pepper's version", min=0, max=255)]

app = typer.Typer(help="See, announce and forget peppers.", no_args_is_help=True)


@app.callback()
def _pepper() -> None:
    """See, announce and forget peppers."""


def _peppers() -> Peppers:
    path = Path(setting("PEPPER"))
    try:
        peppers = Peppers.parse(path.read_text())
    except UnicodeDecodeError:
        raise InvalidInput("not text", where=str(path), remedy="see DOMICILE_PEPPER") from None
    except InvalidInput as error:
        raise InvalidInput(error.what, where=str(path), remedy="see DOMICILE_PEPPER") from None
    if not peppers.others:
        raise InvalidInput(
            "holds one pepper: nobody can be found by the one before", where=str(path), remedy="add its line"
        )
    return peppers


async def _list() -> list[dict[str, Any]]:
    async with asking(COUNT_SECONDS) as directory:
        return [version.model_dump() for version in (await directory.peppers()).versions]


@app.command("list")
def list_command(as_json: JsonOption = False) -> None:
    """Count what each pepper's keys name; goes through every pin, so it may take minutes.

    The operator's certificate comes from DOMICILE_DEPLOYMENT, _CERTIFICATE, _KEY and _AUTHORITIES; DOMICILE_DIRECTORY
    names the directory's addresses.

    Example: domicile pin pepper list --json
    """
    versions = run("pepper list", _list(), as_json=as_json)
    if as_json:
        typer.echo(json.dumps({"ok": True, "versions": versions}))
        return
    typer.echo(f"{'pepper':>6} {'pins':>14} {'tombstones':>14} {'aliases':>14}")
    for each in versions:
        end = "  forgotten" if each["forgotten"] else ""
        counts = "".join(f" {each[name]:>14,}" for name in ("pins", "tombstones", "aliases"))
        typer.echo(f"{each['version']:>6}{counts}{end}")


async def _announce(version: int) -> None:
    async with asking() as directory:
        await directory.announce_pepper(version)


@app.command("announce")
def announce_command(version: Version, as_json: JsonOption = False) -> None:
    """Have every claim name its subject by this pepper's key too; those that can't are refused from now on.

    Give the pepper to every application and router first, on a further line of their file. Takes an operator of the
    trust domain global.

    Example: domicile pin pepper announce 2
    """
    again = "it may be announced by now: run it again"
    run("pepper announce", _announce(version), as_json=as_json, interrupted=again)
    typer.echo(json.dumps({"ok": True, "version": version}) if as_json else f"pepper {version} is announced")


async def _forget(version: int) -> None:
    async with asking(COUNT_SECONDS) as directory:
        await directory.forget_pepper(version)


@app.command("forget")
def forget_command(version: Version, as_json: JsonOption = False) -> None:
    """Delete a pepper's tombstones and refuse its keys for good; refused while it names anybody.

    Routers load the map anew, and gateways forget the keys that their subjects had before. Afterwards take the
    pepper out of every file. Takes an operator of the trust domain global.

    Example: domicile pin pepper forget 1
    """
    again = "the directory goes on with it: run it again"
    run("pepper forget", _forget(version), as_json=as_json, interrupted=again)
    typer.echo(json.dumps({"ok": True, "version": version}) if as_json else f"pepper {version} is forgotten")


async def _rekey(path: Path | None) -> tuple[Counter[Outcome], list[tuple[int, DomicileError]]]:
    peppers = _peppers()
    failures: list[tuple[int, DomicileError]] = []
    with reading(path) as stream, progressing("asked") as tell:
        async with asking() as directory:
            manifest = published_topology().read(await directory.topology())
            told = failures.append
            async with rekeying.campaign(
                credentials(), directory, manifest, lambda line, error: told((line, error))
            ) as campaign:
                subjects = rekeying.read(lines_of(stream, rekeying.MAX_LINE_BYTES), peppers)
                return await campaign.run(subjects, tell), failures


def rekey_command(
    file: Annotated[Path, typer.Argument(help="where from; - is standard input")] = Path("-"),
    as_json: JsonOption = False,
) -> None:
    """Name every subject of a list, at home in the operator's jurisdiction, by the keys of the pepper in force.

    A line is JSON: {"subject": "alice", "aliases": {"email": "a@example.eu"}}. The list is personal data, which stays
    in its jurisdiction, as does this command; each jurisdiction has a campaign of its own. Nobody is refused meanwhile.
    Running it again, after a failure or Ctrl-C, goes on where it ended.

    Settings as for export, and DOMICILE_PEPPER (every pepper in use, the one in force first), DOMICILE_DIRECTORY and
    DOMICILE_OPERATORS.

    Example: domicile pin rekey subjects.jsonl
    """
    again = "what was renamed stays so: run it again"
    counts, failures = run("rekey", _rekey(None if str(file) == "-" else file), as_json=as_json, interrupted=again)
    first = [{"line": line, "code": error.code, "detail": str(error)} for line, error in failures[: rekeying.SHOWN]]
    if as_json:
        outcomes = {outcome.value: counts[outcome] for outcome in Outcome}
        typer.echo(json.dumps({"ok": not failures} | outcomes | {"failures": first}))
    else:
        typer.echo(", ".join(f"{counts[outcome]:,} {outcome}" for outcome in Outcome))
        for failure in first:
            typer.echo(f"line {failure['line']}: {failure['detail']}", err=True)
    if failures:
        raise typer.Exit(1)
