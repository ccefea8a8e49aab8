"""Errors as problem documents (RFC 9457), the same from every service, and never an exception's text."""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import Final

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.typedefs import Handler
from pydantic import ValidationError

from domicile.model.errors import DomicileError, Unavailable
from domicile.model.wire import PROBLEM_TYPE, Problem
from domicile.telemetry import REFUSALS, place_of, warn

_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,54}")


def problem_of(error: DomicileError) -> tuple[Problem, dict[str, str]]:
    """What a refusal says, and the header fields beside it: ``Retry-After`` where trying again makes sense."""
    problem = Problem(
        title=HTTPStatus(error.status).phrase,
        status=error.status,
        code=error.code,
        detail=error.what,
        remedy=error.remedy or None,
        **error.extensions(),
    )
    headers = {"Cache-Control": "no-store"}
    if isinstance(error, Unavailable):
        headers["Retry-After"] = str(error.retry_after)
    if error.status == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = "Bearer"
    return problem, headers


def problem_response(error: DomicileError) -> web.Response:
    """The answer to a refusal."""
    problem, headers = problem_of(error)
    return web.Response(
        status=problem.status,
        body=problem.model_dump_json(exclude_none=True),
        content_type=PROBLEM_TYPE,
        headers=headers,
    )


def plain_problem(status: int, code: str, detail: str) -> web.Response:
    body = Problem(title=HTTPStatus(status).phrase, status=status, code=code, detail=detail)
    return web.Response(status=status, body=body.model_dump_json(exclude_none=True), content_type=PROBLEM_TYPE)


def where_invalid(error: ValidationError) -> str:
    """Which members of a body are wrong, and how; never what they held.

    A name that nobody declared is the caller's own word: told where it looks like a name, since it might be a value.
    """
    found = error.errors(include_input=False, include_context=False, include_url=False)
    return "; ".join(f"{'.'.join(map(_named, item['loc'])) or 'body'}: {item['type']}" for item in found)[:500]


def _named(part: int | str) -> str:
    return str(part) if isinstance(part, int) or _NAME.fullmatch(part) else "?"


@web.middleware
async def problem_middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn what a handler raises into a problem document; an unforeseen error is 500 and tells nothing."""
    try:
        return await handler(request)
    except DomicileError as error:
        REFUSALS.labels(error.code).inc()
        return problem_response(error)
    except ValidationError as error:
        REFUSALS.labels("invalid-input").inc()
        return plain_problem(422, "invalid-input", where_invalid(error))
    except web.HTTPRequestEntityTooLarge:
        REFUSALS.labels("too-large").inc()
        return plain_problem(413, "too-large", "the body is larger than this service accepts")
    except (web.RequestPayloadError, HttpProcessingError):
        REFUSALS.labels("bad-request").inc()
        return plain_problem(400, "bad-request", "a body that is not encoded as its head says")
    except web.HTTPException as error:
        if error.status < 400:
            raise
        answer = plain_problem(error.status, f"http-{error.status}", HTTPStatus(error.status).phrase)
        if isinstance(error, web.HTTPMethodNotAllowed):
            answer.headers["Allow"] = ",".join(sorted(error.allowed_methods))  # RFC 9110, 15.5.6
        return answer
    except ConnectionResetError:
        raise
    except Exception as error:
        warn("unforeseen", error=type(error).__name__, place=place_of(error))
        return plain_problem(500, "internal", "an unforeseen error; the log names its class")
