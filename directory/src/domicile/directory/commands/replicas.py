"""``domicile pin replicas``: how late the read replicas are, as each directory process sees its own."""

from __future__ import annotations

import json
from typing import Any

import typer

from domicile.client import DirectoryClient
from domicile.directory.commands.common import JsonOption, credentials, run
from domicile.service.operators import addresses


async def _replicas() -> list[dict[str, Any]]:
    found = []
    for address in addresses():
        directory = DirectoryClient(credentials(), [address])
        try:
            seen = (await directory.replicas()).model_dump(mode="json")
        finally:
            await directory.close()
        found.append({"directory": address} | seen)
    return found


def _line(replica: dict[str, Any]) -> str:
    lag = "" if replica["lag_seconds"] is None else f", {replica['lag_seconds']:.1f} s late"
    behind = f", {replica['behind']:,} changes behind" if replica["behind"] else ""
    return f"{replica['address']}: {replica['state']}{lag}{behind}"


def replicas_command(as_json: JsonOption = False) -> None:
    """Tell how late the read replicas of each directory process are; exit status 1 if one of them is not used.

    DOMICILE_DIRECTORY names the directory's addresses: each of them is asked.

    Example: domicile pin replicas
    """
    found = run("replicas", _replicas(), as_json=as_json)
    used = all(replica["state"] == "used" for process in found for replica in process["replicas"])
    if as_json:
        typer.echo(json.dumps({"ok": used, "processes": found}))
    else:
        for process in found:
            for line in map(_line, process["replicas"]):
                typer.echo(f"{process['directory']}: {line}")
            if not process["replicas"]:
                typer.echo(f"{process['directory']}: no read replicas")
    if not used:
        raise typer.Exit(1)
