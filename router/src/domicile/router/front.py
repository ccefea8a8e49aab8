"""The flow of one request: identify, resolve, decide, act; and every refusal as a problem document.

A guard's 421 sends the flow round once more with the directory's newest word, and never twice: two parts
that don't agree yet are waited for by the client, who is told when to come back.
"""

from __future__ import annotations

import itertools
import time
from contextlib import ExitStack
from dataclasses import replace
from http import HTTPStatus
from typing import Final

from aiohttp import web

from domicile.identity import Signer, peer_of
from domicile.model import (
    CrossBorderAccess,
    DomicileError,
    Identity,
    Manifest,
    Misdirected,
    Pin,
    ResidencyToken,
    Unavailable,
    UnknownSubject,
)
from domicile.model.manifest import Router
from domicile.model.pins import RESIDENCY_TOKEN_SECONDS
from domicile.model.wire import EPOCH_HEADER, GUARD_HEADER, MAX_HEAD_BYTES, PROBLEM_TYPE, Problem
from domicile.router.atlas import GATEWAY_PATHS, Atlas
from domicile.router.body import Body
from domicile.router.country import Countries
from domicile.router.decide import (
    MOVE_RETRY_SECONDS,
    Decision,
    Forward,
    Hairpin,
    Listener,
    Question,
    Redirect,
    Refuse,
    decide,
)
from domicile.router.errors import HeadTooLarge, MethodRefused, UpgradeRefused
from domicile.router.forward import Answer, Guard, Outgoing, Wire
from domicile.router.headers import kept_private, request_headers, statement, token_cookie
from domicile.router.health import Health
from domicile.router.identify import Identified, Identifier, drop_distrusted
from domicile.router.observe import Passed
from domicile.router.pins import Pins
from domicile.router.readers import Evidence
from domicile.router.resolve import Resolver
from domicile.router.settings import RouterSettings
from domicile.router.shedding import Shedder
from domicile.router.target import path_of, read_target
from domicile.router.waiting import MoveBuffer, Patience
from domicile.service import plain_problem, problem_response
from domicile.telemetry import BORDER, BORDER_BYTES, DECISIONS, DURATION, REFUSALS, REQUESTS, place_of, warn
from domicile.telemetry.traces import TRACEPARENT, span

HELD_BYTES: Final = 64 * 1024
"""What a connection's buffers hold of a body that nobody reads yet, at most."""
_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"})
_REFUSED_METHODS: Final = frozenset({"CONNECT", "TRACE"})
_UPGRADES: Final = frozenset({"websocket", "tcp"})
_VERDICTS: Final = {Redirect: "redirected", Hairpin: "passed", Refuse: "refused"}


class Front:
    """Answers requests on both listeners of one router."""

    def __init__(
        self,
        settings: RouterSettings,
        vantage: Identity,
        manifest: Manifest,
        place: Router,
        atlas: Atlas,
        *,
        identifier: Identifier,
        pins: Pins,
        resolver: Resolver,
        shedder: Shedder,
        countries: Countries,
        wire: Wire,
        health: Health,
        signer: Signer,
    ) -> None:
        self._settings = settings
        self._vantage = vantage
        self._manifest = manifest
        self._atlas = atlas
        self._place = place
        self._identifier = identifier
        self._pins = pins
        self._resolver = resolver
        self._shedder = shedder
        self._moves = MoveBuffer(pins.refresh, seconds=settings.move_seconds)
        self._countries = countries
        self._wire = wire
        self._health = health
        self._signer = signer
        self._turns = itertools.count()

    async def public(self, request: web.BaseRequest) -> web.StreamResponse:
        return await self.handle(request, Listener.PUBLIC)

    async def handle(self, request: web.BaseRequest, listener: Listener) -> web.StreamResponse:
        """Raises ConnectionResetError, and nothing else, where the client's connection is past saving."""
        started = time.perf_counter()
        status = 499
        method = request.method if request.method in _METHODS else "other"
        try:
            # what the public says of a trace is its own; another router's is ours
            parent = request.headers.get(TRACEPARENT) if listener is Listener.INTERNAL else None
            told = {"domicile.listener": listener.value, "http.request.method": method}
            with span("router.request", told, parent=parent, root=True) as trace:
                response = await self._answer(request, listener)
                trace.set("http.response.status_code", response.status)
            status = response.status
            return response
        finally:
            REQUESTS.labels(listener.value, method, str(status)).inc()
            DURATION.labels(listener.value).observe(time.perf_counter() - started)

    async def _answer(self, request: web.BaseRequest, listener: Listener) -> web.StreamResponse:
        try:
            return await self._route(request, listener)
        except DomicileError as error:
            REFUSALS.labels(error.code).inc()
            response: web.Response = problem_response(error)
            if isinstance(error, CrossBorderAccess):
                host = self._manifest.jurisdictions[self._vantage.jurisdiction].public_host
                response.headers["Link"] = f'<https://{host}/>; rel="blocked-by"'  # RFC 7725, section 4
        except ConnectionResetError:
            raise
        except Exception as error:
            warn("unforeseen", error=type(error).__name__, endpoint=listener.value, place=place_of(error))
            response = plain_problem(500, "internal", "an unforeseen error; the log names its class")
        return _closing(request, response)

    async def _route(self, request: web.BaseRequest, listener: Listener) -> web.StreamResponse:
        with self._shedder.place(), ExitStack() as held:
            outcome = await self._head(request, listener, held)
        if isinstance(outcome, web.Response):
            return outcome
        answer, cookie, home = outcome
        response = await answer.pass_on(request, set_cookie=cookie)
        if home is not None:
            BORDER_BYTES.labels(home, self._vantage.jurisdiction, "answer").inc(answer.passed)
        return response

    async def _head(
        self, request: web.BaseRequest, listener: Listener, held: ExitStack
    ) -> web.Response | tuple[Answer, str | None, str | None]:
        """Up to the head of an answer: ours, or a home's with a cookie to set and the jurisdiction it comes from
        over a border. ``held``: what this request takes up until then."""
        _check_head(request)
        target = read_target(request.raw_path)
        path = path_of(target)
        unpinned = self._place.is_unpinned(path)
        body = Body(request, limit=self._settings.max_body, idle=self._settings.idle_seconds)
        who = await self._identifier.identify(_evidence(request, path, listener, pinned=not unpinned))
        pin = await self._resolver.pin(who, pinned=not unpinned, listener=listener)
        country = self._country(request) if unpinned and listener is Listener.PUBLIC else None
        question = Question(path, request.method, not unpinned, listener, pin, turn=next(self._turns))
        size = min(request.content_length or HELD_BYTES, HELD_BYTES)
        patience: Patience | None = None
        replayed = waited = False
        while True:
            question = replace(question, down=self._health.down())
            decision = decide(question, self._atlas)
            self._count(decision)
            if isinstance(decision, Refuse):
                if decision.waits and not waited and question.pin is not None:
                    question = replace(question, pin=await self._moves.settled(question.pin.subject_key, size))
                    waited = True
                    continue
                if isinstance(decision.error, Misdirected) and listener is Listener.INTERNAL and question.pin:
                    return _closing(request, _not_here(decision.error, question.pin))
                raise decision.error
            if isinstance(decision, Redirect):
                return _closing(request, _redirect(decision, target))
            if replayed and not body.replayable:
                raise Unavailable(
                    "the subject's home changed while its request came in", retry_after=MOVE_RETRY_SECONDS
                )
            answer = await self._send(decision, request, target, body, country, who.distrusted)
            guard = answer.guard()
            if guard is None:
                break
            await answer.discard()
            if guard.behind(question.pin) and question.pin is not None and body.replayable:
                if patience is None:
                    patience = held.enter_context(self._moves.patience(size))
                await patience.pause()
                question = replace(question, pin=self._pins.known(question.pin.subject_key) or question.pin)
                continue
            if replayed:
                raise Unavailable("the home cell and the directory do not agree yet", retry_after=MOVE_RETRY_SECONDS)
            question = await self._after_guard(guard, question)
            replayed = True
        if unpinned:
            self._pins.forget_unknown(*who.keys)
        cookie = self._cookie(who, decision.pin, answer) if listener is Listener.PUBLIC else None
        if not isinstance(decision, Hairpin):
            return answer, cookie, None
        home = decision.routers.jurisdiction
        BORDER_BYTES.labels(self._vantage.jurisdiction, home, "request").inc(body.size)
        return answer, cookie, home

    async def _after_guard(self, guard: Guard, question: Question) -> Question:
        """The question to ask after a guard's refusal. Raises Unavailable where waiting is all that helps."""
        pin = question.pin
        if guard.kind == "wrong-cell":
            # on a subject's own path, the subject is who was identified, whatever a cell says
            key = pin.subject_key if question.pinned and pin is not None else guard.key
            if key is not None:
                found = await self._pins.refresh(key)
                if found is None:
                    raise UnknownSubject("no such subject")
                return replace(question, pin=found, pinned=True)
        elif guard.kind == "stale-epoch" and pin is not None:
            if guard.behind(pin):
                raise Unavailable("the home cell has not taken the subject over yet", retry_after=MOVE_RETRY_SECONDS)
            return replace(question, pin=await self._pins.refresh(pin.subject_key))
        raise Unavailable("the cell's guard refused the request without saying who is meant")

    async def _send(
        self,
        decision: Forward | Hairpin,
        request: web.BaseRequest,
        target: str,
        body: Body,
        country: str | None,
        distrusted: frozenset[str],
    ) -> Answer:
        if isinstance(decision, Hairpin):
            headers = request_headers(request.headers, to_router=True)
            headers.popall(TRACEPARENT, None)  # another router takes it for ours
            upstreams = decision.routers.upstreams
        else:
            headers = request_headers(request.headers, to_router=False)
            headers.update(statement(decision.pin, country))
            upstreams = decision.home.upstreams
        drop_distrusted(headers, distrusted)
        first = upstreams[0]
        passed = Passed(first.jurisdiction, first.cell or "", _route(decision, target))
        with passed.attempt() as trace:
            headers.update(trace)
            answer = await self._wire.send(upstreams, Outgoing(request.method, target, headers), body)
            passed.answered(answer.status)
        return answer

    def _country(self, request: web.BaseRequest) -> str | None:
        peer = request.transport.get_extra_info("peername") if request.transport is not None else None
        return self._countries.observe(peer[0], request.headers.getall("X-Forwarded-For", [])) if peer else None

    def _cookie(self, who: Identified, pin: Pin | None, answer: Answer) -> str | None:
        """A residency token for somebody whom the application's own token authenticated."""
        if not who.authenticated or pin is None or pin.subject_key not in who.keys or answer.status >= 400:
            return None
        if _states(who.token, pin) or not kept_private(answer.headers):
            return None
        token = self._signer.residency_token(pin, self._settings.deployment)
        return token_cookie(token, RESIDENCY_TOKEN_SECONDS)

    def _count(self, decision: Decision) -> None:
        match decision:
            case Forward(home, _):
                jurisdiction = home.jurisdiction
            case Hairpin(routers, _):
                jurisdiction = routers.jurisdiction
            case Redirect(name, _, _):
                jurisdiction = name
            case Refuse(_, where):
                jurisdiction = where or self._vantage.jurisdiction
        DECISIONS.labels(type(decision).__name__.lower(), jurisdiction).inc()
        if jurisdiction != self._vantage.jurisdiction:
            BORDER.labels(self._vantage.jurisdiction, jurisdiction, "traveller", _VERDICTS[type(decision)]).inc()


def _route(decision: Forward | Hairpin, target: str) -> str:
    """Which kind of way a request takes, for the metrics."""
    if isinstance(decision, Hairpin):
        return "hairpin"
    if target.startswith(GATEWAY_PATHS):
        return "gateway"
    return "unpinned" if decision.pin is None else "home"


def _states(token: ResidencyToken | None, pin: Pin) -> bool:
    return token is not None and (token.jur, token.cell, token.epoch) == (pin.jurisdiction, pin.cell, pin.epoch)


def _evidence(request: web.BaseRequest, path: str, listener: Listener, *, pinned: bool) -> Evidence:
    transport = request.transport
    peer = transport.get_extra_info("peername") if transport is not None else None
    return Evidence(
        request.headers,
        path,
        pinned,
        host=request.headers.get("Host", ""),
        peer=peer[0] if peer else None,
        router=peer_of(transport) if listener is Listener.INTERNAL else None,
    )


def _check_head(request: web.BaseRequest) -> None:
    size = len(request.raw_path) + sum(len(name) + len(value) + 4 for name, value in request.raw_headers)
    if size > MAX_HEAD_BYTES:
        raise HeadTooLarge(f"the head is larger than {MAX_HEAD_BYTES} bytes")
    if request.method in _REFUSED_METHODS:
        raise MethodRefused(f"{request.method} is not served")
    if request.headers.get("Upgrade", "").lower() in _UPGRADES:
        raise UpgradeRefused("upgrades are not relayed", remedy="use server-sent events or plain requests")


def _closing(request: web.BaseRequest, response: web.Response) -> web.Response:
    """A client whose body is not wanted may send it all the same: what follows is not another request."""
    if request.body_exists and not request.content.at_eof():
        response.force_close()
    return response


def _redirect(decision: Redirect, target: str) -> web.Response:
    problem = Problem(
        title=HTTPStatus.TEMPORARY_REDIRECT.phrase,
        status=HTTPStatus.TEMPORARY_REDIRECT,
        code=CrossBorderAccess.code,
        detail=f"the subject's home is in {decision.jurisdiction}",
        jurisdiction=decision.jurisdiction,
        public_host=decision.public_host,
    )
    return web.Response(
        status=HTTPStatus.TEMPORARY_REDIRECT,
        body=problem.model_dump_json(exclude_none=True),
        content_type=PROBLEM_TYPE,
        headers={"Location": f"https://{decision.public_host}{target}", "Cache-Control": "no-store"},
    )


def _not_here(error: Misdirected, pin: Pin) -> web.Response:
    """To the router that sent the request: its pin is not the newest one, by the epoch given."""
    REFUSALS.labels(error.code).inc()
    response = problem_response(error)
    response.headers.update({GUARD_HEADER: "stale-epoch", EPOCH_HEADER: str(pin.epoch)})
    return response
