"""The application's schema in each cell of a starting world, applied by the command that an operator would type."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from domicile.model.errors import Unavailable
from domicile.model.manifest import Manifest
from domicile.ops import postgres
from domicile.ops.health import operator
from domicile.ops.layout import Layout, log_tail
from domicile.ops.plan import ProcessSpec, doors_of

SCHEMA_SECONDS: Final = 600.0
"""Of all that a schema does an index on many rows takes longest; what takes longer still waits for a lock."""


@dataclass(frozen=True)
class SchemaCommand:
    """``environment``: whose certificate it shows, and the doors that it knocks at."""

    cell: str
    words: list[str]
    environment: dict[str, str]


def schema_commands(manifest: Manifest, layout: Layout, specs: Sequence[ProcessSpec], app: str) -> list[SchemaCommand]:
    """One for each cell."""
    commands = []
    for name, cell in manifest.cells.items():
        credentials = operator(layout, cell.jurisdiction)
        environment = {
            "DOMICILE_DEPLOYMENT": manifest.deployment,
            "DOMICILE_CERTIFICATE": str(credentials.certificate),
            "DOMICILE_KEY": str(credentials.key),
            "DOMICILE_AUTHORITIES": str(layout.authorities),
            "DOMICILE_STORAGE": ",".join(door.address for door in doors_of(specs, name)),
        }
        console = "from domicile.sdk.store.commands import app; app(prog_name='domicile schema')"
        arguments = ["apply", app, "--cell", name, "--jurisdiction", cell.jurisdiction]
        commands.append(SchemaCommand(name, [sys.executable, "-c", console, *arguments], environment))
    return commands


async def apply(
    command: SchemaCommand, log: Path, surroundings: Mapping[str, str], *, seconds: float = SCHEMA_SECONDS
) -> None:
    """Run it to its end; what it says goes to ``log``. Raises Unavailable where it fails, or takes too long."""
    with log.open("ab") as stream:
        process = await asyncio.create_subprocess_exec(
            *postgres.launched(command.words, ends_with=signal.SIGTERM),
            env={**surroundings, **command.environment},
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
        )
        try:
            status = await asyncio.wait_for(process.wait(), seconds)
        except TimeoutError:
            raise Unavailable(
                f"took more than {seconds:g} s and was ended; the end of {log}:\n{log_tail(log)}\n",
                where=f"the schema of {command.cell}",
                remedy="its tables may be locked: pg_locks says by whom; `domicile up` goes on from what is applied",
            ) from None
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
    if status != 0:
        raise Unavailable(f"applying the schema of {command.cell} failed; the end of {log}:\n{log_tail(log)}")
