"""What a router refuses at the level of HTTP itself, beside the refusals of the common tree.

DomicileError
├── InvalidInput
│   ├── BadRequest          not a request that has one meaning                   400
│   ├── MethodRefused       a method that no application may see from outside    405
│   ├── SlowRequest         a head or a body stopped coming                      408
│   └── TooLarge
│       └── HeadTooLarge    head over 32 KiB, or over 128 fields                 431
└── AnswerLost              sent to the home, and the connection ended           502
"""

from __future__ import annotations

from http import HTTPStatus

from domicile.model.errors import DomicileError, InvalidInput, TooLarge


class BadRequest(InvalidInput):
    code = "bad-request"
    status = HTTPStatus.BAD_REQUEST


class MethodRefused(InvalidInput):
    code = "method-refused"
    status = HTTPStatus.METHOD_NOT_ALLOWED


class SlowRequest(InvalidInput):
    code = "slow-request"
    status = HTTPStatus.REQUEST_TIMEOUT


class HeadTooLarge(TooLarge):
    code = "head-too-large"
    status = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE


class AnswerLost(DomicileError):
    """The request may have taken effect; only the client knows whether repeating it is harmless."""

    code = "answer-lost"
    status = HTTPStatus.BAD_GATEWAY
