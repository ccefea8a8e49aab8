"""One shape of line, and no way into it for a personal value."""

from __future__ import annotations

import io
import json
import logging
import re
import warnings
from datetime import datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domicile.telemetry import (
    DURATION,
    FIELDS,
    REFUSALS,
    REQUESTS,
    FieldNotAllowed,
    configure_logs,
    log,
    render_metrics,
    warn,
)
from domicile.telemetry.metrics import REGISTRY

pytestmark = pytest.mark.usefixtures("logging_as_before")


@pytest.fixture
def stream(logging_as_before: None) -> io.StringIO:
    stream = io.StringIO()
    configure_logs("router-fra", stream=stream)
    return stream


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    text = stream.getvalue()
    assert text == "" or text.endswith("\n")
    return [json.loads(line) for line in text.splitlines()]


def test_a_line_has_one_shape(stream: io.StringIO) -> None:
    log("topology-loaded", revision=4, jurisdiction="eu", duration_ms=1.5, cell=None)
    warn("refused", code="forbidden")
    first, second = lines(stream)
    assert list(first)[:4] == ["time", "level", "process", "event"]
    assert datetime.fromisoformat(first.pop("time")).utcoffset() is not None
    assert first == {
        "level": "info",
        "process": "router-fra",
        "event": "topology-loaded",
        "revision": 4,
        "jurisdiction": "eu",
        "duration_ms": 1.5,
        "cell": None,
    }
    assert (second["level"], second["event"], second["code"]) == ("warning", "refused", "forbidden")


@pytest.mark.parametrize(
    "name", ["subject", "subject_id", "subject_key", "client", "path", "query", "email", "text", "message"]
)
def test_a_field_off_the_list_is_refused(stream: io.StringIO, name: str) -> None:
    assert name not in FIELDS
    fields: dict[str, Any] = {name: "x"}
    with pytest.raises(FieldNotAllowed):
        log("refused", **fields)
    assert lines(stream) == []


@pytest.mark.parametrize(
    "value",
    [
        "alice@example.eu",
        "two words",
        "a\nb",
        '{"a": 1}',
        "é",
        "a=b",
        "a?b",
        "x" * 201,
        b"x",
        ["x"],
        {"a": 1},
        ValueError("x"),
    ],
)
def test_a_value_that_is_no_plain_code_is_refused(stream: io.StringIO, value: Any) -> None:
    with pytest.raises(FieldNotAllowed) as caught:
        log("refused", reason=value)
    assert "alice" not in str(caught.value)
    assert lines(stream) == []


@pytest.mark.parametrize(
    "value", ["", "127.10.1.1:80", "/v1/pins/{key}", "[fd00::1]:80", "gateway.abroad.read", 1, 2.5, True, None]
)
def test_plain_values_are_written(stream: io.StringIO, value: str | float | bool | None) -> None:
    log("refused", reason=value)
    assert lines(stream)[0]["reason"] == value


@pytest.mark.parametrize("event", ["", "User alice signed up", "alice@example.eu", "Upper", "a\nb", "a" * 62])
def test_an_event_is_a_code(stream: io.StringIO, event: str) -> None:
    with pytest.raises(FieldNotAllowed):
        log(event)


def test_a_mistake_shows_also_at_a_level_that_is_not_written(stream: io.StringIO) -> None:
    with pytest.raises(FieldNotAllowed):
        log("refused", level=logging.DEBUG, subject="alice")  # type: ignore[call-arg, unused-ignore]
    log("refused", level=logging.DEBUG)
    assert lines(stream) == []


def test_the_text_of_libraries_is_dropped(stream: io.StringIO) -> None:
    for logger in ("aiohttp.access", "asyncio", "domicile.sdk", "root"):
        logging.getLogger(logger).error("user %s wrote %s", "alice", "a secret", extra={"fields": {"x": "alice"}})
    logging.getLogger("domicile").error("user alice")
    assert "alice" not in stream.getvalue()
    assert [(line["event"], line["kind"]) for line in lines(stream)] == [
        ("library", name) for name in ("aiohttp.access", "asyncio", "domicile.sdk", "root", "domicile")
    ]


def test_the_text_of_exceptions_is_dropped(stream: io.StringIO) -> None:
    try:
        raise ValueError("alice@example.eu")
    except ValueError:
        logging.getLogger("aiohttp.server").exception("with alice@example.eu", stack_info=True)
    (line,) = lines(stream)
    assert line["error"] == "ValueError"
    assert re.fullmatch(r"core/test_telemetry\.py:\d+", line["place"])
    assert "alice" not in stream.getvalue()


def test_the_text_of_warnings_is_dropped(stream: io.StringIO) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(True)
        warnings.warn("about alice", UserWarning, stacklevel=1)
        logging.captureWarnings(False)
    assert "alice" not in stream.getvalue()
    assert [line["kind"] for line in lines(stream)] == ["py.warnings"]


def test_libraries_are_heard_from_warnings_up(stream: io.StringIO) -> None:
    logging.getLogger("aiohttp").info("chatter")
    assert lines(stream) == []


def test_a_library_that_set_up_a_handler_of_its_own_is_heard_as_the_others(logging_as_before: None) -> None:
    """As a web framework does when it is imported."""
    own, ours = io.StringIO(), io.StringIO()
    logger = logging.getLogger("framework")
    logger.addHandler(logging.StreamHandler(own))
    logger.propagate = False
    configure_logs("p", stream=ours)
    logger.warning("cannot serve %s", "canary")
    assert own.getvalue() == ""
    assert [line["kind"] for line in lines(ours)] == ["framework"]
    assert "canary" not in ours.getvalue()


@given(st.text(max_size=50))
def test_a_value_never_breaks_a_line(value: str) -> None:
    stream = io.StringIO()
    configure_logs("p", stream=stream)
    try:
        log("refused", reason=value)
    except FieldNotAllowed:
        assert stream.getvalue() == ""
        return
    (line,) = lines(stream)
    assert line["reason"] == value
    assert not set("@ \n\"'=?&") & set(value)


def test_metrics_are_rendered_and_their_labels_name_places_and_codes_only() -> None:
    REQUESTS.labels("/v1/pins/{key}", "GET", "200").inc()
    REFUSALS.labels("forbidden").inc()
    DURATION.labels("/v1/pins/{key}").observe(0.01)
    body, content_type = render_metrics()
    assert content_type.startswith("text/plain")
    assert b'domicile_requests_total{method="GET",route="/v1/pins/{key}",status="200"}' in body
    allowed = {"route", "method", "status", "code", "from_jurisdiction", "to_jurisdiction", "kind", "verdict",
               "jurisdiction", "cell", "database", "domain", "call", "reason", "le"}  # fmt: skip
    labels = {label for metric in REGISTRY.collect() for sample in metric.samples for label in sample.labels}
    assert labels <= allowed
