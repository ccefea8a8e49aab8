"""The guard: what checks a request at the cell's edge before any handler of an aiohttp application runs.

It is the second of the three locks on a write, and trusts nothing but TLS: the peer is a router of this
jurisdiction by its certificate, and what its headers say of the subject holds only where this cell's own
fence says the same. ``Domicile-Guard`` on an answer tells the router that no handler ran (or that one on an
unpinned path asked for a home that is elsewhere), so that the request may be sent again; an application's
own header of that name never leaves.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware
from multidict import CIMultiDictProxy

from domicile.identity import peer_of
from domicile.model.access import Endpoint, Identity, Role, require
from domicile.model.errors import (
    CrossBorderAccess,
    DomicileError,
    FenceRefused,
    IdentitiesDisagree,
    InvalidInput,
    Misdirected,
    UnknownSubject,
    WrongCell,
)
from domicile.model.geography import COUNTRIES
from domicile.model.ids import SubjectKey
from domicile.model.manifest import Manifest, Travellers
from domicile.model.wire import CELL_HEADER, COUNTRY_HEADER, EPOCH_HEADER, GUARD_HEADER, SUBJECT_KEY_HEADER
from domicile.sdk.home import Home
from domicile.sdk.residency import Residency
from domicile.sdk.store import Fence
from domicile.service import problem_response
from domicile.telemetry import REFUSALS, warn

HEALTH_PATHS: Final = frozenset({"/healthz", "/readyz", "/metrics"})
READY_PATH: Final = "/readyz"
SUBJECT: Final = web.RequestKey("domicile_subject", Home)
"""On a pinned path: the routed subject's home, at the epoch that the guard let pass."""
_OURS: Final = web.RequestKey("domicile_guard", bool)


class Verdict(StrEnum):
    STALE_EPOCH = "stale-epoch"
    WRONG_CELL = "wrong-cell"


@dataclass(frozen=True, slots=True)
class Routed:
    """Whom a router says that a request is for."""

    subject_key: SubjectKey
    cell: str
    epoch: int


def _single(headers: CIMultiDictProxy[str], name: str) -> str | None:
    values = headers.getall(name, [])
    if len(values) > 1:
        raise IdentitiesDisagree(f"{name} is given {len(values)} times")
    return values[0] if values else None


def routed(headers: CIMultiDictProxy[str]) -> Routed | None:
    """The subject that the router named, or None. Raises IdentitiesDisagree for half a statement. Pure."""
    key, cell, epoch = (_single(headers, name) for name in (SUBJECT_KEY_HEADER, CELL_HEADER, EPOCH_HEADER))
    if key is None and cell is None and epoch is None:
        return None
    if key is None or cell is None or epoch is None:
        raise IdentitiesDisagree("subject, cell and epoch are named together or not at all")
    if not epoch.isascii() or not epoch.isdigit() or not 1 <= int(epoch) < 2**63:
        raise InvalidInput("an epoch is a positive number", where=EPOCH_HEADER)
    return Routed(SubjectKey.parse(key), cell, int(epoch))


def observed_country(request: web.Request) -> str | None:
    """The country from which the router saw the request come, on unpinned paths. A guess, never a proof."""
    country = _single(request.headers, COUNTRY_HEADER)
    return country if country in COUNTRIES else None


def is_pinned(manifest: Manifest, peer: Identity, path: str) -> bool:
    """Whether a router's rules leave the path to a home. A router that the manifest doesn't name has no rules.

    What an edge sends is always a subject's own: it leaves unpinned paths to a router.
    """
    place = manifest.routers.get(peer.zone) if peer.role is Role.ROUTER else None
    return place is None or not place.is_unpinned(path)


def asks_for_health(peer: Identity, path: str, subject: Routed | None) -> bool:
    """Whether a request is for the process and not for anybody's data. An edge asks in nobody's name; what it carries
    for a client names a subject. Pure."""
    if peer.role is Role.EDGE:
        return path == READY_PATH and subject is None
    return peer.role is Role.OPERATOR and path in HEALTH_PATHS


def needs_asking(fence: Fence | None, epoch: int) -> bool:
    """Whether the gateway must be asked: the router knows more than the fence, or there is none open. Pure."""
    return fence is None or epoch > fence.epoch or (fence.state != "open" and epoch == fence.epoch)


def guard(app: web.Application, residency: Residency) -> None:
    """Put the guard before every handler of ``app``; call it before ``app`` is served.

    Handlers find the subject's home as ``request[SUBJECT]`` on pinned paths. What they raise becomes a
    problem document: on an unpinned path CrossBorderAccess becomes 307 to the same path at the home's public
    host and WrongCell tells the router where to go; elsewhere they are 451 and 421.
    """
    checks = _Guard(residency)
    app.middlewares.append(checks.middleware())
    app.on_response_prepare.append(_strip)


async def _strip(request: web.Request, response: web.StreamResponse) -> None:
    if not request.get(_OURS, False):
        response.headers.popall(GUARD_HEADER, None)


class _Guard:
    def __init__(self, residency: Residency) -> None:
        self._residency = residency

    def middleware(self) -> Middleware:
        @web.middleware
        async def guarded(request: web.Request, handler: Handler) -> web.StreamResponse:
            try:
                return await self._check(request, handler)
            except DomicileError as error:
                REFUSALS.labels(error.code).inc()
                return problem_response(error)

        return guarded

    async def _check(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        peer = peer_of(request.transport)
        subject = routed(request.headers)
        if asks_for_health(peer, request.path, subject):
            return await handler(request)
        require(peer, self._residency.identity, Endpoint.APP_REQUESTS)
        if not is_pinned(self._residency.manifest, peer, request.path):
            return await self._unpinned(request, handler)
        if subject is None:
            raise IdentitiesDisagree("a pinned path without a subject", remedy="see the router's rules")
        refusal = await self._admit(request, subject)
        return await handler(request) if refusal is None else refusal

    async def _admit(self, request: web.Request, subject: Routed) -> web.StreamResponse | None:
        """Let a pinned request in, or answer why not."""
        if subject.cell != self._residency.cell:
            return self._wrong_cell(request, self._elsewhere(subject))
        fence = await self._residency.fence(subject.subject_key)
        if needs_asking(fence, subject.epoch):
            try:
                fence = await self._residency.admit(subject.subject_key, subject.epoch)
            except (Misdirected, UnknownSubject):
                return self._wrong_cell(request, self._elsewhere(subject))
            except FenceRefused:
                fence = await self._residency.fence(subject.subject_key)
        if fence is None or fence.state != "open" or fence.epoch != subject.epoch:
            return self._stale(request, fence)
        request[SUBJECT] = self._residency.home_by(fence)
        return None

    async def _unpinned(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        except WrongCell as error:
            return self._wrong_cell(request, error)
        except CrossBorderAccess as error:
            place = self._residency.manifest.jurisdictions.get(error.jurisdiction)
            if error.public_host is None or place is None or place.travellers_on(request.path) is Travellers.REFUSE:
                raise
            REFUSALS.labels(error.code).inc()
            location = f"https://{error.public_host}{request.rel_url.raw_path_qs}"
            return web.Response(status=307, headers={"Location": location, "Cache-Control": "no-store"})

    def _refuse(
        self, request: web.Request, error: DomicileError, verdict: Verdict, headers: dict[str, str]
    ) -> web.Response:
        request[_OURS] = True
        REFUSALS.labels(error.code).inc()
        warn("guard-refused", reason=str(verdict), cell=self._residency.cell)
        response = problem_response(error)
        response.headers.update({GUARD_HEADER: str(verdict), **headers})
        return response

    def _stale(self, request: web.Request, fence: Fence | None) -> web.Response:
        error = FenceRefused("this cell holds the subject at another epoch, or not open")
        headers = {} if fence is None else {EPOCH_HEADER: str(fence.epoch)}
        return self._refuse(request, error, Verdict.STALE_EPOCH, headers)

    def _elsewhere(self, subject: Routed) -> WrongCell:
        return WrongCell(
            "the subject's home is another cell",
            jurisdiction=self._residency.jurisdiction,
            cell=subject.cell,
            subject_key=str(subject.subject_key),
        )

    def _wrong_cell(self, request: web.Request, error: WrongCell) -> web.Response:
        return self._refuse(request, error, Verdict.WRONG_CELL, {SUBJECT_KEY_HEADER: error.subject_key})
