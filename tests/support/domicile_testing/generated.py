"""Requests that are generated from a service's description, over mutual TLS, and held against it (schemathesis)."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Collection
from typing import Any, Final

import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.strategies import SearchStrategy
from requests.adapters import HTTPAdapter
from schemathesis.checks import CHECKS
from schemathesis.core.result import Ok

from domicile.identity import Credentials

CHECKED: Final = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
)


class _Mutual(HTTPAdapter):
    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context
        super().__init__()

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, ssl_context=self._context, assert_hostname=False, **kwargs)


def session(credentials: Credentials, jurisdiction: str) -> requests.Session:
    """Plain TLS of the standard library: our names in certificates mean nothing to this client."""
    authority = credentials.authorities / f"{jurisdiction}.pem"
    context = ssl.create_default_context(cafile=str(authority))
    context.check_hostname = False
    context.load_cert_chain(credentials.certificate, credentials.key)
    opened = requests.Session()
    opened.trust_env = False
    opened.verify = str(authority)
    opened.mount("https://", _Mutual(context))
    return opened


def storm(
    address: str,
    document: dict[str, Any],
    client_for: Callable[[str, str], requests.Session],
    examples: int,
    *,
    without: Collection[str] = (),
) -> int:
    """Every operation but those of some paths, some generated requests each; how many were answered as described.

    ``client_for``: a method and a path's client, which is closed here.
    """
    answered = 0
    for found in schemathesis.openapi.from_dict(document).get_all_operations():
        assert isinstance(found, Ok)
        operation = found.ok()
        if operation.path in without:
            continue
        with client_for(operation.method, operation.path) as client:
            answered += _ask(address, client, operation.as_strategy(), examples)
    return answered


def _ask(address: str, client: requests.Session, cases: SearchStrategy[Any], examples: int) -> int:
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
        response = case.call(base_url=f"https://{address}", session=client, timeout=10)
        case.validate_response(response, checks=checks)
        answered += 1

    try_one()
    return answered
