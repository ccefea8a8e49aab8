"""What a router makes of a request: who asks, what is to be done with it, and how a refusal reads.

The way of a request through these steps, and its bytes, are ``domicile.router.exchange``'s. A guard's 421 sends it
round once more with the directory's newest word, and never twice: two parts that don't agree yet are waited for by
the client, who is told when to come back.
"""

from __future__ import annotations

import itertools
from contextlib import AbstractContextManager
from dataclasses import dataclass
from http import HTTPStatus

from domicile.identity import Keyring
from domicile.model import (
    CrossBorderAccess,
    DomicileError,
    Identity,
    InvalidInput,
    Manifest,
    Misdirected,
    Pin,
    ResidencyToken,
    SubjectKey,
    Unavailable,
    UnknownSubject,
)
from domicile.model.pins import RESIDENCY_TOKEN_SECONDS
from domicile.model.wire import EPOCH_HEADER, GUARD_HEADER, SUBJECT_KEY_HEADER
from domicile.router.atlas import Atlas
from domicile.router.country import Countries
from domicile.router.decide import (
    MOVE_RETRY_SECONDS,
    Decision,
    Forward,
    Hairpin,
    Listener,
    Question,
    decide,
)
from domicile.router.head import AnswerHead, RequestHead
from domicile.router.headers import changed, kept_private, statement, token_cookie
from domicile.router.health import Health
from domicile.router.identify import Identified, Identifier
from domicile.router.observe import DecisionCounts, RequestCounts, Ways
from domicile.router.pins import Pins
from domicile.router.readers import Evidence
from domicile.router.replies import Reply, refused
from domicile.router.resolve import Resolver
from domicile.router.settings import RouterSettings
from domicile.router.shedding import Shedder
from domicile.router.waiting import MoveBuffer, Patience
from domicile.router.wire import Wire
from domicile.telemetry import REFUSALS
from domicile.telemetry.traces import TRACEPARENT


@dataclass(frozen=True, slots=True)
class Guard:
    """A guard's refusal before any handler ran; ``epoch`` and ``key`` as far as it named them."""

    kind: str
    epoch: int | None
    key: SubjectKey | None

    def behind(self, pin: Pin | None) -> bool:
        """Whether the cell has not come to the pin's epoch yet: waiting helps, asking the directory does not."""
        return self.kind == "stale-epoch" and pin is not None and self.epoch is not None and self.epoch < pin.epoch


def guard_of(answer: AnswerHead) -> Guard | None:
    """What a guard said; None for every other answer, an application's own 421 among them."""
    kind = answer.fields.get(GUARD_HEADER)
    if answer.status != HTTPStatus.MISDIRECTED_REQUEST or kind is None:
        return None
    epoch = answer.fields.get(EPOCH_HEADER, "")
    try:
        key = SubjectKey.parse(answer.fields.get(SUBJECT_KEY_HEADER, ""))
    except InvalidInput:
        key = None
    return Guard(kind, int(epoch) if epoch.isascii() and epoch.isdigit() and len(epoch) < 20 else None, key)


class Asked:
    """Who asks what. ``country``: where from, on an ``unpinned`` path of the public listener."""

    __slots__ = ("country", "question", "unpinned", "who")

    def __init__(self, who: Identified, question: Question, unpinned: bool, country: str | None = None) -> None:
        self.who = who
        self.question = question
        self.unpinned = unpinned
        self.country = country

    @property
    def keys(self) -> tuple[SubjectKey, ...]:
        """By which its subject is to be asked for: all that it may have, since it may be renamed at any time."""
        pin, keys = self.question.pin, self.who.keys
        return keys if pin is None or pin.subject_key in keys else (pin.subject_key,)


class Front:
    """What every connection of one router shares."""

    def __init__(
        self,
        settings: RouterSettings,
        vantage: Identity,
        manifest: Manifest,
        atlas: Atlas,
        *,
        identifier: Identifier,
        pins: Pins,
        resolver: Resolver,
        shedder: Shedder,
        countries: Countries,
        wire: Wire,
        health: Health,
        keyring: Keyring,
    ) -> None:
        self.settings = settings
        self.answer_seconds = settings.answer_seconds or settings.idle_seconds
        self.wire = wire
        self.health = health
        self.shedder = shedder
        self.vantage = vantage
        self.requests = {listener: RequestCounts(listener) for listener in Listener}
        self.ways = Ways(health)
        self._manifest = manifest
        self._atlas = atlas
        self._identifier = identifier
        self._pins = pins
        self._resolver = resolver
        self._moves = MoveBuffer(pins.refresh, seconds=settings.move_seconds)
        self._countries = countries
        self._keyring = keyring
        self._turns = itertools.count()
        self._decisions = DecisionCounts(vantage.jurisdiction)

    def glance(self, head: RequestHead, listener: Listener, peer: str | None, router: Identity | None) -> Asked | None:
        """What ``ask`` finds for most requests: their subject is known here, by one rule. None for all others."""
        if self._identifier.live.is_unpinned(head.path):
            return None
        who = self._identifier.glance(Evidence(head.fields, head.path, True, head.host, peer, router))
        pin = None if who is None else self._resolver.glance(who, listener)
        if who is None or pin is None:
            return None
        return Asked(who, Question(head.path, head.method, True, listener, pin, 0, self.health.down()), False, None)

    async def ask(self, head: RequestHead, listener: Listener, peer: str | None, router: Identity | None) -> Asked:
        """Waits for nothing where the subject and the keys are known here.

        ``peer``: the client's address; ``router``: who it is, on the internal listener.
        """
        evidence = Evidence(head.fields, head.path, self.is_pinned(head.path), head.host, peer, router)
        asked = await self.asked(evidence, head.method, listener)
        if asked.unpinned and listener is Listener.PUBLIC and peer is not None:
            asked.country = self._countries.observe(peer, head.fields.getall("X-Forwarded-For", []))
        return asked

    def is_pinned(self, path: str) -> bool:
        return not self._identifier.live.is_unpinned(path)

    async def asked(self, evidence: Evidence, method: str, listener: Listener) -> Asked:
        """Whoever ``evidence`` names, and what is to be decided. Raises as ``Identifier.identify`` and
        ``Resolver.pin`` do."""
        pinned = evidence.pinned
        who = await self._identifier.identify(evidence)
        pin = await self._resolver.pin(who, pinned=pinned, listener=listener)
        turn, down = next(self._turns), self.health.down()
        return Asked(who, Question(evidence.path, method, pinned, listener, pin, turn=turn, down=down), not pinned)

    def decide(self, question: Question) -> Decision:
        decision = decide(question, self._atlas)
        self._decisions.add(decision)
        return decision

    async def settled(self, asked: Asked, size: int) -> Question:
        """The question to ask when a move is over; ``size``: bytes that the request holds meanwhile.

        Raises Unavailable where that takes too long, or too much waits already.
        """
        pin = await self._moves.settled(asked.keys, size)
        return asked.question._replace(pin=pin, down=self.health.down())

    def patience(self, size: int) -> AbstractContextManager[Patience]:
        """As the move buffer's."""
        return self._moves.patience(size)

    async def outwaited(self, asked: Asked, patience: Patience) -> Question:
        """The question to ask again after a moment. Raises Unavailable where there were enough of them."""
        await patience.pause()
        question = asked.question
        pin = self._pins.known(*asked.keys) or question.pin
        return question._replace(pin=pin, down=self.health.down())

    async def after_guard(self, guard: Guard, asked: Asked) -> Question:
        """The question to ask after a guard's refusal. Raises Unavailable where waiting is all that helps."""
        question = asked.question
        pin = question.pin
        if guard.kind == "wrong-cell":
            # on a subject's own path, the subject is who was identified, whatever a cell says
            named = () if guard.key is None else (guard.key,)
            if keys := asked.keys if question.pinned and pin is not None else named:
                found = await self._pins.refresh(*keys)
                if found is None:
                    raise UnknownSubject("no such subject")
                return question._replace(pin=found, pinned=True, down=self.health.down())
        elif guard.kind == "stale-epoch" and pin is not None:
            if guard.behind(pin):
                raise Unavailable("the home cell has not taken the subject over yet", retry_after=MOVE_RETRY_SECONDS)
            found = await self._pins.refresh(*asked.keys)
            return question._replace(pin=found, down=self.health.down())
        raise Unavailable("the cell's guard refused the request without saying who is meant")

    def served(self, asked: Asked) -> None:
        """A cell answered, and no guard objected."""
        if asked.unpinned:
            self._pins.forget_unknown(*asked.who.keys)

    def cookie(self, asked: Asked, pin: Pin | None, answer: AnswerHead) -> str | None:
        """A residency token for somebody whom the application's own token authenticated."""
        who = asked.who
        if not who.authenticated or pin is None or pin.subject_key not in who.keys or answer.status >= 400:
            return None
        if asked.question.listener is not Listener.PUBLIC or _states(who.token, pin):
            return None
        if not kept_private(answer.fields):
            return None
        token = self._keyring.current.residency_token(pin, self.settings.deployment)
        return token_cookie(token, RESIDENCY_TOKEN_SECONDS)

    def refusal(self, error: DomicileError, asked: Asked | None) -> Reply:
        """The answer to a refusal, counted."""
        REFUSALS.labels(error.code).inc()
        reply = self.refused(error)
        pin = asked.question.pin if asked is not None and asked.question.listener is Listener.INTERNAL else None
        if isinstance(error, Misdirected) and pin is not None:
            # to the router that sent the request: its pin is not the newest one
            reply.fields.update({GUARD_HEADER: "stale-epoch", EPOCH_HEADER: str(pin.epoch)})
        return reply

    def refused(self, error: DomicileError) -> Reply:
        reply = refused(error)
        if isinstance(error, CrossBorderAccess):
            host = self._manifest.jurisdictions[self.vantage.jurisdiction].public_host
            reply.fields["Link"] = f'<https://{host}/>; rel="blocked-by"'  # RFC 7725, section 4
        return reply


def _states(token: ResidencyToken | None, pin: Pin) -> bool:
    return token is not None and (token.jur, token.cell, token.epoch) == (pin.jurisdiction, pin.cell, pin.epoch)


def outgoing(
    head: RequestHead,
    decision: Forward | Hairpin,
    country: str | None,
    distrusted: frozenset[str] = frozenset(),
    traceparent: str | None = None,
) -> bytes:
    """The head that goes on. ``distrusted``: fields that don't. ``traceparent``: takes the place of the client's."""
    if traceparent is not None or isinstance(decision, Hairpin):
        distrusted |= {TRACEPARENT}  # another router takes it for ours
    lines = head.lines_without(distrusted) if distrusted else head.lines
    if isinstance(decision, Hairpin):
        parts = [head.start, *lines, changed(head.fields, head.options, to_router=True)]
    else:
        parts = [head.start, *lines, changed(head.fields, head.options, to_router=False)]
        parts.append(statement(decision.pin, country))
    if traceparent is not None:
        parts.append(f"{TRACEPARENT}: {traceparent}\r\n".encode("ascii"))
    if head.chunked:
        parts.append(b"Transfer-Encoding: chunked\r\n")
    elif head.length is not None:
        parts.append(b"Content-Length: %d\r\n" % head.length)
    elif head.websocket:
        parts.append(b"Connection: Upgrade\r\nUpgrade: websocket\r\n")
    parts.append(b"\r\n")
    return b"".join(parts)
