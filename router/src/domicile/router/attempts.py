"""The attempts of one request at one home: which upstream is next, and what health, metrics and traces are told.

Failover walks the places that the decision named and no others. A request that may have been received is sent to
another only if that is harmless.
"""

from __future__ import annotations

import ssl
from typing import Final

from domicile.model import DomicileError, Unavailable
from domicile.router.decide import OUTAGE_RETRY_SECONDS, Forward, Hairpin
from domicile.router.ejection import Failure
from domicile.router.endpoints import Upstream
from domicile.router.errors import AnswerLost
from domicile.router.health import Health
from domicile.router.observe import Ways
from domicile.router.wire import Busy
from domicile.telemetry import REFUSALS, warn
from domicile.telemetry.traces import Span

_BUSY: Final = Busy.__name__
_WRONG_PEER: Final = ssl.SSLCertVerificationError.__name__


class Attempts:
    """Until ``answered``, ``refused`` or ``cancelled``; the first of them counts. ``upstream``: the one in turn.

    Raises Unavailable where the home may hold no more requests.
    """

    def __init__(self, decision: Forward | Hairpin, path: str, ways: Ways, health: Health, span: Span) -> None:
        way = ways.get(decision, path)
        self._health = health
        self._place = way.place
        self._passed = way.begin(span)
        try:
            self._permit = health.admit(way.place)
        except DomicileError as error:
            self._passed.refused(error.code)
            raise
        places = decision.home if isinstance(decision, Forward) else decision.routers
        self._order = health.order(places.upstreams)
        self._turn = 0
        self._lost = False

    @property
    def upstream(self) -> Upstream:
        return self._order[self._turn]

    @property
    def traceparent(self) -> str | None:
        return self._passed.traceparent

    def failed(self, failure: Failure, reason: str, method: str, *, replayable: bool) -> None:
        """This one brought no answer, and the next one is in turn. ``reason``: an exception's class.

        Raises AnswerLost or Unavailable where none is to be tried any more.
        """
        upstream = self.upstream
        if reason != _BUSY:
            self._health.failed(upstream, failure)
            if reason == _WRONG_PEER:
                REFUSALS.labels("upstream-identity").inc()
            warn(
                "upstream-failed",
                error=reason,
                jurisdiction=upstream.jurisdiction,
                cell=upstream.cell,
                zone=upstream.zone,
            )
        self._lost = self._lost or failure is not Failure.UNREACHED
        if self._turn + 1 < len(self._order) and self._health.retries(
            self._place, method, failure, replayable=replayable
        ):
            self._turn += 1
            return
        self._permit.failed()
        if self._lost:
            raise AnswerLost(
                "the home cell took the request and ended the connection without an answer",
                remedy="whether it took effect is not known",
            )
        raise Unavailable("the home cell cannot be reached", retry_after=OUTAGE_RETRY_SECONDS)

    def answered(self, status: int) -> None:
        """The head of an answer has come."""
        self._health.succeeded(self.upstream)
        self._permit.answered()
        self._passed.answered(status)

    def refused(self, code: str) -> None:
        self._permit.cancelled()
        self._passed.refused(code)

    def cancelled(self) -> None:
        """The client went away, or the request was at fault."""
        self._permit.cancelled()
        self._passed.cancelled()
