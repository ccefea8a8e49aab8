"""``domicile``: the operator's command. Rooms add their own sub-commands by the entry point group below."""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import Final

import typer

from domicile.ops.backup.commands import app as backup
from domicile.ops.backup.commands import restore_command
from domicile.ops.commands import (
    apply_command,
    check_command,
    demo_command,
    down_command,
    restart_command,
    status_command,
    up_command,
)
from domicile.ops.edge.asking import haproxy_command, nginx_command
from domicile.ops.edge.commands import app as edge
from domicile.ops.edge.examine import examine_command
from domicile.ops.erase import erase_command
from domicile.ops.explain import explain_command
from domicile.ops.receipts import receipt_command
from domicile.ops.scan.command import app as audit
from domicile.ops.surroundings import SurroundedCommand, surrounded

GROUP: Final = "domicile.commands"
AUDIT_GROUP: Final = f"{GROUP}.audit"
"""Of single commands that rooms add to ``domicile audit``."""

app = typer.Typer(
    name="domicile",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Keep people's data where the law says it lives. Start with: domicile demo",
)
app.command("up")(up_command)
app.command("down")(down_command)
app.command("status")(status_command)
app.command("restart")(restart_command)
app.command("demo")(demo_command)
app.command("check")(check_command)
app.command("apply")(apply_command)
app.command("explain")(explain_command)
app.command("restore")(restore_command)
app.add_typer(backup, name="backup")
app.command("erase", epilog="Example: domicile erase @subject.txt --as eu --receipt alice.receipt")(erase_command)
app.add_typer(audit, name="audit")
audit.command("receipt", epilog="Example: domicile audit receipt alice.receipt --deployment acme")(receipt_command)
app.add_typer(edge, name="edge")
edge.command("nginx")(nginx_command)
edge.command("haproxy")(haproxy_command)
edge.command("test")(examine_command)
for _entry in entry_points(group=GROUP):
    app.add_typer(_entry.load(), name=_entry.name, callback=surrounded)
for _entry in entry_points(group=AUDIT_GROUP):
    audit.command(_entry.name, cls=SurroundedCommand)(_entry.load())

if __name__ == "__main__":
    app()
