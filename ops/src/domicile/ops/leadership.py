"""Proof that a server leads its cluster, before its answers are passed on as current.

A PostgreSQL whose Patroni died goes on answering as the leader that it no longer is. Its door therefore asks its
Patroni, which answers yes only while it holds the lease (``LEASE_SECONDS``, renewed every ``LOOP_SECONDS``). A yes
is believed for ``PROOF_SECONDS`` after the question was asked: it is over long before another node can have the
lease, also where this machine stood still meanwhile, because each chunk of bytes asks the clock again.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from collections.abc import Awaitable, Callable
from typing import Final

import aiohttp

LEASE_SECONDS: Final = 20
LOOP_SECONDS: Final = 5
PROOF_SECONDS: Final = 5.0
ASK_SECONDS: Final = 1.0
"""Between two questions; one that gets no answer in twice this time is asked anew."""


class Leadership:
    """``ask``: whether the server leads; None where nobody can tell."""

    def __init__(self, ask: Callable[[], Awaitable[bool | None]], clock: Callable[[], float] = time.monotonic) -> None:
        self._ask = ask
        self._clock = clock
        self._until = clock()
        self._denied = asyncio.Event()

    def holds(self) -> bool:
        return self._clock() < self._until

    async def check(self) -> None:
        """Ask once: a yes is good from when it was asked for, a no is at once, silence changes nothing."""
        asked = self._clock()
        match await self._ask():
            case True:
                self._until = max(self._until, asked + PROOF_SECONDS)
                self._denied.clear()
            case False:
                self._until = asked
                self._denied.set()
            case None:
                pass

    async def watch(self) -> None:
        while True:
            await self.check()
            await asyncio.sleep(ASK_SECONDS)

    async def lost(self) -> None:
        """Returns when it does not hold any more."""
        while (left := self._until - self._clock()) > 0:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._denied.wait(), left)


class Patroni:
    """The question to a node's own Patroni, over mutual TLS."""

    def __init__(self, address: str, context: ssl.SSLContext) -> None:
        self._url = f"https://{address}/primary"
        self._context = context

    async def leads(self) -> bool | None:
        connector = aiohttp.TCPConnector(ssl=self._context, force_close=True)
        timeout = aiohttp.ClientTimeout(total=2 * ASK_SECONDS)
        try:
            async with (
                aiohttp.ClientSession(connector=connector, timeout=timeout, trust_env=False) as session,
                session.get(self._url) as answer,
            ):
                return answer.status == 200
        except (OSError, TimeoutError, aiohttp.ClientError):
            return None
