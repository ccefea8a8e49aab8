"""Each endpoint refuses each role that the matrix does not name, in each jurisdiction."""

from __future__ import annotations

import aiohttp
import pytest
from domicile_testing.directories import NAMES, RunningDirectory, any_key

from domicile.model import GLOBAL, MATRIX, Endpoint, Identity, Role, may

ROUTES = [
    ("GET", "/healthz", Endpoint.HEALTH),
    ("GET", "/readyz", Endpoint.READY),
    ("GET", "/metrics", Endpoint.HEALTH),
    ("GET", "/v1/pins/{key}", Endpoint.PINS_READ),
    ("POST", "/v1/pins:resolve", Endpoint.PINS_READ),
    ("GET", "/v1/changes?after=x", Endpoint.PINS_FOLLOW),
    ("PUT", "/v1/pins/{key}", Endpoint.PINS_CLAIM),
    ("POST", "/v1/pins/{key}/grants", Endpoint.PINS_GRANT),
    ("DELETE", "/v1/pins/{key}?epoch=1", Endpoint.PINS_ERASE),
    ("DELETE", "/v1/pins/{key}/aliases", Endpoint.PINS_ERASE),
    ("POST", "/v1/pins/{key}/rekey", Endpoint.PINS_REKEY),
    ("GET", "/v1/peppers", Endpoint.PEPPERS_READ),
    ("PUT", "/v1/peppers/256", Endpoint.PEPPERS_CHANGE),
    ("DELETE", "/v1/peppers/256", Endpoint.PEPPERS_CHANGE),
    ("PUT", "/v1/aliases/email/{key}", Endpoint.ALIASES),
    ("GET", "/v1/aliases/email/{key}", Endpoint.ALIASES),
    ("DELETE", "/v1/aliases/email/{key}?subject_key={key}", Endpoint.ALIASES),
    ("GET", "/v1/topology", Endpoint.TOPOLOGY_READ),
    ("GET", "/openapi.json", Endpoint.TOPOLOGY_READ),
    ("PUT", "/v1/topology", Endpoint.TOPOLOGY_PUBLISH),
    ("GET", "/.well-known/jwks.json", Endpoint.TOPOLOGY_READ),
    ("GET", "/v1/jwks/residency", Endpoint.TOPOLOGY_READ),
    ("GET", "/v1/reconciliation", Endpoint.RECONCILIATION_READ),
    ("POST", "/v1/reconciliation/fences", Endpoint.RECONCILIATION_REPORT),
    ("GET", "/v1/replicas", Endpoint.REPLICAS_READ),
    ("PUT", "/v1/signing-keys/{key}", Endpoint.SIGNING_KEYS_PUBLISH),
    ("DELETE", "/v1/signing-keys/{key}", Endpoint.SIGNING_KEYS_PUBLISH),
    ("POST", "/v1/signing-keys/{key}/revoke", Endpoint.SIGNING_KEYS_REVOKE),
]
NO_CALLERS = {Role.DIRECTORY, Role.STORAGE, Role.HOLDER}
"""Roles that no route of the directory is for: their connections end in the handshake."""


@pytest.mark.parametrize("role", Role)
async def test_the_matrix_holds_at_each_route(directory: RunningDirectory, role: Role) -> None:
    for jurisdiction in ("eu", "us", GLOBAL):
        name = NAMES.get(role, "fra")
        caller = Identity("acme", jurisdiction, role, name)
        callee = Identity("acme", GLOBAL, Role.DIRECTORY, "fra")
        for method, pattern, endpoint in ROUTES:
            path = pattern.format(key=any_key())
            if role in NO_CALLERS and caller != callee:  # which may ask itself how it is
                assert role not in MATRIX[endpoint].roles
                with pytest.raises(aiohttp.ClientError):
                    await directory.ask(method, path, jurisdiction=jurisdiction, role=role, name=name)
                continue
            answer = await directory.ask(method, path, jurisdiction=jurisdiction, role=role, name=name)
            refused = answer.status == 403 and answer.body["code"] == "forbidden"
            assert refused != may(caller, callee, endpoint), (jurisdiction, role, method, pattern, answer.status)


async def test_an_unlisted_route_does_not_exist(directory: RunningDirectory) -> None:
    listed = {(method, pattern) for method, pattern, _ in ROUTES}
    for method, path in (("POST", "/v1/pins/{key}"), ("PATCH", "/v1/pins/{key}"), ("GET", "/v1/aliases/email")):
        assert (method, path) not in listed
        answer = await directory.ask(method, path.format(key=any_key()))
        assert answer.status in (404, 405)


async def test_without_a_certificate_nothing_is_served(directory: RunningDirectory) -> None:
    connector = aiohttp.TCPConnector(ssl=False)
    async with aiohttp.ClientSession(connector=connector) as session:
        with pytest.raises(aiohttp.ClientError):
            await session.get(f"https://{directory.address}/healthz")
