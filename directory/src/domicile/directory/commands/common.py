"""What the commands share: settings from the environment, progress on a terminal, and one way to fail."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Annotated, Any, BinaryIO, NoReturn, TypeVar

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from domicile.client import DirectoryClient
from domicile.directory.second_zone import SecondZone
from domicile.directory.topology import PublishedTopology
from domicile.identity import Credentials
from domicile.model import DomicileError, InvalidInput
from domicile.service import operator_keys_in
from domicile.service.operators import addresses, refusal, setting

JsonOption = Annotated[bool, typer.Option("--json", help="print one JSON object")]
Result = TypeVar("Result")


def credentials() -> Credentials:
    """The operator's own. Raises InvalidInput."""
    own = Credentials(Path(setting("CERTIFICATE")), Path(setting("KEY")), Path(setting("AUTHORITIES")))
    if own.identity.deployment != setting("DEPLOYMENT"):
        raise InvalidInput("the certificate is for another deployment", where="DOMICILE_CERTIFICATE")
    return own


def second_zone() -> SecondZone:
    """As the directory's own processes are told; absent where it is not set. Raises InvalidInput."""
    try:
        return SecondZone(os.environ.get("DOMICILE_SECOND_ZONE") or SecondZone.ABSENT)
    except ValueError:
        raise InvalidInput(
            "is neither required nor absent",
            where="DOMICILE_SECOND_ZONE",
            remedy="as the directory's processes have it",
        ) from None


def published_topology() -> PublishedTopology:
    """What reads a topology that one of the operators in DOMICILE_OPERATORS has signed."""
    keys = operator_keys_in(Path(setting("OPERATORS")))
    return PublishedTopology(setting("DEPLOYMENT"), keys)


@asynccontextmanager
async def asking(seconds: float = 5.0) -> AsyncIterator[DirectoryClient]:
    """A client of the directory at DOMICILE_DIRECTORY, whose calls may each take so long."""
    directory = DirectoryClient(credentials(), addresses(), deadline=seconds)
    try:
        yield directory
    finally:
        await directory.close()


def run(
    command: str, main: Coroutine[Any, Any, Result], *, as_json: bool, interrupted: str = "nothing is changed"
) -> Result:
    """What ``main`` answers; a refusal is one line, or one JSON object, and exit status 1.

    ``interrupted``: how things stand after Ctrl-C, and what to do.
    """
    logging.getLogger("domicile").addHandler(logging.NullHandler())  # what is logged is told by the refusal
    try:
        return asyncio.run(main)
    except (DomicileError, OSError) as error:
        if isinstance(error, DomicileError):
            code, detail, where = error.code, str(error), error.where
        else:
            code, where = "invalid-input", str(error.filename or "")
            detail = f"{where}: {(error.strerror or type(error).__name__).lower()}"
        refuse(command, code, detail, where, as_json=as_json)
    except KeyboardInterrupt:
        refuse(command, "interrupted", f"interrupted, {interrupted}", "", as_json=as_json, status=130)


def refuse(command: str, code: str, detail: str, where: str, *, as_json: bool, status: int = 1) -> NoReturn:
    """One line on standard error, or one JSON object, and the end."""
    if as_json:
        typer.echo(json.dumps(refusal(code, detail, where)))
    else:
        typer.echo(f"domicile pin {command}: {detail}", err=True)
    raise typer.Exit(status) from None


@contextmanager
def progressing(what: str) -> Iterator[Callable[[int], None]]:
    """Told how many so far; shown on a terminal only."""
    columns = (TextColumn(what), BarColumn(), TextColumn("{task.completed:,}"), TimeElapsedColumn())
    with Progress(*columns, disable=not sys.stderr.isatty(), transient=True) as progress:
        task = progress.add_task(what, total=None)
        yield lambda done: progress.update(task, completed=done)


def reading(path: Path | None) -> BinaryIO:
    """A file, or standard input."""
    return os.fdopen(os.dup(0), "rb") if path is None else open(path, "rb")


def lines_of(stream: BinaryIO, limit: int) -> Iterator[bytes]:
    """Its lines; of one that is longer than ``limit`` bytes, so much that it can be told."""
    while line := stream.readline(limit + 2):
        yield line
