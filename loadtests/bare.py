"""What one writes in an afternoon: aiohttp's server and client back to back, with a dictionary of homes.

``python -m loadtests.bare FILE``: a JSON object with ``address``, ``public`` (certificate and key, or null), ``own``
(the same), ``authority``, ``cells`` (addresses) and ``homes`` (user to cell).
"""

from __future__ import annotations

import asyncio
import json
import ssl
import sys
from pathlib import Path
from typing import Any, Final

import aiohttp
import uvloop
from aiohttp import web

from loadtests.proxies import NAME

_DROPPED: Final = frozenset({"connection", "keep-alive", "transfer-encoding", "upgrade", "te", "trailer"})


def contexts(told: dict[str, Any]) -> tuple[ssl.SSLContext | None, ssl.SSLContext]:
    """Towards clients (None: plain connections), and towards the cells."""
    own = ssl.create_default_context(cafile=told["authority"])
    own.load_cert_chain(*told["own"])
    if told["public"] is None:
        return None, own
    shown = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    shown.load_cert_chain(*told["public"])
    return shown, own


def listener(told: dict[str, Any]) -> tuple[str, int]:
    host, _, port = told["address"].rpartition(":")
    return host, int(port)


async def _serve(told: dict[str, Any]) -> None:
    shown, own = contexts(told)
    connector = aiohttp.TCPConnector(ssl=own, limit=256)
    homes, cells = told["homes"], told["cells"]
    jar = aiohttp.DummyCookieJar()
    async with aiohttp.ClientSession(connector=connector, auto_decompress=False, cookie_jar=jar) as session:

        async def proxy(request: web.BaseRequest) -> web.StreamResponse:
            address = cells[homes[request.headers["X-User"]]]
            headers = {name: value for name, value in request.headers.items() if name.lower() not in _DROPPED}
            async with session.request(
                request.method,
                f"https://{address}{request.raw_path}",
                headers=headers,
                data=request.content if request.body_exists else None,
                server_hostname=NAME,
                allow_redirects=False,
            ) as found:
                passed = {name: value for name, value in found.headers.items() if name.lower() not in _DROPPED}
                answer = web.StreamResponse(status=found.status, headers=passed)
                await answer.prepare(request)
                async for chunk in found.content.iter_any():
                    await answer.write(chunk)
                await answer.write_eof()
                return answer

        runner = web.ServerRunner(web.Server(proxy, access_log=None))
        await runner.setup()
        host, port = listener(told)
        await web.TCPSite(runner, host, port, ssl_context=shown, backlog=4096).start()
        await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(_serve(json.loads(Path(sys.argv[1]).read_text())))
