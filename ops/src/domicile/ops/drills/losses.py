"""A database whose disks are lost, and how it comes back: a cell from its backups, the directory from the cells.

Nothing is deleted until it is back: what was lost lies beside, under another name, and by that name a second attempt
knows that there is something to do.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
from collections.abc import Sequence
from typing import Any, Final

from domicile.client import DirectoryClient
from domicile.model.access import Role
from domicile.model.errors import Conflict, Unavailable
from domicile.ops.backup.catalog import choose
from domicile.ops.backup.place import Database, Nodes, Place
from domicile.ops.backup.restore import forget_cluster, restore
from domicile.ops.control import ask
from domicile.ops.health import operator
from domicile.ops.layout import Layout
from domicile.ops.pauses import paused
from domicile.ops.record import WorldRecord
from domicile.ops.world import publish

LOST: Final = "data.lost"
DIRECTORY: Final = "directory"
RECONCILE_SECONDS: Final = 300.0
_POLL_SECONDS: Final = 2.0


class Losses:
    """Of one world."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    async def ready(self, name: str) -> None:
        """Whether it could come back. Raises DomicileError where not; nothing is touched."""
        place, database = self._place(name)
        nodes = place.nodes(database)
        if taken := [folder for folder in nodes.folders if (folder / LOST).exists()]:
            raise Conflict(f"what was lost before lies there: {taken[0] / LOST}", where=name, remedy="look, remove it")
        if name == DIRECTORY:
            if not nodes.clustered:
                raise Unavailable("has no standby in this world", where=name, remedy="start it with `domicile up --ha`")
            (self._layout.drills / "revision").write_text(str(await self._revision()))
            return
        async with place.store(database) as store:
            choose(await store.choices(), None, None)

    def lose(self, name: str) -> None:
        """No process of it runs any more."""
        place, database = self._place(name)
        for folder in place.nodes(database).folders:
            if (folder / "data").exists():
                (folder / "data").rename(folder / LOST)

    async def regain(self, name: str) -> None:
        """Raises DomicileError, and may be tried again. Harmless where nothing was lost."""
        place, database = self._place(name)
        nodes = place.nodes(database)
        if not any((folder / LOST).exists() for folder in nodes.folders):
            return
        if name == DIRECTORY:
            await self._rebuild(nodes)
        else:
            await restore(place, database, None, None, lambda _: None)
        for folder in nodes.folders:
            lost = folder / LOST
            if lost.is_symlink():  # a small disk: it is the world's, and stays
                lost.unlink()
            else:
                await asyncio.to_thread(shutil.rmtree, lost, ignore_errors=True)

    def _place(self, name: str) -> tuple[Place, Database]:
        place = Place(self._layout)
        (database,) = place.databases([name])
        return place, database

    # -- the directory ---------------------------------------------------------------------------------------

    async def _rebuild(self, nodes: Nodes) -> None:
        """As docs/backup.md says: an empty database, its processes, `pin rebuild`, the topology; until all is told."""
        async with paused(self._layout, DIRECTORY):
            if not any((folder / "data").exists() for folder in nodes.folders):  # else it was begun before
                forget_cluster(nodes.folders)
                for folder in nodes.folders:
                    for marker in ("created", "replicated"):
                        (folder / marker).unlink(missing_ok=True)
        await ask(self._layout, {"parts": self._services()}, lambda part, what: None)
        revision = (self._layout.drills / "revision").read_text()
        await self._pin(["rebuild", "--revision", revision])
        await publish(Place(self._layout).manifest, self._layout)
        try:
            async with asyncio.timeout(RECONCILE_SECONDS):
                while not (await self._pin(["reconcile"], statuses=(0, 1)))["ok"]:  # noqa: ASYNC110 - others tell
                    await asyncio.sleep(_POLL_SECONDS)
        except TimeoutError:
            raise Unavailable(
                f"not reconciled within {RECONCILE_SECONDS:.0f} s", where=DIRECTORY, remedy="domicile pin reconcile"
            ) from None

    def _services(self) -> list[str]:
        record = WorldRecord.read(self._layout)
        return [each.name for each in record.processes if each.role == Role.DIRECTORY] if record else []

    async def _revision(self) -> int:
        record = WorldRecord.read(self._layout)
        addresses = [each.address for each in record.processes if each.role == Role.DIRECTORY] if record else []
        client = DirectoryClient(operator(self._layout), addresses)
        try:
            return (await client.topology()).revision
        finally:
            await client.close()

    async def _pin(self, words: Sequence[str], statuses: Sequence[int] = (0,)) -> dict[str, Any]:
        """What `domicile pin` answers. Raises Unavailable with what it refused."""
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "domicile.ops.main", "pin", *words, "--json",
            env={**os.environ, "DOMICILE_STATE": str(self._layout.root)},
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        out, err = await process.communicate()
        if process.returncode not in statuses:
            raise Unavailable(f"pin {words[0]}: {(err or out).decode(errors='replace').strip()}", where=DIRECTORY)
        found: dict[str, Any] = json.loads(out)
        return found
