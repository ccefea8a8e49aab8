"""A service's description (OpenAPI 3.1), made from the routes that it serves and the models that validate.

Nothing is written down twice: a route's ``Operation`` names the pydantic models that its handler reads and
answers, ``read_body`` refuses to read any other, and their schemas are pydantic's own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Final, NamedTuple

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from domicile.model.access import MATRIX, Endpoint
from domicile.model.errors import DomicileError, Forbidden, InvalidInput, TooLarge, Unauthenticated, Unavailable
from domicile.model.wire import PROBLEM_TYPE, Problem

Schema = Mapping[str, Any]
_REFERENCE: Final = "#/components/schemas/{model}"
_PARAMETER: Final = re.compile(r"{(\w+)}")
_PATTERN: Final = re.compile(r"{(\w+):[^}]*}")
"""Of aiohttp's own: how a parameter is matched."""


@dataclass(frozen=True, slots=True)
class Operation:
    """What one route does. ``answers``: by status, a model, a content type, or nothing at all.

    ``query``: each parameter's schema; those in ``required`` must be given. ``headers``: the schemas of header fields
    that may be. ``refuses``: beside what every route refuses.
    """

    summary: str
    answers: Mapping[int, type[BaseModel] | str | None]
    body: type[BaseModel] | None = None
    query: Mapping[str, Schema] = field(default_factory=dict)
    required: frozenset[str] = frozenset()
    headers: Mapping[str, Schema] = field(default_factory=dict)
    refuses: tuple[type[DomicileError], ...] = ()


class Described(NamedTuple):
    """A route as it is served."""

    method: str
    path: str
    endpoint: Endpoint
    operation: Operation


def document(title: str, routes: Iterable[Described], parameters: Mapping[str, Schema]) -> dict[str, Any]:
    """The whole description. ``parameters``: the schema of each name in a path."""
    routes = [route._replace(path=_PATTERN.sub(r"{\1}", route.path)) for route in routes]
    models: dict[type[BaseModel], None] = {Problem: None}
    for route in routes:
        used = [route.operation.body, *route.operation.answers.values()]
        models |= dict.fromkeys(model for model in used if isinstance(model, type))
    references, schemas = models_json_schema([(model, "validation") for model in models], ref_template=_REFERENCE)
    known: dict[Any, Schema] = {model: schema for (model, _), schema in references.items()}
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, known, parameters)
    return {
        "openapi": "3.1.0",
        "info": {"title": title, "version": "1"},
        "paths": paths,
        "components": {"schemas": schemas["$defs"]},
    }


def _operation(
    route: Described, known: Mapping[type[BaseModel], Schema], parameters: Mapping[str, Schema]
) -> dict[str, Any]:
    operation = route.operation
    roles = ", ".join(sorted(MATRIX[route.endpoint].roles))
    described: dict[str, Any] = {
        "summary": operation.summary,
        "description": f"For: {roles} ({MATRIX[route.endpoint].scope}), by mutual TLS.",
        "parameters": [
            {"name": name, "in": "path", "required": True, "schema": dict(parameters[name])}
            for name in _PARAMETER.findall(route.path)
        ]
        + [
            {"name": name, "in": "query", "required": name in operation.required, "schema": dict(schema)}
            for name, schema in operation.query.items()
        ]
        + [
            {"name": name, "in": "header", "required": False, "schema": dict(schema)}
            for name, schema in operation.headers.items()
        ],
        "responses": _responses(operation, known),
    }
    if operation.body is not None:
        content = {"application/json": {"schema": known[operation.body]}}
        described["requestBody"] = {"required": True, "content": content}
    return described


def _responses(operation: Operation, known: Mapping[type[BaseModel], Schema]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for status, answer in operation.answers.items():
        response: dict[str, Any] = {"description": HTTPStatus(status).phrase}
        if isinstance(answer, str):
            response["content"] = {answer: {}}
        elif answer is not None:
            response["content"] = {"application/json": {"schema": known[answer]}}
        found[str(status)] = response
    always = (Forbidden, InvalidInput, Unauthenticated, Unavailable)
    bodies = (TooLarge,) if operation.body is not None else ()
    refusals = sorted({int(error.status) for error in (*always, *bodies, *operation.refuses)} | {400})
    for status in refusals:
        content = {PROBLEM_TYPE: {"schema": known[Problem]}}
        found.setdefault(str(status), {"description": HTTPStatus(status).phrase, "content": content})
    return found
