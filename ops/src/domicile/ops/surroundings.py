"""What the rooms' own commands (``domicile pin``) are told by their environment: of the local world, where nothing is.

They know no state folder, since they run beside a directory that may be anywhere; an operator of the world in this one
need not copy its certificate's path and addresses into six variables.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import typer
from typer.core import TyperCommand

from domicile.model.access import GLOBAL, Role
from domicile.model.errors import InvalidInput
from domicile.ops.backup.place import doors
from domicile.ops.layout import Layout
from domicile.ops.manifests import load_file
from domicile.ops.output import refusals
from domicile.ops.record import WorldRecord

_OWN = ("CERTIFICATE", "KEY", "AUTHORITIES")


def surroundings(layout: Layout, given: Mapping[str, str], jurisdiction: str = GLOBAL) -> dict[str, str]:
    """Variables that are not ``given``; none where a certificate is, or no world runs in the folder. ``jurisdiction``:
    whose operator one is. Raises InvalidInput for one that the world has not."""
    record = WorldRecord.read(layout)
    if any(given.get(f"DOMICILE_{name}") for name in _OWN) or record is None or record.supervisor.process() is None:
        return {}
    folder = layout.operator(jurisdiction)
    if not folder.is_dir():
        raise InvalidInput(f"the world in this folder has no {jurisdiction}", where=str(layout.root))
    found = {
        "DEPLOYMENT": load_file(layout.manifest).deployment,
        "CERTIFICATE": str(folder / "cert.pem"),
        "KEY": str(folder / "key.pem"),
        "AUTHORITIES": str(layout.authorities),
        "OPERATORS": str(layout.operator_keys),
        "STORAGE": ",".join(doors(record, "directory")),
        "DIRECTORY": ",".join(each.address for each in record.processes if each.role == Role.DIRECTORY),
    }
    return {key: value for name, value in found.items() if not given.get(key := f"DOMICILE_{name}")}


@contextmanager
def _set(variables: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


class SurroundedCommand(TyperCommand):
    """A room's command that is the operator's of one jurisdiction: that of ``--as``, else of ``--from``."""

    def invoke(self, ctx: Any) -> Any:
        jurisdiction = ctx.params.get("operator_of") or ctx.params.get("source") or ctx.params.get("destination")
        with refusals(as_json=bool(ctx.params.get("json_output"))):
            found = surroundings(Layout.at(None), os.environ, jurisdiction or GLOBAL)
        with _set(found):
            return super().invoke(ctx)


def surrounded(context: typer.Context) -> None:
    """Before a command of a room; undone behind it."""
    context.with_resource(_set(surroundings(Layout.at(None), os.environ)))
