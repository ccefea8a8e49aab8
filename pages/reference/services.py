"""Every HTTP service: its routes, who may call them, what goes in and out; and OpenAPI documents where there are any.

The services' own registration of routes is listened to, so that a page has each route that is served and no other.
Nothing is started, and no handler is called: what a handler would need is left out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, cast

from domicile.cells.border.api import BorderApi
from domicile.cells.gateway.api import GatewayApi
from domicile.cells.gateway.records import RecordsApi
from domicile.cells.gateway.routes import PARAMETERS as OF_GATEWAYS
from domicile.cells.keys.api import KeyApi
from domicile.cells.keys.hold import HolderApi
from domicile.cells.ledger.api import LedgerApi
from domicile.directory.routes import PARAMETERS as OF_DIRECTORIES
from domicile.directory.routes import ROUTES
from domicile.model import MATRIX, Endpoint, Identity, Role
from domicile.router.decisions import PARAMETERS as OF_ROUTERS
from domicile.router.decisions import decide_routes
from domicile.router.explain import explain_route
from domicile.service import Operation, Service
from domicile.service.openapi import Described, Schema, document
from pages.reference.markdown import cell, code, page, table
from pages.reference.schemas import default, value

_INTRODUCTION: Final = (
    "Every route of every service. All of them are reached over mutual TLS; the certificate's role and place "
    "decide, by the matrix of `domicile.model.access`. Each service also answers `GET /healthz`, `/readyz` and "
    "`/metrics`, and those with an OpenAPI document `GET /openapi.json`. Refusals are problem documents: "
    "[errors](errors.md). Applications need none of this: the SDK speaks it for them."
)
_PHRASES: Final = {"413": "Content Too Large", "422": "Unprocessable Content"}
"""RFC 9110's, which Python says from 3.13 on: the documents are the same whoever writes them."""
_NOTHING: Final[Any] = None
"""In the place of what only a handler uses."""


@dataclass(frozen=True, slots=True)
class Listened:
    method: str
    path: str
    endpoint: Endpoint
    operation: Operation | None


@dataclass
class Listener:
    """Takes the place of a ``Service`` while routes are registered."""

    routes: list[Listened] = field(default_factory=list)

    def route(
        self, method: str, path: str, endpoint: Endpoint, handler: object, operation: Operation | None = None
    ) -> None:
        if method != "*":  # what is refused, or answered as the described methods are
            self.routes.append(Listened(method, path, endpoint, operation))

    def describe(self, title: str, endpoint: Endpoint, parameters: Mapping[str, Schema], more: object = None) -> None:
        pass


@dataclass(frozen=True, slots=True)
class Served:
    name: str
    title: str
    file: str
    routes: list[Listened]
    parameters: Mapping[str, Schema]

    def openapi(self) -> dict[str, Any]:
        described = [
            Described(each.method, each.path, each.endpoint, each.operation) for each in self.routes if each.operation
        ]
        found = document(self.title, described, self.parameters)
        for operations in found["paths"].values():
            for operation in operations.values():
                for status, answer in operation["responses"].items():
                    answer["description"] = _PHRASES.get(status, answer["description"])
        return found


def services() -> Iterator[Served]:
    directory = [Listened(*route) for route in ROUTES.values()]
    yield Served("Directory", "Domicile directory", "directory.openapi.json", directory, OF_DIRECTORIES)
    router = Listener()
    decide_routes(cast("Service", router), _NOTHING)
    explain_route(cast("Service", router), _NOTHING)
    yield Served("Router, internal listener", "Domicile router", "router.openapi.json", router.routes, OF_ROUTERS)
    gateway, cell_of = Listener(), Identity("acme", "eu", Role.GATEWAY, "eu-1.fra")
    for api in (
        GatewayApi(cell_of, *[_NOTHING] * 7),
        RecordsApi(_NOTHING, _NOTHING),
        BorderApi(_NOTHING, _NOTHING),
        LedgerApi(cell_of, _NOTHING, _NOTHING, _NOTHING, _NOTHING),
    ):
        api.routes(cast("Service", gateway))
    yield Served("Gateway", "Domicile gateway", "gateway.openapi.json", gateway.routes, OF_GATEWAYS)
    keys, holder = Listener(), Listener()
    KeyApi(_NOTHING, _NOTHING, _NOTHING, 0).routes(cast("Service", keys))
    yield Served("Key service", "Domicile key service", "", keys.routes, {})
    HolderApi(_NOTHING, _NOTHING).routes(cast("Service", holder))
    yield Served("Key holder", "Domicile key holder", "", holder.routes, {})


def openapi_files() -> dict[str, str]:
    return {each.file: json.dumps(each.openapi(), indent=1) + "\n" for each in services() if each.file}


def services_page() -> str:
    return page("HTTP APIs", _INTRODUCTION, *(_service(each) for each in services()))


def _who(endpoint: Endpoint) -> str:
    rule = MATRIX[endpoint]
    return f"{', '.join(sorted(rule.roles))} ({rule.scope})"


def _plain(path: str) -> str:
    """Without aiohttp's pattern of a parameter."""
    return re.sub(r"{(\w+):.*?}(?=/|$)", r"{\1}", path)


def _service(served: Served) -> str:
    told = [f"## {served.name}"]
    if served.file:
        told.append(f"[{served.file}]({served.file}) is its OpenAPI document.")
    routes: dict[tuple[str, Endpoint, str], list[str]] = {}
    for each in served.routes:
        summary = each.operation.summary if each.operation else ""
        routes.setdefault((_plain(each.path), each.endpoint, summary), []).append(each.method)
    rows = [
        [" ".join(methods), code(path), cell(summary), _who(endpoint)]
        for (path, endpoint, summary), methods in routes.items()
    ]
    described = any(row[2] for row in rows)
    head = ["method", "path", "does", "for"]
    told.append(
        table(head if described else [*head[:2], head[3]], rows if described else [[*row[:2], row[3]] for row in rows])
    )
    if served.file:
        told.append(_bodies(served.openapi()["components"]["schemas"]))
    return "\n\n".join(told)


def _bodies(schemas: Mapping[str, Schema]) -> str:
    """What goes in and out, a line for each member."""
    rows = []
    for name, model in sorted(schemas.items()):
        required = set(model.get("required", ()))
        for key, each in model.get("properties", {}).items():
            rows.append(
                [
                    code(name),
                    code(key),
                    value(each, {}),
                    default(each, required=key in required),
                ]
            )
            name = ""
    return "Bodies:\n\n" + table(["model", "member", "value", "default"], rows)
