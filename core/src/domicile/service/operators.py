"""What an operator's command is told by its environment: who one is, and the topology that operators have signed; and
how it says that it was refused.

Not part of the facade: only commands use it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import typer
from pydantic import TypeAdapter, ValidationError

from domicile.client import DirectoryClient
from domicile.identity import Credentials, verify_topology
from domicile.model import Address, DomicileError, InvalidInput, Manifest, Role, parse_manifest
from domicile.model.manifest import AddressField
from domicile.service.settings import operator_keys_in

_ADDRESS: Final[TypeAdapter[str]] = TypeAdapter(AddressField)


def setting(name: str) -> str:
    """The environment's DOMICILE_<name>. Raises InvalidInput where it is not set."""
    value = os.environ.get(f"DOMICILE_{name}")
    if not value:
        raise InvalidInput("is not set", where=f"DOMICILE_{name}", remedy="set it, or run it beside a local world")
    return value


def addresses(name: str = "DIRECTORY") -> list[Address]:
    """One at least, comma-separated, as DOMICILE_<name> names them. Raises InvalidInput."""
    try:
        return [Address(_ADDRESS.validate_python(each.strip())) for each in setting(name).split(",")]
    except ValidationError:
        raise InvalidInput("is not host:port", where=f"DOMICILE_{name}", remedy="such as 10.0.0.1:7000") from None


def refusal(code: str, error: str, where: str = "", problems: Sequence[str] = ()) -> dict[str, object]:
    """What a command prints with ``--json`` where it was refused: the same of every room."""
    return {"ok": False, "code": code, "error": error, "where": where, "problems": list(problems)}


@contextmanager
def refusals(command: str, *, as_json: bool, interrupted: str) -> Iterator[None]:
    """A refusal is one line, or one JSON object, and exit status 1; Ctrl-C is 130, and ``interrupted`` says how things
    stand after it. ``command``: its words after ``domicile``."""
    try:
        yield
    except (DomicileError, OSError) as error:
        if isinstance(error, DomicileError):
            code, told, where = error.code, str(error), error.where
        else:
            code, where = "invalid-input", str(error.filename or "")
            told = f"{where}: {(error.strerror or type(error).__name__).lower()}"
        if as_json:
            typer.echo(json.dumps(refusal(code, told, where)))
        else:
            typer.echo(f"domicile {command}: {told}", err=True)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        typer.echo(f"domicile {command}: interrupted{interrupted}", err=True)
        raise typer.Exit(130) from None


async def operator_and_topology() -> tuple[Credentials, Manifest]:
    """By the environment. Raises InvalidInput, Unavailable, TokenInvalid."""
    own = Credentials(Path(setting("CERTIFICATE")), Path(setting("KEY")), Path(setting("AUTHORITIES")))
    if own.identity.role is not Role.OPERATOR:
        raise InvalidInput(f"is a certificate for {own.identity.role}, not {Role.OPERATOR}", where=str(own.certificate))
    directory = DirectoryClient(own, addresses())
    try:
        document = await directory.topology()
    finally:
        await directory.close()
    signed = verify_topology(document, own.identity.deployment, operator_keys_in(Path(setting("OPERATORS"))))
    return own, parse_manifest(signed, source=f"topology revision {document.revision}")
