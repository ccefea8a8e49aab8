"""The ledger over HTTP: its head to other gateways, its lines to the jurisdiction's operators, reports from routers."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from typing import Final
from uuid import UUID

from aiohttp import web

from domicile.cells.ledger.carried import crossings_of
from domicile.cells.ledger.exchange import Exchange
from domicile.cells.ledger.storage import LedgerStore
from domicile.cells.ledger.tree import consistency, consistency_parts, covering, root
from domicile.identity import HeadSigner
from domicile.model import Conflict, Endpoint, Forbidden, Identity, InvalidInput
from domicile.model.crossings import CrossingLog
from domicile.model.ledger_wire import (
    MAX_LINES,
    CarriedReport,
    HeadAnswer,
    HeldAnswer,
    LedgerAlarm,
    LinesAnswer,
    ReportTaken,
    SignedHead,
)
from domicile.service import PEER, Operation, Service, json_response, read_body

PATH: Final = "/.domicile/v1/ledger"
_NUMBER: Final = re.compile(r"[0-9]{1,18}")
_MOMENT: Final = re.compile(r"[0-9]{1,10}(?:\.[0-9]{1,6})?")
_WHOLE: Final = {"type": "string", "pattern": "^[0-9]{1,18}$"}
HEAD: Final = Operation(
    "The signed head of this cell's ledger, with the proof that it grew from so many lines",
    {200: HeadAnswer},
    query={"since": _WHOLE},
)
LINES: Final = Operation(
    "Lines from one on, or from the first since a moment (seconds since 1970), with the tree's edge before them",
    {200: LinesAnswer},
    query={"first": _WHOLE, "since": {"type": "string", "pattern": "^[0-9]{1,10}$"}, "limit": _WHOLE},
    refuses=(Conflict,),
)
HELD: Final = Operation("What this gateway holds of other cells' ledgers, and its alarms", {200: HeldAnswer})
CARRIED: Final = Operation(
    "Enter what a router carried over the border in an interval",
    {200: ReportTaken},
    body=CarriedReport,
    refuses=(Forbidden,),
)


def _number(request: web.Request, name: str, otherwise: int) -> int:
    text = request.query.get(name)
    if text is None:
        return otherwise
    if not _NUMBER.fullmatch(text):
        raise InvalidInput(f"{name} is a whole number")
    return int(text)


class HeadMaker:
    """Signs the head as it is; the same one is told again, since what is signed is signed for good."""

    def __init__(self, store: LedgerStore, signer: HeadSigner) -> None:
        self._store = store
        self._signer = signer
        self._last: tuple[UUID, int, bytes, SignedHead] | None = None

    async def head(self) -> tuple[int, SignedHead]:
        log, size = await self._store.size()
        hashes = await self._store.hashes([(0, size)])
        tree = root(size, hashes.__getitem__)
        last = self._last
        if last is None or last[:3] != (log, size, tree):
            signed = await asyncio.to_thread(self._signer.sign, log, size, tree)
            last = self._last = (log, size, tree, signed)
        return size, last[3]

    async def proof(self, before: int, size: int) -> list[str]:
        hashes = await self._store.hashes(consistency_parts(before, size))
        return [each.hex() for each in consistency(before, size, hashes.__getitem__)]


class LedgerApi:
    """Handlers of one cell's ledger. ``exchange``: once it has begun."""

    def __init__(
        self,
        cell: Identity,
        store: LedgerStore,
        heads: HeadMaker,
        ledger: CrossingLog,
        exchange: Callable[[], Awaitable[Exchange]],
    ) -> None:
        self._cell = cell
        self._store = store
        self._heads = heads
        self._ledger = ledger
        self._exchange = exchange

    def routes(self, service: Service) -> None:
        service.route("GET", f"{PATH}/head", Endpoint.LEDGER_HEADS, self.head, HEAD)
        service.route("GET", f"{PATH}/held", Endpoint.LEDGER_HEADS, self.held, HELD)
        service.route("GET", f"{PATH}/lines", Endpoint.LEDGER_READ, self.lines, LINES)
        service.route("POST", f"{PATH}/carried", Endpoint.LEDGER_CARRIED, self.carried, CARRIED)

    async def head(self, request: web.Request) -> web.Response:
        since = _number(request, "since", 0)
        size, head = await self._heads.head()
        # who holds more than there is gets the head all the same: it is what he looks for
        proof = await self._heads.proof(since, size) if since <= size else []
        return json_response(HeadAnswer(head=head, proof=proof), Cache_Control="no-store")

    async def lines(self, request: web.Request) -> web.Response:
        log, size = await self._store.size()
        first, limit = _number(request, "first", 0), _number(request, "limit", MAX_LINES)
        moment = request.query.get("since")
        if moment is not None:
            if not _MOMENT.fullmatch(moment) or "first" in request.query:
                raise InvalidInput("since is a moment in seconds since 1970, in the place of first")
            found = await self._store.first_since(float(moment))
            first = size if found is None else found
        if first > size:
            raise Conflict(f"the ledger has {size} lines", remedy="ask for its head")
        hashes = await self._store.hashes([(0, first)])
        answer = LinesAnswer(
            log=log,
            first=first,
            frontier=[hashes[node].hex() for node in covering(0, first)],
            lines=await self._store.lines(first, max(1, min(limit, MAX_LINES))),
        )
        return json_response(answer, Cache_Control="no-store")

    async def held(self, _: web.Request) -> web.Response:
        alarms = [
            LedgerAlarm(cell=each.cell, verdict=each.verdict, at=each.at, held=each.held, told=each.told)
            for each in await self._store.alarms()
        ]
        answer = HeldAnswer(heads=(await self._exchange()).told(), alarms=alarms)
        return json_response(answer, Cache_Control="no-store")

    async def carried(self, request: web.Request) -> web.Response:
        report = await read_body(request, CarriedReport)
        lines = crossings_of(report, request[PEER], self._cell.jurisdiction)
        await asyncio.gather(*(self._ledger.append(line) for line in lines))
        return json_response(ReportTaken(lines=len(lines)), Cache_Control="no-store")
