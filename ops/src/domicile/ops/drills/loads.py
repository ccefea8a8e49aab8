"""The load processes of a drill: one for each jurisdiction, started, watched and ended together."""

from __future__ import annotations

import asyncio
import json
import secrets
import signal
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from domicile.model.errors import Unavailable
from domicile.ops.drills.history import HistoryReader, Kind, Op
from domicile.ops.drills.load import LoadPlan
from domicile.ops.drills.port import World
from domicile.ops.postgres import launched

READY_SECONDS: Final = 180.0
FINISH_SECONDS: Final = 120.0


def load_plans(world: World, folder: Path, *, rate: float, users: int) -> list[LoadPlan]:
    """Every jurisdiction gets a share of the writes by its number of cells; ``folder`` has one for each of them."""
    cells = world.manifest.cells
    found = []
    for name, place in world.manifest.jurisdictions.items():
        own = list(world.manifest.cells_of(name))
        entry = world.entry(name)
        home = folder / name
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
        found.append(
            LoadPlan(
                jurisdiction=name,
                country=place.countries[0],
                cells=own,
                routers=list(entry.routers),
                authority=entry.authority,
                history=home / f"{secrets.token_hex(4)}.jsonl",
                value=f"drill-{secrets.token_hex(8)}",
                rate=rate * len(own) / len(cells),
                users=users,
            )
        )
    return found


class Loads:
    """``plans`` running; whatever ends this process ends them too."""

    def __init__(self, plans: Iterable[LoadPlan]) -> None:
        self._plans = list(plans)
        self._processes: dict[str, asyncio.subprocess.Process] = {}
        self._readers = {plan.jurisdiction: HistoryReader(plan.history) for plan in self._plans}
        self._last: dict[str, float] = {}

    @property
    def values(self) -> Mapping[str, str]:
        """What the load's personal values hold, by jurisdiction."""
        return {plan.jurisdiction: plan.value for plan in self._plans}

    async def start(self) -> None:
        """Returns when users are signed up in every cell. Raises Unavailable."""
        for plan in self._plans:
            command = launched([sys.executable, "-m", "domicile.ops.drills.load"], ends_with=signal.SIGKILL)
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                start_new_session=True,  # Ctrl-C is for the drill, which ends them in order
            )
            self._processes[plan.jurisdiction] = process
            assert process.stdin is not None
            process.stdin.write(plan.model_dump_json().encode() + b"\n")
        told = await asyncio.gather(*(self._told(name, READY_SECONDS) for name in self._processes))
        for (name, _), answer in zip(self._processes.items(), told, strict=True):
            if empty := [cell for cell, count in answer["users"].items() if count == 0]:
                raise Unavailable(f"nobody could be signed up in {empty[0]}", where=name)

    async def _told(self, name: str, seconds: float) -> dict[str, dict[str, int]]:
        stream = self._processes[name].stdout
        assert stream is not None
        try:
            line = await asyncio.wait_for(stream.readline(), seconds)
        except TimeoutError:
            raise Unavailable(f"its load said nothing for {seconds:.0f} s", where=name) from None
        if not line:
            raise Unavailable("its load ended", where=name, remedy="see what it wrote to standard error")
        answer: dict[str, dict[str, int]] = json.loads(line)
        return answer

    def look(self) -> list[Op]:
        """What ended since the last look. Raises Unavailable where a load is gone."""
        for name, process in self._processes.items():
            if process.returncode is not None:
                raise Unavailable(f"its load ended with {process.returncode}", where=name)
        found = [op for reader in self._readers.values() for op in reader.more()]
        for op in found:
            if op.ok and op.kind in (Kind.ADD, Kind.WRITE) and op.completed is not None:
                self._last[op.cell] = max(self._last.get(op.cell, 0.0), op.completed)
        return found

    def silent_seconds(self, cell: str) -> float:
        """How long a cell has acknowledged no write."""
        return time.monotonic() - self._last.get(cell, 0.0)

    async def finish(self) -> None:
        """Have everything read back; returns when the histories are whole. Raises Unavailable."""
        for process in self._processes.values():
            assert process.stdin is not None
            process.stdin.write(b"finish\n")
        await asyncio.gather(*(self._told(name, FINISH_SECONDS) for name in self._processes))
        await asyncio.gather(*(process.wait() for process in self._processes.values()))

    def history(self) -> list[Op]:
        """Of all of them, in the order in which it began."""
        for reader in self._readers.values():
            reader.more()
        return sorted((op for reader in self._readers.values() for op in reader.all()), key=lambda op: op.invoked)

    async def end(self) -> None:
        for process in self._processes.values():
            if process.returncode is None:
                process.kill()
            await process.wait()
