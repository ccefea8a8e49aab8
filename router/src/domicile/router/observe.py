"""What is counted and traced of a request: at this router, and on its way to a home, by place and kind of way.

Series are looked up once and counted as tallies, and what is told of a span is made once, not for each request.
"""

from __future__ import annotations

from typing import Final

from domicile.model import Role
from domicile.router.decide import Decision, Forward, Hairpin, Listener, Redirect, Refuse
from domicile.router.endpoints import HomeEndpoints, PeerRouters
from domicile.router.health import Health
from domicile.telemetry import BORDER, DECISIONS, DURATION, REQUESTS, UPSTREAM_DURATION, UPSTREAM_REQUESTS
from domicile.telemetry.tallies import Tally, tally, times
from domicile.telemetry.traces import Span, begin

CANCELLED: Final = "cancelled"
_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"})
_VERDICTS: Final = {Redirect: "redirected", Hairpin: "passed", Refuse: "refused"}


class RequestCounts:
    """Requests of one listener that ended; status 499 where the client hasn't got the answer."""

    def __init__(self, listener: Listener) -> None:
        self._route = listener.value
        self._requests: dict[tuple[str, int], Tally] = {}
        self._times = times(DURATION.labels(self._route))
        self._told = {method: self._telling(method) for method in (*_METHODS, "other")}

    def _telling(self, method: str) -> dict[str, str | int]:
        return {"domicile.listener": self._route, "http.request.method": method}

    def begin(self, method: str, parent: str | None) -> Span:
        """The request's own span. ``parent``: a ``traceparent``."""
        return begin("router.request", self._told.get(method) or self._told["other"], parent=parent)

    def add(self, method: str, status: int, seconds: float) -> None:
        counted = self._requests.get((method, status))
        if counted is None:
            known = method if method in _METHODS else "other"
            counted = self._requests[method, status] = tally(REQUESTS.labels(self._route, known, str(int(status))))
        counted.count += 1
        self._times.add(seconds)


class DecisionCounts:
    """Decisions at one vantage, and what would cross its border by them."""

    def __init__(self, jurisdiction: str) -> None:
        self._here = jurisdiction
        self._tallies: dict[tuple[type[Decision], str], tuple[Tally, ...]] = {}
        self._forwards = tally(DECISIONS.labels("forward", jurisdiction))

    def add(self, decision: Decision) -> None:
        match decision:
            case Forward():  # to a cell of this jurisdiction, always
                self._forwards.count += 1
                return
            case Hairpin(routers, _):
                jurisdiction = routers.jurisdiction
            case Redirect(name, _, _):
                jurisdiction = name
            case Refuse(_, where):
                jurisdiction = where or self._here
        key = (type(decision), jurisdiction)
        if key not in self._tallies:
            self._tallies[key] = self._made(*key)
        for counted in self._tallies[key]:
            counted.count += 1

    def _made(self, kind: type[Decision], jurisdiction: str) -> tuple[Tally, ...]:
        decided = tally(DECISIONS.labels(kind.__name__.lower(), jurisdiction))
        if jurisdiction == self._here:
            return (decided,)
        return decided, tally(BORDER.labels(self._here, jurisdiction, "traveller", _VERDICTS[kind]))


class Way:
    """A kind of way to one home; ``route`` is that kind, never a path. ``fate``: what the requests there share."""

    def __init__(self, places: HomeEndpoints | PeerRouters, route: str, health: Health) -> None:
        first = places.upstreams[0]
        self.places: Final = places
        self.upstreams: Final = places.upstreams
        self.fate: Final = health.fate(f"{first.cell or first.jurisdiction}/{first.role}")
        self._labels = (first.jurisdiction, first.cell or "", route)
        self._told = {
            "domicile.jurisdiction": first.jurisdiction,
            "domicile.cell": first.cell or "",
            "domicile.route": route,
        }
        self._outcomes: dict[str, Tally] = {}
        self._times = times(UPSTREAM_DURATION.labels(*self._labels))

    def begin(self, parent: Span) -> Span:
        return begin("router.forward", self._told, parent=parent)

    def ended(self, outcome: str, seconds: float) -> None:
        counted = self._outcomes.get(outcome)
        if counted is None:
            counted = self._outcomes[outcome] = tally(UPSTREAM_REQUESTS.labels(*self._labels, outcome))
        counted.count += 1
        self._times.add(seconds)


class Ways:
    """Every way that was taken so far: as many as there are homes, times a few kinds."""

    def __init__(self, health: Health) -> None:
        self._health = health
        self._pinned: dict[int, Way] = {}
        self._unpinned: dict[int, Way] = {}

    def get(self, decision: Forward | Hairpin) -> Way:
        places = decision.home if isinstance(decision, Forward) else decision.routers
        # by identity: the atlas makes each set of places once, and its way keeps it
        known = self._unpinned if decision.pin is None else self._pinned
        way = known.get(id(places))
        if way is None:
            way = known[id(places)] = Way(places, _route(decision), self._health)
        return way


def _route(decision: Forward | Hairpin) -> str:
    if isinstance(decision, Hairpin):
        return "hairpin"
    if decision.home.upstreams[0].role is Role.GATEWAY:
        return "gateway"
    return "unpinned" if decision.pin is None else "home"
