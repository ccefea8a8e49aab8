"""Writers and a reader by the SDK at a cell whose database has a standby, and what became of what they were told."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psutil
import pytest

from domicile.model import DomicileError, Unavailable
from domicile.sample.records import Note
from domicile.sdk import Home, Residency
from domicile.service import ProcessSettings, load_settings
from domicile_testing.databases import until
from domicile_testing.worlds import LocalWorld, domicile, one_jurisdiction, processes_of

CELL, WRITERS = "us-1", 6


class Load:
    """Writers that repeat a write under its key until it is acknowledged, and a reader. ``again``: what makes them."""

    def __init__(self, home: Home, again: type[DomicileError] = Unavailable) -> None:
        self.home = home
        self._again = again
        self._ids: list[UUID] = []
        self.acknowledged: list[float] = []
        self.answered: list[float] = []
        self.failed: dict[str, list[float]] = {"write": [], "read": []}
        self.dropped: list[tuple[float, float]] = []
        """From when until when an acknowledged write may be lost, because a restore left it out."""

    @property
    def first(self) -> UUID:
        """The first note that was acknowledged."""
        return self._ids[0]

    async def write(self) -> None:
        while True:
            note = self.home.new(Note, id=uuid4(), text="as said", topic="failover")
            while True:
                try:
                    await self.home.put(note, idempotency_key=str(note.id))
                    break
                except self._again:
                    self.failed["write"].append(time.monotonic())
                    await asyncio.sleep(0.1)
            self._ids.append(note.id)
            self.acknowledged.append(time.monotonic())

    async def read(self) -> None:
        while True:
            try:
                await self.home.get(Note, self._ids[0] if self._ids else uuid4())
                self.answered.append(time.monotonic())
            except self._again:
                self.failed["read"].append(time.monotonic())
            await asyncio.sleep(0.05)

    def outage(self, since: float, *, reads: bool = False) -> float:
        """The longest time between two answers, in seconds."""
        moments = [since, *(m for m in (self.answered if reads else self.acknowledged) if m > since)]
        return max(after - before for before, after in pairwise(moments))

    def failures(self, since: float) -> dict[str, int]:
        return {kind: sum(moment > since for moment in moments) for kind, moments in self.failed.items()}

    async def goes_on(self, since: float, seconds: float = 120) -> None:
        async def again() -> bool:
            return sum(moment > since for moment in self.acknowledged[-200:]) > 50

        await until(again, "writes", seconds)

    async def check(self) -> int:
        """None lost but what a restore may drop, and none done twice: a second put would have made another version.

        Returns how many were dropped.
        """
        dropped = 0
        for chunk in range(0, len(self._ids), 500):
            ids = self._ids[chunk : chunk + 500]
            found = await asyncio.gather(*(self.home.get(Note, each) for each in ids))
            for note, moment in zip(found, self.acknowledged[chunk : chunk + 500], strict=True):
                if note is None:
                    dropped += 1
                    assert any(since <= moment <= until for since, until in self.dropped), (
                        "an acknowledged write is lost"
                    )
                else:
                    assert note.version == 1, "a write was done twice"
        return dropped


class Loaded:
    def __init__(self, state: Path, load: Load) -> None:
        self.world = LocalWorld(state)
        self.load = load

    async def status(self) -> dict[str, Any]:
        return (await asyncio.to_thread(self.world.status))[1]

    async def leader(self) -> str:
        return next(str(node["zone"]) for node in (await self.status())["clusters"] if node["role"] == "leader")

    def patroni(self, zone: str) -> str:
        return next(
            str(p["name"]) for p in self.world.record()["processes"] if p["role"] == "patroni" and p["zone"] == zone
        )

    def kill(self, zone: str) -> float:
        """SIGKILL of a node's Patroni and server; when."""
        lock = self.world.state / "cells" / CELL / zone / "storage" / "data" / "postmaster.pid"
        victims = [psutil.Process(self.world.pids()[self.patroni(zone)])]
        victims.append(psutil.Process(int(lock.read_text().splitlines()[0])))
        for victim in victims:
            victim.kill()
        return time.monotonic()

    async def command(self, *arguments: str) -> str:
        done = await asyncio.to_thread(domicile, *arguments, "--state", str(self.world.state), seconds=600)
        assert done.returncode == 0, done.stderr
        return done.stdout


@asynccontextmanager
async def loaded(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    *options: str,
    accept: bool = False,
    again: type[DomicileError] = Unavailable,
) -> AsyncIterator[Loaded]:
    """A world of ``us`` with a highly available cell, and the load on it. ``again``: what makes a writer try again."""
    state, settings = folder / "s", {"accept": ["unreplicated-writes"]} if accept else {}
    manifest = one_jurisdiction("us", folder / "world.yaml", **settings)
    started = domicile("up", str(manifest), "--detach", "--ha-cell", CELL, "--state", str(state), *options, seconds=600)
    assert started.returncode == 0, started.stderr
    try:
        application = psutil.Process(LocalWorld(state).pids()[f"{CELL}-app"])
        for name, value in application.environ().items():
            if name.startswith("DOMICILE_"):
                monkeypatch.setenv(name, value)
        async with Residency.connect(load_settings(ProcessSettings)) as residency:
            load = Load(await residency.claim("writer", residence="US"), again)
            tasks = [asyncio.create_task(load.write()) for _ in range(WRITERS)] + [asyncio.create_task(load.read())]
            try:
                await load.goes_on(0)
                yield Loaded(state, load)
                assert [task for task in tasks if task.done()] == [], "only those are answers that make them try again"
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
            print(f"{len(load.acknowledged)} writes acknowledged, {await load.check()} dropped by restores")
    finally:
        stopped = domicile("down", "--state", str(state))
        assert stopped.returncode == 0, stopped.stderr
        assert processes_of(state) == []
