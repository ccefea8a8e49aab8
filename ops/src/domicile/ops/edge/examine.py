"""``domicile edge test``: an edge of anybody's making, looked at from outside; the table, or one JSON document."""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Final

import typer
from yarl import URL

from domicile.model.errors import InvalidInput
from domicile.ops.edge.kit import Brought, Row, examine
from domicile.ops.explain import header_fields
from domicile.ops.output import JsonOption, emit_json, refusals, table

_PATH: Final = re.compile(r"/[!-\"$-~]*")
_FILE: Final = "A file of header lines, such as 'Authorization: Bearer ...'"


def _option(name: str, whose: str) -> typer.models.OptionInfo:
    option: typer.models.OptionInfo = typer.Option(name, help=f"{_FILE}: {whose}.")
    return option


def examine_command(
    url: Annotated[str, typer.Argument(help="The edge, such as https://edge.acme.example.")],
    user: Annotated[Path, _option("--user", "a test user's, at home in the edge's jurisdiction")],
    path: Annotated[str, typer.Option(help="A path that is a subject's own, read by GET.")] = "/",
    write: Annotated[str | None, typer.Option(help="One that takes a POST of any bytes.")] = None,
    other: Annotated[Path | None, _option("--other", "another user's, in another field")] = None,
    abroad: Annotated[Path | None, _option("--abroad", "a user's of another jurisdiction")] = None,
    expired: Annotated[Path | None, _option("--expired", "a residency token past its time")] = None,
    stale: Annotated[Path | None, _option("--stale", "a residency token of before a move, within its time")] = None,
    deployment: Annotated[str, typer.Option(help="Named by the tokens that are forged.")] = "domicile",
    authority: Annotated[Path | None, typer.Option(help="Whose certificate to believe (PEM).")] = None,
    json_output: JsonOption = False,
) -> None:
    """Try an edge as its clients would, honest and not, and say what it got wrong and what to do. Exit status 1 then.

    Log a test user in as your application has it, and write the session's field into a file; nothing of it is shown.

    Example: domicile edge test https://edge.acme.example --user session.txt --path /profile --expired yesterday.txt
    """
    with refusals(as_json=json_output):
        _check_places(url, {"--path": path, "--write": write})
        brought = Brought(
            url,
            header_fields(user),
            path,
            deployment,
            **{
                name: header_fields(file) if file is not None else {}
                for name, file in {"other": other, "abroad": abroad, "expired": expired, "stale": stale}.items()
            },
            write=write,
        )
        rows = asyncio.run(examine(brought, _context(authority)))
    ok = all(row.ok is not False for row in rows)
    if json_output:
        emit_json({"ok": ok, "rows": [asdict(row) for row in rows]})
    else:
        _print(rows)
    if not ok:
        raise typer.Exit(1)


def _check_places(url: str, paths: Mapping[str, str | None]) -> None:
    """A test session goes to the address given and to no other: what is appended to it cannot name one."""
    try:
        place = URL(url)
        named = place.scheme in ("https", "http") and place.host and not (place.user or place.raw_query_string)
    except ValueError:
        named = False
    if not named:
        raise InvalidInput("is not the address of an edge", where="URL", remedy="https://edge.acme.example")
    for option, path in paths.items():
        if path is not None and not _PATH.fullmatch(path):
            raise InvalidInput("is not a path", where=option, remedy="one that begins with /, printable and without #")


def _context(authority: Path | None) -> ssl.SSLContext | None:
    return None if authority is None else ssl.create_default_context(cafile=str(authority))


def _print(rows: list[Row]) -> None:
    words = {True: "yes", False: "no", None: "-"}
    shown = [[row.check, row.tried, row.expected, row.happened, words[row.ok]] for row in rows]
    table(["check", "tried", "expected", "happened", "ok"], shown, failed=lambda row: row[-1] == "no")
    for row in rows:
        if row.ok is False:
            typer.echo(f"{row.check}: {row.remedy}")
