"""``/v1/decide``: an edge that forwards by itself asks where a request goes, and keeps the answer while that holds.

The question is the request itself, without its body: its method, its target behind the prefix, its fields. Nothing is
forwarded, no token is handed out, and nothing of it is logged. Only a pinned request whose home is a cell of this
jurisdiction is the edge's to forward; of every other the answer names no subject, and the router that the edge sends
it to does the work.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from aiohttp import web

from domicile.model import Conflict, DomicileError, Endpoint, Forbidden, NotFound, Pin, PinState, Role
from domicile.model.errors import CrossBorderAccess, IdentitiesDisagree, Misdirected, Unauthenticated
from domicile.model.wire import (
    CELL_HEADER,
    DECIDE_ANSWER_PATH,
    DECIDE_ROUTE_PATH,
    DECISION_HEADER,
    EPOCH_HEADER,
    STATUS_HEADER,
    SUBJECT_KEY_HEADER,
)
from domicile.router.atlas import Atlas
from domicile.router.decide import Decision, Forward, Hairpin, Listener, Redirect, Refuse, decide
from domicile.router.front import Asked, Front
from domicile.router.head import REQUEST_NAMES
from domicile.router.lines import Fields
from domicile.router.readers import Evidence
from domicile.router.replies import Reply, redirected
from domicile.router.target import path_of, read_target
from domicile.service import Operation, Service
from domicile.telemetry import REFUSALS

DECISION_SECONDS: Final = 60
"""For how long a decision may be kept at most: a session that was withdrawn, or a move whose 421 nobody saw, counts
for no longer than this behind an edge."""
METHODS: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
PARAMETERS: Final[dict[str, dict[str, Any]]] = {"target": {"type": "string", "minLength": 1}}
_REFUSED: Final[tuple[type[DomicileError], ...]] = (
    IdentitiesDisagree, Unauthenticated, Forbidden, NotFound, Conflict, Misdirected, CrossBorderAccess,
)  # fmt: skip


class Way(StrEnum):
    """Who does what comes next: the edge, by forwarding to the cell; a router, to which it sends the request as it
    came; or the edge again, by answering."""

    CELL = "cell"
    ROUTER = "router"
    REDIRECT = "redirect"
    REFUSE = "refuse"


@dataclass(frozen=True, slots=True)
class Decided:
    """``pin``: with ``CELL`` alone. ``seconds``: for how long this holds. ``reply``: what a router would answer."""

    way: Way
    pin: Pin | None = None
    seconds: int = 0
    reply: Reply | None = None

    @property
    def fields(self) -> dict[str, str]:
        """What is said of it in header fields, with nothing of whoever is not at home here."""
        said = {DECISION_HEADER: self.way.value, "Cache-Control": "no-store"}
        if self.seconds:
            said["Cache-Control"] = f"max-age={self.seconds}"
        if self.pin is not None:
            said[SUBJECT_KEY_HEADER] = self.pin.subject_key.hex()
            said[CELL_HEADER] = self.pin.cell
            said[EPOCH_HEADER] = str(self.pin.epoch)
        return said


def kept_for(pin: Pin, until: float, now: float) -> int:
    """Seconds for which an edge may go by a pin that proofs name ``until`` then. Pure."""
    if pin.state is not PinState.ACTIVE:
        return 0
    return max(0, int(min(float(DECISION_SECONDS), until - now)))


class Decider:
    """``clock``: seconds since 1970."""

    def __init__(self, front: Front, atlas: Atlas, *, clock: Callable[[], float] = time.time) -> None:
        self._front = front
        self._atlas = atlas
        self._clock = clock

    async def decide(self, method: str, raw: str, headers: Mapping[str, str]) -> Decided:
        """Raises nothing for a request that is refused: the refusal is the decision."""
        shedder = self._front.shedder
        shedder.enter()
        try:
            target = read_target(raw, headers.get("Host", ""))
            fields = Fields.of(headers.items(), REQUEST_NAMES)
            path = path_of(target)
            evidence = Evidence(fields, path, self._front.is_pinned(path), headers.get("Host", ""))
            asked = await self._front.asked(evidence, method, Listener.PUBLIC)
            return self._told(decide(asked.question, self._atlas), asked, target)
        except DomicileError as error:
            return Decided(Way.REFUSE, reply=self._front.refused(error))
        finally:
            shedder.leave()

    def _told(self, decision: Decision, asked: Asked, target: str) -> Decided:
        match decision:
            case Forward(home, pin) if pin is not None and not asked.unpinned and home.role is Role.APP:
                return Decided(Way.CELL, pin, kept_for(pin, asked.who.until, self._clock()))
            case Forward() | Hairpin() | Refuse(waits=True):
                return Decided(Way.ROUTER)
            case Redirect():
                return Decided(Way.REDIRECT, reply=redirected(decision, target))
            case Refuse(error):
                return Decided(Way.REFUSE, reply=self._front.refused(error))


@dataclass(frozen=True, slots=True)
class _Form:
    """One way of answering an edge."""

    prefix: str
    summary: str
    answers: Mapping[int, None]
    write: Callable[[Decided], web.Response]
    refuses: tuple[type[DomicileError], ...] = field(default=())


def _as_route(decided: Decided) -> web.Response:
    """200 for the edge to forward, 204 for a router: what ``auth_request`` can carry."""
    if decided.way is Way.CELL:
        return web.Response(status=200, headers=decided.fields)
    said = decided.fields
    if decided.reply is not None:
        said[STATUS_HEADER] = str(decided.reply.problem.status)
        if (location := decided.reply.fields.get("Location")) is not None:
            said["Location"] = location
    return web.Response(status=204, headers=said)


def _as_answer(decided: Decided) -> web.Response:
    """200 for what goes on; else the client's answer, to be handed on as it is: what ``ext_authz`` does."""
    reply = decided.reply
    if reply is None:
        return web.Response(status=200, headers=decided.fields)
    if decided.way is Way.REFUSE:
        REFUSALS.labels(reply.problem.code).inc()
    return reply.response(decided.fields)


FORMS: Final = (
    _Form(
        DECIDE_ROUTE_PATH,
        f"Where a request goes: 200 and the cell to forward it to, or 204 for a router to do it ({STATUS_HEADER} and"
        " Location: what that one would answer)",
        {200: None, 204: None},
        _as_route,
    ),
    _Form(
        DECIDE_ANSWER_PATH,
        "What becomes of a request: 200 where it goes on (to the cell that is named, else to a router), or the answer"
        " that the client is to get",
        {200: None, 307: None},
        _as_answer,
        _REFUSED,
    ),
)


def decide_routes(service: Service, decider: Decider) -> None:
    """Where edges ask: on the internal listener. Other methods than those described are answered as well."""
    for form in FORMS:
        _serve(service, decider, form)
    service.describe("Domicile router", Endpoint.DECIDE, PARAMETERS)


def _serve(service: Service, decider: Decider, form: _Form) -> None:
    async def answer(request: web.Request) -> web.Response:
        raw = request.raw_path.removeprefix(form.prefix)
        return form.write(await decider.decide(request.method, raw, request.headers))

    operation = Operation(form.summary, form.answers, refuses=form.refuses)
    path = form.prefix + r"/{target:[\s\S]*}"  # a target may hold anything, encoded
    for method in METHODS:
        service.route(method, path, Endpoint.DECIDE, answer, operation)
    service.route("*", path, Endpoint.DECIDE, answer)
