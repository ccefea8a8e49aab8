"""Tables for people, JSON for tools, one line for errors: the same for every command."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from domicile.model.errors import DomicileError, ManifestError

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of a table.")]


def emit_json(document: Any) -> None:
    sys.stdout.write(json.dumps(document, indent=1, ensure_ascii=False) + "\n")


def table(columns: list[str], rows: list[list[str]], *, failed: Callable[[list[str]], bool] = lambda _: False) -> None:
    """Print rows; those that ``failed`` picks stand out. Nothing is cut off when the output is a pipe."""
    console = Console(width=None if sys.stdout.isatty() else 200, highlight=False)
    view = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        view.add_column(column, overflow="fold")
    for row in rows:
        view.add_row(*(Text(cell) for cell in row), style="bold red" if failed(row) else "")
    console.print(view)


@contextmanager
def refusals(*, as_json: bool = False) -> Iterator[None]:
    """Turn a refusal into one line on standard error (or a JSON document) and exit status 1."""
    try:
        yield
    except DomicileError as error:
        if as_json:
            problems = [str(problem) for problem in error.problems] if isinstance(error, ManifestError) else []
            emit_json({"ok": False, "code": error.code, "error": str(error), "problems": problems})
        elif isinstance(error, ManifestError):
            for problem in error.problems:
                typer.echo(f"{error.where}: {problem}", err=True)
        else:
            typer.echo(f"domicile: {error}", err=True)
        raise typer.Exit(1) from None
