"""Debian's headless Chromium, driven over its DevTools protocol: a profile of its own, and hosts where a test wants."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import itertools
import json
import os
import shutil
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from websockets.asyncio.client import ClientConnection, connect

CHROMIUM = shutil.which("chromium")
with_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="no chromium on this machine (Debian: apt install chromium)"
)
START_SECONDS = 60.0
STEP_SECONDS = 30.0


def pin_of(certificate: Path) -> str:
    """What Chromium takes for the key of a certificate, in place of an authority that it knows."""
    key = x509.load_pem_x509_certificate(certificate.read_bytes()).public_key()
    return base64.b64encode(
        hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest()
    ).decode()


class Page:
    """One tab."""

    def __init__(self, devtools: ClientConnection) -> None:
        self._devtools = devtools
        self._numbers = itertools.count(1)

    async def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """A command of the DevTools protocol, and its result."""
        number = next(self._numbers)
        await self._devtools.send(json.dumps({"id": number, "method": method, "params": parameters}))
        async with asyncio.timeout(STEP_SECONDS):
            while (answer := json.loads(await self._devtools.recv())).get("id") != number:
                continue
        assert "error" not in answer, answer
        result: dict[str, Any] = answer["result"]
        return result

    async def open(self, url: str) -> None:
        """Go there, and wait until all of it is there."""
        assert "errorText" not in (found := await self.call("Page.navigate", url=url)), found
        async with asyncio.timeout(STEP_SECONDS):
            while await self.run("document.readyState + location.protocol") != f"complete{url.partition(':')[0]}:":
                continue

    async def run(self, script: str) -> Any:
        """What an expression comes to in the page, once its promise is kept."""
        found = await self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")


@asynccontextmanager
async def browser(folder: Path, hosts: Mapping[str, str], pins: Sequence[str]) -> AsyncIterator[Page]:
    """``hosts``: where the connections for ``host:port`` go; there are no others. ``pins``: as ``pin_of``."""
    assert CHROMIUM is not None
    folder.mkdir(mode=0o700)
    rules = ", ".join([*(f"MAP {host} {address}" for host, address in hosts.items()), "MAP * ~NOTFOUND"])
    process = await asyncio.create_subprocess_exec(
        CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--no-proxy-server",
        "--remote-debugging-port=0", f"--user-data-dir={folder}", f"--host-resolver-rules={rules}",
        f"--ignore-certificate-errors-spki-list={','.join(pins)}", "about:blank",
        env=os.environ | {"HOME": str(folder)}, start_new_session=True,
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        port = await _port(folder / "DevToolsActivePort")
        async with (
            aiohttp.ClientSession(trust_env=False) as client,
            client.get(f"http://127.0.0.1:{port}/json") as told,
        ):
            page = next(each for each in await told.json() if each["type"] == "page")
        async with connect(page["webSocketDebuggerUrl"], proxy=None, max_size=None) as devtools:
            yield Page(devtools)
    finally:
        os.killpg(process.pid, 9)
        await process.wait()


async def _port(told: Path) -> int:
    async with asyncio.timeout(START_SECONDS):
        while not (told.exists() and (lines := told.read_text().split())):  # noqa: ASYNC110 - a file tells nobody
            await asyncio.sleep(0.05)
    return int(lines[0])
