"""Which header fields pass, in either direction, and which the router says itself.

Hop-by-hop fields end here, with those that ``Connection`` names (RFC 9110, 7.6.1). What claims to come from
a router or a proxy in front (``Domicile-*``, ``Forwarded`` and its older kin) is never passed on: the
application would believe it. So would one that is behind a gateway interface believe ``Domicile_Cell``: of a
request only names of letters, digits and hyphens go on. The residency token is for routers; it goes to
another router, never to an application.
"""

from __future__ import annotations

import re
from http.cookies import SimpleCookie
from typing import Final

from domicile.model import Pin, SubjectKey
from domicile.model.wire import (
    CELL_HEADER,
    COUNTRY_HEADER,
    EPOCH_HEADER,
    HEADER_PREFIX,
    SUBJECT_KEY_HEADER,
    TOKEN_COOKIE,
    TOKEN_HEADER,
)
from domicile.router.lines import Fields, written

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
_FORWARDED: Final = frozenset({"forwarded", "x-real-ip", "via", "expect", "tracestate"})
_COMMON_NAME: Final = re.compile(r"[a-z0-9-]+")
_PERSISTENT: Final = frozenset({"keep-alive", "close", "upgrade", ""})
_OWN_VIA: Final = b"1.1 domicile"
_VIA: Final = b"Via: 1.1 domicile\r\n"
_TOKEN_COOKIE: Final = TOKEN_COOKIE.encode()
MAX_SAID: Final = 10_000
_SAID: Final[dict[SubjectKey, tuple[Pin, bytes]]] = {}
"""What was said of a pin, for as long as the replica gives the same one."""
_SUBJECT: Final = f"{SUBJECT_KEY_HEADER}: %b\r\n{CELL_HEADER}: %b\r\n{EPOCH_HEADER}: %d\r\n".encode()


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
    """Whether a field may come after the body of an answer (RFC 9110, 6.5.1). Of a request none does."""
    return (
        request_passes(name)
        and name not in _FRAMING
        and name not in ("authorization", "set-cookie", "content-encoding", "content-type", "content-range")
    )


def connection_options(headers: Fields) -> frozenset[str]:
    """What ``Connection`` says, in lower case."""
    fields = headers.getall("Connection", [])
    if not fields:
        return frozenset()
    return frozenset(option.strip().lower() for value in fields for option in value.split(","))


def named_fields(options: frozenset[str]) -> frozenset[str]:
    """The fields that ``Connection`` names: they end here. A message's own framing is not its to take away."""
    return options - _PERSISTENT - _FRAMING


def cookie_values(headers: Fields, name: str) -> list[str]:
    """Every value that the request's cookies carry under ``name``."""
    found = []
    for field in headers.getall("Cookie", []):
        if name in field:
            for pair in field.split(";"):
                key, _, value = pair.partition("=")
                if key.strip() == name:
                    found.append(value.strip().strip('"'))
    return found


def parted(fields: Fields) -> tuple[list[bytes], bytes]:
    """The values of cookies that are residency tokens, and all other cookies as one field's value."""
    if fields.cookies is not None:
        return fields.cookies
    tokens: list[bytes] = []
    others: list[bytes] = []
    for value in fields.special.get("cookie", ()):
        for pair in value.split(b";"):
            pair = pair.strip()
            if pair.startswith(_TOKEN_COOKIE):
                name, _, token = pair.partition(b"=")
                if name.rstrip() == _TOKEN_COOKIE:
                    tokens.append(token.strip().strip(b'"'))
                    continue
            if pair:
                others.append(pair)
    fields.cookies = tokens, b"; ".join(others)
    return fields.cookies


def changed(fields: Fields, options: frozenset[str], *, to_router: bool) -> bytes:
    """What goes on of a client's request, but not as it came: to an application, or ``to_router`` to another router.

    ``options``: what ``Connection`` says; the fields that it names end here, but for the way that ``Via`` tells.
    """
    lines = b""
    cookies = None if "cookie" in options else fields.special.get("cookie")
    if cookies is not None and (cookie := b"; ".join(cookies) if to_router else parted(fields)[1]):
        lines = b"Cookie: %b\r\n" % cookie
    if to_router and TOKEN_HEADER.lower() not in options:
        lines += written((TOKEN_HEADER, token) for token in fields.getall(TOKEN_HEADER, []))
    vias = fields.special.get("via")
    return lines + (_VIA if vias is None else b"Via: %b\r\n" % b", ".join([*vias, _OWN_VIA]))


def statement(pin: Pin | None, country: str | None) -> bytes:
    """What the router tells the application of the request's subject and of where it came from."""
    said = b""
    if pin is not None:
        known = _SAID.get(pin.subject_key)
        if known is not None and known[0] is pin:
            said = known[1]
        else:
            said = _SUBJECT % (str(pin.subject_key).encode(), pin.cell.encode(), pin.epoch)
            if len(_SAID) >= MAX_SAID:
                _SAID.clear()
            _SAID[pin.subject_key] = (pin, said)
    if country is not None:
        said += f"{COUNTRY_HEADER}: {country}\r\n".encode("ascii")
    return said


def kept_private(headers: Fields) -> bool:
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
