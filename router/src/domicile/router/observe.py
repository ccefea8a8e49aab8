"""What is counted and traced of a request that goes on to a home: rate, errors and duration, by place and route."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from domicile.model import DomicileError
from domicile.telemetry import UPSTREAM_DURATION, UPSTREAM_REQUESTS
from domicile.telemetry.traces import TRACEPARENT, span, traceparent

CANCELLED: Final = "cancelled"
Clock = Callable[[], float]


class Passed:
    """One request on its way to a home, until the head of an answer. ``route``: a kind of way, never a path."""

    def __init__(self, jurisdiction: str, cell: str, route: str, *, clock: Clock = time.perf_counter) -> None:
        self._labels = (jurisdiction, cell, route)
        self._clock = clock
        self._status: int | None = None

    def answered(self, status: int) -> None:
        self._status = status

    @contextmanager
    def attempt(self) -> Iterator[dict[str, str]]:
        """Around the sending; gives the fields that carry the trace on."""
        jurisdiction, cell, route = self._labels
        told = {"domicile.jurisdiction": jurisdiction, "domicile.cell": cell, "domicile.route": route}
        began = self._clock()
        outcome = CANCELLED
        with span("router.forward", told) as trace:
            try:
                context = traceparent()
                yield {} if context is None else {TRACEPARENT: context}
                if self._status is not None:
                    outcome = f"{self._status // 100}xx"
                    trace.set("http.response.status_code", self._status)
            except DomicileError as error:
                outcome = error.code
                trace.set("error.type", error.code)
                raise
            finally:
                UPSTREAM_REQUESTS.labels(*self._labels, outcome).inc()
                UPSTREAM_DURATION.labels(*self._labels).observe(self._clock() - began)
