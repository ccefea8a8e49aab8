"""Waiting for what nobody announces."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import aiohttp


async def until(condition: Callable[[], bool], *, seconds: float = 30) -> None:
    """Raises TimeoutError where it does not come true."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - what is waited for tells nobody
            await asyncio.sleep(0.01)


async def until_true(condition: Callable[[], Awaitable[bool]], *, seconds: float = 30) -> None:
    """The same of what has to be asked."""
    async with asyncio.timeout(seconds):
        while not await condition():  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.01)


async def until_ready(operator: aiohttp.ClientSession, *, seconds: float = 30) -> None:
    """Ask a service's ``/readyz`` until it says 200."""
    async with asyncio.timeout(seconds):
        while True:
            async with operator.get("/readyz") as response:
                if response.status == 200:
                    return
            await asyncio.sleep(0.01)


async def until_still(number: Callable[[], int], *, seconds: float = 30) -> int:
    """The number, when it has not changed for half a second. Raises TimeoutError where it goes on."""
    async with asyncio.timeout(seconds):
        while True:
            before = number()
            await asyncio.sleep(0.5)
            if number() == before:
                return before
