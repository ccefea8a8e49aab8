"""A span has no place for a personal value, and its context travels as one plain field."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from domicile.telemetry import FieldNotAllowed
from domicile.telemetry.collector import otlp_exporter
from domicile.telemetry.traces import ATTRIBUTES, begin, start_tracing

PARENT = "00-" + "a" * 32 + "-" + "b" * 16 + "-01"


def traced(share: float = 1.0) -> tuple[InMemorySpanExporter, Callable[[], None]]:
    exporter = InMemorySpanExporter()
    return exporter, start_tracing("router-fra", "eu", exporter, share=share)


def test_without_tracing_nothing_is_started_and_mistakes_show_all_the_same() -> None:
    with begin("router.request") as told:
        told.set("domicile.cell", "eu-1")
        assert told.traceparent is None
        with pytest.raises(FieldNotAllowed):
            told.set("http.url", "/x")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("url.path", "/notes"),
        ("enduser.id", "alice"),
        ("client.address", "1.2.3.4"),
        ("subject_key", "01ab"),
        ("domicile.cell", "alice@example.eu"),
        ("domicile.cell", "two words"),
        ("error.type", "x" * 201),
    ],
)
def test_an_attribute_off_the_list_or_a_value_that_is_not_plain_is_refused(name: str, value: str) -> None:
    exporter, stop = traced()
    with begin("router.request") as told, pytest.raises(FieldNotAllowed):
        told.set(name, value)
    with pytest.raises(FieldNotAllowed), begin("router.request", {name: value}):
        pass
    stop()
    assert value not in str([each.to_json() for each in exporter.get_finished_spans()])


def test_a_span_has_one_of_a_few_names() -> None:
    _, stop = traced()
    with pytest.raises(KeyError), begin("GET /users/alice"):
        pass
    stop()


def test_an_exceptions_text_is_not_recorded() -> None:
    exporter, stop = traced()
    with pytest.raises(ValueError, match="alice"), begin("router.request"):
        raise ValueError("alice@example.eu")
    stop()
    (found,) = exporter.get_finished_spans()
    assert "alice" not in found.to_json()
    assert found.events == ()


def test_spans_lie_in_each_other_and_say_where_they_were_made() -> None:
    exporter, stop = traced()
    with begin("router.request") as around, begin("router.forward", {"domicile.cell": "eu-1"}, parent=around) as told:
        context = told.traceparent
    stop()
    inner, outer = exporter.get_finished_spans()
    assert inner.parent is not None
    assert inner.parent.span_id == outer.context.span_id
    assert context is not None
    assert re.fullmatch(rf"00-{inner.context.trace_id:032x}-{inner.context.span_id:016x}-0[13]", context)
    assert dict(inner.attributes or {}) == {"domicile.cell": "eu-1"}
    assert dict(outer.resource.attributes) == {"service.name": "router-fra", "domicile.jurisdiction": "eu"}


def test_a_parent_is_continued_and_anything_else_begins_anew() -> None:
    exporter, stop = traced()
    with begin("router.request", parent=PARENT):
        pass
    for text in ("", "x", PARENT.upper(), PARENT + "-more", "00-" + "0" * 32 + "-" + "b" * 16 + "-01", PARENT + "\n"):
        with begin("router.request", parent=text):
            pass
    stop()
    first, *others = exporter.get_finished_spans()
    assert f"{first.context.trace_id:032x}" == "a" * 32
    assert all(each.parent is None for each in others)
    assert len({each.context.trace_id for each in others}) == len(others)


def test_only_a_share_is_traced_and_the_rest_says_so_to_those_behind() -> None:
    exporter, stop = traced(share=0.0)
    with begin("router.request") as told:
        context = told.traceparent
    with begin("router.request", parent=PARENT):
        pass
    stop()
    assert context is not None
    assert context[-2:] in ("00", "02"), "not sampled (W3C Trace Context 2, 3.2.2.5)"
    assert [f"{each.context.trace_id:032x}" for each in exporter.get_finished_spans()] == ["a" * 32]


def test_the_environment_does_not_say_where_spans_go_or_what_they_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "https://elsewhere.example")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "https://elsewhere.example")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "enduser.id=alice")
    exporter: Any = otlp_exporter("https://collector.eu.example", lambda _: True)
    assert exporter._endpoint == "https://collector.eu.example/v1/traces"
    exporter.shutdown()
    memory, stop = traced()
    with begin("router.request"):
        pass
    stop()
    assert "alice" not in memory.get_finished_spans()[0].to_json()


def test_the_list_names_places_and_codes() -> None:
    for word in ("subject", "client", "user", "path", "url", "query", "header", "body", "mail"):
        assert not [name for name in ATTRIBUTES if word in name], word


def test_a_process_that_does_not_trace_does_not_load_the_library() -> None:
    code = "import sys, domicile.telemetry, domicile.service; print([m for m in sys.modules if 'opentelemetry' in m])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
