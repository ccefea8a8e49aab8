"""The router's own answers: refusals and redirects, all of them problem documents (RFC 9457)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from email.utils import formatdate
from http import HTTPStatus
from typing import Final

from aiohttp import web

from domicile.model import CrossBorderAccess, DomicileError
from domicile.model.wire import PROBLEM_TYPE, Problem
from domicile.router.decide import Redirect
from domicile.router.errors import MethodRefused
from domicile.router.lines import written
from domicile.service import problem_of

ALLOWED: Final = "GET, HEAD, OPTIONS, POST, PUT, PATCH, DELETE"
"""What an application may be asked by; it says by itself which of them it takes, and may take further ones."""


@dataclass(frozen=True, slots=True)
class Reply:
    """A problem document, and the header fields beside it."""

    problem: Problem
    fields: dict[str, str] = field(default_factory=dict)

    def encode(self, *, method: str, closes: bool) -> bytes:
        """As it goes to the client. ``closes``: its connection takes no further request."""
        status = HTTPStatus(self.problem.status)
        body = self.problem.model_dump_json(exclude_none=True).encode()
        fields = [
            ("Date", formatdate(usegmt=True)),  # RFC 9110, 6.6.1
            ("Content-Type", PROBLEM_TYPE),
            ("Content-Length", str(len(body))),
            *self.fields.items(),
        ]
        if closes:
            fields.append(("Connection", "close"))
        head = f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode("ascii") + written(fields) + b"\r\n"
        return head if method == "HEAD" else head + body

    def response(self, more: Mapping[str, str]) -> web.Response:
        """The same for an edge that hands it on. ``more``: fields for the edge itself."""
        return web.Response(
            status=self.problem.status,
            body=self.problem.model_dump_json(exclude_none=True),
            content_type=PROBLEM_TYPE,
            headers={**more, **self.fields},
        )


def refused(error: DomicileError) -> Reply:
    problem, fields = problem_of(error)
    if isinstance(error, MethodRefused):
        fields["Allow"] = ALLOWED  # RFC 9110, 15.5.6
    return Reply(problem, fields)


def unforeseen() -> Reply:
    status = HTTPStatus.INTERNAL_SERVER_ERROR
    detail = "an unforeseen error; the log names its class"
    return Reply(Problem(title=status.phrase, status=status, code="internal", detail=detail))


def redirected(decision: Redirect, target: str) -> Reply:
    problem = Problem(
        title=HTTPStatus.TEMPORARY_REDIRECT.phrase,
        status=HTTPStatus.TEMPORARY_REDIRECT,
        code=CrossBorderAccess.code,
        detail=f"the subject's home is in {decision.jurisdiction}",
        jurisdiction=decision.jurisdiction,
        public_host=decision.public_host,
    )
    where = f"https://{decision.public_host}{target}"
    return Reply(problem, {"Location": where, "Cache-Control": "no-store"})
