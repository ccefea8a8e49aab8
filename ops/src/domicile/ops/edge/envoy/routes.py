"""Which requests an edge may send to a cell itself: those on a subject's own path, with a valid token of a cell here.

Every other one goes to a router, which knows what to make of it: no token, a bad one or several, a path that belongs
to nobody or that two readers read differently, a subject named by path or host, a home in another jurisdiction, a cell
that is newer than this configuration.
"""

from __future__ import annotations

import re
from typing import Any, Final

from domicile.model.rules import PathRule
from domicile.model.wire import CELL_HEADER, EPOCH_HEADER, GUARD_HEADER, SUBJECT_KEY_HEADER, TOKEN_COOKIE, TOKEN_HEADER
from domicile.ops.edge.envoy.clusters import ROUTERS
from domicile.ops.edge.envoy.proto import Message, extension, matching, seconds
from domicile.ops.edge.envoy.recipe import Recipe, Tuning
from domicile.ops.edge.view import AMBIGUOUS, GATEWAY_PATHS, HOST, REFUSED_METHODS, View

ROUTES: Final = "domicile"
SAFE_METHODS: Final = "GET|HEAD|OPTIONS"
_SEVERAL_READINGS: Final = r"[^?]*(?:%|;|//).*"


def _path(pattern: str) -> str:
    """``:path`` (with its query) of the requests that a pattern of the manifest matches, as a regular expression."""
    if pattern.endswith("*"):
        return re.escape(pattern[:-1]) + ".*"
    return re.escape(pattern) + r"(?:\?.*)?"


def _field(name: str, pattern: str, **more: Any) -> Message:
    return {"name": name, "string_match": matching(pattern), **more}


def _refused() -> list[list[Message]]:
    """What no router forwards, and Envoy would."""
    return [
        [_field(":method", "|".join(REFUSED_METHODS))],
        [_field(":authority", HOST, invert_match=True)],
    ]


def _for_routers(view: View) -> list[list[Message]]:
    """Each a set of fields that a request must have to be left to a router, whatever token it carries."""
    token = re.escape(TOKEN_COOKIE) + r"\s*="
    in_cookie = {"name": "cookie", "string_match": {"contains": f"{TOKEN_COOKIE}="}}
    found: list[list[Message]] = [
        [{"name": TOKEN_HEADER, "present_match": True}, in_cookie],
        [{"name": TOKEN_HEADER, "string_match": {"contains": ","}}],
        [in_cookie, _field("cookie", f".*{token}.*{token}.*")],
        [_field(":path", f"[^?]*{AMBIGUOUS}.*")],
        [_field(":path", re.escape(GATEWAY_PATHS) + ".*")],
    ]
    found += [[_field(":path", rf"{pattern}(?:\?.*)?")] for pattern in view.named_paths]
    if view.named_paths:  # a server may decode one that this edge takes for another
        found.append([_field(":path", _SEVERAL_READINGS)])
    found += [[_field(":authority", f"(?i:{pattern})")] for pattern in view.named_hosts]
    pinned: list[PathRule] = []
    for rule in view.classes:
        if rule.kind == "pinned":
            pinned.append(rule)
        else:
            exceptions = [_field(":path", _path(each.path), invert_match=True) for each in pinned]
            found.append([_field(":path", _path(rule.path)), *exceptions])
    return found


def _retrying(endpoints: int, idle: float, *, safe: bool) -> Message:
    """Each attempt goes to the next endpoint: what a guard refused before any handler ran, what was never sent, and
    of what can't take effect twice also what was lost."""
    lost = ",reset" if safe else ""
    return {
        "retry_on": f"connect-failure,refused-stream,retriable-headers{lost}",
        "retriable_headers": [{"name": GUARD_HEADER, "present_match": True}],
        "num_retries": endpoints,
        "retry_priority": extension(
            "retry_priorities.previous_priorities",
            "retry.priority.previous_priorities.v3.PreviousPrioritiesConfig",
            update_frequency=1,
        ),
        "retry_back_off": {"base_interval": "0.001s", "max_interval": "0.01s"},
        "per_try_idle_timeout": seconds(idle),
    }


def _action(view: View, target: Message, *, idle: float, zones: int, safe: bool) -> Message:
    """``idle``: seconds of silence until an attempt is given up; the request itself lasts as long as all of them."""
    endpoints = zones + len(view.routers)
    return {
        **target,
        "timeout": "0s",
        "idle_timeout": seconds(idle * (endpoints + 1)),
        "cluster_not_found_response_code": "SERVICE_UNAVAILABLE",
        "retry_policy": _retrying(endpoints, idle, safe=safe),
    }


def _to_cells(view: View, tuning: Tuning) -> list[Message]:
    cells = "|".join(re.escape(cell.name) for cell in view.cells)
    told: list[Message] = [
        _field(CELL_HEADER, cells),
        _field(SUBJECT_KEY_HEADER, "[0-9a-f]+"),
        _field(EPOCH_HEADER, "[1-9][0-9]*"),
    ]
    zones = max((len(cell.zones) for cell in view.cells), default=0)
    target = {"cluster_header": CELL_HEADER.lower()}
    ways = [
        ([_field("upgrade", "(?i:websocket)")], tuning.relay_seconds, False),
        ([_field(":method", SAFE_METHODS)], tuning.idle_seconds, True),
        ([], tuning.idle_seconds, False),
    ]
    return [
        {
            "match": {"prefix": "/", "headers": [*told, *fields]},
            "route": _action(view, target, idle=idle, zones=zones, safe=safe),
        }
        for fields, idle, safe in ways
    ]


def routes(view: View, recipe: Recipe) -> Message:
    """The route table. Unknown cells, closed ones and those of another jurisdiction are not in it.

    Where a router is asked about each request, its word is enough."""
    tuning = recipe.tuning
    router = _action(view, {"cluster": ROUTERS}, idle=tuning.relay_seconds, zones=0, safe=False)
    left = _refused() + ([] if recipe.asks else _for_routers(view))
    found = [{"match": {"prefix": "/", "headers": fields}, "route": router} for fields in left]
    if view.cells and (view.by_token or recipe.asks):
        found += _to_cells(view, tuning)
    found.append({"match": {"prefix": "/"}, "route": router})
    host = {
        "name": ROUTES,
        "domains": ["*"],
        "routes": found,
        "request_body_buffer_limit": tuning.replay_bytes,
    }
    return {"name": ROUTES, "virtual_hosts": [host]}
