"""The program ``domicile-router``."""

from __future__ import annotations

import typer

from domicile.model import InvalidInput
from domicile.router.serve import serve
from domicile.router.settings import RouterSettings
from domicile.service import load_settings, run

app = typer.Typer(name="domicile-router", add_completion=False, pretty_exceptions_enable=False, no_args_is_help=True)


# a callback keeps the word `serve` obligatory, so that a second command can come without breaking the first
@app.callback()
def _router() -> None:
    """Domicile's router. Settings come from the environment (DOMICILE_*)."""


@app.command("serve")
def serve_router() -> None:
    """Serve this certificate's zone until SIGTERM or SIGINT."""
    try:
        settings = load_settings(RouterSettings)
    except InvalidInput as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from None
    run(settings, lambda: serve(settings))
