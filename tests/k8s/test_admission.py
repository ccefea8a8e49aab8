"""The cluster refuses what would break residency: each rule of each policy is tried with what it must refuse."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from domicile_testing.kubernetes import Admission, Object, pods_of

GOOD = "registry.acme.example/tool@sha256:" + "a" * 64
POD: Object = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {
        "name": "tool",
        "namespace": "acme-eu-1",
        "labels": {"domicile.internal/jurisdiction": "eu", "domicile.internal/cell": "eu-1"},
    },
    "spec": {
        "containers": [{"name": "tool", "image": GOOD}],
        "affinity": {
            "nodeAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": {
                    "nodeSelectorTerms": [
                        {
                            "matchExpressions": [
                                {
                                    "key": "topology.kubernetes.io/region",
                                    "operator": "In",
                                    "values": ["eu-central-1", "eu-west-3"],
                                }
                            ]
                        }
                    ]
                }
            }
        },
    },
}
CLAIM: Object = {
    "apiVersion": "v1",
    "kind": "PersistentVolumeClaim",
    "metadata": {"name": "state", "namespace": "acme-eu-1"},
    "spec": {"storageClassName": "eu-ssd"},
}
STORE: Object = {
    "apiVersion": "external-secrets.io/v1",
    "kind": "SecretStore",
    "metadata": {"name": "own", "namespace": "acme-eu-1"},
    "spec": {"provider": {}},
}
REQUEST: Object = {
    "apiVersion": "cert-manager.io/v1",
    "kind": "CertificateRequest",
    "metadata": {"name": "r", "namespace": "acme-eu-1"},
    "spec": {},
}
GONE = object()


def changed(thing: Object, *changes: tuple[str, Any]) -> Object:
    """A copy with values put at, or taken from, slash-separated paths; a number is an index. ``~1`` stands for /."""
    found = copy.deepcopy(thing)
    for path, value in changes:
        *steps, last = [step.replace("~1", "/") for step in path.split("/")]
        place: Any = found
        for step in steps:
            place = place[int(step)] if isinstance(place, list) else place.setdefault(step, {})
        if value is GONE:
            del place[last]
        elif isinstance(place, list):
            place[int(last)] = value
        else:
            place[last] = value
    return found


AFFINITY = "spec/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution"
TERMS = f"{AFFINITY}/nodeSelectorTerms"
REGION = f"{TERMS}/0/matchExpressions/0"
LABELS = "metadata/labels/domicile.internal~1"
BAD_PODS: dict[str, tuple[str, list[tuple[str, Any]]]] = {
    "no label of a jurisdiction": ("carries no label", [(f"{LABELS}jurisdiction", GONE)]),
    "another jurisdiction's label": ("carries no label", [(f"{LABELS}jurisdiction", "us")]),
    "another cell's label": ("carries another", [(f"{LABELS}cell", "eu-2")]),
    "no cell's label": ("carries another", [(f"{LABELS}cell", GONE)]),
    "no affinity": ("no required node affinity", [("spec/affinity", GONE)]),
    "a wish alone": (
        "no required node affinity",
        [(AFFINITY, GONE), ("spec/affinity/nodeAffinity/preferredDuringSchedulingIgnoredDuringExecution", [])],
    ),
    "no terms": ("no required node affinity", [(TERMS, [])]),
    "a region abroad": ("no required node affinity", [(f"{REGION}/values", ["eu-central-1", "us-east-1"])]),
    "everywhere but": ("no required node affinity", [(f"{REGION}/operator", "NotIn")]),
    "any region": ("no required node affinity", [(f"{REGION}/operator", "Exists"), (f"{REGION}/values", GONE)]),
    "a zone alone": ("no required node affinity", [(f"{REGION}/key", "topology.kubernetes.io/zone")]),
    "a second term that is free": (
        "no required node affinity",
        [(TERMS, [POD["spec"]["affinity"]["nodeAffinity"][AFFINITY.split("/")[-1]]["nodeSelectorTerms"][0], {}])],
    ),
    "a node by name": ("names its node", [("spec/nodeName", "node-1")]),
    "the node's network": ("node's network", [("spec/hostNetwork", True)]),
    "a folder of the node": ("volume that is none of", [("spec/volumes", [{"name": "v", "hostPath": {"path": "/"}}])]),
    "a share of a network": ("volume that is none of", [("spec/volumes", [{"name": "v", "nfs": {"server": "x"}}])]),
    "a volume made for it": ("volume that is none of", [("spec/volumes", [{"name": "v", "ephemeral": {}}])]),
    "a tag": ("not named by digest", [("spec/containers/0/image", "registry.acme.example/tool:1.2")]),
    "no tag": ("not named by digest", [("spec/containers/0/image", "registry.acme.example/tool")]),
    "a tag at first": ("not named by digest", [("spec/initContainers", [{"name": "i", "image": "tool:latest"}])]),
    "a tag for a look": ("not named by digest", [("spec/ephemeralContainers", [{"name": "e", "image": "tool"}])]),
    "a short digest": ("not named by digest", [("spec/containers/0/image", "tool@sha256:abc")]),
    "a collector abroad": (
        "collector that is not",
        [("spec/containers/0/env", [{"name": "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "value": "https://otlp.us:4318"}])],
    ),
    "a collector from elsewhere": (
        "collector that is not",
        [("spec/containers/0/env", [{"name": "OTEL_EXPORTER_OTLP_ENDPOINT", "valueFrom": {"configMapKeyRef": {}}}])],
    ),
}


@pytest.fixture(scope="module")
def europe(clusters: dict[str, list[Object]]) -> Admission:
    return Admission(clusters["europe"])


def found(clusters: dict[str, list[Object]], kind: str, namespace: str, name: str = "") -> Object:
    return next(
        each
        for each in clusters["europe"]
        if each["kind"] == kind and each["metadata"].get("namespace") == namespace and name in each["metadata"]["name"]
    )


def test_all_that_is_rendered_is_admitted(clusters: dict[str, list[Object]]) -> None:
    for objects in clusters.values():
        admission = Admission(objects)
        things = [each for each in objects if each["metadata"].get("namespace") in admission.namespaces]
        for thing in [*things, *pods_of(objects)]:
            if "domicile.internal/jurisdiction" in admission.namespaces[thing["metadata"]["namespace"]]["metadata"].get(
                "labels", {}
            ):
                assert admission.refusals(thing) == [], thing["metadata"]


def test_a_claim_of_each_workload_is_admitted(clusters: dict[str, list[Object]]) -> None:
    for objects in clusters.values():
        admission = Admission(objects)
        for thing in (each for each in objects if each["kind"] == "StatefulSet"):
            spec = thing["spec"]["volumeClaimTemplates"][0]["spec"]
            claim = {**CLAIM, "metadata": {"name": "c", "namespace": thing["metadata"]["namespace"]}, "spec": spec}
            assert admission.refusals(claim) == []


@pytest.mark.parametrize("case", BAD_PODS)
def test_a_pod_is_refused(europe: Admission, case: str) -> None:
    assert europe.refusals(POD) == []
    message, changes = BAD_PODS[case]
    bad = changed(POD, *changes)
    (refusal,) = europe.refusals(bad)
    assert message in refusal
    template = {"metadata": {"labels": bad["metadata"]["labels"]}, "spec": bad["spec"]}
    workload = {**POD, "apiVersion": "apps/v1", "kind": "Deployment", "spec": {"template": template}}
    assert europe.refusals(workload) == [refusal]
    job = {
        **POD,
        "apiVersion": "batch/v1",
        "kind": "CronJob",
        "spec": {"jobTemplate": {"spec": {"template": template}}},
    }
    assert europe.refusals(job) == [refusal]


def test_a_pod_that_was_scheduled_may_be_changed_but_not_its_image(europe: Admission) -> None:
    scheduled = changed(POD, ("spec/nodeName", "node-1"))
    assert europe.refusals(scheduled, operation="UPDATE") == []
    assert europe.refusals(changed(scheduled, ("spec/containers/0/image", "tool:1")), operation="UPDATE")


def test_no_pod_runs_where_its_namespace_has_no_parameters(clusters: dict[str, list[Object]]) -> None:
    without = [each for each in clusters["europe"] if each["metadata"].get("namespace") != "acme-admission"]
    assert "no parameters" in Admission(without).refusals(POD)


BAD_THINGS: dict[str, tuple[Object | tuple[str, str, str], str, list[tuple[str, Any]]]] = {
    "a class of another": (CLAIM, "storage class", [("spec/storageClassName", "us-ssd")]),
    "the default class": (CLAIM, "storage class", [("spec/storageClassName", GONE)]),
    "a volume by name": (CLAIM, "names its volume", [("spec/volumeName", "pv-us")]),
    "a secret store of its own": (STORE, "looked at by nobody", []),
    "a signing request past cert-manager": (REQUEST, "past the Certificates", []),
    "a database elsewhere": (("Cluster", "acme-eu-1", ""), "no required node affinity", [("spec/affinity", GONE)]),
    "a database without a label": (("Cluster", "acme-eu-1", ""), "no label", [(f"{LABELS}jurisdiction", GONE)]),
    "a database of another cell": (("Cluster", "acme-eu-1", ""), "another", [(f"{LABELS}cell", "eu-2")]),
    "a database's class": (("Cluster", "acme-eu-1", ""), "storage class", [("spec/storage/storageClass", "us-ssd")]),
    "a log's class": (("Cluster", "acme-eu-1", ""), "storage class", [("spec/walStorage", {"storageClass": "us-ssd"})]),
    "a backup past the stores": (
        ("Cluster", "acme-eu-1", ""),
        "past the ObjectStores",
        [("spec/backup", {"barmanObjectStore": {"destinationPath": "s3://acme-us-backups/x"}})],
    ),
    "a plugin": (("Cluster", "acme-eu-1", ""), "plugin", [("spec/plugins/0/name", "other.example")]),
    "a copy of a server abroad": (
        ("Cluster", "acme-eu-1", ""),
        "server elsewhere",
        [("spec/externalClusters", [{"name": "us", "connectionParameters": {"host": "db.us"}}])],
    ),
    "a database's tag": (("Cluster", "acme-eu-1", ""), "by digest", [("spec/imageName", "postgresql:18")]),
    "a catalog's tag": (
        ("ImageCatalog", "acme-eu-1", ""),
        "by digest",
        [("spec/images/0/image", "ghcr.io/cloudnative-pg/postgresql:18")],
    ),
    "a bucket abroad": (
        ("ObjectStore", "acme-eu-1", ""),
        "bucket",
        [("spec/configuration/destinationPath", "s3://acme-us-backups/domicile/eu-1")],
    ),
    "a bucket whose name begins alike": (
        ("ObjectStore", "acme-eu-1", ""),
        "bucket",
        [("spec/configuration/destinationPath", "s3://acme-eu-backups/domicile-us/eu-1")],
    ),
    "a way out of the bucket's folder": (
        ("ObjectStore", "acme-eu-1", ""),
        "bucket",
        [("spec/configuration/destinationPath", "s3://acme-eu-backups/domicile/../us")],
    ),
    "an endpoint abroad": (
        ("ObjectStore", "acme-eu-1", ""),
        "endpoint",
        [("spec/configuration/endpointURL", "https://s3.us-east-1.amazonaws.com")],
    ),
    "no endpoint": (("ObjectStore", "acme-eu-1", ""), "endpoint", [("spec/configuration/endpointURL", GONE)]),
    "a vault abroad": (
        ("ExternalSecret", "acme-eu-1", "pepper"),
        "takes secrets from a store",
        [("spec/secretStoreRef/name", "us-vault")],
    ),
    "a vault past its store": (
        ("ExternalSecret", "acme-eu-1", "pepper"),
        "past its store",
        [("spec/data/0/sourceRef", {"storeRef": {"name": "us-vault"}})],
    ),
    "another's authority": (
        ("Certificate", "acme-eu-1", "app-fra"),
        "asked of an issuer",
        [("spec/issuerRef/name", "acme-us")],
    ),
    "another cell's name": (
        ("Certificate", "acme-eu-1", "app-fra"),
        "another jurisdiction or cell",
        [("spec/uris", ["spiffe://acme/eu/app/eu-2.fra"])],
    ),
    "an operator's name": (
        ("Certificate", "acme-eu-1", "app-fra"),
        "another jurisdiction or cell",
        [("spec/uris", ["spiffe://acme/eu/operator/root"])],
    ),
    "a cell's name outside of it": (
        ("Certificate", "acme-eu", "router-fra"),
        "another jurisdiction or cell",
        [("spec/uris", ["spiffe://acme/eu/app/eu-1.fra"])],
    ),
    "an operator's name in its jurisdiction": (
        ("Certificate", "acme-eu", "router-fra"),
        "another jurisdiction or cell",
        [("spec/uris", ["spiffe://acme/eu/operator/root"])],
    ),
    "another's common name": (
        ("Certificate", "acme-eu-1", "app-fra"),
        "common name",
        [("spec/commonName", "app.eu-2")],
    ),
    "an authority": (("Certificate", "acme-eu-1", "app-fra"), "sign others", [("spec/isCA", True)]),
    "names that nobody looks at": (
        ("Certificate", "acme-eu-1", "app-fra"),
        "not looked at",
        [("spec/literalSubject", "CN=app.us-1")],
    ),
}


@pytest.mark.parametrize("case", BAD_THINGS)
def test_a_thing_is_refused(europe: Admission, clusters: dict[str, list[Object]], case: str) -> None:
    start, message, changes = BAD_THINGS[case]
    thing = found(clusters, *start) if isinstance(start, tuple) else start
    refusals = europe.refusals(changed(thing, *changes))
    assert len(refusals) == 1, refusals
    assert message in refusals[0]
    if changes:
        assert europe.refusals(thing) == []


def test_cert_manager_itself_may_ask(europe: Admission) -> None:
    assert europe.refusals(REQUEST, user="system:serviceaccount:cert-manager:cert-manager") == []


def test_a_namespace_keeps_its_jurisdiction(europe: Admission) -> None:
    old = europe.namespaces["acme-eu-1"]
    assert europe.refusals(changed(old, ("metadata/labels/team", "x")), operation="UPDATE", old=old) == []
    for changes in ((f"{LABELS}jurisdiction", "us"), (f"{LABELS}jurisdiction", GONE), (f"{LABELS}cell", "eu-2")):
        (refusal,) = europe.refusals(changed(old, changes), operation="UPDATE", old=old)
        assert "does not change" in refusal
    plain = europe.namespaces["acme-admission"]
    assert europe.refusals(changed(plain, (f"{LABELS}jurisdiction", "eu")), operation="UPDATE", old=plain) == []


def test_every_rule_has_refused_something(europe: Admission, clusters: dict[str, list[Object]]) -> None:
    for case in BAD_PODS:
        test_a_pod_is_refused(europe, case)
    for case in BAD_THINGS:
        test_a_thing_is_refused(europe, clusters, case)
    test_a_namespace_keeps_its_jurisdiction(europe)
    rules = {
        (name, rule["message"]) for name, policy in europe.policies.items() for rule in policy["spec"]["validations"]
    }
    assert rules == europe.hit
