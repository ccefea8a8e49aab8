"""The whole configuration of an nginx at the edge, as text. Pure.

A request is asked about (``auth_request``, without its body) and then goes one of five ways, each a named location:
``home`` and ``streamed`` to the cell that was named, with a body that can be sent again or one that can't;
``redirect``; ``router`` for everything else; and, where a guard knew better, ``again``, which is a router's too.
Nothing of a body is written to disk: what isn't held in memory passes unbuffered.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from importlib.resources import files
from pathlib import Path
from typing import Final

from domicile.model.access import Identity, Role
from domicile.model.wire import (
    CELL_HEADER,
    DECIDE_ROUTE_PATH,
    EPOCH_HEADER,
    GUARD_HEADER,
    HEADER_PREFIX,
    PROBLEM_TYPE,
    STATUS_HEADER,
    SUBJECT_KEY_HEADER,
    TOKEN_HEADER,
    Problem,
)
from domicile.ops.edge.equipment import Equipment
from domicile.ops.edge.nginx.blocks import block, line, mapped
from domicile.ops.edge.nginx.requests import IN_MEMORY_BYTES, passed_on, paths, proofs
from domicile.ops.edge.view import View

_ASKED: Final = "/.domicile/edge/decide"
"""Nobody outside reaches it; gateway paths are no application's."""
_RETRY_SECONDS: Final = 2
_ROUTER_SECONDS: Final = 300
_PROXIES: Final = ("Forwarded", "X-Real-IP", "Via", "Tracestate", "TE", "Trailer", "Keep-Alive", "Proxy-Connection",
                   "Proxy-Authorization", "HTTP2-Settings")  # fmt: skip
"""What would speak of another hop, or ends at this one (RFC 9110, 7.6.1)."""
_MAX_BODY: Final = "64m"
_HEAD: Final = "32k"


class Memory(StrEnum):
    """Where decisions are kept: nginx's own cache (needs set-misc and headers-more) or Lua's shared dictionary."""

    CACHE = "cache"
    LUA = "lua"


_MODULES: Final = {
    Memory.CACHE: ("ndk_http_module", "ngx_http_set_misc_module", "ngx_http_headers_more_filter_module"),
    Memory.LUA: ("ndk_http_module", "ngx_http_lua_module"),
}


@dataclass(frozen=True, slots=True)
class Tuning:
    """``idle_seconds``: of silence of a cell; ``connect_seconds``: to reach one. ``megabytes``: of kept decisions, some
    300 bytes each. ``modules``: the folder of nginx's modules; the default is Debian's."""

    idle_seconds: float = 60.0
    connect_seconds: float = 2.0
    megabytes: int = 64
    modules: Path = Path("/usr/lib/nginx/modules")


def configuration(view: View, equipment: Equipment, memory: Memory, *, tuning: Tuning = Tuning()) -> str:
    """Paths of nginx's own are relative to its prefix (``-p``)."""
    return "\n".join(
        [
            f"# An edge of {view.deployment} in {view.zone}: it knows cells of {view.jurisdiction} alone.",
            *(line("load_module", tuning.modules / f"{name}.so") for name in _MODULES[memory]),
            "worker_processes auto;",
            "pcre_jit on;",
            "pid nginx.pid;",
            "# below emerg it would quote clients' addresses and request lines",
            "error_log stderr emerg;",
            "events { worker_connections 8192; }",
            *block("http", _http(view, equipment, memory, tuning)),
            "",
        ]
    )


def _lua(name: str) -> list[str]:
    return files(__package__).joinpath(f"{name}.lua").read_text().splitlines()


def _http(view: View, equipment: Equipment, memory: Memory, tuning: Tuning) -> Iterable[str]:
    yield from ("access_log off;", "server_tokens off;", "merge_slashes off;", "recursive_error_pages on;")
    for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"):
        yield line(f"{name}_temp_path", f"temp/{name}")
    yield from ("map_hash_bucket_size 256;", "variables_hash_max_size 2048;")
    if memory is Memory.CACHE:
        size = f"{tuning.megabytes}m"
        yield f"proxy_cache_path decisions keys_zone=domicile:{size} max_size={4 * tuning.megabytes}m inactive=1m;"
    else:
        yield f"lua_shared_dict domicile {tuning.megabytes}m;"
    yield from paths(view)
    yield from passed_on()
    yield from proofs(view)
    yield from _places(view)
    yield from block("server", _server(view, equipment, memory, tuning))


def _places(view: View) -> Iterable[str]:
    """Upstreams and names of the cells; a cell that isn't written down here has none, and is a router's."""
    for cell in view.cells:
        zones = [zone.address for zone in cell.zones]
        yield from block(f"upstream domicile_{cell.name}", [*_servers(zones), "keepalive 64;"])
    routers = [each.public for each in view.routers]
    yield from block("upstream domicile_routers", [*_servers(routers), "keepalive 64;"])
    deciders = [each.internal for each in view.routers]
    yield from block("upstream domicile_deciders", [*_servers(deciders), "keepalive 32;"])
    upstreams = {cell.name: f"domicile_{cell.name}" for cell in view.cells}
    yield from mapped("$domicile_cell", "$domicile_upstream", {"default": "", **upstreams})
    names = {cell.name: Identity.parse(cell.zones[0].uri).dns_name for cell in view.cells}
    yield from mapped("$domicile_cell", "$domicile_name", {"default": "nobody.invalid", **names})
    ways = {"~^307 https://": "redirect", "~^ :domicile_": "$domicile_sent", "default": "router"}
    yield from mapped("$domicile_status $domicile_location:$domicile_upstream", "$domicile_way", ways)


def _servers(addresses: Iterable[str]) -> list[str]:
    return [f"server {address} max_fails=1 fail_timeout=2s{' backup' if number else ''};"
            for number, address in enumerate(addresses)]  # fmt: skip


def _server(view: View, equipment: Equipment, memory: Memory, tuning: Tuning) -> Iterable[str]:
    if equipment.public is None:
        yield line("listen", equipment.listen)
    else:
        yield f"listen {equipment.listen} ssl http2;"
        yield line("ssl_certificate", equipment.public.certificate)
        yield line("ssl_certificate_key", equipment.public.key)
        yield "ssl_protocols TLSv1.2 TLSv1.3;"
    yield f"large_client_header_buffers 4 {_HEAD};"
    yield f"client_max_body_size {_MAX_BODY};"
    yield f"client_body_buffer_size {IN_MEMORY_BYTES};"
    yield f"keepalive_timeout {tuning.idle_seconds:g}s;"
    yield from _connections(view, equipment, tuning)
    if memory is Memory.CACHE:
        yield f"more_clear_headers '{HEADER_PREFIX}*';"
    else:
        yield from block("header_filter_by_lua_block", _lua("strip"))
    for head, body in _locations(view, equipment, memory):
        yield from block(f"location {head}", body)


def _connections(view: View, equipment: Equipment, tuning: Tuning) -> Iterable[str]:
    """How everything behind is spoken to, unless a location says otherwise."""
    yield "proxy_http_version 1.1;"
    yield "proxy_buffering off;"
    yield "proxy_buffer_size 32k;"
    yield "proxy_buffers 4 32k;"
    yield f"proxy_connect_timeout {tuning.connect_seconds:g}s;"
    yield f"proxy_read_timeout {tuning.idle_seconds:g}s;"
    yield f"proxy_send_timeout {tuning.idle_seconds:g}s;"
    yield "proxy_next_upstream error timeout;"
    yield "proxy_next_upstream_tries 2;"
    # an application may not steer this proxy, and its own words about itself pass
    yield "proxy_ignore_headers X-Accel-Redirect X-Accel-Expires X-Accel-Limit-Rate X-Accel-Buffering X-Accel-Charset;"
    yield "proxy_pass_header Server;"
    yield "proxy_pass_header Date;"
    yield line("proxy_ssl_certificate", equipment.own.certificate)
    yield line("proxy_ssl_certificate_key", equipment.own.key)
    yield line("proxy_ssl_trusted_certificate", equipment.authority(view.jurisdiction))
    yield "proxy_ssl_verify on;"
    yield "proxy_ssl_verify_depth 1;"
    yield "proxy_ssl_protocols TLSv1.3;"


def _locations(view: View, equipment: Equipment, memory: Memory) -> Iterable[tuple[str, list[str]]]:
    cache = memory is Memory.CACHE
    yield "/", list(_first(cache=cache))
    yield f"= {_ASKED}", list(_question(view, cache=cache))
    yield "@home", list(_home(view, cache=cache, again="@again"))
    yield "@streamed", list(_home(view, cache=cache, again=None))
    yield "@again", list(_again(cache=cache))
    yield "@router", list(_router(view, equipment, cache=cache))
    yield "@redirect", ["add_header Cache-Control no-store always;", "return 307 $domicile_location;"]
    yield "@gone", list(_gone())
    yield "@late", list(_late())


def _first(*, cache: bool) -> Iterable[str]:
    for name in ("cell", "subject", "epoch", "status", "location", "key", "keeps"):
        yield f'set $domicile_{name} "";'
    if cache:
        yield "set $domicile_token $http_domicile_token;"
        yield "set_sha1 $domicile_key $domicile_proofs;"
        yield "if ($domicile_first = router) { return 418; }"
    else:
        yield 'set $domicile_token "";'
        yield from block("rewrite_by_lua_block", _lua("decide"))
    yield f"auth_request {_ASKED};"
    said = {
        "cell": CELL_HEADER, "subject": SUBJECT_KEY_HEADER, "epoch": EPOCH_HEADER, "status": STATUS_HEADER,
        "location": "Location", "keeps": "Cache-Control",
    }  # fmt: skip
    for name, header in said.items():
        yield f"auth_request_set $domicile_{name} $upstream_http_{header.lower().replace('-', '_')};"
    if not cache:
        yield from block("access_by_lua_block", _lua("keep"))
    yield "error_page 418 500 = @router;  # a router that cannot be asked may yet answer"
    yield "root /nonexistent;"
    yield "try_files /nonexistent @$domicile_way;"


def _question(view: View, *, cache: bool) -> Iterable[str]:
    """Of the request nothing goes there but what it is decided by."""
    yield "internal;"
    yield f"proxy_pass https://domicile_deciders{DECIDE_ROUTE_PATH}$request_uri;"
    yield "proxy_method $domicile_method;"
    yield "proxy_pass_request_body off;"
    yield "proxy_pass_request_headers off;"
    asked = {
        "Host": "$http_host", "Connection": "", "Content-Length": "", "Authorization": "$http_authorization",
        "Cookie": "$http_cookie", TOKEN_HEADER: "$domicile_token",
    }  # fmt: skip
    yield from (line("proxy_set_header", name, f'{value}') if value else f'proxy_set_header {name} "";'
                for name, value in asked.items())  # fmt: skip
    yield line("proxy_ssl_name", Identity(view.deployment, view.jurisdiction, Role.ROUTER, view.zone).dns_name)
    if cache:
        yield "proxy_buffering on;"
        yield "proxy_max_temp_file_size 0;"
        yield "proxy_cache domicile;"
        yield "proxy_cache_key $domicile_key;"
        yield "proxy_cache_lock on;"


def _fields(view: View, more: dict[str, str], *, cache: bool) -> Iterable[str]:
    fields = {"Host": "$http_host", "Connection": "$domicile_connection", "Upgrade": "$domicile_upgrade",
              "Authorization": "$http_authorization", **more, **dict.fromkeys(view.untrusted, "")}  # fmt: skip
    if cache:
        yield f"more_clear_input_headers '{HEADER_PREFIX}*';"
    for name, value in fields.items():
        yield f"proxy_set_header {name} {value or chr(34) * 2};"


def _home(view: View, *, cache: bool, again: str | None) -> Iterable[str]:
    """``again``: where a guard's 421 goes; None: the body cannot be sent twice."""
    yield "proxy_pass https://$domicile_upstream$request_uri;"
    yield "proxy_ssl_name $domicile_name;"
    said = {
        SUBJECT_KEY_HEADER: "$domicile_subject",
        CELL_HEADER: "$domicile_cell",
        EPOCH_HEADER: "$domicile_epoch",
        "Cookie": "$domicile_cookie",
        **dict.fromkeys((TOKEN_HEADER, "X-Forwarded-For", *_PROXIES), ""),
    }
    yield from _fields(view, said, cache=cache)
    if cache:
        yield "more_clear_input_headers 'X-Forwarded-*';"
    yield "proxy_intercept_errors on;"
    yield "error_page 502 504 = @gone;"
    if again is None:
        yield "proxy_request_buffering off;"
        yield "error_page 421 = @late;"
    else:
        yield f"client_max_body_size {IN_MEMORY_BYTES};  # so that no body comes to lie on disk"
        yield f"error_page 421 = {again};"


def _only_a_guards() -> str:
    """An application's own 421 has been acted on, and is not tried again."""
    return f'if ($upstream_http_{GUARD_HEADER.lower().replace("-", "_")} = "") {{ return 421; }}'


def _again(*, cache: bool) -> Iterable[str]:
    yield _only_a_guards()
    if cache:
        yield "root /nonexistent;"
        yield "try_files /nonexistent @router;"
    else:
        yield from block("rewrite_by_lua_block", _lua("forget"))


def _router(view: View, equipment: Equipment, *, cache: bool) -> Iterable[str]:
    yield "proxy_pass https://domicile_routers$request_uri;"
    yield f"proxy_ssl_trusted_certificate {equipment.router_authority or equipment.authority(view.jurisdiction)};"
    yield f"proxy_ssl_name {view.public_name};"
    yield "proxy_ssl_server_name on;"
    yield f"proxy_read_timeout {_ROUTER_SECONDS}s;  # it has bounds of its own, and waits for moves"
    yield "proxy_ssl_protocols TLSv1.2 TLSv1.3;"
    yield "proxy_request_buffering off;"
    more = {TOKEN_HEADER: "$domicile_token"} if cache else {}
    yield from _fields(view, {"X-Forwarded-For": "$proxy_add_x_forwarded_for", **more}, cache=cache)
    yield "error_page 502 504 = @gone;"


def _problem(detail: str) -> str:
    problem = Problem(title="Service Unavailable", status=503, code="unavailable", detail=detail)
    return problem.model_dump_json(exclude_none=True)


def _refusal(detail: str) -> Iterable[str]:
    yield f"default_type {PROBLEM_TYPE};"
    yield f"add_header Retry-After {_RETRY_SECONDS} always;"
    yield "add_header Cache-Control no-store always;"
    yield f"return 503 '{_problem(detail)}';"


def _gone() -> Iterable[str]:
    """No answer came; where one did, its status stays."""
    yield 'if ($upstream_header_time ~ "[0-9]$") { set $domicile_own $upstream_status; }'
    yield "if ($domicile_own = 502) { return 502; }"
    yield "if ($domicile_own = 504) { return 504; }"
    yield from _refusal("the home cell does not answer")


def _late() -> Iterable[str]:
    yield _only_a_guards()
    yield from _refusal("the home of the subject changed while its request came in")
