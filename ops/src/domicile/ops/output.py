"""Tables for people, JSON for tools, one line for errors: the same for every command."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from domicile.model.errors import DomicileError, InvalidInput, ManifestError
from domicile.service.operators import refusal
from domicile.telemetry import place_of

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of a table.")]
StateOption = Annotated[
    Path | None,
    typer.Option("--state", help="Folder of the world's state.", envvar="DOMICILE_STATE", show_default=".domicile"),
]


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


def as_refusal(error: Exception) -> DomicileError:
    """An error as what may be told of it: a refusal as it is, a file's as one line, any other by class and place."""
    if isinstance(error, DomicileError):
        return error
    if isinstance(error, OSError) and error.filename is not None:
        what = (error.strerror or type(error).__name__).lower()
        return InvalidInput(what, where=str(error.filename), remedy="mend the path, its rights or its disk")
    return DomicileError(f"unforeseen {type(error).__name__} at {place_of(error)}")


def refusal_document(error: DomicileError) -> dict[str, Any]:
    """The same for every command's ``--json``."""
    problems = [str(problem) for problem in error.problems] if isinstance(error, ManifestError) else []
    return refusal(error.code, str(error), error.where, problems)


def refusal_lines(error: DomicileError) -> list[str]:
    if isinstance(error, ManifestError):
        return [f"{error.where}: {problem}" for problem in error.problems]
    return [f"domicile: {error}"]


@contextmanager
def refusals(*, as_json: bool = False) -> Iterator[None]:
    """Turn a refusal into one line on standard error (or a JSON document) and exit status 1."""
    try:
        yield
    except (DomicileError, OSError) as error:
        refusal = as_refusal(error)
        if as_json:
            emit_json(refusal_document(refusal))
        else:
            for line in refusal_lines(refusal):
                typer.echo(line, err=True)
        raise typer.Exit(1) from None
