"""The program ``domicile-router``."""

from __future__ import annotations

import typer

from domicile.model import InvalidInput
from domicile.router.serve import serve
from domicile.router.settings import RouterSettings
from domicile.router.workers import worker, workers
from domicile.service import load_settings, run

app = typer.Typer(name="domicile-router", add_completion=False, pretty_exceptions_enable=False, no_args_is_help=True)


@app.callback()
def _router() -> None:
    """Domicile's router. Settings come from the environment (DOMICILE_*)."""


def _settings() -> RouterSettings:
    try:
        return load_settings(RouterSettings)
    except InvalidInput as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from None


@app.command("serve")
def serve_router() -> None:
    """Serve this certificate's zone until SIGTERM or SIGINT."""
    settings = _settings()
    run(settings, lambda: serve(settings) if settings.workers == 1 else workers(settings))


@app.command("worker", hidden=True)
def serve_worker(number: int) -> None:
    """One of the processes of `serve`, which starts it."""
    settings = _settings()
    run(settings, lambda: worker(settings, number))
