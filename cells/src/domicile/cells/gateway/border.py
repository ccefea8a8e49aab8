"""What leaves by the gateway, and what it refuses to somebody elsewhere: each in the ledger before the answer goes."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Final

from aiohttp import web

from domicile.model import DomicileError, Identity
from domicile.model.crossings import Crossing, CrossingKind, CrossingLog, Outcome, as_code
from domicile.service import PEER
from domicile.telemetry import BORDER

PURPOSE_HEADER: Final = "Domicile-Purpose"
"""What an application reads from abroad for, as a code; anything else is left out of the ledger."""


class Border:
    """Of one cell. Both methods raise Unavailable where the line can't be kept: then nothing may cross."""

    def __init__(self, cell: Identity, ledger: CrossingLog, clock: Callable[[], float] = time.time) -> None:
        self._cell = cell
        self._ledger = ledger
        self._clock = clock

    async def passes(
        self, request: web.Request, kind: CrossingKind, counts: Mapping[str, int], answer: web.Response
    ) -> None:
        """``answer`` is about a table that is there: the request's ``table``."""
        size = len(answer.body) if isinstance(answer.body, bytes) else 0
        await self._enter(request, kind, Outcome.PASSED, dict(counts), size, {"table": request.match_info["table"]})

    async def refuses(self, request: web.Request, kind: CrossingKind, error: DomicileError) -> None:
        """A table that was asked for in vain may be anything, and is not named."""
        await self._enter(request, kind, Outcome.REFUSED, {}, 0, {"code": error.code})

    async def _enter(
        self,
        request: web.Request,
        kind: CrossingKind,
        outcome: Outcome,
        counts: dict[str, int],
        size: int,
        detail: dict[str, str],
    ) -> None:
        peer = request[PEER]
        await self._ledger.append(
            Crossing(
                kind=kind,
                source=self._cell.jurisdiction,
                destination=peer.jurisdiction,
                outcome=outcome,
                at=datetime.fromtimestamp(self._clock(), UTC),
                caller=f"{peer.role}/{peer.name}",
                counts=counts,
                bytes=size,
                purpose=as_code(request.headers.get(PURPOSE_HEADER, "")),
                detail=detail,
            )
        )
        verdict = "allowed" if outcome is Outcome.PASSED else "refused"
        BORDER.labels(peer.jurisdiction, self._cell.jurisdiction, str(kind), verdict).inc()
