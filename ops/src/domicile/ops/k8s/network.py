"""NetworkPolicies: nothing passes by default, and then what the matrix of ``domicile.model.access`` lets pass.

Each pair of instances is put before ``may``; what no row of the matrix is about (the public, a database's manager,
names, collectors) is written out here. A policy knows ports and pods, not routes: certificates do the rest.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from domicile.model.access import GLOBAL, Endpoint, Identity, Role, may
from domicile.model.kubernetes import DATABASE_PORT, DIRECTORY
from domicile.ops.k8s.names import (
    COLLECTOR,
    OPERATORS,
    ROLE,
    Instance,
    Object,
    World,
    collector_port,
    labels_of,
)

_NAMESPACE_LABEL: Final = "kubernetes.io/metadata.name"
_STORAGE_ENDPOINT: Final = {
    "cell": Endpoint.CELL_STORAGE,
    "keys": Endpoint.KEY_STORAGE,
    "directory": Endpoint.DIRECTORY_STORAGE,
}
MANAGER_PORT: Final = 8000
"""Where CloudNativePG's operator asks an instance how it is."""
HTTPS: Final = 443
CNPG_NAMESPACE: Final = "cnpg-system"


def endpoints_of(callee: Instance) -> list[Endpoint]:
    """What is served on an instance's port for its own sake: an endpoint's first word is the role that serves it.

    Health is not among them: that an edge may ask whether a key service is ready opens no way to it.
    """
    if callee.role is Role.STORAGE:
        kind = "cell" if callee.is_cells else "directory" if callee.place == DIRECTORY else "keys"
        return [_STORAGE_ENDPOINT[kind], Endpoint.REPLICATION]
    return [each for each in Endpoint if each.value.partition(".")[0] == callee.role]


def lets(world: World, caller: Identity, callee: Instance) -> bool:
    """Whether any endpoint of the callee is the caller's to use."""
    named = callee.identity(world.deployment)
    return any(may(caller, named, endpoint) for endpoint in endpoints_of(callee) if caller != named)


def callers(world: World, callee: Instance) -> list[Instance]:
    return [each for each in world.instances if lets(world, each.identity(world.deployment), callee)]


def _listening(callee: Instance) -> int:
    return DATABASE_PORT if callee.role is Role.STORAGE else callee.port("tls")


def _ports(*numbers: int) -> list[Object]:
    return [{"protocol": "TCP", "port": number} for number in dict.fromkeys(numbers)]


def _pods(world: World, place: str, role: str) -> Object:
    return {
        "namespaceSelector": {"matchLabels": {_NAMESPACE_LABEL: world.namespace(place)}},
        "podSelector": {"matchLabels": {ROLE: role}},
    }


def _peers(world: World, here: str, others: list[Instance]) -> list[Object]:
    """Pods by label where they are in this cluster, else that cluster's pod networks."""
    found: list[Object] = []
    for other in others:
        cluster = world.cluster(other.jurisdiction)
        if cluster == here:
            peers = [_pods(world, other.place, str(other.role))]
        else:
            peers = [{"ipBlock": {"cidr": str(network)}} for network in world.section.clusters[cluster].networks]
        found += [peer for peer in peers if peer not in found]
    return found


def _namespace(name: str) -> Object:
    return {"namespaceSelector": {"matchLabels": {_NAMESPACE_LABEL: name}}}


def _blocks(networks: list[str]) -> list[Object]:
    return [{"ipBlock": {"cidr": network}} for network in networks]


def _policy(
    world: World, place: str, jurisdiction: str, role: str, ingress: list[Object], egress: list[Object]
) -> Object:
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": role, "labels": labels_of(world, jurisdiction, place)},
        "spec": {
            "podSelector": {"matchLabels": {ROLE: role}},
            "policyTypes": ["Ingress", "Egress"],
            "ingress": ingress,
            "egress": egress,
        },
    }


def _ingress(world: World, callee: Instance) -> Iterator[Object]:
    here = world.cluster(callee.jurisdiction)
    peers = _peers(world, here, callers(world, callee))
    operators = [Identity(world.deployment, home, Role.OPERATOR, OPERATORS) for home in (callee.jurisdiction, GLOBAL)]
    named = callee.identity(world.deployment)
    if any(lets(world, each, callee) or may(each, named, Endpoint.HEALTH) for each in operators):
        peers.append(_namespace(world.namespace(OPERATORS)))
    if peers and callee.role is not Role.EDGE:
        yield {"from": peers, "ports": _ports(_listening(callee))}
    if callee.role is Role.EDGE:
        yield {"ports": _ports(callee.port("public"))}  # the public's, whose addresses nobody knows
    if callee.role is Role.ROUTER:
        yield {"ports": _ports(callee.port("public"))}
    if callee.role is Role.STORAGE:
        instances = _pods(world, callee.place, str(Role.STORAGE))
        yield {"from": [_namespace(CNPG_NAMESPACE)], "ports": _ports(DATABASE_PORT, MANAGER_PORT)}
        yield {"from": [instances], "ports": _ports(DATABASE_PORT, MANAGER_PORT)}


def _egress(world: World, caller: Instance) -> Iterator[Object]:
    here = world.cluster(caller.jurisdiction)
    own = caller.identity(world.deployment)
    targets: dict[int, list[Instance]] = {}
    for callee in world.instances:
        if callee.role is not Role.EDGE and lets(world, own, callee):
            targets.setdefault(_listening(callee), []).append(callee)
    for port, callees in targets.items():
        yield {"to": _peers(world, here, callees), "ports": _ports(port)}
    store = world.store(caller.jurisdiction)
    outside = _blocks([str(network) for network in store.outside])
    if caller.role is Role.EDGE:  # what it does not know goes to a router as the client sent it
        routers = world.of(caller.place, Role.ROUTER)
        for port in {router.port("public") for router in routers}:
            yield {"to": [_pods(world, caller.place, str(Role.ROUTER))], "ports": _ports(port)}
    if caller.role in (Role.ROUTER, Role.APP) and (port_of := collector_port(world, caller.jurisdiction)):
        yield {"to": [_pods(world, caller.jurisdiction, COLLECTOR)], "ports": _ports(port_of)}
    if caller.role is Role.ROUTER and outside:
        yield {"to": outside, "ports": _ports(HTTPS)}
    if caller.role is Role.STORAGE:
        api = str(world.section.clusters[here].api)
        instances = _pods(world, caller.place, str(Role.STORAGE))
        yield {"to": [instances], "ports": _ports(DATABASE_PORT, MANAGER_PORT)}
        yield {"to": _blocks([api]), "ports": _ports(HTTPS, 6443)}
        if outside:
            yield {"to": outside, "ports": _ports(HTTPS)}


def _collector(world: World, jurisdiction: str, port: int) -> Object:
    roles = [(each.place, str(each.role)) for each in world.instances if each.jurisdiction == jurisdiction]
    senders = [_pods(world, place, role) for place, role in dict.fromkeys(roles) if role in (Role.ROUTER, Role.APP)]
    outside = _blocks([str(network) for network in world.store(jurisdiction).outside])
    egress = [{"to": outside, "ports": _ports(HTTPS, port)}] if outside else []
    return _policy(world, jurisdiction, jurisdiction, COLLECTOR, [{"from": senders, "ports": _ports(port)}], egress)


def _default(world: World, place: str, jurisdiction: str) -> list[Object]:
    labels = labels_of(world, jurisdiction, place)
    everything: Object = {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    dns = {
        "podSelector": {},
        "policyTypes": ["Egress"],
        "egress": [
            {
                "to": [
                    _namespace("kube-system") | {"podSelector": {"matchLabels": {"k8s-app": "kube-dns"}}},
                ],
                "ports": [{"protocol": protocol, "port": 53} for protocol in ("UDP", "TCP")],
            }
        ],
    }
    return [
        {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": {"name": name, "labels": labels},
            "spec": spec,
        }
        for name, spec in (("deny", everything), ("names", dns))
    ]


def network_policies(world: World, place: str, jurisdiction: str) -> list[Object]:
    """All of a namespace. The instances of one role in several zones share one policy: what any of them may."""
    found = _default(world, place, jurisdiction)
    roles = dict.fromkeys(each.role for each in world.instances if each.place == place)
    for role in roles:
        ingress: list[Object] = []
        egress: list[Object] = []
        for instance in world.of(place, role):
            ingress += [rule for rule in _ingress(world, instance) if rule not in ingress]
            egress += [rule for rule in _egress(world, instance) if rule not in egress]
        found.append(_policy(world, place, jurisdiction, str(role), ingress, egress))
    port = collector_port(world, jurisdiction) if place == jurisdiction else None
    return found if port is None else [*found, _collector(world, jurisdiction, port)]
