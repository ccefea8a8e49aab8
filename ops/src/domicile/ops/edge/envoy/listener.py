"""What an edge's listener does with a request, filter by filter: who may be believed, and what a client gets to see."""

from __future__ import annotations

from http import HTTPStatus
from pathlib import Path
from typing import Final

from domicile.identity.tokens import LEEWAY_SECONDS
from domicile.model.errors import Unavailable
from domicile.model.wire import (
    DECIDE_ANSWER_PATH,
    GUARD_HEADER,
    PROBLEM_TYPE,
    RESIDENCY_KEYS_PATH,
    TOKEN_COOKIE,
    TOKEN_HEADER,
    Problem,
)
from domicile.ops.edge.envoy.clusters import BUFFER_BYTES, DECIDERS, DIRECTORY
from domicile.ops.edge.envoy.headers import CLAIMS, early, remembered, to_clients
from domicile.ops.edge.envoy.proto import Message, certificate, extension, seconds, socket, tls
from domicile.ops.edge.envoy.recipe import Recipe, Tuning
from domicile.ops.edge.equipment import Equipment
from domicile.ops.edge.view import View

LISTENER: Final = "domicile"
RETRY_AFTER_SECONDS: Final = 2
MAX_HEAD_KIB: Final = 32
MAX_FIELDS: Final = 128
MAX_STREAMS: Final = 100
_OF_CONNECTIONS: Final = (
    "connection", "content-length", "expect", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade",
)  # fmt: skip
_KEYS_TIMEOUT_SECONDS: Final = 3.0


def _keys(view: View, tuning: Tuning, jwks: Path | None) -> Message:
    """The directory's set for residency tokens alone: Envoy looks at no ``typ``, so that a pin grant must not be signed
    by a key that it knows."""
    if jwks is not None:
        return {"local_jwks": {"filename": str(jwks.absolute())}}
    uri = {
        "uri": f"https://{view.directory[0]}{RESIDENCY_KEYS_PATH}",
        "cluster": DIRECTORY,
        "timeout": seconds(_KEYS_TIMEOUT_SECONDS),
    }
    fetch = {"failed_refetch_duration": "1s"}  # before the listener opens, then again and again
    return {
        "remote_jwks": {"http_uri": uri, "cache_duration": seconds(tuning.keys_seconds), "async_fetch": fetch},
    }


def _tokens(view: View, tuning: Tuning, jwks: Path | None) -> Message:
    """Verifies the residency token; a request without a valid one goes on, and is a router's."""
    provider = {
        "issuer": view.deployment,
        "from_headers": [{"name": TOKEN_HEADER}],
        "from_cookies": [TOKEN_COOKIE],
        "forward": True,
        "require_expiration": True,
        "clock_skew_seconds": LEEWAY_SECONDS,
        "claim_to_headers": [{"header_name": name, "claim_name": claim} for claim, name in CLAIMS.items()],
        "clear_route_cache": True,
        "jwt_cache_config": {"jwt_cache_size": tuning.known_tokens},
        **_keys(view, tuning, jwks),
    }
    either = {"requires_any": {"requirements": [{"provider_name": "residency"}, {"allow_missing_or_failed": {}}]}}
    return extension(
        "filters.http.jwt_authn",
        "filters.http.jwt_authn.v3.JwtAuthentication",
        providers={"residency": provider},
        rules=[{"match": {"prefix": "/"}, "requires": either}],
    )


_STALE: Final = """
function envoy_on_response(answer)
  local fields = answer:headers()
  if fields:get("{guard}") == nil then return end
  fields:replace(":status", "{status}")
  fields:replace("retry-after", "{seconds}")
  fields:replace("content-type", "{kind}")
  local length = answer:body(true):setBytes([[{problem}]])
  fields:replace("content-length", length)
end
"""


def _stale() -> Message:
    """A guard's refusal that could not be sent on to a router, its request being too long to be kept: 503."""
    problem = Problem(
        title=HTTPStatus(Unavailable.status).phrase,
        status=Unavailable.status,
        code=Unavailable.code,
        detail="the subject's home changed while its request came in",
    )
    script = _STALE.format(
        guard=GUARD_HEADER.lower(),
        status=int(problem.status),
        seconds=RETRY_AFTER_SECONDS,
        kind=PROBLEM_TYPE,
        problem=problem.model_dump_json(exclude_none=True),
    )
    return extension("filters.http.lua", "filters.http.lua.v3.Lua", default_source_code={"inline_string": script})


def _decisions(tuning: Tuning) -> Message:
    """Asks a router what becomes of each request: where it has an answer for the client that is passed on; of whom it
    says that this edge may send to a cell, the statement is added. A router that can't be asked is sent the request."""
    uri = {"uri": f"https://{DECIDERS}", "cluster": DECIDERS, "timeout": seconds(tuning.connect_seconds)}
    service = {
        "server_uri": uri,
        "path_prefix": DECIDE_ANSWER_PATH,
        "authorization_response": {
            "allowed_upstream_headers": {"patterns": [{"exact": name.lower()} for name in CLAIMS.values()]}
        },
    }
    return extension(
        "filters.http.ext_authz",
        "filters.http.ext_authz.v3.ExtAuthz",
        http_service=service,
        allowed_headers={"patterns": [{"safe_regex": {"regex": "[a-z0-9-]+"}}]},
        disallowed_headers={"patterns": [{"exact": name} for name in _OF_CONNECTIONS]},
        failure_mode_allow=True,
        clear_route_cache=True,
    )


def _own_answers() -> Message:
    """Envoy's own refusals as problem documents (RFC 9457), those that pass with the time to come back."""

    def problem(code: str) -> Message:
        return {
            "json_format": {"type": "about:blank", "title": "refused", "status": "%RESPONSE_CODE%", "code": code},
            "content_type": PROBLEM_TYPE,
        }

    unavailable = {
        "filter": {
            "status_code_filter": {
                "comparison": {"op": "GE", "value": {"default_value": 502, "runtime_key": "domicile.unserved"}}
            }
        },
        "status_code": Unavailable.status,
        "body_format_override": problem(Unavailable.code),
        "headers_to_add": [
            {
                "header": {"key": "retry-after", "value": str(RETRY_AFTER_SECONDS)},
                "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
            },
            {"header": {"key": "cache-control", "value": "no-store"}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"},
        ],
    }
    whole = {"text_format_source": {"inline_string": "%LOCAL_REPLY_BODY%"}, "content_type": PROBLEM_TYPE}
    of_a_router = {"filter": {"response_flag_filter": {"flags": ["UAEX"]}}, "body_format_override": whole}
    return {"mappers": [of_a_router, unavailable], "body_format": problem("http-%RESPONSE_CODE%")}


def _manager(view: View, tuning: Tuning, routes: Message, filters: list[Message]) -> Message:
    router = extension("filters.http.router", "filters.http.router.v3.Router", suppress_envoy_headers=True)
    return extension(
        "filters.network.http_connection_manager",
        "filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix="domicile",
        **routes,
        early_header_mutation_extensions=[early(view)],
        http_filters=[to_clients(), *filters, _stale(), *remembered(), router],
        use_remote_address=True,  # a router takes the client's country from X-Forwarded-For
        generate_request_id=False,
        server_header_transformation="PASS_THROUGH",
        proxy_100_continue=True,  # who decides on the head alone must not have the body sent for nothing
        upgrade_configs=[{"upgrade_type": "websocket"}],
        local_reply_config=_own_answers(),
        request_headers_timeout=seconds(tuning.head_seconds),
        stream_idle_timeout=seconds(tuning.idle_seconds),
        max_request_headers_kb=MAX_HEAD_KIB,
        common_http_protocol_options={
            "idle_timeout": seconds(tuning.keepalive_seconds),
            "max_headers_count": MAX_FIELDS,
            "headers_with_underscores_action": "DROP_HEADER",  # an application may read one as a hyphen
        },
        http2_protocol_options={"max_concurrent_streams": MAX_STREAMS, "allow_connect": True},
    )


def listener(view: View, equipment: Equipment, recipe: Recipe, routes: Message) -> Message:
    """``routes``: the member of the connection manager that says where its routes are."""
    tuning = recipe.tuning
    chooses = _decisions(tuning) if recipe.asks else _tokens(view, tuning, recipe.jwks)
    chain: Message = {"filters": [_manager(view, tuning, routes, [chooses])]}
    if equipment.public is not None:
        common = {
            "tls_certificates": [certificate(equipment.public)],
            "tls_params": {"tls_minimum_protocol_version": "TLSv1_2"},
            "alpn_protocols": ["h2", "http/1.1"],
        }
        chain["transport_socket"] = tls("DownstreamTlsContext", common)
    return {
        "name": LISTENER,
        "address": socket(equipment.listen),
        "filter_chains": [chain],
        "per_connection_buffer_limit_bytes": BUFFER_BYTES,
    }
