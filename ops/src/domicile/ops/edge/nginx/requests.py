"""How nginx reads a request: which are a router's at first sight, what proves whom they are for, what of them goes on.

Variables are nginx's own maps, computed when they are first looked at. What they hold of proofs is in memory for as
long as the request; keys of what is kept are digests.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from domicile.model.wire import TOKEN_COOKIE
from domicile.ops.edge.nginx.blocks import mapped
from domicile.ops.edge.view import AMBIGUOUS, GATEWAY_PATHS, HOST, View

IN_MEMORY_BYTES: Final = 65_536
"""Of a body that can be sent a second time: what a router keeps for a replay, too."""
_OTHERWISE_READ: Final = r"~^[^?]*(?:[%;]|//)"
"""A path that a server may read as another one, which may name a subject."""
_SIZES: Final = r"[0-9]{1,4}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-6]"
"""Decimal numbers up to ``IN_MEMORY_BYTES``."""


def _cookie(name: str) -> str:
    return rf"(?:^|;)\s*{re.escape(name)}\s*="


def _target(pattern: str) -> str:
    if pattern.endswith("*"):
        return f"~^{re.escape(pattern[:-1])}"
    return rf"~^{re.escape(pattern)}(?:\?|$)"


def paths(view: View) -> list[str]:
    """``$domicile_path``: ``ask`` for what may be a subject's own, else ``router``."""
    entries: dict[str, object] = {
        f"~^[^?]*{AMBIGUOUS}|[^!-~]|#": "router",
        f"~^{re.escape(GATEWAY_PATHS)}": "router",
    }
    entries |= {rf"~^{pattern}(?:\?|$)": "router" for pattern in view.named_paths}
    if view.named_paths:
        entries[_OTHERWISE_READ] = "router"
    entries |= {_target(rule.path): "router" if rule.kind == "unpinned" else "ask" for rule in view.classes}
    return mapped("$request_uri", "$domicile_path", {"default": "ask", **entries})


def proofs(view: View) -> Iterable[str]:
    """``$domicile_proofs``: all that a router names a subject by, one a line, and ``$domicile_first``, what becomes of
    a request at first sight. Proofs that a router would compare are a router's."""
    names = [TOKEN_COOKIE, *view.sessions]
    variables = []
    for number, name in enumerate(names):
        variables.append(f"$domicile_cookie_{number}")
        found = {rf"~{_cookie(name)}(?<domicile_value_{number}>[^;]*)": f"$domicile_value_{number}", "default": ""}
        yield from mapped("$http_cookie", variables[-1], found)
    twice = {rf"~{_cookie(name)}.*{_cookie(name)}": "router" for name in names}
    yield from mapped("$http_cookie", "$domicile_cookies", {"default": "ask", **twice})
    hosts = {f"~*^{pattern}$": "router" for pattern in view.named_hosts}
    yield from mapped("$http_host", "$domicile_host", {"default": "router", **hosts, f"~^{HOST}$": "ask"})
    shown = ["$http_authorization", "$domicile_token", *variables]
    # a value can hold no line end, so that two sets of proofs never look alike
    yield from mapped("$domicile_connection", "$domicile_proofs", {"default": "\n".join(shown)})
    yield from mapped("".join(shown), "$domicile_named", {"": "router", "default": "ask"})
    first = "$domicile_path $domicile_host $domicile_cookies $domicile_named"
    yield from mapped(first, "$domicile_first", {"ask ask ask ask": "ask", "default": "router"})


def passed_on() -> Iterable[str]:
    """The cookies without the token, an upgrade to a WebSocket and no other, and how a body can be sent."""
    pair = re.escape(TOKEN_COOKIE) + r"\s*=[^;]*"
    without = {
        rf"~^\s*{pair}(?:;\s*)?(?<domicile_rest>.*)$": "$domicile_rest",
        rf"~^(?<domicile_before>.*?);\s*{pair}(?<domicile_after>.*)$": "$domicile_before$domicile_after",
        "default": "$http_cookie",
    }
    yield from mapped("$http_cookie", "$domicile_cookie", without)
    asked = r"~*^websocket (?:.*,)?\s*upgrade\s*(?:,|$)"
    yield from mapped("$http_upgrade $http_connection", "$domicile_upgrade", {asked: "websocket", "default": ""})
    yield from mapped("$domicile_upgrade", "$domicile_connection", {"websocket": "upgrade", "default": ""})
    unread = {"~^(?:GET|HEAD|OPTIONS|DELETE)::$": "home", rf"~^[A-Z]+::(?:{_SIZES})$": "home", "default": "streamed"}
    yield from mapped("$request_method:$http_transfer_encoding:$http_content_length", "$domicile_sent", unread)
    # what a decision depends on is whether a method changes anything
    safe = dict.fromkeys(("GET", "HEAD", "OPTIONS"), "GET")
    yield from mapped("$request_method", "$domicile_method", {**safe, "default": "POST"})
