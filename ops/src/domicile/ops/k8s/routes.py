"""How clients come in, and what pods are given by others: Gateway API routes, secrets from the jurisdiction's store.

TLS is opened by nobody on the way: a jurisdiction's own host goes to its edges, another's to a router, which carries
the bytes there unopened.
"""

from __future__ import annotations

from typing import Final

from domicile.model.access import GLOBAL, Role
from domicile.ops.k8s.certificates import public_name
from domicile.ops.k8s.names import EDGE_PORT, Instance, Object, World, labels_of
from domicile.ops.k8s.pods import PEPPERED

GATEWAY: Final = "public"
EXPORTED: Final = frozenset({Role.DIRECTORY, Role.ROUTER, Role.GATEWAY})
"""Who is called from other clusters."""


def _route(world: World, jurisdiction: str, name: str, hosts: list[str], backends: list[tuple[str, int]]) -> Object:
    return {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "TLSRoute",
        "metadata": {"name": name, "labels": labels_of(world, jurisdiction, jurisdiction)},
        "spec": {
            "parentRefs": [{"name": GATEWAY, "sectionName": "tls"}],
            "hostnames": hosts,
            "rules": [{"backendRefs": [{"name": service, "port": port} for service, port in backends]}],
        },
    }


def gateway(world: World, jurisdiction: str) -> list[Object]:
    """Nothing where the jurisdiction has no router."""
    routers = world.of(jurisdiction, Role.ROUTER)
    if not routers:
        return []
    listener = {
        "name": "tls",
        "protocol": "TLS",
        "port": 443,
        "tls": {"mode": "Passthrough"},
        "allowedRoutes": {"namespaces": {"from": "Same"}, "kinds": [{"kind": "TLSRoute"}]},
    }
    front: Object = {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "Gateway",
        "metadata": {"name": GATEWAY, "labels": labels_of(world, jurisdiction, jurisdiction)},
        "spec": {
            "gatewayClassName": world.section.jurisdictions[jurisdiction].gateway_class,
            "listeners": [listener],
        },
    }
    own = public_name(world, jurisdiction)
    others = sorted({public_name(world, name) for name in world.manifest.jurisdictions} - {own})
    edges = [(each.name, EDGE_PORT) for each in world.of(jurisdiction, Role.EDGE)]
    found = [front, _route(world, jurisdiction, "home", [own], edges)]
    if others:
        backends = [(each.name, each.port("public")) for each in routers]
        found.append(_route(world, jurisdiction, "abroad", others, backends))
    return found


def exports(world: World, place: str) -> list[Object]:
    """For other clusters (Multi-Cluster Services): of what is called from there, where names lead across."""
    if not world.section.domain.endswith("clusterset.local"):
        return []
    return [
        {
            "apiVersion": "multicluster.x-k8s.io/v1alpha1",
            "kind": "ServiceExport",
            "metadata": {"name": each.name, "labels": labels_of(world, each.jurisdiction, place)},
        }
        for each in world.instances
        if each.place == place and each.role in EXPORTED
    ]


def _secret(world: World, jurisdiction: str, place: str, name: str, fields: dict[str, str]) -> Object:
    """``fields``: of the Secret, and of the store's entry ``domicile/<name>``."""
    return {
        "apiVersion": "external-secrets.io/v1",
        "kind": "ExternalSecret",
        "metadata": {"name": name, "labels": labels_of(world, jurisdiction, place)},
        "spec": {
            "secretStoreRef": {"kind": "ClusterSecretStore", "name": world.store(jurisdiction).secret_store},
            "refreshInterval": "1h",
            "target": {"name": name, "creationPolicy": "Owner"},
            "data": [
                {"secretKey": field, "remoteRef": {"key": f"domicile/{name}", "property": theirs}}
                for field, theirs in fields.items()
            ],
        },
    }


def secrets(world: World, place: str, jurisdiction: str) -> list[Object]:
    """The pepper goes to those alone who may have it: never to the directory."""
    found = [_secret(world, jurisdiction, place, "backup-credentials", {"id": "id", "secret": "secret"})]
    here: list[Instance] = [each for each in world.instances if each.place == place]
    if jurisdiction != GLOBAL and any(each.role in PEPPERED for each in here):
        found.append(_secret(world, jurisdiction, place, "pepper", {"pepper": "pepper"}))
    return found
