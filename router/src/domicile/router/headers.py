"""Which header fields pass, in either direction, and which the router says itself.

Hop-by-hop fields end here, with those that ``Connection`` names (RFC 9110, 7.6.1). What claims to come from
a router or a proxy in front (``Domicile-*``, ``Forwarded`` and its older kin) is never passed on: the
application would believe it. The residency token is for routers; it goes to another router, never to an
application.
"""

from __future__ import annotations

from collections.abc import Iterable
from http.cookies import SimpleCookie
from typing import Final

from multidict import CIMultiDict, CIMultiDictProxy

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

Headers = CIMultiDict[str] | CIMultiDictProxy[str]
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
_FORWARDED: Final = frozenset({"forwarded", "x-real-ip", "via", "expect", "tracestate"})
_VIA: Final = "1.1 domicile"


def _dropped(headers: Headers) -> frozenset[str]:
    named = {name.strip().lower() for value in headers.getall("Connection", []) for name in value.split(",")}
    # a message's own framing is not the connection's to take away
    return HOP_BY_HOP | (named - {"content-length", "host", ""})


def cookie_values(headers: Headers, name: str) -> list[str]:
    """Every value that the request's cookies carry under ``name``."""
    pairs = (pair.strip().partition("=") for value in headers.getall("Cookie", []) for pair in value.split(";"))
    return [value.strip('"') for key, _, value in pairs if key.strip() == name]


def _without_token(cookies: Iterable[str]) -> str:
    pairs = (pair.strip() for value in cookies for pair in value.split(";"))
    return "; ".join(pair for pair in pairs if pair and pair.partition("=")[0].strip() != TOKEN_COOKIE)


def request_headers(headers: Headers, *, to_router: bool) -> CIMultiDict[str]:
    """What of a client's request goes on to an application, or ``to_router`` to another router."""
    dropped = _dropped(headers)
    passed: CIMultiDict[str] = CIMultiDict()
    for name, value in headers.items():
        low = name.lower()
        if low in dropped or low in _FORWARDED or low.startswith("x-forwarded-") or low == "cookie":
            continue
        if low.startswith(HEADER_PREFIX) and not (to_router and low == TOKEN_HEADER.lower()):
            continue
        passed.add(name, value)
    cookies = headers.getall("Cookie", [])
    if cookie := "; ".join(cookies) if to_router else _without_token(cookies):
        passed.add("Cookie", cookie)
    passed.add("Via", ", ".join([*headers.getall("Via", []), _VIA]))
    return passed


def statement(pin: Pin | None, country: str | None) -> dict[str, str]:
    """What the router tells the application of the request's subject and of where it came from."""
    said = {}
    if pin is not None:
        said = {SUBJECT_KEY_HEADER: str(pin.subject_key), CELL_HEADER: pin.cell, EPOCH_HEADER: str(pin.epoch)}
    if country is not None:
        said[COUNTRY_HEADER] = country
    return said


def response_headers(headers: Headers) -> CIMultiDict[str]:
    """What of an application's answer goes on to the client."""
    dropped = _dropped(headers)
    return CIMultiDict(
        (name, value)
        for name, value in headers.items()
        if name.lower() not in dropped and not name.lower().startswith(HEADER_PREFIX)
    )


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
