"""A cell under load loses its leader, or hands over: what its writers see, with an idempotency key for each write.

``pytest -s`` prints the figures that docs/availability.md gives.
"""

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
from domicile_testing.databases import until
from domicile_testing.worlds import LocalWorld, domicile, one_jurisdiction, processes_of

from domicile.model import Unavailable
from domicile.sample.records import Note
from domicile.sdk import Home, Residency
from domicile.service import ProcessSettings, load_settings

CELL, WRITERS = "us-1", 6
pytestmark = [pytest.mark.system, pytest.mark.full, pytest.mark.timeout(600)]


class Load:
    """Writers that repeat a write under its key until it is acknowledged, and a reader."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._ids: list[UUID] = []
        self.acknowledged: list[float] = []
        self.answered: list[float] = []
        self.failed: dict[str, list[float]] = {"write": [], "read": []}

    async def write(self) -> None:
        while True:
            note = self._home.new(Note, id=uuid4(), text="as said", topic="failover")
            while True:
                try:
                    await self._home.put(note, idempotency_key=str(note.id))
                    break
                except Unavailable:
                    self.failed["write"].append(time.monotonic())
                    await asyncio.sleep(0.1)
            self._ids.append(note.id)
            self.acknowledged.append(time.monotonic())

    async def read(self) -> None:
        while True:
            try:
                await self._home.get(Note, self._ids[0] if self._ids else uuid4())
                self.answered.append(time.monotonic())
            except Unavailable:
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

    async def check(self) -> None:
        """None lost, and none done twice: a second put of a row would have made it another version."""
        for chunk in range(0, len(self._ids), 500):
            for note in await asyncio.gather(*(self._home.get(Note, i) for i in self._ids[chunk : chunk + 500])):
                assert note is not None, "an acknowledged write is lost"
                assert note.version == 1, "a write was done twice"


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
        done = await asyncio.to_thread(domicile, *arguments, "--state", str(self.world.state), seconds=400)
        assert done.returncode == 0, done.stderr
        return done.stdout


@asynccontextmanager
async def loaded(
    folder: Path, monkeypatch: pytest.MonkeyPatch, *options: str, accept: bool = False
) -> AsyncIterator[Loaded]:
    state, settings = folder / "s", {"accept": ["unreplicated-writes"]} if accept else {}
    manifest = one_jurisdiction("us", folder / "world.yaml", **settings)
    started = domicile("up", str(manifest), "--detach", "--ha-cell", CELL, "--state", str(state), *options, seconds=300)
    assert started.returncode == 0, started.stderr
    try:
        application = psutil.Process(LocalWorld(state).pids()[f"{CELL}-app"])
        for name, value in application.environ().items():
            if name.startswith("DOMICILE_"):
                monkeypatch.setenv(name, value)
        async with Residency.connect(load_settings(ProcessSettings)) as residency:
            load = Load(await residency.claim("writer", residence="US"))
            tasks = [asyncio.create_task(load.write()) for _ in range(WRITERS)] + [asyncio.create_task(load.read())]
            try:
                await load.goes_on(0)
                yield Loaded(state, load)
                assert [task for task in tasks if task.done()] == []
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
            await load.check()
    finally:
        stopped = domicile("down", "--state", str(state))
        assert stopped.returncode == 0, stopped.stderr
        assert processes_of(state) == []


async def test_a_strict_leader_killed_and_started_again_later(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with loaded(tmp_path_factory.mktemp("f"), monkeypatch) as ha:
        old = await ha.leader()
        killed = ha.kill(old)
        stopped = [process["name"] for process in (await ha.status())["processes"] if process["state"] == "stopped"]
        assert stopped == [ha.patroni(old)]

        async def promoted() -> bool:
            return bool(ha.load.answered and ha.load.answered[-1] > killed + 1)

        await until(promoted, "reads at another leader", 120)
        reads = time.monotonic()
        assert await ha.leader() != old
        await ha.command("restart", ha.patroni(old))
        await ha.load.goes_on(reads)
        print(
            f"strict, killed: reads after {reads - killed:.1f} s, writes after {ha.load.outage(killed):.1f} s, "
            f"failed and repeated {ha.load.failures(killed)}, {len(ha.load.acknowledged)} written"
        )


@pytest.mark.parametrize("accept", [False, True], ids=["strict", "accepting unreplicated writes"])
async def test_a_killed_leader_that_is_started_again_at_once_needs_no_failover(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, accept: bool
) -> None:
    async with loaded(tmp_path_factory.mktemp("f"), monkeypatch, "--restart", accept=accept) as ha:
        killed = ha.kill(await ha.leader())
        await ha.load.goes_on(killed + 1)
        print(
            f"--restart, {accept=}: reads after {ha.load.outage(killed, reads=True):.1f} s, "
            f"writes after {ha.load.outage(killed):.1f} s, failed {ha.load.failures(killed)}"
        )
        assert [p["restarts"] for p in (await ha.status())["processes"] if p["role"] == "patroni"].count(1) == 1


async def test_who_accepts_unreplicated_writes_writes_as_soon_as_another_leads(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with loaded(tmp_path_factory.mktemp("f"), monkeypatch, accept=True) as ha:
        killed = ha.kill(await ha.leader())
        await ha.load.goes_on(killed + 1)
        print(
            f"accepting, killed: reads after {ha.load.outage(killed, reads=True):.1f} s, "
            f"writes after {ha.load.outage(killed):.1f} s, failed {ha.load.failures(killed)}"
        )


async def test_a_rolling_restart_fails_no_read_and_no_write(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with loaded(tmp_path_factory.mktemp("f"), monkeypatch) as ha:
        before, started = ha.world.pids(), time.monotonic()
        told = await ha.command("restart", "--rolling")
        await ha.load.goes_on(time.monotonic())
        after = ha.world.pids()
        assert before.keys() == after.keys()
        assert [name for name, pid in before.items() if after[name] == pid] == []
        assert (await ha.status())["ok"]
        print(
            f"{told}\nrolling: longest wait of a write {ha.load.outage(started):.1f} s, of a read "
            f"{ha.load.outage(started, reads=True):.1f} s"
        )
        assert ha.load.failures(started) == {"write": 0, "read": 0}, "who writes under a key waits, and is told nothing"
