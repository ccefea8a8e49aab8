"""Spans on their way to an exporter, and the context on its way to another process.

A span that has ended cannot be changed, so that what is exported is a clean copy. Of an exception that was recorded
its class is kept: its text may hold anything. So may ``tracestate``, which anybody in front adds to: it ends here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from opentelemetry import baggage, trace
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.context import Context
from opentelemetry.propagators.composite import CompositePropagator
from opentelemetry.propagators.textmap import (
    CarrierT,
    Getter,
    Setter,
    TextMapPropagator,
    default_getter,
    default_setter,
)
from opentelemetry.sdk.trace import Event, ReadableSpan, Span, SpanProcessor
from opentelemetry.trace import Link, NonRecordingSpan, SpanContext, Status
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from domicile.sdk.telemetry.gate import TelemetryGate

_EXCEPTION: Final = "exception"
_KIND: Final = "exception.type"
_NAMELESS: Final = "withheld"


class PersonalProcessor(SpanProcessor):
    """Stands before another processor, which gets a clean copy of each span that ends."""

    def __init__(self, behind: SpanProcessor, gate: TelemetryGate) -> None:
        self._behind = behind
        self._gate = gate

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Nothing is told of a span before it ends."""

    def on_end(self, span: ReadableSpan) -> None:
        self._behind.on_end(self._clean(span))

    def shutdown(self) -> None:
        self._behind.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return self._behind.force_flush(timeout_millis)

    def _clean(self, span: ReadableSpan) -> ReadableSpan:
        return ReadableSpan(
            name=self._name(span.name),
            context=span.context and _bare(span.context),
            parent=span.parent and _bare(span.parent),
            resource=span.resource,
            attributes=self._gate.attributes(span.attributes),
            events=self._events(span.events),
            links=[Link(_bare(link.context), self._gate.attributes(link.attributes)) for link in span.links],
            kind=span.kind,
            status=Status(span.status.status_code),  # its description is an exception's text
            start_time=span.start_time,
            end_time=span.end_time,
            instrumentation_scope=span.instrumentation_scope,
        )

    def _name(self, name: str) -> str:
        if (rule := self._gate.text(name)) is None:
            return name
        self._gate.drop(rule)
        return _NAMELESS

    def _events(self, events: Sequence[Event]) -> list[Event]:
        clean = []
        for event in events:
            given = dict(event.attributes or {})
            kind = given.get(_KIND) if event.name == _EXCEPTION else None
            if kind is not None:
                given = {name: value for name, value in given.items() if not name.startswith(f"{_EXCEPTION}.")}
            told = self._gate.attributes(given)
            if isinstance(kind, str):
                told[_KIND] = self._name(kind)
            clean.append(Event(self._name(event.name), told, event.timestamp))
        return clean


def _bare(context: SpanContext) -> SpanContext:
    return SpanContext(context.trace_id, context.span_id, context.is_remote, context.trace_flags)


class DeclaredBaggage(TextMapPropagator):
    """W3C Trace Context without its state, and of baggage what is declared and may be told; on the way in, too."""

    def __init__(self, gate: TelemetryGate) -> None:
        self._gate = gate
        self._whole = CompositePropagator([TraceContextTextMapPropagator(), W3CBaggagePropagator()])

    def inject(
        self, carrier: CarrierT, context: Context | None = None, setter: Setter[CarrierT] = default_setter
    ) -> None:
        self._whole.inject(carrier, self._declared(context), setter)

    def extract(
        self, carrier: CarrierT, context: Context | None = None, getter: Getter[CarrierT] = default_getter
    ) -> Context:
        return self._declared(self._whole.extract(carrier, context, getter))

    @property
    def fields(self) -> set[str]:
        return self._whole.fields

    def _declared(self, context: Context | None) -> Context:
        given = baggage.get_all(context)
        kept = baggage.clear(context)
        for name, value in self._gate.attributes(given).items():
            kept = baggage.set_baggage(name, value, kept)
        span = trace.get_current_span(context).get_span_context()
        return trace.set_span_in_context(NonRecordingSpan(_bare(span)), kept) if span.trace_state else kept
