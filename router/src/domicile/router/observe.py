"""What is counted and traced of a request: at this router, and on its way to a home, by place and kind of way."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from prometheus_client import Counter

from domicile.router.atlas import GATEWAY_PATHS
from domicile.router.decide import Decision, Forward, Hairpin, Listener, Redirect, Refuse
from domicile.telemetry import BORDER, DECISIONS, DURATION, REQUESTS, UPSTREAM_DURATION, UPSTREAM_REQUESTS
from domicile.telemetry.traces import Span, begin

CANCELLED: Final = "cancelled"
_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"})
_VERDICTS: Final = {Redirect: "redirected", Hairpin: "passed", Refuse: "refused"}
Clock = Callable[[], float]


class RequestCounts:
    """Requests of one listener that ended; status 499 where the client hasn't got the answer.

    Each counter is looked up once, not for each request; so it is below.
    """

    def __init__(self, listener: Listener) -> None:
        self._route = listener.value
        self._requests: dict[tuple[str, int], Counter] = {}
        self._observe = DURATION.labels(self._route).observe

    def begin(self, method: str, parent: str | None) -> Span:
        """The request's own span. ``parent``: a ``traceparent``."""
        told = {"domicile.listener": self._route, "http.request.method": method if method in _METHODS else "other"}
        return begin("router.request", told, parent=parent)

    def add(self, method: str, status: int, seconds: float) -> None:
        key = (method if method in _METHODS else "other", status)
        counter = self._requests.get(key)
        if counter is None:
            counter = self._requests[key] = REQUESTS.labels(self._route, key[0], str(key[1]))
        counter.inc()
        self._observe(seconds)


class DecisionCounts:
    """Decisions at one vantage, and what would cross its border by them."""

    def __init__(self, jurisdiction: str) -> None:
        self._here = jurisdiction
        self._counters: dict[tuple[type[Decision], str], tuple[Counter, ...]] = {}

    def add(self, decision: Decision) -> None:
        match decision:
            case Forward(home, _):
                jurisdiction = home.jurisdiction
            case Hairpin(routers, _):
                jurisdiction = routers.jurisdiction
            case Redirect(name, _, _):
                jurisdiction = name
            case Refuse(_, where):
                jurisdiction = where or self._here
        key = (type(decision), jurisdiction)
        counters = self._counters.get(key)
        if counters is None:
            counters = self._counters[key] = self._made(*key)
        for counter in counters:
            counter.inc()

    def _made(self, kind: type[Decision], jurisdiction: str) -> tuple[Counter, ...]:
        decided = DECISIONS.labels(kind.__name__.lower(), jurisdiction)
        if jurisdiction == self._here:
            return (decided,)
        return decided, BORDER.labels(self._here, jurisdiction, "traveller", _VERDICTS[kind])


class Way:
    """A kind of way to one home; ``route`` is that kind, never a path.

    ``place``: what shares a fate there, for the health of it.
    """

    def __init__(
        self, jurisdiction: str, cell: str, route: str, *, place: str = "", clock: Clock = time.perf_counter
    ) -> None:
        self.place: Final = place
        self._labels = (jurisdiction, cell, route)
        self._told = {"domicile.jurisdiction": jurisdiction, "domicile.cell": cell, "domicile.route": route}
        self._outcomes: dict[str, Counter] = {}
        self._observe = UPSTREAM_DURATION.labels(*self._labels).observe
        self._clock = clock

    def begin(self, parent: Span) -> Passed:
        return Passed(self, begin("router.forward", self._told, parent=parent), self._clock())

    def ended(self, outcome: str, began: float) -> None:
        counter = self._outcomes.get(outcome)
        if counter is None:
            counter = self._outcomes[outcome] = UPSTREAM_REQUESTS.labels(*self._labels, outcome)
        counter.inc()
        self._observe(self._clock() - began)


class Passed:
    """One request on its way to a home, until the head of an answer: one of these is called, others have no effect."""

    __slots__ = ("_began", "_over", "_span", "_way")

    def __init__(self, way: Way, span: Span, began: float) -> None:
        self._way = way
        self._span = span
        self._began = began
        self._over = False

    @property
    def traceparent(self) -> str | None:
        """What carries the trace on."""
        return self._span.traceparent

    def answered(self, status: int) -> None:
        self._span.set("http.response.status_code", status)
        self._end(f"{status // 100}xx")

    def refused(self, code: str) -> None:
        """``code``: of the error that the client is told."""
        if not self._over:
            self._span.set("error.type", code)
            self._end(code)

    def cancelled(self) -> None:
        """The client went away, or the request was at fault."""
        self._end(CANCELLED)

    def _end(self, outcome: str) -> None:
        if not self._over:
            self._over = True
            self._span.end()
            self._way.ended(outcome, self._began)


class Ways:
    """Every way that was taken so far: as many as there are homes, times a few kinds."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str | None, str], Way] = {}

    def get(self, decision: Forward | Hairpin, path: str) -> Way:
        if isinstance(decision, Hairpin):
            first, route = decision.routers.upstreams[0], "hairpin"
        else:
            first = decision.home.upstreams[0]
            unpinned = "unpinned" if decision.pin is None else "home"
            route = "gateway" if path.startswith(GATEWAY_PATHS) else unpinned
        key = (first.jurisdiction, first.cell, route)
        way = self._known.get(key)
        if way is None:
            place = f"{first.cell or first.jurisdiction}/{first.role}"
            way = self._known[key] = Way(first.jurisdiction, first.cell or "", route, place=place)
        return way
