"""The files of an HAProxy at the edge, as text. Pure.

HAProxy cannot check an Ed25519 signature, so that a router is asked whom a request is for, and a digest of the proofs
remembered. Where that one lives is looked up in a map of every subject of the jurisdiction, which is kept over
HAProxy's own socket as the directory changes; whoever is not in it is a router's. A guard that knows better makes the
client come again (307): the entry is doubted, and a router serves it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.resources import files as resources
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
    SUBJECT_KEY_HEADER,
    TOKEN_COOKIE,
    Problem,
)
from domicile.ops.edge.equipment import Equipment, Pair
from domicile.ops.edge.view import AMBIGUOUS, GATEWAY_PATHS, HOST, REFUSED_METHODS, EdgeCell, View

CONFIGURATION: Final = "haproxy.cfg"
SUBJECTS: Final = "subjects.map"
DOUBTS: Final = "doubts.map"
SOCKET: Final = "admin.sock"
_LUA: Final = "identify.lua"
_OWN: Final = "own.pem"
_PUBLIC: Final = "public.pem"
_ASK: Final = "ask.sock"
_RETRY_SECONDS: Final = 2
_OF_PROXIES: Final = (
    "^(x-forwarded-.*|forwarded|x-real-ip|via|tracestate|te|trailer|keep-alive|proxy-.*|http2-settings)$"
)
_TOKEN: Final = re.escape(TOKEN_COOKIE) + r"\s*="


@dataclass(frozen=True, slots=True)
class Tuning:
    """``idle_seconds``: of silence of a cell; ``connect_seconds``: to reach one; ``health_seconds``: between two looks.

    ``remembered``: sets of proofs, some 250 bytes each, whose subject is remembered; twice as many at most.
    """

    idle_seconds: float = 60.0
    connect_seconds: float = 2.0
    health_seconds: float = 2.0
    remembered: int = 100_000


def files(view: View, equipment: Equipment, folder: Path, *, tuning: Tuning = Tuning()) -> dict[str, str]:
    """By name, all for one absolute ``folder``: paths of sockets and maps are written down. Two of them hold keys."""
    held = {_OWN: _joined(equipment.own_pair)}
    if equipment.public is not None:
        held[_PUBLIC] = _joined(equipment.public)
    return {
        CONFIGURATION: "\n".join([*_sections(view, equipment, folder, tuning), ""]),
        _LUA: _lua(view, folder, tuning),
        SUBJECTS: "",
        DOUBTS: "",
        **held,
    }


def _joined(pair: Pair) -> str:
    """HAProxy wants a certificate and its key in one file."""
    return pair.certificate.read_text() + pair.key.read_text()


def _lua(view: View, folder: Path, tuning: Tuning) -> str:
    text = resources(__package__).joinpath(_LUA).read_text()
    cookies = ", ".join(f'["{name}"] = true' for name in (TOKEN_COOKIE, *view.sessions))
    filled = {
        "COOKIES": cookies,
        "ASK": str(folder / _ASK),
        "MOST": str(tuning.remembered),
        "DECIDE": DECIDE_ROUTE_PATH,
    }
    for name, value in filled.items():
        text = text.replace(f"@{name}@", value)
    return text


def _section(head: str, body: Iterable[str]) -> Iterable[str]:
    yield head
    yield from (f"    {line}" for line in body)
    yield ""


def _sections(view: View, equipment: Equipment, folder: Path, tuning: Tuning) -> Iterable[str]:
    yield f"# An edge of {view.deployment} in {view.zone}: it knows cells of {view.jurisdiction} alone."
    yield from _section("global", _global(folder))
    yield from _section("defaults", _defaults(tuning))
    yield from _section("frontend domicile", _frontend(view, equipment, folder))
    for cell in view.cells:
        yield from _section(f"backend cell_{cell.name}", _cell(view, cell, equipment, folder, tuning))
    yield from _section("backend routers", _routers(view, equipment, folder, tuning))
    asked = [f"bind unix@{folder / _ASK} mode 600", "default_backend deciders"]
    yield from _section("frontend ask", asked)
    yield from _section("backend deciders", _deciders(view, equipment, folder, tuning))


def _global(folder: Path) -> Iterable[str]:
    # nothing is logged: a line of HAProxy's own would hold addresses and targets
    yield f"stats socket {folder / SOCKET} mode 600 level admin"
    yield f"lua-load {folder / _LUA}"
    yield "tune.bufsize 65536"
    yield "tune.http.maxhdr 128"
    yield "ssl-default-bind-options ssl-min-ver TLSv1.2"
    yield "hard-stop-after 60s"


def _defaults(tuning: Tuning) -> Iterable[str]:
    idle = f"{round(tuning.idle_seconds * 1000)}ms"
    yield "mode http"
    yield f"timeout connect {round(tuning.connect_seconds * 1000)}ms"
    yield "timeout client 60s"
    yield "timeout http-request 10s"
    yield "timeout http-keep-alive 75s"
    yield f"timeout server {idle}"
    yield "timeout tunnel 300s"
    yield "timeout check 2s"
    yield "http-reuse safe"
    yield "retries 2"
    yield "option redispatch 1"
    for status in (502, 503, 504):
        yield _error(status)


def _problem(status: int, code: str, detail: str) -> str:
    title = {421: "Misdirected Request", 502: "Bad Gateway", 503: "Service Unavailable", 504: "Gateway Timeout"}[status]
    return Problem(title=title, status=status, code=code, detail=detail).model_dump_json(exclude_none=True)


def _error(status: int) -> str:
    body = _problem(status, "unavailable" if status == 503 else "answer-lost", "the home cell does not answer")
    retry = f" hdr Retry-After {_RETRY_SECONDS}" if status == 503 else ""
    return f"http-error status {status} content-type {PROBLEM_TYPE} string '{body}' hdr Cache-Control no-store{retry}"


def _frontend(view: View, equipment: Equipment, folder: Path) -> Iterable[str]:
    shown = "" if equipment.public is None else f" ssl crt {folder / _PUBLIC} alpn h2,http/1.1"
    yield f"bind {equipment.listen}{shown}"
    # forgeries first, so that nothing is chosen by them; the token stays for routers
    yield f"http-request del-header '^{HEADER_PREFIX}(?!token$)' -m reg"
    yield "http-request del-header '[^a-z0-9-]' -m reg"
    yield from (f"http-request del-header {name}" for name in view.untrusted)
    upgraded = "{ req.fhdr(upgrade) -i websocket } { req.fhdr_cnt(upgrade) 1 } { req.hdr(connection) -i upgrade }"
    yield f"http-request del-header upgrade unless {upgraded}"
    yield "http-request set-var(txn.target) pathq"
    for condition, way in _ways(view):
        yield f"http-request set-var(txn.way) str({way}) if !{{ var(txn.way) -m found }} {condition}"
    yield "http-request lua.domicile unless { var(txn.way) -m str router }"
    yield f"http-request set-var(txn.where) var(txn.subject),map_str({folder / SUBJECTS})"
    yield f"http-request set-var(txn.doubted) var(txn.subject),map_str({folder / DOUBTS})"
    yield "http-request set-var(txn.cell) var(txn.where),word(1,/) unless { var(txn.doubted),strcmp(txn.where) eq 0 }"
    for cell in view.cells:  # a cell that answers nobody here may yet answer a router
        gone = f"{{ var(txn.cell) -m str {cell.name} }} {{ nbsrv(cell_{cell.name}) 0 }}"
        yield f"http-request unset-var(txn.cell) if {gone}"
    yield "use_backend cell_%[var(txn.cell)] if { var(txn.cell) -m found }"
    yield "default_backend routers"
    yield f"http-response del-header '{HEADER_PREFIX}' -m beg"


def _ways(view: View) -> Iterable[tuple[str, str]]:
    """Conditions in their order; the first that holds decides whether an edge may forward at all."""
    yield f"{{ method {' '.join(REFUSED_METHODS)} }}", "router"
    yield f"!{{ req.fhdr(host) -m reg '^{HOST}$' }}", "router"
    yield "!{ path -m beg / }", "router"
    # a trailer would go on, which a server may take for a field of the next request: of somebody else
    yield "{ req.hdr(transfer-encoding) -m found }", "router"
    yield "{ req.fhdr_cnt(cookie) gt 1 }", "router"
    yield f"{{ req.fhdr(cookie) -m reg '{_TOKEN}.*{_TOKEN}' }}", "router"
    yield f"{{ path -m reg '{AMBIGUOUS}' }}", "router"
    yield "{ path -m beg '//' }", "router"  # a Location would name a host by it
    yield f"{{ path -m beg '{GATEWAY_PATHS}' }}", "router"
    for pattern in view.named_paths:
        yield f"{{ path -m reg '^{pattern}$' }}", "router"
    if view.named_paths:  # a path that a server may read as another one, which may name a subject
        yield "{ path -m reg '[%;]|//' }", "router"
    for pattern in view.named_hosts:
        yield f"{{ req.hdr(host) -i -m reg '^{pattern}$' }}", "router"
    for rule in view.classes:
        how = f"-m beg '{rule.path[:-1]}'" if rule.path.endswith("*") else f"-m str '{rule.path}'"
        yield f"{{ path {how} }}", "router" if rule.kind == "unpinned" else "ask"


def _servers(places: Iterable[tuple[str, str]], more: Mapping[str, object]) -> Iterable[str]:
    """The nearest first, and the others where it can't: as backups they would take no second attempt from one that
    hangs."""
    words = " ".join(f"{key} {value}".rstrip() for key, value in more.items())
    yield "balance first"
    yield from (f"server {name} {address} ssl verify required {words}" for name, address in places)


def _cell(view: View, cell: EdgeCell, equipment: Equipment, folder: Path, tuning: Tuning) -> Iterable[str]:
    every = f"{round(tuning.health_seconds * 1000)}ms"
    yield "option httpchk GET /readyz"
    yield "http-check expect status 200-299"
    yield "retry-on conn-failure empty-response response-timeout"
    yield "http-request disable-l7-retry unless { method GET HEAD OPTIONS }"
    yield f"http-request del-header '{_OF_PROXIES}' -m reg"
    yield f"http-request del-header {HEADER_PREFIX}token"
    yield "http-request del-header expect unless { req.hdr(expect) -i 100-continue }"
    # what it names a proxy of the application's would take out: ours, too
    yield "http-request del-header connection unless { req.hdr(upgrade) -m found }"
    yield "http-request set-header connection upgrade if { req.hdr(upgrade) -m found }"
    yield "http-request set-uri %[pathq]"
    pair = f"{_TOKEN}[^;]*"
    yield rf"http-request replace-header Cookie '^\s*{pair}(?:;\s*)?(.*)$' '\1'"
    yield rf"http-request replace-header Cookie '^(.*?);\s*{pair}(.*)$' '\1\2'"
    yield "http-request del-header cookie if { req.hdr(cookie) -m len 0 }"
    yield f"http-request set-header {SUBJECT_KEY_HEADER} %[var(txn.subject)]"
    yield f"http-request set-header {CELL_HEADER} %[var(txn.cell)]"
    yield f"http-request set-header {EPOCH_HEADER} %[var(txn.where),word(2,/)]"
    knew = f"{{ status 421 }} {{ res.hdr({GUARD_HEADER}) -m found }}"
    yield f"http-response set-map({folder / DOUBTS}) %[var(txn.subject)] %[var(txn.where)] if {knew}"
    again = (
        f"hdr Location %[var(txn.target)] hdr Cache-Control no-store hdr Set-Cookie '{TOKEN_COOKIE}=; Path=/; Secure;"
        " Max-Age=0'"
    )
    yield f"http-response return status 307 {again} if {knew}"
    name = Identity.parse(cell.zones[0].uri).dns_name
    told = {
        "crt": folder / _OWN, "ca-file": equipment.authority(view.jurisdiction), "verifyhost": name,
        "ssl-min-ver": "TLSv1.3", "check": f"inter {every} fall 1 rise 2",
    }  # fmt: skip
    yield from _servers([(zone.name, zone.address) for zone in cell.zones], told)


def _routers(view: View, equipment: Equipment, folder: Path, tuning: Tuning) -> Iterable[str]:
    yield "option forwardfor"
    yield "timeout server 300s"
    authority = equipment.router_authority or equipment.authority(view.jurisdiction)
    told = {"ca-file": authority, "verifyhost": view.public_name, "sni": f"str({view.public_name})", "check": ""}
    yield from _servers([(router.zone, router.public) for router in view.routers], told)


def _deciders(view: View, equipment: Equipment, folder: Path, tuning: Tuning) -> Iterable[str]:
    yield "http-reuse always"
    name = Identity(view.deployment, view.jurisdiction, Role.ROUTER, view.zone).dns_name
    told = {
        "crt": folder / _OWN, "ca-file": equipment.authority(view.jurisdiction), "verifyhost": name,
        "ssl-min-ver": "TLSv1.3", "check": "",
    }  # fmt: skip
    yield from _servers([(router.zone, router.internal) for router in view.routers], told)
