"""Which header fields pass, in either direction, and which the router says itself.

Hop-by-hop fields end here, with those that ``Connection`` names (RFC 9110, 7.6.1). What claims to come from
a router or a proxy in front (``Domicile-*``, ``Forwarded`` and its older kin) is never passed on: the
application would believe it. So would one that is behind a gateway interface believe ``Domicile_Cell``: of a
request only names of letters, digits and hyphens go on. The residency token is for routers; it goes to
another router, never to an application.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from http.cookies import SimpleCookie
from typing import Final, Protocol

from domicile.model import Pin
from domicile.model.wire import (
    CELL_HEADER,
    COUNTRY_HEADER,
    EPOCH_HEADER,
    HEADER_PREFIX,
    SUBJECT_KEY_HEADER,
    TOKEN_COOKIE,
    TOKEN_HEADER,
)


class Headers(Protocol):
    """Fields by name, whatever its case."""

    def getall(self, name: str, default: list[str], /) -> list[str]: ...

    def get(self, name: str, default: str, /) -> str: ...


HOP_BY_HOP: Final = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
_FRAMING: Final = frozenset({"content-length", "host"})
_OWN: Final = HOP_BY_HOP | {"content-length"}
"""What the router says itself, or not at all."""
_FORWARDED: Final = frozenset({"forwarded", "x-real-ip", "via", "expect"})
_COMMON_NAME: Final = re.compile(r"[a-z0-9-]+")
_PERSISTENT: Final = frozenset({"keep-alive", "close", "upgrade", ""})
_VIA: Final = "1.1 domicile"


def request_passes(name: str) -> bool:
    """Whether a request's field goes on as it is; ``name`` in lower case. Cookies go on, but not as they are."""
    return not (
        name in _OWN
        or name in _FORWARDED
        or name == "cookie"
        or name.startswith((HEADER_PREFIX, "x-forwarded-"))
        or not _COMMON_NAME.fullmatch(name)
    )


def answer_passes(name: str) -> bool:
    """Whether a field of an answer goes on to the client; ``name`` in lower case."""
    return not (name in _OWN or name.startswith(HEADER_PREFIX))


def trailer_passes(name: str) -> bool:
    """Whether a field may come after a body, in either direction (RFC 9110, 6.5.1)."""
    return (
        request_passes(name)
        and name not in _FRAMING
        and name not in ("authorization", "set-cookie", "content-encoding", "content-type", "content-range")
    )


def connection_options(headers: Headers) -> frozenset[str]:
    """What ``Connection`` says, in lower case."""
    fields = headers.getall("Connection", [])
    if not fields:
        return frozenset()
    return frozenset(option.strip().lower() for value in fields for option in value.split(","))


def named_fields(options: frozenset[str]) -> frozenset[str]:
    """The fields that ``Connection`` names: they end here. A message's own framing is not its to take away."""
    return options - _PERSISTENT - _FRAMING


def cookie_values(headers: Headers, name: str) -> list[str]:
    """Every value that the request's cookies carry under ``name``."""
    pairs = (pair.strip().partition("=") for value in headers.getall("Cookie", []) for pair in value.split(";"))
    return [value.strip('"') for key, _, value in pairs if key.strip() == name]


def _without_token(cookies: Iterable[str]) -> str:
    pairs = (pair.strip() for value in cookies for pair in value.split(";"))
    return "; ".join(pair for pair in pairs if pair and pair.partition("=")[0].strip() != TOKEN_COOKIE)


def special_fields(headers: Headers, *, to_router: bool) -> list[tuple[str, str]]:
    """Of a client's request, what goes on changed: to an application, or ``to_router`` to another router."""
    passed = []
    cookies = headers.getall("Cookie", [])
    if cookies and (cookie := "; ".join(cookies) if to_router else _without_token(cookies)):
        passed.append(("Cookie", cookie))
    if to_router:
        passed += [(TOKEN_HEADER, token) for token in headers.getall(TOKEN_HEADER, [])]
    passed.append(("Via", ", ".join([*headers.getall("Via", []), _VIA])))
    return passed


def statement(pin: Pin | None, country: str | None) -> list[tuple[str, str]]:
    """What the router tells the application of the request's subject and of where it came from."""
    said = []
    if pin is not None:
        said = [(SUBJECT_KEY_HEADER, str(pin.subject_key)), (CELL_HEADER, pin.cell), (EPOCH_HEADER, str(pin.epoch))]
    if country is not None:
        said.append((COUNTRY_HEADER, country))
    return said


def kept_private(headers: Headers) -> bool:
    """Whether no shared cache keeps an answer to a request with Authorization (RFC 9111, 3.5)."""
    directives = {
        directive.partition("=")[0].strip().lower()
        for value in headers.getall("Cache-Control", [])
        for directive in value.split(",")
    }
    return not directives & {"public", "s-maxage", "must-revalidate"}


def token_cookie(token: str, seconds: int) -> str:
    """``Set-Cookie`` for a residency token; the prefix makes browsers hold it to this host (RFC 6265bis, 4.1.3)."""
    cookie: SimpleCookie = SimpleCookie()
    cookie[TOKEN_COOKIE] = token
    morsel = cookie[TOKEN_COOKIE]
    morsel["path"], morsel["secure"], morsel["httponly"], morsel["samesite"] = "/", True, True, "Lax"
    morsel["max-age"] = seconds
    return morsel.OutputString()
