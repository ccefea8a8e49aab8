"""A small process of ours, for the tests of start, drain and end: ``python served.py``.

``GET /wait`` says ``waiting`` on standard output and answers when a line comes in on standard input.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator

from aiohttp import web

from domicile.model import Endpoint, Role
from domicile.service import ProcessSettings, Service, load_settings, run


async def ready() -> None:
    pass


async def wait(_: web.Request) -> web.Response:
    print("waiting", flush=True)
    line = await asyncio.to_thread(sys.stdin.readline)
    return web.Response(text=line)


def main() -> None:
    settings = load_settings(ProcessSettings)

    @contextlib.asynccontextmanager
    async def serve() -> AsyncIterator[None]:
        stage = os.environ.get("STAGE")
        if stage == "pepper":
            settings.load_peppers()
        if stage == "operators":
            settings.operator_keys()
        if stage == "bug":
            raise ValueError("alice@example.eu")
        if stage == "file":
            (settings.state / "journal").write_text("x")
        if stage == "never":
            print("starting", flush=True)
            await asyncio.Event().wait()
        service = Service(settings, ready)
        service.route("GET", "/wait", Endpoint.HEALTH, wait)
        async with service.listen(settings.address(), service.internal_context([Role.APP])):
            yield
            print("told", flush=True)

    run(settings, serve)


if __name__ == "__main__":
    main()
