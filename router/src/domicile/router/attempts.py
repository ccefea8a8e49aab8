"""The attempts of one request at one home: which upstream is next, and what health, metrics and traces are told.

Failover walks the places that the decision named and no others. A request that may have been received is sent to
another only if that is harmless.
"""

from __future__ import annotations

import ssl
import time
from typing import Final

from domicile.model import DomicileError, Unavailable
from domicile.router.breaker import Permit
from domicile.router.decide import OUTAGE_RETRY_SECONDS, Forward, Hairpin
from domicile.router.ejection import Failure
from domicile.router.errors import AnswerLost
from domicile.router.health import Health
from domicile.router.observe import CANCELLED, Ways
from domicile.router.wire import Busy
from domicile.telemetry import REFUSALS, warn
from domicile.telemetry.traces import OFF, Span

_CLASSES: Final = tuple(f"{first}xx" for first in range(10))
_BUSY: Final = Busy.__name__
_WRONG_PEER: Final = ssl.SSLCertVerificationError.__name__


class Attempts(Permit):
    """A permit, and what is made of it: an answer ``came``, or ``refused`` or ``cancelled``. The first of them counts.

    ``upstream``: the one in turn. Raises Unavailable where the home may hold no more requests.
    """

    __slots__ = ("_began", "_health", "_lost", "_order", "_over", "_span", "_turn", "_way", "upstream")

    def __init__(self, decision: Forward | Hairpin, ways: Ways, health: Health, span: Span) -> None:
        self._way = way = ways.get(decision)
        self._health = health
        self._began = time.perf_counter()
        self._span = span if span is OFF else way.begin(span)
        self._lost = self._over = False
        try:
            super().__init__(way.fate.circuit)
        except DomicileError as error:
            self._end(error.code, time.perf_counter())
            raise
        way.fate.budget.request()
        self._order = health.order(way.upstreams)
        self._turn = 0
        self.upstream = self._order[0]

    @property
    def traceparent(self) -> str | None:
        """What carries the trace on."""
        return None if self._span is OFF else self._span.traceparent

    def lost(self, failure: Failure, reason: str, method: str, *, replayable: bool) -> None:
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
        if self._on(failure, method, replayable=replayable):
            return
        self.failed()
        if self._lost:
            raise AnswerLost(
                "the home cell took the request and ended the connection without an answer",
                remedy="whether it took effect is not known",
            )
        raise Unavailable("the home cell cannot be reached", retry_after=OUTAGE_RETRY_SECONDS)

    def elsewhere(self, method: str, *, replayable: bool) -> bool:
        """Whether the next one is in turn now, this one having sent nothing so far."""
        self._lost = True
        return self._on(Failure.SLOW, method, replayable=replayable)

    def _on(self, failure: Failure, method: str, *, replayable: bool) -> bool:
        if self._turn + 1 >= len(self._order) or not self._health.retries(
            self._way.fate, method, failure, replayable=replayable
        ):
            return False
        self._turn += 1
        self.upstream = self._order[self._turn]
        return True

    def came(self, status: int, now: float) -> None:
        """The head of an answer. ``now``: as ``time.perf_counter`` has it."""
        if not self._over:
            self._health.succeeded(self.upstream)
            self.answered()
            self._end(_CLASSES[status // 100], now, status)

    def refused(self, code: str) -> None:
        """``code``: of the error that the client is told."""
        if not self._over:
            super().cancelled()
            self._end(code, time.perf_counter())

    def cancelled(self) -> None:
        """The client went away, or the request was at fault."""
        if not self._over:
            super().cancelled()
            self._end(CANCELLED, time.perf_counter())

    def _end(self, outcome: str, now: float, status: int | None = None) -> None:
        self._over = True
        self._way.ended(outcome, now - self._began)
        if self._span is not OFF:
            if status is not None:
                self._span.set("http.response.status_code", status)
            elif outcome != CANCELLED:
                self._span.set("error.type", outcome)
            self._span.end()
