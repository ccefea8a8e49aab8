"""What a service answers: problem documents for every refusal, to those whom the matrix lets ask."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from domicile_testing import Trust, free_port
from pydantic import BaseModel

from domicile.model import (
    GLOBAL,
    Conflict,
    CrossBorderAccess,
    DomicileError,
    Endpoint,
    FenceRefused,
    Forbidden,
    IdentitiesDisagree,
    InvalidInput,
    KeyDestroyed,
    KeyWithheld,
    ManifestError,
    ManifestProblem,
    Misdirected,
    ModelError,
    NotFound,
    Role,
    TokenInvalid,
    TooLarge,
    TooMany,
    Unauthenticated,
    Unavailable,
    UnknownSubject,
    UnsupportedQuery,
    WrongCell,
    WrongJurisdiction,
)
from domicile.model.manifest import Address
from domicile.service import PEER, ProcessSettings, Service, json_response, load_settings, read_body
from domicile.telemetry import configure_logs, render_metrics

PLACE: dict[str, Any] = {"jurisdiction": "us", "cell": "us-1", "subject_key": "ab" * 17}
ERRORS: dict[str, DomicileError] = {
    error.code: error
    for error in (
        DomicileError("broke"),
        InvalidInput("bad", where="field", remedy="mend it"),
        IdentitiesDisagree("two subjects"),
        TooLarge("big"),
        ManifestError([ManifestProblem("a", "is wrong")]),
        ModelError("not classified"),
        UnsupportedQuery("sealed"),
        Unauthenticated("nobody"),
        TokenInvalid("forged"),
        Forbidden("not you"),
        WrongJurisdiction("labelled us"),
        UnknownSubject("no pin"),
        NotFound("no such"),
        Conflict("contradicts"),
        Misdirected("elsewhere", **PLACE),
        WrongCell("sibling", **PLACE),
        CrossBorderAccess("abroad", **PLACE, public_host="us.acme.example"),
        FenceRefused("not open"),
        Unavailable("later", retry_after=9),
        KeyDestroyed("shredded"),
        KeyWithheld("cut off", retry_after=9),
        TooMany("too often", retry_after=9),
    )
}
Ask = Callable[..., Any]


class Body(BaseModel):
    name: str
    age: int = 0
    tags: dict[str, int] = {}


class Serving:
    """A gateway of eu-1 with a route for each thing that can go wrong."""

    def __init__(self, trust: Trust, settings: ProcessSettings) -> None:
        self.trust = trust
        self.address = settings.bind
        self.is_ready = True
        self.service = Service(settings, self.ready, max_body=1000)
        self.service.route("POST", "/refuse/{code}", Endpoint.HEALTH, self.refuse)
        self.service.route("POST", "/body", Endpoint.HEALTH, self.body)
        self.service.route("GET", "/bug", Endpoint.HEALTH, self.bug)
        self.service.route("GET", "/fence", Endpoint.FENCES, self.who)

    async def ready(self) -> None:
        if not self.is_ready:
            raise Unavailable("no database")

    async def refuse(self, request: web.Request) -> web.Response:
        raise ERRORS[request.match_info["code"]]

    async def body(self, request: web.Request) -> web.Response:
        return json_response(await read_body(request, Body), status=201, Cache_Control="no-store")

    async def bug(self, _: web.Request) -> web.Response:
        raise ValueError("alice@example.eu")

    async def who(self, request: web.Request) -> web.Response:
        return web.json_response({"peer": request[PEER].uri})

    async def ask(
        self,
        method: str,
        path: str,
        *,
        by: tuple[str, Role, str] = (GLOBAL, Role.OPERATOR, "root"),
        **more: Any,
    ) -> tuple[int, Any, dict[str, str]]:
        context = self.trust.credentials(*by).client("eu", [Role.GATEWAY])
        async with (
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)) as session,
            session.request(method, f"https://{self.address}{path}", **more) as response,
        ):
            raw = await response.read()
            parsed = json.loads(raw) if "json" in response.content_type else raw.decode()
            return response.status, parsed, {**response.headers, "type": response.content_type}


@asynccontextmanager
async def listening(serving: Serving) -> AsyncIterator[Serving]:
    context = serving.service.internal_context([Role.APP, Role.ROUTER])
    async with serving.service.listen(Address(serving.address), context):
        yield serving


@pytest.fixture
async def serving(trust: Trust) -> AsyncIterator[Serving]:
    settings = trust.settings("eu", Role.GATEWAY, "eu-1.fra", f"127.0.0.1:{free_port()}")
    async with listening(Serving(trust, settings)) as serving:
        yield serving


@pytest.mark.parametrize("code", ERRORS)
async def test_each_error_is_a_problem_document(serving: Serving, code: str) -> None:
    error = ERRORS[code]
    status, problem, headers = await serving.ask("POST", f"/refuse/{code}")
    assert status == problem["status"] == error.status
    assert headers["type"] == "application/problem+json"
    assert headers["Cache-Control"] == "no-store"
    assert (problem["type"], problem["code"], problem["detail"]) == ("about:blank", code, error.what)
    assert problem.get("remedy") == (error.remedy or None)
    assert headers.get("Retry-After") == ("9" if isinstance(error, Unavailable) else None)
    assert ("WWW-Authenticate" in headers) is (status == 401)
    assert "ab" * 17 not in json.dumps(problem)
    if isinstance(error, Misdirected):
        assert problem["jurisdiction"] == "us"
    assert problem.get("public_host") == ("us.acme.example" if code == "cross-border-access" else None)


def test_every_error_of_the_tree_is_tried() -> None:
    def kinds(root: type[DomicileError]) -> set[type[DomicileError]]:
        return {root, *(kind for child in root.__subclasses__() for kind in kinds(child))}

    ours = {kind for kind in kinds(DomicileError) if kind.__module__ == "domicile.model.errors"}
    assert {type(error) for error in ERRORS.values()} == ours


async def test_an_unknown_route_is_a_problem(serving: Serving) -> None:
    status, problem, headers = await serving.ask("GET", "/users/alice")
    assert (status, problem["code"], headers["type"]) == (404, "http-404", "application/problem+json")
    assert "alice" not in json.dumps(problem)


async def test_an_unknown_method_is_a_problem_that_names_the_known_ones(serving: Serving) -> None:
    status, problem, headers = await serving.ask("DELETE", "/body")
    assert (status, problem["code"], headers["Allow"]) == (405, "http-405", "POST")


async def test_an_unforeseen_error_tells_nothing(serving: Serving, logging_as_before: None) -> None:
    stream = io.StringIO()
    configure_logs("gateway", stream=stream)
    status, problem, _ = await serving.ask("GET", "/bug")
    assert (status, problem["code"]) == (500, "internal")
    assert "alice" not in json.dumps(problem) + stream.getvalue()
    assert "ValueError" not in json.dumps(problem)
    (line,) = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert (line["event"], line["error"]) == ("unforeseen", "ValueError")
    assert line["place"].startswith("core/test_service.py:")


async def test_a_body_over_the_limit_is_refused(serving: Serving) -> None:
    status, problem, _ = await serving.ask("POST", "/body", data=b"x" * 1001)
    assert (status, problem["code"]) == (413, "too-large")
    chunks = (b"x" * 500 for _ in range(3))

    async def stream() -> AsyncIterator[bytes]:
        for chunk in chunks:
            yield chunk

    status, problem, _ = await serving.ask("POST", "/body", data=stream())
    assert (status, problem["code"]) == (413, "too-large")


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        (b"", "body: json_invalid"),
        (b"alice", "body: json_invalid"),
        (b'{"name": "alice"', "body: json_invalid"),
        (b"[]", "body: model_type"),
        (b"{}", "name: missing"),
        (b'{"name": 7}', "name: string_type"),
        (b'{"name": "bob", "age": "alice"}', "age: int_parsing"),
        (b'{"age": "alice"}', "name: missing; age: int_parsing"),
        (b"\xff", "body: json_invalid"),
        (b"[" * 900, "body: json_invalid"),
    ],
)
async def test_a_body_of_another_shape_is_refused_without_an_echo(serving: Serving, body: bytes, detail: str) -> None:
    status, problem, _ = await serving.ask("POST", "/body", data=body)
    assert (status, problem["code"], problem["detail"]) == (422, "invalid-input", detail)
    assert "alice" not in json.dumps(problem)


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
async def test_a_body_that_is_not_encoded_as_its_head_says_is_a_problem(serving: Serving, encoding: str) -> None:
    status, problem, headers = await serving.ask(
        "POST", "/body", data=b'{"name": "x"}', headers={"Content-Encoding": encoding}
    )
    assert status == 400
    assert headers["type"] == "application/problem+json"
    assert problem["status"] == status


async def test_a_good_body_is_answered(serving: Serving) -> None:
    status, body, headers = await serving.ask("POST", "/body", data=b'{"name": "bob", "later": 1}')
    assert (status, body, headers["Cache-Control"]) == (201, {"name": "bob", "age": 0, "tags": {}}, "no-store")


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics"])
@pytest.mark.parametrize(
    ("by", "served"),
    [
        ((GLOBAL, Role.OPERATOR, "root"), True),
        (("eu", Role.OPERATOR, "fra"), True),
        (("us", Role.OPERATOR, "iad"), True),
        (("eu", Role.APP, "eu-1.fra"), False),
        (("eu", Role.ROUTER, "fra"), False),
    ],
)
async def test_health_is_for_operators(serving: Serving, path: str, by: tuple[str, Role, str], served: bool) -> None:
    status, answer, _ = await serving.ask("GET", path, by=by)
    assert status == (200 if served else 403)
    if not served:
        assert answer["code"] == "forbidden"


@pytest.mark.parametrize(
    ("by", "status"),
    [
        (("eu", Role.APP, "eu-1.fra"), 200),
        (("eu", Role.APP, "eu-2.fra"), 403),
        (("us", Role.APP, "us-1.iad"), 403),
        (("eu", Role.ROUTER, "fra"), 403),
        ((GLOBAL, Role.OPERATOR, "root"), 403),
    ],
)
async def test_each_route_is_held_to_the_matrix(serving: Serving, by: tuple[str, Role, str], status: int) -> None:
    answered, answer, _ = await serving.ask("GET", "/fence", by=by)
    assert answered == status
    if status == 200:
        assert answer == {"peer": "spiffe://acme/eu/app/eu-1.fra"}


async def test_a_role_that_the_listener_does_not_expect_is_not_even_heard(serving: Serving) -> None:
    with pytest.raises(aiohttp.ClientError):
        await serving.ask("GET", "/healthz", by=("eu", Role.LOAD, "fra"))


async def test_readiness_follows_the_work(serving: Serving) -> None:
    assert (await serving.ask("GET", "/readyz"))[0] == 200
    serving.is_ready = False
    status, problem, _ = await serving.ask("GET", "/readyz")
    assert (status, problem["detail"]) == (503, "no database")
    assert (await serving.ask("GET", "/healthz"))[0] == 200


async def test_metrics_name_routes_and_never_paths(serving: Serving) -> None:
    await serving.ask("GET", "/users/alice")
    await serving.ask("POST", "/refuse/forbidden")
    await serving.ask("PROPFIND", "/body")
    _, text, headers = await serving.ask("GET", "/metrics")
    assert headers["type"] == "text/plain"
    assert 'route="/refuse/{code}"' in text
    assert 'route="unmatched"' in text
    assert 'method="other"' in text
    assert "alice" not in text.lower()
    assert 'domicile_refusals_total{code="forbidden"}' in render_metrics()[0].decode()


async def test_a_service_is_not_ready_once_it_drains(serving: Serving) -> None:
    serving.service._draining = True
    status, problem, _ = await serving.ask("GET", "/readyz")
    assert (status, problem["detail"]) == (503, "draining")


async def test_a_taken_port_is_refused(serving: Serving, trust: Trust) -> None:
    other = Serving(trust, trust.settings("eu", Role.GATEWAY, "eu-1.par", serving.address))
    with pytest.raises(InvalidInput, match="cannot listen"):
        async with listening(other):
            raise AssertionError("two listeners on one address")


async def test_after_the_end_nobody_listens(trust: Trust) -> None:
    settings = trust.settings("eu", Role.GATEWAY, "eu-1.fra", f"127.0.0.1:{free_port()}")
    async with listening(Serving(trust, settings)) as serving:
        assert (await serving.ask("GET", "/healthz"))[0] == 200
    address = settings.address()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(address.host, address.port)


def test_a_certificate_of_another_deployment_is_refused(trust: Trust) -> None:
    settings = trust.settings("eu", Role.GATEWAY, "eu-1.fra", "127.0.0.1:1")
    with pytest.raises(InvalidInput, match="deployment acme, not other"):
        Serving(trust, settings.model_copy(update={"deployment": "other"}))


def test_settings_come_from_the_environment_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("sys.excepthook", lambda *_: None)
    for name in ("DEPLOYMENT", "PROCESS", "CERTIFICATE", "KEY", "AUTHORITIES", "STATE"):
        monkeypatch.setenv(f"DOMICILE_{name}", name.lower())
    monkeypatch.setenv("DOMICILE_BIND", "[::1]:80")
    monkeypatch.setenv("DOMICILE_DIRECTORY", " 127.0.0.1:1, Dir.Example:2,")
    monkeypatch.setenv("DOMICILE_UNKNOWN", "ignored")
    settings = load_settings(ProcessSettings)
    assert settings.directory == ["127.0.0.1:1", "dir.example:2"]
    assert (settings.address().host, settings.address().port) == ("::1", 80)
    monkeypatch.setenv("DOMICILE_DIRECTORY", "")
    assert load_settings(ProcessSettings).directory == []
