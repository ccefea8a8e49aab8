"""Ten minutes in a few seconds: the clocks of this process, its event loop's among them, moved on by a test."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch


class InjectedTime:
    """``ahead`` of the real time, in seconds."""

    ahead = 0.0

    async def pass_by(self, seconds: float) -> None:
        """Whatever was to happen meanwhile happens now; what is in flight gets no more time for it than that."""
        self.ahead += seconds
        for _ in range(10):
            await asyncio.sleep(0)


@contextmanager
def injected_time() -> Iterator[InjectedTime]:
    """``time.time`` and ``time.monotonic``, by which the event loop goes. What begins inside also ends inside."""
    clock = InjectedTime()
    wall, monotonic = time.time, time.monotonic
    with (
        patch.object(time, "time", lambda: wall() + clock.ahead),
        patch.object(time, "monotonic", lambda: monotonic() + clock.ahead),
    ):
        yield clock
