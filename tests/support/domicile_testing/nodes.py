"""A cluster of a running world as a test sees and moves it: who leads, a switchover, a node that dies or hangs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from domicile.ops.clusters import members, settled
from domicile.ops.health import Prober
from domicile.ops.layout import Layout
from domicile.ops.record import ProcessRecord, WorldRecord
from domicile_testing.databases import until


class Nodes:
    """The nodes of ``cluster`` (``us-1``, ``keys-us``, ``directory``) in the world of a state folder."""

    def __init__(self, state: Path, cluster: str) -> None:
        self.cluster = cluster
        self._layout = Layout(state)
        self._prober = Prober(self._layout)

    def _patronis(self) -> list[ProcessRecord]:
        record = WorldRecord.read(self._layout)
        assert record is not None
        return [
            each
            for each in record.processes
            if each.role == "patroni" and each.name.partition("-patroni")[0] == self.cluster
        ]

    def patroni(self, zone: str) -> ProcessRecord:
        return next(each for each in self._patronis() if each.zone == zone)

    def folder(self, zone: str) -> Path:
        """Of a node's data, socket and settings."""
        return Path(psutil.Process(self.patroni(zone).pid).cmdline()[-1]).parent

    async def rows(self) -> list[dict[str, Any]]:
        for patroni in self._patronis():
            if (document := await self._prober.cluster(patroni)) is not None:
                return members(self.cluster, document)
        return []

    async def leader(self) -> str:
        return next(str(row["zone"]) for row in await self.rows() if row["role"] == "leader")

    async def standby(self) -> str:
        leader = await self.leader()
        return next(each.zone for each in self._patronis() if each.zone != leader)

    async def settle(self, seconds: float = 120) -> None:
        async def whole() -> bool:
            return settled(await self.rows())

        await until(whole, f"{self.cluster} to be whole", seconds)

    async def hand_over(self) -> str:
        """A switchover, as an operator orders it; which zone leads then."""
        await self.settle()
        leader, candidate = await self.leader(), await self.standby()
        settings = json.loads((self.folder(leader) / "patroni.json").read_text())
        password = settings["restapi"]["authentication"]["password"]
        order = {"leader": leader, "candidate": candidate}
        await self._prober.order(self.patroni(leader), password, "/switchover", order)
        return candidate

    def server(self, zone: str) -> psutil.Process:
        return psutil.Process(int((self.folder(zone) / "data" / "postmaster.pid").read_text().splitlines()[0]))

    def kill(self, zone: str) -> None:
        """SIGKILL of a node's Patroni and server, as when its machine dies."""
        victims = [self.server(zone), psutil.Process(self.patroni(zone).pid)]
        for victim in reversed(victims):
            victim.kill()

    @contextmanager
    def receiving_nothing(self, zone: str) -> Iterator[None]:
        """A standby's receiver stopped: each COMMIT of the leader waits for it, and Patroni sees nothing amiss."""
        receiver = next(each for each in self.server(zone).children() if "walreceiver" in " ".join(each.cmdline()))
        receiver.suspend()
        try:
            yield
        finally:
            receiver.resume()
