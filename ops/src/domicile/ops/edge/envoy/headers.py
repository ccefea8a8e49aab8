"""Which fields of a request and an answer pass an edge: the rules of ``domicile.router.headers``, in Envoy's words.

Forgeries are taken out before a route is chosen. What a client says of itself reaches a cell as it would through a
router: without the residency token, and without anything that claims to come from a proxy. A request may go to a cell
first and to a router after, and Envoy keeps one set of fields for both: so that each attempt writes the fields that
differ anew, by what kind of endpoint it is for.
"""

from __future__ import annotations

import re
from typing import Final

from domicile.model.wire import (
    CELL_HEADER,
    EPOCH_HEADER,
    HEADER_PREFIX,
    SUBJECT_KEY_HEADER,
    TOKEN_COOKIE,
    TOKEN_HEADER,
)
from domicile.ops.edge.envoy.proto import Message, extension, matching, mutations
from domicile.ops.edge.view import View

CLAIMS: Final = {"sub": SUBJECT_KEY_HEADER, "cell": CELL_HEADER, "epoch": EPOCH_HEADER}
"""What a guard is told, and the claim of a residency token that says it."""
_SPACE: Final = "domicile"
_OF_ATTEMPTS: Final = ("cookie", TOKEN_HEADER.lower())
_MAX_METADATA: Final = 8192
"""Envoy rewrites no longer value (``header_to_metadata``): of a longer one the application sees the token too."""
_FROM_PROXIES: Final = (
    "x-forwarded-.*|x-envoy-.*|forwarded|x-real-ip|via|tracestate|trailer|proxy-authorization|http2-settings"
)
_ODD: Final = "[^:a-z0-9-].*|[a-z0-9-]+[^a-z0-9-].*"
"""Names that an application may read as another one, with a hyphen for a dot; HTTP/2's own begin with ``:``."""
_OF_ENVOY: Final = "x-envoy-.*"


def all_but(prefix: str, name: str) -> str:
    """A regular expression of every name that begins with ``prefix`` and is not ``name``; RE2 can't look ahead."""
    rest = name.removeprefix(prefix)
    shorter = "|".join(re.escape(rest[:length]) + f"(?:[^{re.escape(rest[length])}].*)?" for length in range(len(rest)))
    return f"{re.escape(prefix)}(?:{shorter}|{re.escape(rest)}.+)"


def early(view: View) -> Message:
    """Before a route is looked for, so that no forged field chooses one."""
    forged = all_but(HEADER_PREFIX, TOKEN_HEADER.lower())
    steps: list[Message] = [{"remove_on_match": {"key_matcher": matching(f"{forged}|{_ODD}")}}]
    steps += [{"remove": name} for name in view.untrusted]
    # of a field that is given twice a route would see the first alone: as one value it can be told
    for name in _OF_ATTEMPTS:
        one = f"%CEL('{name}' in request.headers ? request.headers['{name}'] : '')%"
        steps.append({"append": {"header": {"key": name, "value": one}, "append_action": "OVERWRITE_IF_EXISTS"}})
    name = "http.early_header_mutation.header_mutation"
    return extension(name, "http.early_header_mutation.header_mutation.v3.HeaderMutation", mutations=steps)


def remembered() -> list[Message]:
    """Filters that keep what each attempt writes anew: cookies and the token as they came, and cookies without it."""
    kept = [
        {
            "object_key": f"{_SPACE}.{name}",
            "factory_key": "envoy.string",
            "format_string": {"text_format_source": {"inline_string": f"%REQ({name})%"}, "omit_empty_values": True},
            "skip_if_empty": True,
        }
        for name in _OF_ATTEMPTS
    ]
    pair = re.escape(TOKEN_COOKIE) + r"\s*=[^;]*"
    token = {"regex": rf"^\s*(?:{pair}(?:;\s*|$))+|;\s*{pair}"}
    cookies = {
        "metadata_namespace": _SPACE,
        "key": "cookie",
        "regex_value_rewrite": {"pattern": token, "substitution": ""},
    }
    return [
        extension("filters.http.set_filter_state", "filters.http.set_filter_state.v3.Config", on_request_headers=kept),
        extension(
            "filters.http.header_to_metadata",
            "filters.http.header_to_metadata.v3.Config",
            request_rules=[{"header": "cookie", "on_header_present": cookies}],
        ),
    ]


def _kept(name: str) -> str:
    key = f"{_SPACE}.{name}"
    return f"('{key}' in filter_state ? filter_state['{key}'] : '')"


def _written(name: str, for_cells: str) -> list[Message]:
    """A field as it came, where the endpoint is a router, else what ``for_cells`` gives; no field for nothing."""
    peer = f"xds.upstream_host_metadata.filter_metadata['{_SPACE}']['peer']"
    value = f"%CEL({peer} == 'router' ? {_kept(name)} : {for_cells})%"
    return [{"remove": name}, {"append": {"header": {"key": name, "value": value}}}]


def to_cells() -> Message:
    """For each attempt at one of a cell's endpoints, routers among them."""
    whole = f"(size({_kept('cookie')}) > {_MAX_METADATA} ? {_kept('cookie')} : '')"
    rest = f"metadata.filter_metadata['{_SPACE}']['cookie']"
    known = f"('{_SPACE}' in metadata.filter_metadata && 'cookie' in metadata.filter_metadata['{_SPACE}'])"
    steps: list[Message] = [{"remove_on_match": {"key_matcher": matching(_FROM_PROXIES)}}]
    steps += _written("cookie", f"({known} ? {rest} : {whole})")
    steps += _written(TOKEN_HEADER.lower(), "''")
    return mutations(steps, of="request")


def to_routers() -> Message:
    return mutations([{"remove_on_match": {"key_matcher": matching(_OF_ENVOY)}}], of="request")


def to_clients() -> Message:
    """What applications and guards say to routers ends here, with what Envoy says of itself."""
    said = matching(f"(?:{re.escape(HEADER_PREFIX)}|x-envoy-).*")
    return mutations([{"remove_on_match": {"key_matcher": said}}], of="response")
