"""Personal values do not reach a log handler, an exporter or another process, however they were put there."""

from __future__ import annotations

import io
import logging
import re
import traceback
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import pytest
from opentelemetry import baggage, trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import Link, NonRecordingSpan, SpanContext, Status, StatusCode, TraceFlags, TraceState
from prometheus_client import CollectorRegistry

from domicile.model import InvalidInput, Personal, Shareable, SubjectKey, Withheld
from domicile.sdk import Record
from domicile.sdk.telemetry import DeclaredBaggage, PersonalFilter, PersonalProcessor, TelemetryGate

EMAIL = "anna.canary@example.org"


class Patient(Record, table="telemetry_patients"):
    email: Annotated[str, Personal("user.contact.email")]
    ward: Annotated[str, Shareable("system.operations")]


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def gate(registry: CollectorRegistry, clock: Clock) -> TelemetryGate:
    allowed = ["http.route", "cart.size", "note", "tags", "nested.inner", "tenant"]
    return TelemetryGate(allowed, countries=["DE"], registry=registry, clock=clock, burst=5)


@pytest.fixture
def lines(gate: TelemetryGate) -> Iterator[io.StringIO]:
    """What a handler at the root writes, with every field that a record has."""
    written = io.StringIO()
    handler = logging.StreamHandler(written)

    class Everything(logging.Formatter):
        def format(self, record: logging.LogRecord) -> str:
            return f"{super().format(record)} {vars(record)}"

    handler.setFormatter(Everything())
    handler.addFilter(PersonalFilter(gate))
    root = logging.getLogger()
    root.addHandler(handler)
    yield written
    root.removeHandler(handler)


def dropped(registry: CollectorRegistry, reason: str) -> float:
    return registry.get_sample_value("domicile_telemetry_dropped_total", {"reason": reason}) or 0.0


def raised(error: Exception, cause: Exception | None = None) -> Exception:
    try:
        raise error from cause
    except Exception as caught:
        return caught


class Chatty:
    def __str__(self) -> str:
        return f"Chatty<{EMAIL}>"


class Mute:
    def __str__(self) -> str:
        raise RuntimeError(EMAIL)


@pytest.mark.parametrize(
    ("message", "arguments", "more"),
    [
        (f"signed up {EMAIL}", (), {}),
        ("signed up %s", (EMAIL,), {}),
        ("signed up %(who)s", ({"who": EMAIL},), {}),
        ("signed up %r", ([{"deep": (EMAIL,)}],), {}),
        ("%s", (Chatty(),), {}),
        (Chatty(), (), {}),
        ("too few %s %s", (EMAIL,), {}),
        ("%s", (Mute(),), {}),
        ("caught", (), {"exc_info": raised(ValueError(EMAIL))}),
        ("caught", (), {"exc_info": raised(ValueError("outer"), KeyError(EMAIL))}),
        ("caught", (), {"exc_info": raised(ExceptionGroup("some", [ValueError(EMAIL)]))}),
        ("tagged", (), {"extra": {"email": EMAIL}}),
        ("tagged", (), {"extra": {"note": EMAIL}}),
        ("tagged", (), {"extra": {"tags": ["a", EMAIL]}}),
        ("tagged", (), {"extra": {"nested": {"inner": EMAIL, "other": "x"}}}),
        ("tagged", (), {"extra": {"note": Chatty()}}),
        ("escaped anna.canary%%40example.org %s", ("x",), {}),
        ("hidden %s", ("anna.canary\u200b@example.org",), {}),
        ("%s", (Withheld("anna.canary", "eu"),), {}),
        ("%(who)s", ({"who": [Withheld("anna.canary", "eu")]},), {}),
    ],
)
def test_a_log_line_shows_nothing(lines: io.StringIO, message: Any, arguments: Any, more: Mapping[str, Any]) -> None:
    logging.getLogger("somebody.elses").error(message, *arguments, **more)
    written = lines.getvalue()
    assert "ERROR" in written
    assert "anna.canary" not in written, written


def test_names_of_loggers_threads_and_tasks_show_nothing(lines: io.StringIO, registry: CollectorRegistry) -> None:
    record = logging.getLogger().makeRecord(f"user.{EMAIL}", logging.ERROR, __file__, 1, "said", (), None)
    record.threadName = record.processName = record.taskName = f"for {EMAIL}"
    logging.getLogger().handle(record)
    assert "said" in lines.getvalue()
    assert "anna.canary" not in lines.getvalue()
    assert dropped(registry, "email") == 4


def test_an_exception_that_was_put_there_bare_is_cleaned_too(lines: io.StringIO) -> None:
    error = raised(ValueError(EMAIL))
    logging.getLogger().handle(logging.makeLogRecord({"msg": "said", "levelno": 40, "exc_info": error}))
    assert "builtins.ValueError (text withheld: email)" in lines.getvalue()
    assert "anna.canary" not in lines.getvalue()


def test_an_innocent_line_stays_as_it_is(lines: io.StringIO, registry: CollectorRegistry) -> None:
    error = raised(ValueError("seven items"), KeyError("cart"))
    logging.getLogger("shop").warning("cart of %d for route %s", 3, "/cart", exc_info=error, extra={"cart.size": 3})
    written = lines.getvalue()
    assert written.startswith("cart of 3 for route /cart\n")
    assert "ValueError: seven items" in written
    assert "KeyError: 'cart'" in written
    assert "'cart.size': 3" in written
    assert [sample.value for metric in registry.collect() for sample in metric.samples if sample.value] == []


def test_an_exception_keeps_its_class_and_its_lines(lines: io.StringIO) -> None:
    logging.getLogger("shop").error("caught", exc_info=raised(ValueError(EMAIL), LookupError("x")))
    written = lines.getvalue()
    assert "builtins.ValueError (text withheld: email)" in written
    assert "builtins.LookupError" in written
    assert f'File "{__file__}"' in written
    assert "in raised" in written


def test_typed_values_are_caught_whatever_they_look_like(gate: TelemetryGate, registry: CollectorRegistry) -> None:
    withheld = Withheld("user.name", "eu")
    key = SubjectKey(b"\1" + bytes(16))
    given = {"note": withheld, "tenant": key, "tags": [withheld], "cart.size": 3}
    assert gate.attributes(given) == {"cart.size": 3}
    assert dropped(registry, "type") == 3


def test_what_is_deep_undeclared_or_of_an_unknown_kind_is_dropped(
    gate: TelemetryGate, registry: CollectorRegistry
) -> None:
    deep: Any = "x"
    for _ in range(20):
        deep = [deep]
    assert gate.attributes({"note": deep, "tags": object(), "unknown": 1, "nested": {"inner": "ok", "x": 1}}) == {
        "nested": {"inner": "ok"}
    }
    assert [dropped(registry, reason) for reason in ("depth", "unreadable", "undeclared")] == [1, 1, 2]


@pytest.mark.parametrize(
    "value", [4111111111111111, 4111111111111111.0, "DE89370400440532013000", b"anna.canary@example.org"]
)
def test_numbers_and_bytes_are_looked_at_too(gate: TelemetryGate, value: object) -> None:
    assert gate.attributes({"note": value}) == {}


@pytest.mark.parametrize(
    "name",
    [
        "user.email",
        "userEmail",
        "e-mail",
        "client.address",
        "enduser.id",
        "customer_id",
        "first_name",
        "x.ssn",
        "remote_addr",
        "peer.ip",
        "ip_address",
        "geo.latitude",
        "taxId",
    ],
)
def test_names_of_something_personal_cannot_be_declared(registry: CollectorRegistry, name: str) -> None:
    with pytest.raises(InvalidInput, match="names something personal"):
        TelemetryGate([name], registry=registry)


@pytest.mark.parametrize("name", ["http.route", "db.system", "cart.size", "region"])
def test_names_of_other_things_can(registry: CollectorRegistry, name: str) -> None:
    assert TelemetryGate([name], registry=registry).allowed == {name}


def test_a_burst_of_drops_raises_the_gauge_for_a_minute(
    gate: TelemetryGate, registry: CollectorRegistry, clock: Clock
) -> None:
    def gauge() -> float | None:
        return registry.get_sample_value("domicile_telemetry_burst")

    for _ in range(4):
        gate.drop("email")
    assert gauge() == 0
    gate.drop("email")
    assert gauge() == 1
    clock.now += 61
    assert gauge() == 0


@pytest.fixture
def exported(gate: TelemetryGate) -> Iterator[tuple[trace.Tracer, InMemorySpanExporter]]:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(PersonalProcessor(SimpleSpanProcessor(exporter), gate))
    yield provider.get_tracer("tests"), exporter
    provider.shutdown()


def test_a_span_shows_nothing(exported: tuple[trace.Tracer, InMemorySpanExporter]) -> None:
    tracer, exporter = exported
    with tracer.start_as_current_span("first") as first:
        link = Link(first.get_span_context(), {"note": EMAIL, "cart.size": 1})
    with suppress(ValueError), tracer.start_as_current_span(f"GET /users/{EMAIL}", links=[link]) as span:
        span.set_attributes({"http.route": "/users/{id}", "note": EMAIL, "email": EMAIL, "tags": ["a", EMAIL]})
        span.add_event(f"mail to {EMAIL}", {"note": EMAIL, "cart.size": 2})
        span.set_status(Status(StatusCode.ERROR, EMAIL))
        raise ValueError(EMAIL)
    told = exporter.get_finished_spans()[-1]
    assert "canary" not in told.to_json()
    assert dict(told.attributes or {}) == {"http.route": "/users/{id}"}
    assert [dict(event.attributes or {}) for event in told.events] == [
        {"cart.size": 2},
        {"exception.type": "ValueError"},
    ]
    assert dict(told.links[0].attributes or {}) == {"cart.size": 1}
    assert told.status.status_code is StatusCode.ERROR


def test_an_innocent_span_is_exported_whole(exported: tuple[trace.Tracer, InMemorySpanExporter]) -> None:
    tracer, exporter = exported
    with tracer.start_as_current_span("checkout", attributes={"cart.size": 2, "tags": ("a", "b")}) as span:
        span.add_event("paid")
    (told,) = exporter.get_finished_spans()
    assert (told.name, dict(told.attributes or {})) == ("checkout", {"cart.size": 2, "tags": ("a", "b")})
    assert [event.name for event in told.events] == ["paid"]
    assert told.context == span.get_span_context()


def test_baggage_passes_as_declared_both_ways(gate: TelemetryGate) -> None:
    propagator = DeclaredBaggage(gate)
    context = Context()
    for name, value in {"tenant": "acme", "note": EMAIL, "email": EMAIL, "session": "1"}.items():
        context = baggage.set_baggage(name, value, context)
    carrier: dict[str, str] = {}
    propagator.inject(carrier, context)
    assert carrier == {"baggage": "tenant=acme"}
    got = propagator.extract({"baggage": "tenant=acme,note=anna.canary%40example.org,email=x"}, Context())
    assert dict(baggage.get_all(got)) == {"tenant": "acme"}


def test_the_state_of_a_trace_ends_here(
    gate: TelemetryGate, exported: tuple[trace.Tracer, InMemorySpanExporter]
) -> None:
    """Whoever is in front may have put anything into it; it is neither exported nor handed on."""
    before = SpanContext(1, 2, is_remote=True, trace_flags=TraceFlags(1), trace_state=TraceState([("who", EMAIL)]))
    context = trace.set_span_in_context(NonRecordingSpan(before), Context())
    propagator, carrier = DeclaredBaggage(gate), dict[str, str]()
    propagator.inject(carrier, context)
    assert carrier.keys() == {"traceparent"}
    got = propagator.extract({**carrier, "tracestate": f"who={EMAIL}"}, Context())
    found = trace.get_current_span(got).get_span_context()
    assert (found.trace_id, found.span_id, len(found.trace_state)) == (1, 2, 0)
    tracer, exporter = exported
    with tracer.start_as_current_span("checkout", context=context, links=[Link(before)]):
        pass
    (told,) = exporter.get_finished_spans()
    contexts = [told.get_span_context(), told.parent, told.links[0].context]
    assert [each is not None and len(each.trace_state) for each in contexts] == [0, 0, 0]


def test_the_page_does_what_it_says(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    page = (Path(__file__).parents[2] / "docs" / "telemetry.md").read_text()
    program = re.search(r"```python\n(.*?)```", page, re.DOTALL)
    shown = re.search(r"```text\n(.*?)```", page, re.DOTALL)
    assert program
    assert shown
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    monkeypatch.setattr("opentelemetry.trace.set_tracer_provider", lambda _: None)
    exec(compile(program[1], "telemetry.md", "exec"), {})
    assert capsys.readouterr().err == shown[1]


def test_no_traceback_of_ours_holds_a_value(gate: TelemetryGate) -> None:
    with pytest.raises(InvalidInput) as caught:
        TelemetryGate([f"{EMAIL} "], registry=CollectorRegistry())
    assert "is no attribute's name" in "".join(traceback.format_exception(caught.value))
