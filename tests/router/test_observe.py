"""What a router tells of its requests: spans that continue at the application, rates by place, bytes over borders."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from domicile_testing.conditions import until
from domicile_testing.requests import HOME
from domicile_testing.routing import World, pin, routing_world
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from domicile.model import Unavailable
from domicile.router.attempts import Attempts
from domicile.router.decide import Forward
from domicile.router.health import Health
from domicile.router.observe import Ways
from domicile.telemetry import BORDER_BYTES, UPSTREAM_REQUESTS
from domicile.telemetry.tallies import settle
from domicile.telemetry.traces import begin, start_tracing

FOREIGN = "00-" + "f" * 32 + "-" + "b" * 16 + "-01"
Spans = Callable[[], tuple[ReadableSpan, ...]]


@pytest.fixture
def spans() -> Iterator[Spans]:
    """What was traced; asking ends the tracing."""
    exporter = InMemorySpanExporter()
    stop = start_tracing("router", "eu", exporter, share=1.0)

    def ended() -> tuple[ReadableSpan, ...]:
        stop()
        return exporter.get_finished_spans()

    yield ended
    stop()


def named(found: tuple[ReadableSpan, ...], name: str) -> list[ReadableSpan]:
    return [each for each in found if each.name == name]


async def test_a_trace_goes_on_at_the_application_and_holds_nothing_of_the_request(world: World, spans: Spans) -> None:
    world.directory.place(pin("alice-in-person", "eu-1"))
    secrets = {"X-Forwarded-For": "193.99.144.80", "X-Secret": "header-secret"}
    async with world.router() as client:
        headers = world.bearer("alice-in-person") | secrets | {"traceparent": FOREIGN, "tracestate": "state=secret"}
        async with client.post("/path-secret?query-secret", data=b"body-secret", headers=headers) as response:
            assert response.status == 200
    found = spans()
    (request,), (forward,) = named(found, "router.request"), named(found, "router.forward")
    (seen,) = world.seen
    trace, parent = seen.headers["traceparent"].split("-")[1:3]
    assert (trace, parent) == (f"{request.context.trace_id:032x}", f"{forward.context.span_id:016x}")
    assert trace != "f" * 32, "the public does not say what is traced"
    assert "tracestate" not in seen.headers
    assert dict(request.attributes or {}) == {
        "domicile.listener": "public",
        "http.request.method": "POST",
        "http.response.status_code": 200,
    }
    assert dict(forward.attributes or {}) == {
        "domicile.jurisdiction": "eu",
        "domicile.cell": "eu-1",
        "domicile.route": "home",
        "http.response.status_code": 200,
    }
    told = "".join(each.to_json() for each in found)
    for secret in ("alice", "secret", "193.99.144.80", "127.0.0.1", world.jwt("alice-in-person")):
        assert secret not in told


async def test_a_hairpin_is_one_trace(tmp_path: Path, spans: Spans) -> None:
    async with routing_world(tmp_path, eu="hairpin") as world:
        world.directory.place(pin("alice", "eu-1"))
        async with (
            world.router("iad"),
            world.router("fra"),
            world.client("iad") as client,
            client.get("/notes", headers=world.bearer("alice")) as response,
        ):
            assert response.status == 200
    found = spans()
    assert len({each.context.trace_id for each in found}) == 1
    assert len(named(found, "router.request")) == len(named(found, "router.forward")) == 2
    assert {(each.attributes or {}).get("domicile.route") for each in named(found, "router.forward")} == {
        "hairpin",
        "home",
    }


async def test_without_tracing_a_client_keeps_its_own_context_but_another_router_does_not_hear_of_it(
    tmp_path: Path,
) -> None:
    async with routing_world(tmp_path, eu="hairpin") as world:
        world.directory.place(pin("alice", "eu-1"), pin("uncle", "us-1"))
        async with world.router("iad"), world.router("fra"), world.client("iad") as client:
            for name in ("uncle", "alice"):
                headers = world.bearer(name) | {"traceparent": FOREIGN}
                async with client.get("/notes", headers=headers) as response:
                    assert response.status == 200
    assert [seen.headers.get("traceparent") for seen in world.seen] == [FOREIGN, None]


def answers(*labels: str) -> float:
    settle()
    value: float = UPSTREAM_REQUESTS.labels(*labels)._value.get()
    return value


async def test_answers_are_counted_by_place_and_kind_of_way(world: World) -> None:
    world.directory.place(pin("alice", "eu-2"))
    ways = {"/notes": "home", "/.domicile/v1/x": "gateway"}
    before = {way: answers("eu", "eu-2", way, "2xx") for way in ways.values()}
    async with world.router() as client:
        for path in ways:
            async with client.get(path, headers=world.bearer("alice")) as response:
                assert response.status == 200
        await world.app("eu-2.ams").stop()
        lost = answers("eu", "eu-2", "home", "unavailable")
        async with client.get("/notes", headers=world.bearer("alice")) as response:
            assert response.status == 503
        assert answers("eu", "eu-2", "home", "unavailable") == lost + 1
    assert {way: answers("eu", "eu-2", way, "2xx") for way in before} == {way: n + 1 for way, n in before.items()}


def test_a_request_that_is_broken_off_is_counted_once_as_that() -> None:
    health, request = Health(waiting=1), begin("router.request")
    ways = Ways(health)
    decision = Forward(HOME, pin("alice", "eu-1"))
    before = answers("eu", "eu-1", "home", "cancelled")
    attempts = Attempts(decision, ways, health, request)
    for _ in range(2):
        attempts.cancelled()
    assert answers("eu", "eu-1", "home", "cancelled") == before + 1
    before = answers("eu", "eu-1", "home", "unavailable")
    attempts = Attempts(decision, ways, health, request)
    attempts.refused(Unavailable.code)
    attempts.cancelled()
    assert answers("eu", "eu-1", "home", "unavailable") == before + 1


async def test_bytes_that_a_hairpin_carries_are_counted_both_ways(tmp_path: Path) -> None:
    def crossed(*labels: str) -> float:
        value: float = BORDER_BYTES.labels(*labels)._value.get()
        return value

    sides = [("us", "eu", "request"), ("eu", "us", "answer")]
    before = [crossed(*side) for side in sides]
    async with routing_world(tmp_path, eu="hairpin") as world:
        world.directory.place(pin("alice", "eu-1"))
        async with world.router("iad"), world.router("fra"), world.client("iad") as client:
            async with client.post("/notes", data=b"x" * 1000, headers=world.bearer("alice")) as response:
                size = len(await response.read())
            await until(lambda: crossed(*sides[1]) > before[1])
    assert [crossed(*side) - old for side, old in zip(sides, before, strict=True)] == [1000, size]
