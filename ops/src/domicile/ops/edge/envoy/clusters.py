"""Where an edge sends requests: a cluster for each cell of its jurisdiction, one for routers, one for the directory.

A cell's cluster holds its zones, the nearest first, and behind them the routers as a last resort: what the zones do
not take, and what a guard sent back, is then a router's to decide. Each kind of peer is recognised in its own way: a
cell's application by the identity in its certificate, a router by its public name. Connections to a peer that isn't
who it should be end in the handshake, whatever address the topology gave.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from domicile.model.access import Identity, Role
from domicile.model.addresses import literal
from domicile.ops.edge.envoy.headers import to_cells, to_routers
from domicile.ops.edge.envoy.proto import Message, certificate, extension, seconds, socket, tls, typed
from domicile.ops.edge.envoy.recipe import Health, Recipe, Tuning
from domicile.ops.edge.equipment import Equipment
from domicile.ops.edge.view import EdgeCell, View

ROUTERS: Final = "domicile-routers"
DIRECTORY: Final = "domicile-directory"
DECIDERS: Final = "domicile-deciders"
READY_PATH: Final = "/readyz"
UPSTREAM_IDLE_SECONDS: Final = 30.0
"""As a router's: an idle connection is closed before the other side does it, with a request on its way."""
BUFFER_BYTES: Final = 256 * 1024
_CELL: Final = "cell"
_ROUTER: Final = "router"
"""What an endpoint is, for its TLS and for what it is told."""
_MANY: Final = 1 << 20
"""Of connections, requests, retries: a cell limits itself, and a guard's refusal must always have its second try."""
_ALL_TO_THE_FIRST: Final = 100_000
"""Percent: the next priority is used when nothing of the one before is left, and never for a share of it."""


def _validated(authority: str, matchers: list[Message]) -> Message:
    return {"trusted_ca": {"filename": authority}, "match_typed_subject_alt_names": matchers}


def _mutual(equipment: Equipment, authority: str, prefix: str, protocols: list[str]) -> Message:
    """TLS 1.3 with the edge's own certificate, to processes whose identity begins with ``prefix``."""
    common = {
        "tls_certificates": [certificate(equipment.own_pair)],
        "validation_context": _validated(authority, [{"san_type": "URI", "matcher": {"prefix": prefix}}]),
        "tls_params": {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"},
        "alpn_protocols": protocols,
    }
    return tls("UpstreamTlsContext", common)


def app_prefix(view: View, cell: EdgeCell) -> str:
    """Of the identities of a cell's applications. A cell's name holds no dot, so that it names no other cell."""
    return Identity(view.deployment, view.jurisdiction, Role.APP, f"{cell.name}.x").uri[:-1]


def _to_app(view: View, equipment: Equipment, cell: EdgeCell) -> Message:
    authority = str(equipment.authority(view.jurisdiction))
    return _mutual(equipment, authority, app_prefix(view, cell), ["h2", "http/1.1"])


def _to_router(view: View, equipment: Equipment) -> Message:
    name = view.public_name
    kind = "DNS" if literal(f"{name}:1") is None else "IP_ADDRESS"
    authority = equipment.router_authority or equipment.authority(view.jurisdiction)
    common = {
        "validation_context": _validated(str(authority), [{"san_type": kind, "matcher": {"exact": name}}]),
        "tls_params": {"tls_minimum_protocol_version": "TLSv1_2", "tls_maximum_protocol_version": "TLSv1_3"},
        "alpn_protocols": ["http/1.1"],
    }
    return tls("UpstreamTlsContext", common, **({"sni": name} if kind == "DNS" else {}))


def _endpoint(address: str, kind: str) -> Message:
    told = {"envoy.transport_socket_match": {"peer": kind}, "domicile": {"peer": kind}}
    health = {"health_check_config": {"disable_active_health_check": True}} if kind == _ROUTER else {}
    return {"endpoint": {"address": socket(address), **health}, "metadata": {"filter_metadata": told}}


def assignment(name: str, view: View, cell: EdgeCell | None = None) -> Message:
    """The endpoints of a cluster, each a priority of its own; of the routers alone where there is no cell."""
    endpoints = [_endpoint(zone.address, _CELL) for zone in cell.zones] if cell is not None else []
    endpoints += [_endpoint(router.public, _ROUTER) for router in view.routers]
    return {
        "cluster_name": name,
        "endpoints": [{"priority": number, "lb_endpoints": [each]} for number, each in enumerate(endpoints)],
        "policy": {"overprovisioning_factor": _ALL_TO_THE_FIRST},
    }


def _protocols(tuning: Tuning, filters: list[Message], *, negotiated: bool) -> Message:
    """``negotiated``: HTTP/2 where the peer offers it, as gRPC needs; HTTP/1.1 otherwise."""
    codec = extension("filters.http.upstream_codec", "filters.http.upstream_codec.v3.UpstreamCodec")
    kind = "auto_config" if negotiated else "explicit_http_config"
    one: Message = {"http_protocol_options": {}}
    options = typed(
        "extensions.upstreams.http.v3.HttpProtocolOptions",
        common_http_protocol_options={"idle_timeout": seconds(UPSTREAM_IDLE_SECONDS)},
        http_filters=[*filters, codec],
        **{kind: one | {"http2_protocol_options": {}} if negotiated else one},
    )
    return {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": options}


def _base(name: str, tuning: Tuning) -> Message:
    many = {"max_connections": _MANY, "max_pending_requests": _MANY, "max_requests": _MANY, "max_retries": _MANY}
    return {
        "name": name,
        "connect_timeout": seconds(tuning.connect_seconds),
        "circuit_breakers": {"thresholds": [many]},
        "per_connection_buffer_limit_bytes": BUFFER_BYTES,
    }


def _ejecting() -> Message:
    """By what Envoy itself saw of a connection; an application's own 500 is its own."""
    return {
        "split_external_local_origin_errors": True,
        "consecutive_local_origin_failure": 3,
        "enforcing_consecutive_local_origin_failure": 100,
        "enforcing_local_origin_success_rate": 0,
        "enforcing_success_rate": 0,
        "enforcing_consecutive_5xx": 0,
        "enforcing_consecutive_gateway_failure": 0,
        "base_ejection_time": "2s",
        "max_ejection_time": "60s",
        "max_ejection_percent": 100,
        "interval": "1s",
    }


def _checked(view: View, recipe: Recipe) -> Message:
    """A zone is not asked while it says 5xx or nothing; one without such a path says 404 and is there."""
    tuning = recipe.tuning
    http = {"host": view.public_name, "path": READY_PATH, "expected_statuses": [{"start": 200, "end": 500}]}
    grpc: Message = {"authority": view.public_name}
    by_http = recipe.health is Health.HTTP
    return {
        "timeout": seconds(tuning.connect_seconds),
        "interval": seconds(tuning.health_seconds),
        "no_traffic_interval": seconds(tuning.health_seconds),
        "unhealthy_threshold": 2,
        "healthy_threshold": 1,
        "tls_options": {"alpn_protocols": ["http/1.1" if by_http else "h2"]},
        **({"http_health_check": http} if by_http else {"grpc_health_check": grpc}),
    }


def cell_cluster(view: View, equipment: Equipment, cell: EdgeCell, recipe: Recipe, endpoints: Message) -> Message:
    """``endpoints``: of ``discovered`` or ``written``."""
    tuning = recipe.tuning
    routers = {"name": _ROUTER, "match": {"peer": _ROUTER}, "transport_socket": _to_router(view, equipment)}
    return _base(cell.name, tuning) | {
        "transport_socket": _to_app(view, equipment, cell),
        "transport_socket_matches": [routers],
        "health_checks": [_checked(view, recipe)],
        "outlier_detection": _ejecting(),
        "common_lb_config": {"healthy_panic_threshold": {"value": 0}},
        "ignore_health_on_host_removal": True,
        "typed_extension_protocol_options": _protocols(tuning, [to_cells()], negotiated=True),
        **endpoints,
    }


def router_cluster(view: View, equipment: Equipment, tuning: Tuning, endpoints: Message) -> Message:
    return _base(ROUTERS, tuning) | {
        "transport_socket": _to_router(view, equipment),
        "outlier_detection": _ejecting(),
        "common_lb_config": {"healthy_panic_threshold": {"value": 0}},
        "typed_extension_protocol_options": _protocols(tuning, [to_routers()], negotiated=False),
        **endpoints,
    }


def _have_names(addresses: Iterable[str]) -> bool:
    return any(literal(address) is None for address in addresses)


def has_names(view: View, cell: EdgeCell | None) -> bool:
    """Whether an address of a cluster is a name, which Envoy then resolves again and again."""
    zones = cell.zones if cell is not None else ()
    return _have_names([zone.address for zone in zones] + [router.public for router in view.routers])


def _fixed(load_assignment: Message, *, named: bool) -> Message:
    return {"type": "STRICT_DNS" if named else "STATIC", "load_assignment": load_assignment}


def written(name: str, view: View, cell: EdgeCell | None = None) -> Message:
    """Endpoints that are part of the cluster."""
    return _fixed(assignment(name, view, cell), named=has_names(view, cell))


def discovered(source: Message) -> Message:
    """Endpoints that Envoy takes from elsewhere, and follows there."""
    return {"type": "EDS", "eds_cluster_config": {"eds_config": source}}


def decider_cluster(view: View, equipment: Equipment, tuning: Tuning) -> Message:
    """The routers' internal listeners, where decisions are asked for, over mutual TLS."""
    addresses = [router.internal for router in view.routers]
    endpoints = [
        {"priority": number, "lb_endpoints": [{"endpoint": {"address": socket(address)}}]}
        for number, address in enumerate(addresses)
    ]
    prefix = f"spiffe://{view.deployment}/{view.jurisdiction}/{Role.ROUTER}/"
    authority = str(equipment.authority(view.jurisdiction))
    found = {
        "cluster_name": DECIDERS,
        "endpoints": endpoints,
        "policy": {"overprovisioning_factor": _ALL_TO_THE_FIRST},
    }
    return _base(DECIDERS, tuning) | {
        "transport_socket": _mutual(equipment, authority, prefix, ["http/1.1"]),
        "outlier_detection": _ejecting(),
        "common_lb_config": {"healthy_panic_threshold": {"value": 0}},
        **_fixed(found, named=_have_names(addresses)),
    }


def directory_cluster(view: View, equipment: Equipment, tuning: Tuning) -> Message:
    """For the key set, over mutual TLS."""
    endpoints = [{"endpoint": {"address": socket(address)}} for address in view.directory]
    found = {"cluster_name": DIRECTORY, "endpoints": [{"lb_endpoints": endpoints}]}
    return _base(DIRECTORY, tuning) | {
        "transport_socket": _mutual(equipment, str(equipment.directory_authority), view.directory_prefix, ["http/1.1"]),
        **_fixed(found, named=_have_names(view.directory)),
    }
