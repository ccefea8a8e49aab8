"""A cell under load loses its leader, or hands over: what its writers see, with an idempotency key for each write.

``pytest -s`` prints the figures that docs/availability.md gives.
"""

from __future__ import annotations

import asyncio
import signal
import subprocess
import time

import pytest
from domicile_testing.databases import until
from domicile_testing.loaded import CELL, loaded
from domicile_testing.long import MINUTES
from domicile_testing.worlds import COMMAND, clean_environment

from domicile.sample import Note
from domicile.telemetry import STALE_READS

pytestmark = [MINUTES, pytest.mark.system, pytest.mark.full, pytest.mark.timeout(1200)]


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


async def test_a_rolling_restart_that_is_interrupted_leaves_nothing_half_restarted_and_says_how_to_go_on(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with loaded(tmp_path_factory.mktemp("f"), monkeypatch) as ha:
        before, started = ha.world.pids(), time.monotonic()
        command = [*COMMAND, "restart", "--rolling", "--state", str(ha.world.state)]
        rolling = await asyncio.create_subprocess_exec(
            *command, env=clean_environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        assert rolling.stdout is not None
        assert (await rolling.stdout.readline()).startswith(b"us-1-witness: ready after")
        rolling.send_signal(signal.SIGINT)  # the standby's node is under way
        told, said = await rolling.communicate()
        assert rolling.returncode == 130, said
        assert b"is brought to its end first" in told
        left = said.decode().strip().removesuffix("`").partition("go on with `domicile ")[2].split()
        assert left[:3] == ["restart", "--rolling", CELL], said
        assert (await ha.status())["ok"], "every part runs, and the standby is in sync"
        after = ha.world.pids()
        again = {name for name, pid in before.items() if after[name] != pid}
        leader = await ha.leader()
        standby = next(name for name in again if "patroni" in name)
        assert ha.patroni(leader) not in again, "nobody had handed over"
        assert again == {"us-1-witness", standby, standby.replace("patroni", "storage")}
        await ha.command(*left)
        await ha.load.goes_on(time.monotonic())
        assert [name for name, pid in before.items() if ha.world.pids()[name] == pid] == []
        assert ha.load.failures(started) == {"write": 0, "read": 0}


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


async def test_who_takes_what_is_out_of_date_reads_while_nobody_leads(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    def counted() -> float:
        value: float = STALE_READS.labels("standby")._value.get()
        return value

    async with loaded(tmp_path_factory.mktemp("f"), monkeypatch) as ha:
        home, note = ha.load.home, ha.load.first
        before = counted()
        assert await home.stale(30).get(Note, note) is not None
        assert counted() == before + 1, "the door of the standby lets it in"
        old = await ha.leader()
        killed, answered, slowest = ha.kill(old), 0, 0.0
        while time.monotonic() < killed + 15:  # the lease lasts longer
            asked, before = time.monotonic(), counted()
            assert await asyncio.wait_for(home.stale(60).get(Note, note), 5) is not None
            assert counted() == before + 1, "nobody leads who could have answered"
            answered, slowest = answered + 1, max(slowest, time.monotonic() - asked)
            await asyncio.sleep(0.2)
        print(f"nobody leads: {answered} reads out of date, the slowest after {slowest * 1000:.0f} ms")
        await ha.command("restart", ha.patroni(old))
        await ha.load.goes_on(killed + 20)
