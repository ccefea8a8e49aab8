"""The directory's description is what it does: generated requests, by a client of others' making, over mutual TLS."""

from __future__ import annotations

import asyncio
import os
import ssl
from pathlib import Path
from typing import Any

import pytest
import requests
import schemathesis
from domicile_testing.directories import NAMES, RunningDirectory, any_key
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.strategies import SearchStrategy
from requests.adapters import HTTPAdapter
from schemathesis.checks import CHECKS
from schemathesis.core.result import Ok

from domicile.directory.routes import ROUTES
from domicile.model import GLOBAL, MATRIX, Role

CHECKED = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
)
STREAMS = {"/v1/changes", "/v1/pins/snapshot", "/metrics"}
"""Not read to their end by a client that reads answers whole, or not JSON of ours."""


class _Mutual(HTTPAdapter):
    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context
        super().__init__()

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, ssl_context=self._context, assert_hostname=False, **kwargs)


def session(directory: RunningDirectory, role: Role) -> requests.Session:
    """Plain TLS of the standard library: our names in certificates mean nothing to this client."""
    jurisdiction = GLOBAL if role is Role.OPERATOR else "eu"
    credentials = directory.trust.credentials(jurisdiction, role, NAMES.get(role, "fra"))
    authority = Path(credentials.authorities) / f"{GLOBAL}.pem"
    context = ssl.create_default_context(cafile=str(authority))
    context.check_hostname = False
    context.load_cert_chain(credentials.certificate, credentials.key)
    opened = requests.Session()
    opened.trust_env = False
    opened.verify = str(authority)
    opened.mount("https://", _Mutual(context))
    return opened


def role_for(method: str, path: str) -> Role:
    endpoints = {(m, p): endpoint for m, p, endpoint, _ in ROUTES.values()}
    endpoint = endpoints.get((method.upper(), path))
    return Role.OPERATOR if endpoint is None else min(MATRIX[endpoint].roles, key=lambda role: role != Role.APP)


def storm(directory: RunningDirectory, document: dict[str, Any], examples: int) -> int:
    """Every operation, some generated requests each; how many were answered as described."""
    answered = 0
    for found in schemathesis.openapi.from_dict(document).get_all_operations():
        assert isinstance(found, Ok)
        operation = found.ok()
        if operation.path in STREAMS:
            continue
        with session(directory, role_for(operation.method, operation.path)) as client:
            answered += ask(directory, client, operation.as_strategy(), examples)
    return answered


def ask(directory: RunningDirectory, client: requests.Session, cases: SearchStrategy[Any], examples: int) -> int:
    checks: Any = CHECKS.get_by_names(CHECKED)
    answered = 0

    @given(case=cases)
    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def try_one(case: Any) -> None:
        nonlocal answered
        response = case.call(base_url=f"https://{directory.address}", session=client, timeout=10)
        case.validate_response(response, checks=checks)
        answered += 1

    try_one()
    return answered


async def described(directory: RunningDirectory) -> dict[str, Any]:
    answer = await directory.ask("GET", "/openapi.json")
    assert answer.status == 200
    document: dict[str, Any] = answer.body
    return document


async def test_every_route_is_described(directory: RunningDirectory) -> None:
    document = await described(directory)
    found = {(method.upper(), path) for path, methods in document["paths"].items() for method in methods}
    served = {(method, path) for method, path, _, _ in ROUTES.values()}
    assert found == served | {("GET", path) for path in ("/healthz", "/readyz", "/metrics", "/openapi.json")}
    pin = document["components"]["schemas"]["Pin"]
    assert set(pin["required"]) == {"subject_key", "jurisdiction", "cell", "epoch"}
    claim = document["paths"]["/v1/pins/{subject_key}"]["put"]
    assert claim["requestBody"]["content"]["application/json"]["schema"]["$ref"].endswith("/ClaimRequest")
    assert "409" in claim["responses"]


async def test_generated_requests_are_answered_as_described(directory: RunningDirectory) -> None:
    document = await described(directory)
    claimed = await directory.ask("PUT", f"/v1/pins/{any_key()}", {"residence": "DE"})
    assert claimed.status == 201
    assert await asyncio.to_thread(storm, directory, document, 12) > 100
    await directory.client(GLOBAL, Role.OPERATOR).peppers()
    found = await directory.ask("GET", f"/v1/pins/{claimed.body['subject_key']}")
    assert (found.status, found.body) == (200, claimed.body), "it still works"


@pytest.mark.full
async def test_many_generated_requests_are_answered_as_described(directory: RunningDirectory) -> None:
    examples = max(50, int(os.environ.get("DOMICILE_TEST_SECONDS", "300")) // 2)
    assert await asyncio.to_thread(storm, directory, await described(directory), examples) > 1000
