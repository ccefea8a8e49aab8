"""The directory's description is what it does: generated requests, by a client of others' making, over mutual TLS."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import pytest
import requests
from domicile_testing import generated
from domicile_testing.directories import NAMES, RunningDirectory, any_key
from domicile_testing.generated import session

from domicile.directory.routes import ROUTES
from domicile.model import GLOBAL, MATRIX, Role

STREAMS = {"/v1/changes", "/v1/pins/snapshot", "/metrics"}
"""Not read to their end by a client that reads answers whole, or not JSON of ours."""


def role_for(method: str, path: str) -> Role:
    endpoints = {(m, p): endpoint for m, p, endpoint, _ in ROUTES.values()}
    endpoint = endpoints.get((method.upper(), path))
    return Role.OPERATOR if endpoint is None else min(MATRIX[endpoint].roles, key=lambda role: role != Role.APP)


def storm(directory: RunningDirectory, document: dict[str, Any], examples: int) -> int:
    def client_for(method: str, path: str) -> requests.Session:
        role = role_for(method, path)
        jurisdiction = GLOBAL if role is Role.OPERATOR else "eu"
        return session(directory.trust.credentials(jurisdiction, role, NAMES.get(role, "fra")), GLOBAL)

    return generated.storm(directory.address, document, client_for, examples, without=STREAMS)


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
    assert await asyncio.to_thread(storm, directory, await described(directory), examples) > 8 * examples
