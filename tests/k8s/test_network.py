"""Who may reach whom: the rendered NetworkPolicies, read as a cluster reads them, against a table written by hand."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from itertools import product
from typing import Any

import pytest
from domicile_testing.kubernetes import Object, example

from domicile.model.access import Role
from domicile.ops.k8s.names import ROLE, Instance, World
from domicile.ops.k8s.network import endpoints_of

HOMES = {"acme-directory": "europe", "acme-eu": "europe", "acme-eu-1": "europe"}
PODS_OF_AMERICA, NOBODY, PUBLIC = "10.2.3.4", "203.0.113.9", "198.51.100.7"
# caller -> callees, in the example's world; "*": wherever it is
REACH: dict[Role, dict[Role, str]] = {
    Role.DIRECTORY: {Role.STORAGE: "own"},
    Role.ROUTER: {Role.DIRECTORY: "*", Role.APP: "own", Role.GATEWAY: "own", Role.ROUTER: "*"},
    Role.EDGE: {Role.DIRECTORY: "*", Role.APP: "own", Role.ROUTER: "own"},
    Role.APP: {Role.DIRECTORY: "*", Role.KEYS: "own", Role.GATEWAY: "*", Role.STORAGE: "cell"},
    Role.GATEWAY: {Role.DIRECTORY: "*", Role.GATEWAY: "*", Role.KEYS: "own", Role.STORAGE: "cell"},
    Role.KEYS: {Role.DIRECTORY: "*", Role.STORAGE: "own"},
    Role.STORAGE: {},
}


def expected(caller: Instance, callee: Instance) -> bool:
    near = REACH[caller.role].get(callee.role)
    if near is None:
        return caller.role is callee.role is Role.STORAGE and caller == callee
    if caller.role is callee.role is Role.ROUTER and caller == callee:
        return False
    if near == "cell" or callee.role is Role.STORAGE:
        return caller.place == callee.place
    return near == "*" or caller.jurisdiction == callee.jurisdiction


def matches(peer: Object, namespace: str, role: str, address: str | None) -> bool:
    if "ipBlock" in peer:
        return address is not None and ip_address(address) in ip_network(peer["ipBlock"]["cidr"])
    if address is not None:
        return False
    wanted = peer.get("namespaceSelector", {}).get("matchLabels", {}).get("kubernetes.io/metadata.name", namespace)
    pods = peer.get("podSelector", {}).get("matchLabels", {})
    return bool(wanted == namespace and pods.get(ROLE, role) == role and set(pods) <= {ROLE})


class Network:
    """One cluster's policies, as the API's documentation says that they add up."""

    def __init__(self, objects: list[Object]) -> None:
        self._policies = [each for each in objects if each["kind"] == "NetworkPolicy"]

    def passes(self, at: tuple[str, str], way: str, other: tuple[str, str, str | None], port: int) -> bool:
        """``way``: ingress or egress. A pod that no policy selects lets everything pass."""
        namespace, role = at
        selecting = [
            each["spec"]
            for each in self._policies
            if each["metadata"]["namespace"] == namespace
            and each["spec"]["podSelector"].get("matchLabels", {}).get(ROLE, role) == role
            and way.capitalize() in each["spec"]["policyTypes"]
        ]
        rules = [rule for spec in selecting for rule in spec.get(way) or []]
        return not selecting or any(self._lets(rule, way, other, port) for rule in rules)

    @staticmethod
    def _lets(rule: Any, way: str, other: tuple[str, str, str | None], port: int) -> bool:
        peers = rule.get("from" if way == "ingress" else "to")
        if not any(each["port"] == port for each in rule["ports"]):
            return False
        return peers is None or any(matches(peer, *other) for peer in peers)


@pytest.fixture(scope="module")
def europe(clusters: dict[str, list[Object]]) -> Network:
    return Network(clusters["europe"])


def port_of(callee: Instance) -> int:
    return dict(callee.ports).get("tls") or callee.ports[0][1]


def test_pods_of_one_cluster_reach_whom_the_table_says(europe: Network) -> None:
    world = World(example())
    here = [each for each in world.instances if world.cluster(each.jurisdiction) == "europe"]
    pairs = list(product(here, here))
    assert len(pairs) > 100
    for caller, callee in pairs:
        if callee.role is Role.EDGE:
            continue
        source = (world.namespace(caller.place), str(caller.role))
        target = (world.namespace(callee.place), str(callee.role))
        port = port_of(callee)
        passes = europe.passes(target, "ingress", (*source, None), port) and europe.passes(
            source, "egress", (*target, None), port
        )
        same = any(expected(one, callee) for one in here if (one.place, one.role) == (caller.place, caller.role))
        assert passes is same, (caller, callee)


def test_another_cluster_is_let_in_where_the_matrix_has_a_row_for_it(europe: Network) -> None:
    world = World(example())
    abroad = [each for each in world.instances if world.cluster(each.jurisdiction) == "america"]
    for callee in (each for each in world.instances if world.cluster(each.jurisdiction) == "europe"):
        if callee.role is Role.EDGE:
            continue
        target = (world.namespace(callee.place), str(callee.role))
        lets = europe.passes(target, "ingress", ("", "", PODS_OF_AMERICA), port_of(callee))
        assert lets is any(expected(caller, callee) for caller in abroad), callee
        assert not europe.passes(target, "ingress", ("", "", NOBODY), port_of(callee)), callee


def test_whoever_has_no_role_reaches_nobody(europe: Network) -> None:
    for namespace in HOMES:
        assert not europe.passes((namespace, "tool"), "egress", ("acme-eu-1", "storage", None), 5432)
        assert not europe.passes((namespace, "tool"), "egress", ("", "", NOBODY), 443)
        assert not europe.passes((namespace, "tool"), "ingress", ("acme-eu", "router", None), 8443)


def test_the_public_reaches_edges_and_routers_public_ports_alone(europe: Network) -> None:
    open_to_all = [
        (namespace, role, port)
        for namespace in HOMES
        for role in (*(str(role) for role in Role), "collector")
        for port in (443, 4318, 5432, 7000, 7100, 7200, 7300, 7443, 8000, 8443)
        if europe.passes((namespace, role), "ingress", ("", "", NOBODY), port)
    ]
    assert open_to_all == [("acme-eu", "router", 8443), ("acme-eu", "edge", 8443)]


def test_what_leaves_the_clusters_goes_to_named_networks(europe: Network) -> None:
    for namespace in HOMES:
        for role in (*(str(role) for role in Role), "collector"):
            assert not europe.passes((namespace, role), "egress", ("", "", NOBODY), 443), (namespace, role)
    assert europe.passes(("acme-eu-1", "storage"), "egress", ("", "", "192.0.2.7"), 443)
    assert europe.passes(("acme-eu", "collector"), "egress", ("", "", PUBLIC), 443)
    assert not europe.passes(("acme-eu-1", "app"), "egress", ("", "", PUBLIC), 443)


def test_operators_reach_what_they_ask_for_its_health(europe: Network) -> None:
    operator = ("acme-operators", "tool", None)
    world = World(example())
    for callee in (each for each in world.instances if world.cluster(each.jurisdiction) == "europe"):
        if callee.role is not Role.EDGE:
            assert europe.passes(
                (world.namespace(callee.place), str(callee.role)), "ingress", operator, port_of(callee)
            )


def test_an_endpoint_belongs_to_the_role_that_serves_it() -> None:
    world = World(example())
    for role in (Role.DIRECTORY, Role.ROUTER, Role.GATEWAY, Role.KEYS, Role.APP, Role.STORAGE):
        callee = next(each for each in world.instances if each.role is role)
        assert any(endpoint.value.startswith(f"{role}.") for endpoint in endpoints_of(callee)), role
