"""A process of ours at the other end of a client: one that answers anything, is silent, or is not there."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, contextmanager
from ipaddress import ip_network
from typing import Any
from uuid import UUID

import pytest
from aiohttp import web

from domicile.client import Peer
from domicile.model import DomicileError, Manifest, Pin, Role, SubjectKey, Unavailable, parse_manifest
from domicile_testing import Trust, free_port

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
KEY = SubjectKey(b"\1" * 17)
OWN = UUID(int=7)
PIN = Pin(subject_key=KEY, jurisdiction="eu", cell="eu-1", epoch=3)
INSIDE = [ip_network("127.0.0.0/24")]


@asynccontextmanager
async def serving(
    trust: Trust, handler: Handler, jurisdiction: str = "global", role: Role = Role.DIRECTORY, name: str = "fra"
) -> AsyncIterator[str]:
    """A process of ours whose every path is answered by ``handler``; yields its address."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    context = trust.credentials(jurisdiction, role, name).server(["eu", "us", "global"], [Role.APP])
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
    await site.start()
    assert isinstance(site._server, asyncio.Server)
    try:
        yield f"127.0.0.1:{site._server.sockets[0].getsockname()[1]}"
    finally:
        await runner.cleanup()


def answering(body: str | bytes = b"ok", status: int = 200, **headers: str) -> Handler:
    async def handle(_: web.Request) -> web.Response:
        raw = body.encode() if isinstance(body, str) else body
        return web.Response(status=status, body=raw, headers=headers)

    return handle


@contextmanager
def silent() -> Any:
    """An address where connections are taken by the system, and nobody ever speaks."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"127.0.0.1:{listener.getsockname()[1]}"


def dead() -> str:
    return f"127.0.0.1:{free_port()}"


def peer(trust: Trust, *addresses: str, **more: Any) -> Peer:
    caller = trust.credentials("eu", Role.APP, "eu-1.fra")
    settings: dict[str, Any] = {"jurisdiction": "global", "role": Role.DIRECTORY, "deadline": 5} | more
    return Peer(caller, addresses, **settings)


async def refused(
    client: Peer, kind: type[DomicileError] = Unavailable, method: str = "GET", **more: Any
) -> DomicileError:
    async with client:
        with pytest.raises(kind) as caught:
            await client.call(method, "/v1/x", **more)
    assert type(caught.value) is kind
    return caught.value


def manifest_at(gateway: str, keys: str = "127.0.0.1:9") -> Manifest:
    zone = {
        "country": "DE",
        "network": "127.0.0.0/24",
        "app": "127.0.0.1:1",
        "gateway": gateway,
        "storage": "127.0.0.1:3",
    }
    return parse_manifest(
        {
            "version": 1,
            "deployment": "acme",
            "directory": {"sites": [{"zone": "fra", "country": "DE", "address": "127.0.0.1:4"}]},
            "jurisdictions": {"eu": {"countries": ["DE"], "public_host": "eu.x", "keys": {"service": [keys]}}},
            "cells": {
                "eu-1": {"jurisdiction": "eu", "zones": {"fra": zone}, "accept": ["single-zone", "shared-witness"]}
            },
        }
    )
