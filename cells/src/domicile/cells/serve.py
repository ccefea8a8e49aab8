"""The programs ``domicile-cell`` and ``domicile-keys``: the one module that knows all of a cell's services."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import TypeVar

import typer

from domicile.cells.gateway import GatewaySettings, serve_gateway
from domicile.cells.keys import serve_keys
from domicile.model import InvalidInput
from domicile.service import ProcessSettings, load_settings, run

cell = typer.Typer(name="domicile-cell", add_completion=False, pretty_exceptions_enable=False, no_args_is_help=True)
keys = typer.Typer(name="domicile-keys", add_completion=False, pretty_exceptions_enable=False, no_args_is_help=True)


Settings = TypeVar("Settings", bound=ProcessSettings)


def _serve(kind: type[Settings], serve: Callable[[Settings], AbstractAsyncContextManager[None]]) -> None:
    try:
        settings = load_settings(kind)
    except InvalidInput as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from None
    run(settings, lambda: serve(settings))


# a callback keeps the word `serve` obligatory, so that a second command can come without breaking the first
@cell.callback()
def _cell() -> None:
    """Domicile's cell services. Settings come from the environment (DOMICILE_*)."""


@keys.callback()
def _keys() -> None:
    """Domicile's key service. Settings come from the environment (DOMICILE_*)."""


@cell.command("serve")
def serve_cell() -> None:
    """Serve the gateway of this certificate's cell until SIGTERM or SIGINT."""
    _serve(GatewaySettings, serve_gateway)


@keys.command("serve")
def serve_key_service() -> None:
    """Serve the keys of this certificate's jurisdiction until SIGTERM or SIGINT."""
    _serve(ProcessSettings, serve_keys)
