"""Processes that stand still by turns: what a machine without spare cycles looks like to who asks it.

A network that is slow can't be had on one loopback without a kernel module that is often missing; a process that runs
for a tenth of a second and stands for another is slow to all alike. It ends with who drills, and whoever is left
standing then is resumed by the undoing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Final

import psutil

from domicile.ops.drills.faults import Fault
from domicile.service import ended

TURN_SECONDS: Final = 0.1


class Slowness:
    def __init__(self) -> None:
        self._turns: dict[Fault, asyncio.Task[None]] = {}

    def begin(self, fault: Fault, processes: Callable[[], Iterable[psutil.Process]]) -> None:
        """``processes``: asked at each turn, since parts come and go."""
        self._turns[fault] = asyncio.create_task(_take_turns(processes))

    async def end(self, fault: Fault) -> None:
        """They may stand still when this returns. Harmless where it was never begun."""
        if (task := self._turns.pop(fault, None)) is not None:
            await ended(task)


async def _take_turns(processes: Callable[[], Iterable[psutil.Process]]) -> None:
    while True:
        standing = list(processes())
        for process in standing:
            with suppress(psutil.NoSuchProcess):
                process.suspend()
        await asyncio.sleep(TURN_SECONDS)
        for process in reversed(standing):
            with suppress(psutil.NoSuchProcess):
                process.resume()
        await asyncio.sleep(TURN_SECONDS)
