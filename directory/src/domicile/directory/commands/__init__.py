"""``domicile pin``: what an operator does with the whole map, and with the names in it."""

from __future__ import annotations

import typer

from domicile.directory.commands import pins
from domicile.directory.commands.peppers import app as peppers
from domicile.directory.commands.peppers import rekey_command
from domicile.directory.commands.replicas import replicas_command

app = typer.Typer(
    help="Export, import and rebuild the map of pins, see a reconciliation and the replicas, rotate the pepper.",
    no_args_is_help=True,
)
app.command("export")(pins.export_command)
app.command("import")(pins.import_command)
app.command("rebuild")(pins.rebuild_command)
app.command("reconcile")(pins.reconcile_command)
app.command("rekey")(rekey_command)
app.command("replicas")(replicas_command)
app.add_typer(peppers, name="pepper")

__all__ = ["app"]
