"""Configurations of the other proxies, and of the nginx that answers behind all of them.

Every proxy gets the router's own terms: one worker, keep-alive on both sides, mutual TLS to the cells by
certificates of the same authority, and TLS towards the client or none.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from domicile.model.wire import CELL_HEADER, EPOCH_HEADER, SUBJECT_KEY_HEADER

SMALL: Final = "/profile"
SMALL_BYTES: Final = 200
LARGE: Final = "/large"
LARGE_BYTES: Final = 100 << 10
WHOSE: Final = "/whose"
"""Answers what the proxy said of the request's subject."""
NAME: Final = "localhost"
"""What certificates are checked for, since nginx checks no addresses."""
_TYPES: Final = "type.googleapis.com/envoy"


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate and its key (PEM)."""

    certificate: Path
    key: Path


@dataclass(frozen=True, slots=True)
class Edge:
    """What a proxy is given.

    ``public``: its certificate towards clients (None: plain connections); ``own``: towards the cells, whose
    certificates ``authority`` signs; ``cells``: their applications' addresses.
    """

    folder: Path
    public: Pair | None
    own: Pair
    authority: Path
    cells: Mapping[str, str]


def _shown(pair: Pair) -> str:
    return f"ssl_certificate {pair.certificate}; ssl_certificate_key {pair.key};"


def _nginx(folder: Path, body: Iterable[str]) -> str:
    temporary = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    return "\n".join(
        [
            *(["user root;"] if os.getuid() == 0 else []),
            "daemon off;",
            "worker_processes 1;",
            f"pid {folder}/nginx.pid;",
            f"error_log {folder}/error.log warn;",
            "events { worker_connections 4096; }",
            "http {",
            "access_log off;",
            *(f"{name}_temp_path {folder}/{name};" for name in temporary),
            "keepalive_requests 100000000;",
            "keepalive_timeout 600s;",
            "ssl_protocols TLSv1.2 TLSv1.3;",
            *body,
            "}",
            "",
        ]
    )


def applications_nginx(
    folder: Path, cells: Mapping[str, tuple[str, Pair]], hanging: str, silent: str, authority: Path, authorizer: str
) -> str:
    """Each cell's application at its address with its certificate, and the service that auth_request asks.

    That of the cell ``hanging`` takes every request and leaves it to somebody who answers none, at ``silent``.
    """
    (folder / LARGE[1:]).write_bytes(b"x" * LARGE_BYTES)

    def application(name: str, address: str, pair: Pair) -> Iterable[str]:
        yield f"server {{ listen {address} ssl backlog=4096; {_shown(pair)}"
        yield f"ssl_client_certificate {authority}; ssl_verify_client on;"
        if name == hanging:
            yield f"location / {{ proxy_read_timeout 1h; proxy_pass http://{silent}; }} }}"
            return
        yield "add_header Cache-Control no-store;"
        yield f'location = {SMALL} {{ return 200 "{"x" * SMALL_BYTES}"; }}'
        yield f"location = {LARGE} {{ root {folder}; open_file_cache max=10; }}"
        yield "location = /readyz { return 200; }"
        yield f'location = {WHOSE} {{ return 200 "$http_domicile_subject_key $http_domicile_cell"; }} }}'

    return _nginx(
        folder,
        [
            *(line for name, (address, pair) in cells.items() for line in application(name, address, pair)),
            f"server {{ listen {authorizer}; add_header X-Home $http_x_cell; return 200; }}",
        ],
    )


def edge_nginx(edge: Edge, homes: Mapping[str, str], addresses: Mapping[str, str], authorizer: str) -> str:
    """Three servers: ``map`` and ``buffers`` (the same with larger buffers) by a static map, and ``auth_request``."""
    passed = "proxy_pass https://$home;"

    def server(name: str, *locations: str) -> str:
        listens = f"{addresses[name]} backlog=4096;" if edge.public is None else f"{addresses[name]} ssl backlog=4096;"
        shown = "" if edge.public is None else _shown(edge.public)
        return f"server {{ listen {listens} {shown} {' '.join(locations)} }}"

    return _nginx(
        edge.folder,
        [
            "map_hash_max_size 1000000;",
            "map_hash_bucket_size 128;",
            "map $http_x_user $home {",
            *(f"{user} {cell};" for user, cell in homes.items()),
            "}",
            *(f"upstream {cell} {{ server {address}; keepalive 256; }}" for cell, address in edge.cells.items()),
            f"upstream authorizer {{ server {authorizer}; keepalive 64; }}",
            f"proxy_cache_path {edge.folder}/cache keys_zone=known:50m max_size=200m inactive=1h;",
            "proxy_http_version 1.1;",
            'proxy_set_header Connection "";',
            "proxy_set_header Host $http_host;",
            f"proxy_ssl_certificate {edge.own.certificate};",
            f"proxy_ssl_certificate_key {edge.own.key};",
            f"proxy_ssl_trusted_certificate {edge.authority};",
            "proxy_ssl_verify on;",
            f"proxy_ssl_name {NAME};",
            "proxy_ssl_protocols TLSv1.3;",
            server("map", f"location / {{ {passed} }}"),
            server("buffers", f"location / {{ proxy_buffers 16 16k; proxy_buffer_size 16k; {passed} }}"),
            server(
                "auth_request",
                "location / { auth_request /.authorize; auth_request_set $home $upstream_http_x_home;",
                passed,
                "} location = /.authorize { internal; proxy_pass http://authorizer; proxy_pass_request_body off;",
                'proxy_set_header Connection ""; proxy_set_header Content-Length "";',
                "proxy_cache known; proxy_cache_key $cookie_sid; proxy_cache_valid 200 1h; }",
            ),
        ],
    )


def _envoy_type(name: str) -> dict[str, str]:
    return {"@type": f"{_TYPES}.{name}"}


def _extension(name: str, kind: str, **more: Any) -> dict[str, Any]:
    return {"name": f"envoy.{name}", "typed_config": {**_envoy_type(kind), **more}}


def _tls(kind: str, pair: Pair, **more: Any) -> dict[str, Any]:
    certificates = [
        {"certificate_chain": {"filename": str(pair.certificate)}, "private_key": {"filename": str(pair.key)}}
    ]
    common = {"tls_certificates": certificates, "alpn_protocols": ["http/1.1"], **more.pop("common", {})}
    return _extension(
        "transport_sockets.tls", f"extensions.transport_sockets.tls.v3.{kind}", common_tls_context=common, **more
    )


def _socket(address: str) -> dict[str, Any]:
    host, _, port = address.rpartition(":")
    return {"socket_address": {"address": host, "port_value": int(port)}}


def _to_cells(edge: Edge) -> dict[str, Any]:
    validation = {
        "trusted_ca": {"filename": str(edge.authority)},
        "match_typed_subject_alt_names": [{"san_type": "DNS", "matcher": {"exact": NAME}}],
    }
    # as a client Envoy speaks TLS 1.2 unless told otherwise
    common = {"validation_context": validation, "tls_params": {"tls_maximum_protocol_version": "TLSv1_3"}}
    return _tls("UpstreamTlsContext", edge.own, sni=NAME, common=common)


def by_header(recipe: str) -> str:
    """The printed recipe, believing the client's ``x-cell`` in the place of a token: all but what a token costs."""
    told: dict[str, Any] = json.loads(recipe)
    (listener,) = told["static_resources"]["listeners"]
    manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
    manager["http_filters"] = [each for each in manager["http_filters"] if "jwt_authn" not in each["name"]]
    said = {CELL_HEADER: "%REQ(x-cell)%", SUBJECT_KEY_HEADER: "0" * 34, EPOCH_HEADER: "1"}
    manager["early_header_mutation_extensions"][0]["typed_config"]["mutations"] += [
        {"append": {"header": {"key": name, "value": value}}} for name, value in said.items()
    ]
    return json.dumps(told, indent=1)


def edge_envoy(edge: Edge, address: str) -> str:
    """Routes by the client's ``x-cell`` and checks nothing: a ceiling for what Envoy can do."""
    route = {"match": {"prefix": "/"}, "route": {"cluster_header": "x-cell", "timeout": "15s"}}
    manager = _extension(
        "filters.network.http_connection_manager",
        "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix="header",
        route_config={"virtual_hosts": [{"name": "header", "domains": ["*"], "routes": [route]}]},
        http_filters=[_extension("filters.http.router", "extensions.filters.http.router.v3.Router")],
    )
    chain: dict[str, Any] = {"filters": [manager]}
    if edge.public is not None:
        chain["transport_socket"] = _tls("DownstreamTlsContext", edge.public)
    clusters = [
        {
            "name": cell,
            "connect_timeout": "2s",
            "type": "STATIC",
            "load_assignment": {
                "cluster_name": cell,
                "endpoints": [{"lb_endpoints": [{"endpoint": {"address": _socket(place)}}]}],
            },
            "transport_socket": _to_cells(edge),
        }
        for cell, place in edge.cells.items()
    ]
    listener = {"name": "header", "address": _socket(address), "filter_chains": [chain]}
    return json.dumps({"static_resources": {"listeners": [listener], "clusters": clusters}}, indent=1)
