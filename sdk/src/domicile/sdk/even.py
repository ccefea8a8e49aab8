"""Refusals that say nothing by their time: whether an address is known can be told by how long finding out took."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from math import ceil

from domicile.model.errors import Misdirected


def leaves_at(entered: float, now: float, seconds: float) -> float:
    """The next multiple of ``seconds`` after ``entered``, from the first on. Pure."""
    return entered + seconds * max(1, ceil((now - entered) / seconds))


@asynccontextmanager
async def evenly(seconds: float) -> AsyncIterator[None]:
    """An error leaves the block only at a multiple of ``seconds`` after it was entered; what goes well is not held up.

    Choose more than finding out takes: a log-in that is refused for an unknown address and one that is refused for a
    wrong password then take the same time, and a slow moment of the database moves both by a whole step.
    """
    clock = asyncio.get_running_loop().time
    entered = clock()
    try:
        yield
    except Misdirected:  # who is sent home is told by the status already
        raise
    except Exception:
        await asyncio.sleep(leaves_at(entered, clock(), seconds) - clock())
        raise
