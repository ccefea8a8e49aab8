"""Several workers behind one address: all serve, a dead one is replaced, and none outlives the router."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from contextlib import suppress

import aiohttp
import psutil
import pytest
from aiohttp import web
from domicile_testing.conditions import until
from domicile_testing.routers import COMMAND, environment, running
from domicile_testing.routing import World, pin
from prometheus_client.parser import text_string_to_metric_families

from domicile.model import Role


def children(pid: int) -> list[psutil.Process]:
    return psutil.Process(pid).children()


def all_gone(processes: list[psutil.Process]) -> Callable[[], bool]:
    return lambda: not psutil.wait_procs(processes, timeout=0)[1]


async def served(world: World) -> int:
    """The status by a connection of its own; 0 where it was reset."""
    async with world.client("fra") as client:
        try:
            async with client.get("/notes", headers=world.bearer("alice")) as response:
                return response.status
        except aiohttp.ClientError:
            return 0


async def served_in_a_row(world: World, times: int) -> None:
    """Until it has: on a busy machine a late router turns those away that its replica doesn't know yet."""
    async with asyncio.timeout(60):
        count = 0
        while count < times:
            count = count + 1 if await served(world) == 200 else 0


@pytest.fixture(autouse=True)
def _placed(world: World) -> None:
    world.directory.place(pin("alice", "eu-1"))


async def test_workers_share_the_listeners_and_a_dead_one_is_replaced(world: World) -> None:
    async with running(world.settings("fra", workers=2)) as process:
        first = children(process.pid)
        assert len(first) == 2
        await served_in_a_row(world, 20)
        first[0].kill()
        await until(lambda: len(set(children(process.pid)) - {first[0]}) == 2)
        assert first[1] in children(process.pid), "the other one went on"
        await served_in_a_row(world, 20)  # the new one listens, and the dead one's last connections are gone
        last = children(process.pid)
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 30) == 0
        await until(all_gone(last))


async def test_on_sigterm_every_worker_finishes_what_is_in_flight(world: World) -> None:
    answer = asyncio.Event()

    async def slow(_: web.BaseRequest) -> web.StreamResponse:
        await answer.wait()
        return web.Response(text="finished")

    async with running(world.settings("fra", workers=2, drain_seconds=20.0)) as process:
        await served_in_a_row(world, 1)
        world.seen.clear()
        world.answers(slow)
        asked = [asyncio.create_task(served(world)) for _ in range(8)]
        await until(lambda: len(world.seen) == 8)
        process.send_signal(signal.SIGTERM)
        assert process.stderr is not None
        while b'"event":"draining"' not in await process.stderr.readline():
            pass
        answer.set()
        assert await asyncio.gather(*asked) == [200] * 8
        assert await asyncio.wait_for(process.wait(), 30) == 0


async def test_a_router_that_is_killed_leaves_no_worker(world: World) -> None:
    async with running(world.settings("fra", workers=2)) as process:
        workers = children(process.pid)
        process.kill()
        await until(all_gone(workers))


async def test_a_worker_that_does_not_start_ends_the_router(world: World) -> None:
    told = environment(world.settings("fra", workers=2)) | {"DOMICILE_COUNTRIES": "/nowhere"}
    process = await asyncio.create_subprocess_exec(*COMMAND, env=told, stderr=asyncio.subprocess.PIPE)
    _, errors = await process.communicate()
    assert process.returncode == 1
    assert b"/nowhere" in errors
    assert b"a worker did not start" in errors.splitlines()[-1]


async def counted(world: World, name: str) -> float:
    """A metric's sum over its labels, by whichever worker answers."""
    operator = world.trust.credentials("eu", Role.OPERATOR, "root")
    connector = aiohttp.TCPConnector(ssl=operator.client("eu", [Role.ROUTER]), force_close=True)
    address = f"https://{world.manifest.routers['fra'].internal}/metrics"
    async with aiohttp.ClientSession(connector=connector) as client, client.get(address) as answer:
        assert answer.status == 200
        families = text_string_to_metric_families(await answer.text())
        return sum(each.value for family in families for each in family.samples if each.name == name)


async def test_every_worker_tells_what_all_have_counted_the_dead_ones_too(world: World) -> None:
    async with running(world.settings("fra", workers=3)) as process:
        await served_in_a_row(world, 30)
        async with asyncio.timeout(20):
            while any([await counted(world, "domicile_requests_total") < 30 for _ in range(6)]):
                continue
        told = await counted(world, "domicile_requests_total")
        for each in children(process.pid):
            before = set(children(process.pid))
            each.kill()
            await until(lambda before=before: len(set(children(process.pid)) - before) == 1)  # type: ignore[misc]
            with suppress(aiohttp.ClientError):
                assert await counted(world, "domicile_requests_total") >= told, "it never becomes less"
        await served_in_a_row(world, 5)
        async with asyncio.timeout(20):
            while await counted(world, "domicile_requests_total") < told + 5:
                continue
        assert await counted(world, "domicile_request_duration_seconds_count") >= told + 5
    state = world.settings("fra").state
    assert {each.name for each in (state / "counts").iterdir()} <= {
        f"{number}.{kind}" for number in range(3) for kind in ("json", "new")
    }


async def test_a_router_that_starts_again_counts_anew(world: World) -> None:
    async with running(world.settings("fra", workers=2)):
        await served_in_a_row(world, 10)
    async with running(world.settings("fra", workers=2)):
        assert await counted(world, "domicile_requests_total") < 10
