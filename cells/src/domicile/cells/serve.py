"""The programs ``domicile-cell`` and ``domicile-keys``: the one module that knows all of a cell's services."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from typing import Annotated, Any, TypeVar

import typer

from domicile.cells.border import serve_border
from domicile.cells.gateway import GatewaySettings, serve_gateway
from domicile.cells.gateway.rotation import rotator
from domicile.cells.keys import KeySettings, begin_version, serve_holder, serve_keys, switch
from domicile.cells.keys.rotation import KeyOperatorSettings, rotate
from domicile.cells.ledger import open_ledger
from domicile.model import DomicileError, InvalidInput
from domicile.model.key_wire import KeyRotation
from domicile.service import ProcessSettings, load_settings, run
from domicile.service.operators import refusal

cell = typer.Typer(name="domicile-cell", add_completion=False, pretty_exceptions_enable=False, no_args_is_help=True)
keys = typer.Typer(name="domicile-keys", add_completion=False, pretty_exceptions_enable=False, no_args_is_help=True)
Settings = TypeVar("Settings", bound=ProcessSettings)
Result = TypeVar("Result")
JsonOption = Annotated[bool, typer.Option("--json", help="print one JSON object")]


def serving_cell(settings: GatewaySettings) -> AbstractAsyncContextManager[None]:
    """The gateway with all that belongs to it, listening inside the context. Raises as ``serve_gateway`` does."""
    return serve_gateway(settings, open_ledger, serve_border)


def _load(kind: type[Settings]) -> Settings:
    try:
        return load_settings(kind)
    except InvalidInput as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from None


def _serve(kind: type[Settings], serve: Callable[[Settings], AbstractAsyncContextManager[None]]) -> None:
    settings = _load(kind)
    run(settings, lambda: serve(settings))


# a callback keeps the word `serve` obligatory, so that a second command can come without breaking the first
@cell.callback()
def _cell() -> None:
    """Domicile's cell services. Settings come from the environment (DOMICILE_*)."""


@keys.callback()
def _keys() -> None:
    """Domicile's key service, and a customer's own key holder. Settings come from the environment (DOMICILE_*)."""


@cell.command("serve")
def serve_cell() -> None:
    """Serve the gateway of this certificate's cell until SIGTERM or SIGINT."""
    _serve(GatewaySettings, serving_cell)


@cell.command("rotate")
def rotate_data_keys(
    only_tell: Annotated[bool, typer.Option("--status", help="only tell how far it is")] = False,
    pause: Annotated[bool, typer.Option("--pause", help="have whoever runs it stop, and keep what is done")] = False,
    as_json: JsonOption = False,
) -> None:
    """Rotate the data keys of this certificate's cell, with the secrets of all its blind indexes.

    Runs in the cell, as its gateway. Every row is re-sealed while applications read and write, then the keys of before
    are destroyed: older backups of the cell open no more. End it at any time: run again, it goes on where it was.

    Example: domicile-cell rotate --json
    """
    shown = sys.stderr.isatty() and not as_json

    def tell(now: KeyRotation) -> None:
        if shown:
            typer.echo(_far(now), err=True)

    async def main() -> KeyRotation:
        async with rotator(_load(GatewaySettings)) as rotating:
            if only_tell:
                return await rotating.status()
            return await (rotating.stop() if pause else rotating.run(tell))

    now = _run("rotate", main(), program="domicile-cell", as_json=as_json)
    done = only_tell or pause or now.done
    if as_json:
        typer.echo(json.dumps({"ok": done, **now.model_dump(mode="json")}))
    else:
        state = "running" if now.running else "paused" if now.started else "no rotation"
        typer.echo(f"{state}: {_far(now)}")
    if not done:
        raise typer.Exit(1)


def _far(now: KeyRotation) -> str:
    told = f"{now.due:,} subjects under old keys, {now.turning:,} turning"
    return told if now.index is None else f'{told}; indexes with find="cell" of {now.unindexed:,} under the old secret'


@keys.command("serve")
def serve_key_service() -> None:
    """Serve the keys of this certificate's jurisdiction until SIGTERM or SIGINT."""
    _serve(KeySettings, serve_keys)


@keys.command("hold")
def hold() -> None:
    """Hold the key-encryption key of this certificate's key domain until SIGTERM or SIGINT: a customer's own."""
    _serve(ProcessSettings, serve_holder)


@keys.command("cut")
def cut() -> None:
    """Cut the holder of this state folder off at once: its data stays sealed until `restore`."""
    switch(_load(ProcessSettings), cut=True)


@keys.command("restore")
def restore() -> None:
    """Let the holder of this state folder serve again."""
    switch(_load(ProcessSettings), cut=False)


@keys.command("renew")
def renew() -> None:
    """Begin a new version of the key-encryption key in this holder's state folder."""
    typer.echo(f"version {_run('renew', begin_version(_load(ProcessSettings)))}")


@keys.command("rotate")
def rotate_kek(
    domain: Annotated[str, typer.Argument(help="the key domain")],
    only_tell: Annotated[bool, typer.Option("--status", help="only tell how far it is")] = False,
    as_json: JsonOption = False,
) -> None:
    """Rotate a key domain's key-encryption key, as an operator of its jurisdiction.

    Begins a new version and re-wraps every data key under it; the rows stay as they are. End it at any time: run
    again, it goes on where it was. DOMICILE_KEYS names the addresses of the key service.

    Example: domicile-keys rotate default
    """
    shown = sys.stderr.isatty() and not as_json

    def tell(left: int) -> None:
        if shown:
            typer.echo(f"{left:,} keys left", err=True)

    done = _run("rotate", rotate(KeyOperatorSettings(), domain, tell, only_tell=only_tell), as_json=as_json)
    if as_json:
        typer.echo(json.dumps({"ok": True, **done.model_dump()}))
    else:
        label = "; a transit key, unverified against a server" if done.unverified else ""
        typer.echo(f"{done.domain}: version {done.version} in force, {done.left:,} keys under another{label}")


def _run(
    command: str, main: Coroutine[Any, Any, Result], *, program: str = "domicile-keys", as_json: bool = False
) -> Result:
    """What ``main`` answers; a refusal is one line, or one JSON object, and exit status 1."""
    try:
        return asyncio.run(main)
    except DomicileError as error:
        if as_json:
            typer.echo(json.dumps(refusal(error.code, str(error), error.where)))
        else:
            typer.echo(f"{program} {command}: {error}", err=True)
        raise typer.Exit(1) from None
