"""The least that a proxy in Python can do: look for the user's name, pick a connection, and pass bytes on.

What it costs is what the router cannot get below; it checks nothing, and would be a bad proxy for anybody.
``python -m loadtests.splice FILE``, as ``loadtests.bare``.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any, cast

import uvloop

from loadtests.bare import contexts, listener
from loadtests.proxies import NAME


class _Up(asyncio.Protocol):
    """A connection to a cell: back among the ``idle`` when an answer's Content-Length has come."""

    transport: asyncio.Transport

    def __init__(self, idle: list[_Up]) -> None:
        self._idle = idle
        self._client: asyncio.Transport | None = None
        self._left = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def ask(self, request: bytes, client: asyncio.Transport) -> None:
        self._client = client
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        if self._client is None:
            return
        if not self._left:
            _, _, length = data.partition(b"\r\nContent-Length: ")
            self._left = data.index(b"\r\n\r\n") + 4 + int(length[: length.index(b"\r")])
        self._left -= len(data)
        self._client.write(data)
        if not self._left:
            self._client = None
            self._idle.append(self)


async def _serve(told: dict[str, Any]) -> None:
    shown, own = contexts(told)
    idle: dict[str, list[_Up]] = {cell: [] for cell in told["cells"]}
    homes, cells = told["homes"], told["cells"]
    loop = asyncio.get_running_loop()
    opening = set()

    async def opened(cell: str, request: bytes, client: asyncio.Transport) -> None:
        host, _, port = cells[cell].rpartition(":")
        _, up = await loop.create_connection(lambda: _Up(idle[cell]), host, int(port), ssl=own, server_hostname=NAME)
        up.ask(request, client)

    class Down(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by inheritance

        def data_received(self, data: bytes) -> None:
            _, _, user = data.partition(b"\r\nX-User: ")
            cell = homes[user[: user.index(b"\r")].decode()]
            if idle[cell]:
                idle[cell].pop().ask(data, self._transport)
            else:
                task = loop.create_task(opened(cell, data, self._transport))
                opening.add(task)
                task.add_done_callback(opening.discard)

    host, port = listener(told)
    await loop.create_server(Down, host, port, ssl=shown, backlog=4096)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(_serve(json.loads(Path(sys.argv[1]).read_text())))
