"""Deletes what is kept for a time only, when that is over: here, since this process runs in every cell.

That is rows whose class says so, and answers under idempotency keys. For rows it holds the fence of each subject like
any writer, so that what is being moved is left for the cell that it is moved to. Several gateways of a cell sweep
beside each other.
"""

from __future__ import annotations

from typing import Final, Protocol

from domicile.service import repeated
from domicile.telemetry import log

BEAT_SECONDS: Final = 30.0
BATCH: Final = 200
"""Rows of each table in one transaction, which holds their subjects' fences until it ends."""


class Rows(Protocol):
    async def sweep(self, most: int) -> int: ...

    async def forget_answers(self, most: int) -> int: ...


class Sweeper:
    """``run`` never ends by itself. ``beat``: seconds between two sweeps at most."""

    def __init__(self, rows: Rows, *, beat: float = BEAT_SECONDS) -> None:
        self._rows = rows
        self._beat = beat

    async def run(self) -> None:
        await repeated(self.sweep, self._beat, "rows-not-swept")

    async def sweep(self) -> int:
        """Until nothing is left whose time is over; how many rows and answers that were. Raises DomicileError."""
        whole = 0
        for forget, event in ((self._rows.sweep, "rows-swept"), (self._rows.forget_answers, "answers-forgotten")):
            count = 0
            while swept := await forget(BATCH):
                count += swept
            if count:
                log(event, count=count)
            whole += count
        return whole
