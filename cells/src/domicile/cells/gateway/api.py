"""The gateway over HTTP: the one process of a cell that may open fences, and the only door for those abroad.

An application holds no right on the fence; it asks here, and here only a grant by the directory counts. An
application abroad reaches no database of this cell; it asks here, and gets shareable columns of subjects that
are at home, each crossing in the ledger before the answer leaves.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Final, NoReturn, Protocol

from aiohttp import web

from domicile.cells.gateway.border import Border
from domicile.cells.gateway.erasures import Eraser
from domicile.cells.gateway.grants import Grants
from domicile.cells.gateway.records import RecordsApi
from domicile.cells.gateway.references import Puller, ReferencesApi
from domicile.cells.gateway.reports import Reporter
from domicile.cells.gateway.restores import Settler
from domicile.cells.gateway.routes import ERASE, OPEN_FENCE, PARAMETERS, READ_ABROAD, REKEY, SHRED
from domicile.cells.gateway.settings import GatewaySettings, LateKeys, open_vault, own_cell
from domicile.cells.gateway.sweeper import Sweeper
from domicile.client import DirectoryClient, Gateways, KeyClient, Topology
from domicile.model import (
    ALIAS_KINDS,
    Conflict,
    DomicileError,
    Endpoint,
    FenceRefused,
    Forbidden,
    Identity,
    InvalidInput,
    Manifest,
    Role,
    SubjectKey,
    Unavailable,
    UnknownSubject,
)
from domicile.model.abroad import AbroadQuery
from domicile.model.crossings import CrossingKind, CrossingLog
from domicile.model.wire import (
    AbroadRows,
    FenceRequest,
    FenceResponse,
    PrincipalRequest,
    RekeyRequest,
)
from domicile.sdk.store import AbroadStore, ErasureStore, Fence, FenceStore, ReferenceStore, open_own
from domicile.service import PEER, Service, ended, json_response, read_body

FENCES_PATH: Final = "/.domicile/v1/fences/{subject_key}"
ABROAD_PATH: Final = "/.domicile/v1/abroad/{subject_key}/{table}"
_EPOCH: Final = re.compile(r"[1-9][0-9]{0,18}")


def parse_epoch(query: Mapping[str, str], name: str) -> int:
    """The epoch in a query parameter; 0 where there is none."""
    text = query.get(name)
    if text is None:
        return 0
    if not _EPOCH.fullmatch(text) or int(text) >= 2**63:
        raise InvalidInput(f"{name} is an epoch: a whole number from 1")
    return int(text)


def _fence_response(fence: Fence) -> web.Response:
    answer = FenceResponse(subject_key=fence.subject_key, epoch=fence.epoch, internal_id=fence.internal_id)
    return json_response(answer, Cache_Control="no-store")


class GatewayApi:
    """Handlers of one cell. ``cell`` is the gateway's own identity."""

    def __init__(
        self,
        cell: Identity,
        fences: FenceStore,
        abroad: AbroadStore,
        grants: Grants,
        directory: DirectoryClient,
        eraser: Eraser,
        border: Border,
        references: ReferenceStore,
    ) -> None:
        self._cell = cell
        self._border = border
        self._eraser = eraser
        self._directory = directory
        self._fences = fences
        self._abroad = abroad
        self._grants = grants
        self._references = ReferencesApi(cell, references, border)

    def routes(self, service: Service) -> None:
        service.route("POST", FENCES_PATH, Endpoint.FENCES, self.open_fence, OPEN_FENCE)
        service.route("POST", f"{FENCES_PATH}/rekey", Endpoint.FENCES_REKEY, self.rekey, REKEY)
        service.route("POST", f"{FENCES_PATH}/erase", Endpoint.FENCES_ERASE, self.erase, ERASE)
        service.route("POST", f"{FENCES_PATH}/shred", Endpoint.FENCES_SHRED, self.shred, SHRED)
        service.route("GET", ABROAD_PATH, Endpoint.ABROAD_READ, self.read_abroad, READ_ABROAD)
        service.route("*", ABROAD_PATH, Endpoint.ABROAD_READ, self.refuse_abroad)
        self._references.routes(service)

    async def open_fence(self, request: web.Request) -> web.Response:
        """Answers the open fence; fetches a grant where there is none, where it is older than the caller's pin, and
        where alias keys are to be kept beside it."""
        key = SubjectKey.parse(request.match_info["subject_key"])
        at_least = parse_epoch(request.query, "min_epoch")
        asked = await read_body(request, FenceRequest)
        if not asked.alias_keys.keys() <= set(ALIAS_KINDS):
            raise InvalidInput("an alias of an unknown kind", remedy=f"one of {', '.join(ALIAS_KINDS)}")
        fence = await self._fences.fence(key)
        if fence is None or fence.state != "open" or fence.epoch < at_least or asked.alias_keys:
            grant = await self._grants.fetch(key, await self._fences.incarnation())
            fence = await self._fences.open(grant, asked.alias_keys)
        return _fence_response(fence)

    async def rekey(self, request: web.Request) -> web.Response:
        """Name a subject by its key under another pepper: here first, where both keys find it from then on, so that
        no moment is without one that router, guard and fence agree on; then in the directory."""
        key = SubjectKey.parse(request.match_info["subject_key"])
        wish = await read_body(request, RekeyRequest)
        # the directory would refuse it when the cell has already gone over
        announced = (await self._directory.reconciliation()).announced
        for name in (wish.successor, *(each.successor for each in wish.aliases)):
            if name.pepper_version not in announced:
                raise Conflict(
                    f"pepper {name.pepper_version} is not announced", remedy="see `domicile pin pepper announce`"
                )
        fence = await self._fences.rekey(key, wish.successor, {each.alias_key: each.successor for each in wish.aliases})
        await self._directory.rekey(key, wish)
        return _fence_response(fence)

    async def erase(self, request: web.Request) -> web.Response:
        """Erase a subject at home here, for this cell's application or an operator of the jurisdiction."""
        key, peer = SubjectKey.parse(request.match_info["subject_key"]), request[PEER]
        if peer.role is Role.APP and peer.cell != self._cell.cell:
            raise Forbidden("an application erases subjects of its own cell", where=self._cell.uri)
        answer = await self._eraser.erase(key, parse_epoch(request.query, "epoch"))
        return json_response(answer, Cache_Control="no-store")

    async def shred(self, request: web.Request) -> web.Response:
        """Shred one principal of a subject that is open here."""
        key = SubjectKey.parse(request.match_info["subject_key"])
        asked = await read_body(request, PrincipalRequest)
        return json_response(await self._eraser.shred(key, asked.principal), Cache_Control="no-store")

    async def read_abroad(self, request: web.Request) -> web.Response:
        """Shareable columns of a subject at home here. Every answer is in the ledger before it leaves, and every
        refusal, or nothing is answered."""
        try:
            answer = await self._read(request)
        except Unavailable:
            raise
        except DomicileError as error:
            await self._border.refuses(request, CrossingKind.ABROAD_READ, error)
            raise
        response = json_response(answer, Cache_Control="no-store")
        counts = {"rows": len(answer.rows), "withheld": len(answer.withheld)}
        await self._border.passes(request, CrossingKind.ABROAD_READ, counts, response)
        return response

    async def _read(self, request: web.Request) -> AbroadRows:
        key = SubjectKey.parse(request.match_info["subject_key"])
        asked = AbroadQuery.parse(request.query)
        try:
            found = await self._abroad.rows(request.match_info["table"], key, asked)
        except FenceRefused:
            raise UnknownSubject("no such subject is at home here") from None
        assert self._cell.cell is not None
        return found.answer(self._cell.jurisdiction, self._cell.cell)

    async def refuse_abroad(self, request: web.Request) -> NoReturn:
        refusal = Forbidden("from abroad a subject's data is read, never written", remedy="write in the home cell")
        await self._border.refuses(request, CrossingKind.ABROAD_WRITE, refusal)
        raise refusal


class OpenedLedger(Protocol):
    """What the gateway needs of its ledger, which is another part of the cell."""

    @property
    def ledger(self) -> CrossingLog: ...

    def note(self) -> Mapping[str, str]:
        """What ``/readyz`` says of it."""
        ...


OpenLedger = Callable[[AsyncExitStack, GatewaySettings, DirectoryClient, Service], Awaitable[OpenedLedger]]


LateKeyClient = Callable[[], Awaitable[KeyClient]]
OpenBorder = Callable[
    [GatewaySettings, Service, DirectoryClient, LateKeyClient, CrossingLog], AbstractAsyncContextManager[object]
]


def puller(
    settings: GatewaySettings, directory: DirectoryClient, cell: Identity, store: ReferenceStore, gateways: Gateways
) -> Puller:
    """By the signed topology, read anew at each beat. A gateway starts without."""
    known: list[Topology] = []

    async def topology() -> Manifest:
        if not known:
            known.append(settings.topology(directory))
        return await known[0].load(patience=0)

    return Puller(cell, store, topology, gateways.of)


@asynccontextmanager
async def serve_gateway(
    settings: GatewaySettings, open_ledger: OpenLedger, open_border: OpenBorder
) -> AsyncIterator[None]:
    """The gateway of the certificate's cell, listening inside the context; what crosses is in its ledger first.

    Raises InvalidInput for settings that it must not start with. Without its database it is not ready, and says so.
    """
    identity = own_cell(settings)
    async with AsyncExitStack() as stack:
        directory = DirectoryClient(settings.credentials, settings.directory)
        stack.push_async_callback(directory.close)
        gateways = Gateways(settings.credentials)
        stack.push_async_callback(gateways.close)
        own = await open_own(stack, settings, "domicile_gateway")
        fences, references = FenceStore(own), ReferenceStore(own)
        abroad = AbroadStore(await open_own(stack, settings, "domicile_abroad"))
        erasures = ErasureStore(await open_own(stack, settings, "domicile_eraser"))

        async def ready() -> Mapping[str, str]:
            await fences.incarnation()
            strange = await fences.role_settings()  # told, and no more: a role could else end the gateway with one
            roles = {"roles": f"{', '.join(strange)}: run `domicile schema apply`"} if strange else {}
            return {**opened.note(), **roles}

        service = Service(settings, ready)
        opened = await open_ledger(stack, settings, directory, service)
        grants, keys = Grants(directory, identity), LateKeys(settings, directory)
        stack.push_async_callback(keys.close)
        eraser = Eraser(identity, erasures, fences, grants, directory, keys.client)
        border = Border(identity, opened.ledger)
        GatewayApi(identity, fences, abroad, grants, directory, eraser, border, references).routes(service)
        more = None
        if settings.records:
            records = RecordsApi(await stack.enter_async_context(open_vault(settings, directory)), fences)
            records.routes(service)
            more = records.describe
        await stack.enter_async_context(open_border(settings, service, directory, keys.client, opened.ledger))
        service.describe("Domicile gateway", Endpoint.ABROAD_READ, PARAMETERS, more)
        reporting = asyncio.create_task(Reporter(identity, fences, directory).run())
        stack.push_async_callback(ended, reporting)
        settling = asyncio.create_task(Settler(identity, fences, directory, grants).run())
        stack.push_async_callback(ended, settling)
        sweeping = asyncio.create_task(Sweeper(fences).run())
        stack.push_async_callback(ended, sweeping)
        erasing = asyncio.create_task(eraser.run())
        stack.push_async_callback(ended, erasing)
        pulling = asyncio.create_task(puller(settings, directory, identity, references, gateways).run())
        stack.push_async_callback(ended, pulling)
        peers = service.internal_context([Role.APP, Role.ROUTER, Role.GATEWAY])
        async with service.listen(settings.address(), peers):
            yield
