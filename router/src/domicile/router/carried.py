"""What this router carries over its jurisdiction's border, told to a gateway there for the ledger, by the interval.

The bytes have gone by then, so nothing is refused for want of the ledger. What was not taken is told again, the same
under the same number, until it is; a router that is killed leaves one interval untold at most, and the next run of it
begins later than its last one ended. Each worker tells of itself, as a run of its own.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final
from uuid import UUID, uuid4

from domicile.client import GatewayClient
from domicile.identity import Credentials
from domicile.model import DomicileError, Manifest, Unavailable
from domicile.model.ledger_wire import MAX_WAYS, Carried, CarriedReport
from domicile.service import repeated
from domicile.telemetry import BORDER_BYTES, warn

INTERVAL_SECONDS: Final = 30.0
LAST_SECONDS: Final = 2.0
"""For the last report, at the end of the process."""
Way = tuple[str, str, str]
Tell = Callable[[CarriedReport], Awaitable[object]]


def counted() -> dict[Way, int]:
    """(from, to, kind): bytes, since this process began."""
    return {
        (sample.labels["from_jurisdiction"], sample.labels["to_jurisdiction"], sample.labels["kind"]): int(sample.value)
        for metric in BORDER_BYTES.collect()
        for sample in metric.samples
        if sample.name.endswith("_total")
    }


class CarriedReporter:
    """``tells``: gateways of the jurisdiction, in the order in which they are tried."""

    def __init__(
        self,
        zone: str,
        tells: Sequence[Tell],
        count: Callable[[], Mapping[Way, int]] = counted,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._zone = zone
        self._tells = tells
        self._count = count
        self._clock = clock
        self._run: UUID = uuid4()
        self._number = 0
        self._since = clock()
        self._told: dict[Way, int] = dict(count())
        self._pending: tuple[CarriedReport, dict[Way, int]] | None = None

    def _report(self) -> tuple[CarriedReport, dict[Way, int]] | None:
        """What is to be told now: what was not taken before, or what came since. None for nothing."""
        if self._pending is None:
            now = dict(self._count())
            grown = {way: total - self._told.get(way, 0) for way, total in now.items()}
            ways = [
                Carried(source=source, destination=destination, kind=kind, bytes=size)
                for (source, destination, kind), size in sorted(grown.items())
                if size > 0
            ]
            if ways:
                report = CarriedReport(
                    zone=self._zone,
                    run=self._run,
                    number=self._number,
                    since=self._since,
                    until=max(self._since, self._clock()),
                    ways=ways[:MAX_WAYS],
                )
                told = {(each.source, each.destination, each.kind) for each in report.ways}
                self._pending = report, self._told | {way: now[way] for way in told}
        return self._pending

    async def tell(self) -> None:
        """Once. Raises Unavailable where no gateway takes it; the next time the same is told first."""
        pending = self._report()
        if pending is None:
            return
        report, told = pending
        for tell in self._tells:
            try:
                await tell(report)
            except DomicileError as error:
                warn("carried-not-told", code=error.code)
                continue
            self._told, self._pending = told, None
            self._number, self._since = self._number + 1, report.until
            return
        raise Unavailable("no gateway of the jurisdiction takes what was carried")

    async def run(self) -> None:
        """Without end."""
        await repeated(self.tell, INTERVAL_SECONDS, "carried-not-told")

    async def finish(self) -> None:
        """What is left, if a gateway takes it in time."""
        try:
            async with asyncio.timeout(LAST_SECONDS):
                await self.tell()
        except (DomicileError, TimeoutError):
            warn("carried-not-told", reason="ending")


def gateways(credentials: Credentials, manifest: Manifest, jurisdiction: str) -> list[GatewayClient]:
    """Of each cell of the jurisdiction."""
    return [
        GatewayClient(credentials, manifest, name)
        for name, cell in sorted(manifest.cells.items())
        if cell.jurisdiction == jurisdiction
    ]
