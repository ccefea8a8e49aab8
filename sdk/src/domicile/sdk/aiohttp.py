"""The guard before an aiohttp application's handlers; what it decides is in ``domicile.sdk.guarding``."""

from __future__ import annotations

from typing import Final

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from domicile.identity import peer_of
from domicile.model.access import Identity
from domicile.model.errors import DomicileError, Unauthenticated
from domicile.model.wire import GUARD_HEADER
from domicile.sdk.guarding import Gate, Refusal, asks_for_health, country_in, same_subject
from domicile.sdk.home import Home
from domicile.sdk.residency import Residency
from domicile.service import problem_response

SUBJECT: Final = web.RequestKey("domicile_subject", Home)
"""On a pinned path: the routed subject's home, at the epoch that the guard let pass."""
_RESIDENCY: Final = web.AppKey("domicile_residency", Residency)
_OURS: Final = web.RequestKey("domicile_guard", bool)


def observed_country(request: web.Request) -> str | None:
    """The country from which the router saw the request come, on unpinned paths. A guess, never a proof."""
    return country_in(request.headers)


def home_of(request: web.Request, user: str | None = None) -> Home:
    """On a pinned path: the routed subject's home. Raises Unauthenticated on an unpinned one.

    ``user``: whom the application's own session names, by his id; raises IdentitiesDisagree where that is another.
    """
    home = request.get(SUBJECT)
    if home is None:
        raise Unauthenticated("this path is unpinned: no subject was routed", remedy="see the router's rules")
    return home if user is None else same_subject(home, request.config_dict[_RESIDENCY], user)


def guard(app: web.Application, residency: Residency) -> None:
    """Put the guard before every handler of ``app``; call it before ``app`` is served.

    Handlers find the subject's home by ``home_of(request)`` on pinned paths, or as ``request[SUBJECT]``. What they
    raise becomes a problem document: on an unpinned path CrossBorderAccess becomes 307 to the same path at the home's
    public host and WrongCell tells the router where to go; elsewhere they are 451 and 421.
    """
    app[_RESIDENCY] = residency
    app.middlewares.append(_middleware(Gate(residency), residency.identity))
    app.on_response_prepare.append(_strip)


async def _strip(request: web.Request, response: web.StreamResponse) -> None:
    if not request.get(_OURS, False):
        response.headers.popall(GUARD_HEADER, None)


def _middleware(gate: Gate, own: Identity) -> Middleware:
    @web.middleware
    async def guarded(request: web.Request, handler: Handler) -> web.StreamResponse:
        pinned = True
        try:
            peer = peer_of(request.transport)
            if asks_for_health(peer, own, request.path, request.headers):
                return await handler(request)
            admitted = await gate.admit(peer, request.path, request.headers)
            if isinstance(admitted, Refusal):
                return _answer(request, admitted)
            pinned = admitted is not None
            if admitted is not None:
                request[SUBJECT] = admitted
            return await handler(request)
        except DomicileError as error:
            target = request.rel_url.raw_path_qs
            return _answer(request, gate.answer_to(error, request.path, target, pinned=pinned))

    return guarded


def _answer(request: web.Request, refusal: Refusal) -> web.Response:
    if refusal.location is not None:
        return web.Response(status=307, headers={"Location": refusal.location, "Cache-Control": "no-store"})
    request[_OURS] = refusal.verdict is not None
    response = problem_response(refusal.error)
    response.headers.update(refusal.headers)
    return response
