"""Background tasks: work that is done again and again, and their end, which one cancellation does not always bring.

A cancellation is an exception, and a driver in the middle of a failure may put its own in its place: a ROLLBACK on a
lost connection does, and ``asyncio.wait_for`` of Python 3.11 returns what came in the same moment. A loop that waits
out such failures then goes on for ever, and with it the process that waits for its end.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any, Final

from domicile.model.errors import DomicileError
from domicile.telemetry import warn

AGAIN_SECONDS: Final = 1.0


async def ended(*tasks: asyncio.Task[Any]) -> None:
    """Cancel tasks, again where they go on, until all have ended. Raises what one of them ended with."""
    while running := [task for task in tasks if not task.done()]:
        for task in running:
            task.cancel()
        await asyncio.wait(running, timeout=AGAIN_SECONDS)
    for task in tasks:
        if not task.cancelled():
            task.result()


async def repeated(work: Callable[[], Awaitable[object]], seconds: float, failing: str) -> None:
    """``work``, without end, ``seconds`` after the last at most, never at the same moment in all processes.

    What it raises is waited out, and logged as the event ``failing`` when it is another failure than before.
    """
    said = ""
    while True:
        try:
            await work()
            said = ""
        except DomicileError as error:
            if said != error.code:
                warn(failing, code=error.code)
                said = error.code
        await asyncio.sleep(random.uniform(0.5, 1) * seconds)  # noqa: S311 - jitter
