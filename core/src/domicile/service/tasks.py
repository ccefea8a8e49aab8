"""The end of a background task, which one cancellation does not always bring.

A cancellation is an exception, and a driver in the middle of a failure may put its own in its place: a ROLLBACK on a
lost connection does, and ``asyncio.wait_for`` of Python 3.11 returns what came in the same moment. A loop that waits
out such failures then goes on for ever, and with it the process that waits for its end.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

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
