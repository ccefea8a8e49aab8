"""New places for bytes at a router: spans for a collector, key caches, explanations. None holds a person."""

from __future__ import annotations

import asyncio
import json
import signal
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from domicile_testing.conditions import until
from domicile_testing.databases import free_port
from domicile_testing.routers import COMMAND, environment
from domicile_testing.routing import HOSTS, World, jwk_of, pin, routing_world

from domicile.client import RouterClient
from domicile.identity import Authority
from domicile.model import Role
from domicile.model.explanation import ExplainRequest
from domicile.router.settings import RouterSettings

ALICE, COOKIE, TENANT = "alice-in-person", "carol-in-person", "tenant-in-person"
CLIENT = "193.99.144.80"


class Outside:
    """An identity provider and a collector, over TLS: what the router tells them is kept."""

    def __init__(self, folder: Path) -> None:
        authority = Authority.create("outside", "outside")
        (folder / "outside.pem").write_bytes(authority.pem())
        certificate, key = authority.issue_public(["127.10.1.9"])
        (folder / "outside-own.pem").write_bytes(certificate + key)
        self.authorities = folder / "outside.pem"
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(folder / "outside-own.pem")
        self.address = f"https://127.10.1.9:{free_port('127.10.1.9')}"
        self.keys: list[dict[str, str]] = []
        self.told: list[bytes] = []

    async def answer(self, request: web.Request) -> web.Response:
        head = f"{request.method} {request.path_qs} {list(request.headers.items())}".encode()
        self.told.append(head + await request.read())
        return web.json_response({"keys": self.keys}) if request.method == "GET" else web.Response()

    @asynccontextmanager
    async def served(self) -> AsyncIterator[None]:
        app = web.Application()
        app.router.add_route("*", "/{any:.*}", self.answer)
        runner = web.AppRunner(app)
        await runner.setup()
        host, _, port = self.address.removeprefix("https://").rpartition(":")
        await web.TCPSite(runner, host, int(port), ssl_context=self.context).start()
        try:
            yield
        finally:
            await runner.cleanup()


@asynccontextmanager
async def process(settings: RouterSettings) -> AsyncIterator[asyncio.subprocess.Process]:
    started = await asyncio.create_subprocess_exec(*COMMAND, env=environment(settings), stderr=asyncio.subprocess.PIPE)
    try:
        yield started
    finally:
        if started.returncode is None:
            started.kill()
        await started.communicate()


def rules(data: dict[str, Any], address: str) -> None:
    data["identity"]["jwks"] = f"{address}/jwks"
    data["jurisdictions"]["eu"]["collector"] = address
    identity = [
        {"by": "jwt"},
        {"by": "jwt", "cookie": "sid"},
        {"by": "header", "name": "X-Tenant", "networks": ["127.0.0.0/8"]},
        {"by": "token"},
    ]
    for router in data["routers"].values():
        router["rules"] += identity
        router["rules_next"] = {"rules": router["rules"][:-1]}


async def asked(world: World) -> list[str]:
    """Every way to say who one is, each once; the explanations of each, to an operator of another jurisdiction."""
    ways: list[dict[str, str]] = [world.bearer(ALICE), {"Cookie": f"sid={world.jwt(COOKIE)}"}, {"X-Tenant": TENANT}]
    explained = []
    async with world.client("fra") as client:
        for headers in ways:
            sent = headers | {"X-Forwarded-For": CLIENT, "traceparent": "00-" + "a" * 32 + "-" + "b" * 16 + "-01"}
            async with client.post("/secret-path?secret-query", headers=sent, data=b"secret-body") as response:
                assert response.status == 200
        credentials = world.trust.credentials("us", Role.OPERATOR, "root", (HOSTS["fra"],))
        explaining = RouterClient(credentials, world.manifest.routers["fra"].internal, "eu")
        for headers in ways:
            request = ExplainRequest(
                method="GET", url="https://x/secret-path?secret-query", headers=list(headers.items()), peer="127.0.0.1"
            )
            explained.append((await explaining.explain(request)).model_dump_json())
        await explaining.close()
    return explained


@pytest.mark.timeout(120)
async def test_spans_caches_and_explanations_hold_nobody(tmp_path: Path) -> None:
    outside = Outside(tmp_path)
    async with outside.served(), routing_world(tmp_path, change=lambda data: rules(data, outside.address)) as world:
        outside.keys.append(jwk_of(world.sessions))
        world.directory.place(*(pin(name, "eu-1") for name in (ALICE, COOKIE, TENANT)))
        settings = world.settings(
            "fra",
            identity_authorities=outside.authorities,
            collector_authorities=outside.authorities,
            trace_share=1.0,
        )
        async with process(settings) as router:
            assert router.stderr is not None
            logs = b""
            async with asyncio.timeout(30):
                while b'"event":"ready"' not in logs:
                    line = await router.stderr.readline()
                    assert line, logs
                    logs += line
            explained = await asked(world)
            router.send_signal(signal.SIGTERM)
            logs += await router.stderr.read()
            assert await router.wait() == 0
        await until(lambda: any(b"router.forward" in each for each in outside.told))
    kept = b"".join(path.read_bytes() for path in settings.state.rglob("*") if path.is_file())
    assert b"application-keys" in b"".join(str(path).encode() for path in settings.state.iterdir())
    assert all(json.loads(each)["decision"] == "forward" and json.loads(each)["withheld"] for each in explained)
    assert b'"event":"explained"' in logs
    places = {"logs": logs, "state": kept, "outside": b"".join(outside.told), "answers": "".join(explained).encode()}
    secrets = [ALICE, COOKIE, TENANT, CLIENT, "secret-path", "secret-query", "secret-body", world.jwt(ALICE)]
    for place, content in places.items():
        for secret in secrets:
            assert secret.encode() not in content, (place, secret)
    for key in (str(each) for each in world.directory.pins):
        for place in ("logs", "outside", "answers"):
            assert key.encode() not in places[place], (place, "a subject key")
