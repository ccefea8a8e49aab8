"""The router's counters, each looked up once instead of for each request."""

from __future__ import annotations

from typing import Final

from prometheus_client import Counter

from domicile.router.decide import Decision, Forward, Hairpin, Listener, Redirect, Refuse
from domicile.telemetry import BORDER, DECISIONS, DURATION, REQUESTS

_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"})
_VERDICTS: Final = {Redirect: "redirected", Hairpin: "passed", Refuse: "refused"}


class RequestCounts:
    """Requests of one listener that ended; status 499 where the client hasn't got the answer."""

    def __init__(self, listener: Listener) -> None:
        self._route = listener.value
        self._requests: dict[tuple[str, int], Counter] = {}
        self._observe = DURATION.labels(self._route).observe

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
