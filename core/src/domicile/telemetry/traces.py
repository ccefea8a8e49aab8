"""Traces by allow-list: a span has one of a few names, and attributes that name places and codes.

Spans go to the collector of the process's own jurisdiction and nowhere else. Exceptions are never recorded, since
their text may hold anything; ``error.type`` is a code of ours. The context travels as ``traceparent`` (W3C Trace
Context); ``tracestate`` and baggage hold free text and are neither read nor sent.

Nothing is traced, and nothing costs anything, before ``start_tracing``. Not part of the facade: only processes that
trace load the library, and only those that send load the exporter (``domicile.telemetry.collector``).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Final

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import SpanKind
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from domicile.telemetry.logs import PLAIN, FieldNotAllowed

SPANS: Final = {"router.request": SpanKind.SERVER, "router.forward": SpanKind.CLIENT}
ATTRIBUTES: Final = frozenset(
    {
        "domicile.cell",
        "domicile.decision",
        "domicile.jurisdiction",
        "domicile.listener",
        "domicile.route",
        "domicile.zone",
        "error.type",
        "http.request.method",
        "http.response.status_code",
    }
)
TRACEPARENT: Final = "traceparent"
_PROPAGATOR: Final = TraceContextTextMapPropagator()
_SHAPE: Final = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}", re.ASCII)
_tracer: trace.Tracer | None = None


class Span:
    """What may be said of a span while it lasts; leaving it as a context ends it."""

    __slots__ = ("_span",)

    def __init__(self, span: trace.Span | None) -> None:
        self._span = span

    def set(self, name: str, value: str | int) -> None:
        """Raises FieldNotAllowed for an attribute off the list or a value that isn't plain."""
        if name not in ATTRIBUTES:
            raise FieldNotAllowed(f"span attribute {name!r} is not on the list in domicile.telemetry.traces")
        if isinstance(value, str) and not PLAIN.fullmatch(value):
            raise FieldNotAllowed(f"span attribute {name!r} holds more than a plain code or name")
        if self._span is not None:
            self._span.set_attribute(name, value)

    @property
    def context(self) -> Context | None:
        return None if self._span is None else trace.set_span_in_context(self._span, Context())

    @property
    def traceparent(self) -> str | None:
        """The field that hands this span on; None where nothing is traced."""
        if self._span is None:
            return None
        carrier: dict[str, str] = {}
        _PROPAGATOR.inject(carrier, self.context)
        return carrier.get(TRACEPARENT)

    def end(self) -> None:
        if self._span is not None:
            self._span.end()

    def __enter__(self) -> Span:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()


OFF: Final = Span(None)
"""Of whatever isn't traced."""


def begin(name: str, attributes: Mapping[str, str | int] | None = None, *, parent: Span | str | None = None) -> Span:
    """One of ``SPANS``, to be ended: inside another span or that of a ``traceparent``, else a new trace's first.

    There is no current span: what reports to a request's span may run between another one's steps.
    """
    if _tracer is None:
        return OFF
    context = Context()
    if isinstance(parent, Span):
        context = parent.context or context
    elif parent is not None and _SHAPE.fullmatch(parent):
        context = _PROPAGATOR.extract({TRACEPARENT: parent}, Context())
    made = Span(_tracer.start_span(name, context, SPANS[name], record_exception=False, set_status_on_exception=False))
    try:
        for key, value in (attributes or {}).items():
            made.set(key, value)
    except FieldNotAllowed:
        made.end()
        raise
    return made


def start_tracing(process: str, jurisdiction: str, exporter: SpanExporter, *, share: float) -> Callable[[], None]:
    """Trace this share of the requests that begin here. What is returned ends it, and sends what is left."""
    global _tracer
    provider = TracerProvider(
        sampler=ParentBased(TraceIdRatioBased(share)),
        # written out: the default would ask the environment and the machine
        resource=Resource({"service.name": process, "domicile.jurisdiction": jurisdiction}),
        shutdown_on_exit=False,
        span_limits=SpanLimits(max_events=0, max_links=0, max_attributes=len(ATTRIBUTES)),
    )
    provider.add_span_processor(BatchSpanProcessor(exporter))
    _tracer = provider.get_tracer("domicile")

    def stop() -> None:
        global _tracer
        _tracer = None
        provider.shutdown()

    return stop
