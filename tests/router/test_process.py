"""``domicile-router serve`` as a process: it starts, serves, drains on SIGTERM, and says why it doesn't start."""

from __future__ import annotations

import asyncio
import signal

import aiohttp
import pytest
from aiohttp import web
from domicile_testing.conditions import until_ready
from domicile_testing.routers import COMMAND, environment, running
from domicile_testing.routing import World, pin

from domicile.model import Role


async def test_on_sigterm_what_is_in_flight_is_finished_and_it_exits_0(world: World) -> None:
    world.directory.place(pin("alice", "eu-1"))
    answer = asyncio.Event()

    async def slow(_: web.BaseRequest) -> web.StreamResponse:
        await answer.wait()
        return web.Response(text="finished")

    world.answers(slow)
    settings = world.settings("fra", drain_seconds=20.0)
    operator = world.trust.credentials("eu", Role.OPERATOR, "root").client("eu", [Role.ROUTER])
    health = aiohttp.ClientSession(
        f"https://{world.manifest.routers['fra'].internal}", connector=aiohttp.TCPConnector(ssl=operator)
    )
    async with running(settings) as process, world.client("fra") as client, health:
        await until_ready(health)
        request = asyncio.create_task(client.get("/notes", headers=world.bearer("alice")))
        await world.app("eu-1.fra").arrived.wait()
        process.send_signal(signal.SIGTERM)
        assert process.stderr is not None
        while b'"event":"draining"' not in await process.stderr.readline():
            pass
        answer.set()
        async with await request as response:
            assert await response.text() == "finished"
        async with asyncio.timeout(20):
            assert await process.wait() == 0


async def test_logs_and_state_hold_nothing_of_a_request(world: World) -> None:
    world.directory.place(pin("alice-in-person", "eu-1"))
    settings = world.settings("fra")
    async with running(settings) as process, world.client("fra") as client:
        session = world.jwt("alice-in-person")
        headers = {"Authorization": f"Bearer {session}", "X-Forwarded-For": "193.99.144.80"}
        for path in ("/secret-path?secret-query", "/login?secret-query"):
            async with client.get(path, headers=headers) as response:
                assert response.status == 200
        await world.app("eu-1.fra").stop()
        await world.app("eu-1.par").stop()
        async with client.get("/secret-path", headers=headers) as response:
            assert response.status == 503
        process.send_signal(signal.SIGTERM)
        assert process.stderr is not None
        logs = await process.stderr.read()
        assert await process.wait() == 0
    assert b"upstream-failed" in logs
    kept = b"".join(path.read_bytes() for path in settings.state.rglob("*") if path.is_file())
    assert b"eu/eu-1" in kept, "the replica is there"
    for secret in (b"alice-in-person", b"secret-path", b"secret-query", b"193.99.144.80", session.encode()):
        assert secret not in logs
        assert secret not in kept


async def refusal(told: dict[str, str]) -> str:
    process = await asyncio.create_subprocess_exec(
        *COMMAND, env=told, stderr=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.DEVNULL
    )
    _, errors = await process.communicate()
    assert process.returncode == 1
    return errors.decode().splitlines()[-1]


async def test_a_refusal_to_start_is_one_line_that_names_the_cure(world: World) -> None:
    told = environment(world.settings("fra"))
    missing = {name: value for name, value in told.items() if name != "DOMICILE_PUBLIC_BIND"}
    assert "DOMICILE_PUBLIC_BIND" in await refusal(missing)
    (world.folder / "app-jwks.json").unlink()
    assert "app-jwks.json" in await refusal(told)


@pytest.mark.parametrize(("jurisdiction", "zone"), [("us", "fra"), ("eu", "par")])
async def test_a_certificate_for_another_place_than_the_manifests_is_refused(
    world: World, jurisdiction: str, zone: str
) -> None:
    credentials = world.trust.credentials(jurisdiction, Role.ROUTER, zone)
    told = environment(world.settings("fra")) | {
        "DOMICILE_CERTIFICATE": str(credentials.certificate),
        "DOMICILE_KEY": str(credentials.key),
    }
    assert f"no router in zone {zone} of {jurisdiction}" in await refusal(told)
