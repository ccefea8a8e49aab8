"""The example of k8s/ as a cluster would get it: rendered, built by kustomize, and put before its own policies.

Policies are evaluated by cel-expr-python, the CEL project's own implementation, with the optional fields and string
functions that Kubernetes has too. What Kubernetes checks beside (types, cost) is not checked here.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, Final

from cel_expr_python import cel
from cel_expr_python.ext import ext_optional, ext_strings
from ruamel.yaml import YAML

from domicile.model.manifest import Manifest, load_manifest
from domicile.ops.k8s.names import JURISDICTION
from domicile.ops.k8s.render import render
from domicile_testing.kubectl import kubectl

EXAMPLE: Final = Path(__file__).parents[3] / "k8s" / "domicile.yaml"
CLUSTERS: Final = ("europe", "america")
TRUST: Final = {
    "authorities": {f"{name}.pem": "-----BEGIN CERTIFICATE-----\n" for name in ("global", "eu", "us")},
    "operators": {"one.pem": "-----BEGIN PUBLIC KEY-----\n"},
}
Object = dict[str, Any]
_VARIABLES: Final = ("object", "oldObject", "request", "params", "namespaceObject")
_RESOURCES: Final = {
    "Pod": "pods", "StatefulSet": "statefulsets", "Deployment": "deployments", "DaemonSet": "daemonsets",
    "Job": "jobs", "CronJob": "cronjobs", "PersistentVolumeClaim": "persistentvolumeclaims", "Cluster": "clusters",
    "ImageCatalog": "imagecatalogs", "ObjectStore": "objectstores", "ExternalSecret": "externalsecrets",
    "SecretStore": "secretstores", "Certificate": "certificates", "CertificateRequest": "certificaterequests",
    "Namespace": "namespaces",
}  # fmt: skip


def example() -> Manifest:
    return load_manifest(EXAMPLE.read_text(), source="k8s/domicile.yaml")


@cache
def rendered() -> dict[str, str]:
    return render(example(), TRUST)


def documents(text: str) -> list[Object]:
    return [each for each in YAML(typ="safe", pure=True).load_all(text) if each]


def written(files: dict[str, str], folder: Path) -> None:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def built(folder: Path) -> list[Object]:
    """What ``kubectl apply -k`` would send from a rendered folder, of one cluster."""
    program = kubectl()
    assert program is not None
    done = subprocess.run([program, "kustomize", str(folder)], capture_output=True, text=True, check=True, timeout=120)
    assert done.stderr == ""
    return documents(done.stdout)


@cache
def _environment() -> Any:
    extensions = [ext_strings.ExtStrings(), ext_optional.ExtOptional()]
    return cel.NewEnv(variables=dict.fromkeys(_VARIABLES, cel.Type.DYN), extensions=extensions)


@cache
def _compiled(expression: str) -> Any:
    return _environment().compile(expression)


class Admission:
    """One cluster's policies, by the objects that it was given."""

    def __init__(self, objects: list[Object]) -> None:
        self.policies = {
            each["metadata"]["name"]: each for each in objects if each["kind"] == "ValidatingAdmissionPolicy"
        }
        self._bindings = [each for each in objects if each["kind"] == "ValidatingAdmissionPolicyBinding"]
        self._parameters = {
            (each["metadata"]["namespace"], each["metadata"]["name"]): each
            for each in objects
            if each["kind"] == "ConfigMap"
        }
        self.namespaces = {each["metadata"]["name"]: each for each in objects if each["kind"] == "Namespace"}
        self.hit: set[tuple[str, str]] = set()
        """The rules that have refused something so far."""

    def refusals(
        self, thing: Object, *, operation: str = "CREATE", old: Object | None = None, user: str = "kubernetes-admin"
    ) -> list[str]:
        """The messages of what refuses it; empty where it is admitted."""
        own = thing["kind"] == "Namespace"
        namespace = thing if own else self.namespaces[thing["metadata"]["namespace"]]
        data = {
            "object": thing,
            "oldObject": old,
            "request": {"operation": operation, "userInfo": {"username": user}},
            "namespaceObject": namespace,
        }
        return list(self._refusals(thing, namespace, operation, data))

    def _refusals(self, thing: Object, namespace: Object, operation: str, data: Object) -> Iterator[str]:
        for binding in self._bindings:
            spec = binding["spec"]
            assert spec["validationActions"] == ["Deny"]
            selector = spec.get("matchResources", {}).get("namespaceSelector", {}).get("matchLabels", {})
            labels = namespace["metadata"].get("labels", {})
            policy = self.policies[spec["policyName"]]
            if not _matches(policy, thing, operation) or any(labels.get(k) != v for k, v in selector.items()):
                continue
            reference = spec.get("paramRef")
            found = self._parameters.get((reference["namespace"], reference["name"])) if reference else None
            if reference and found is None:
                yield "no parameters"
                continue
            for rule in policy["spec"]["validations"]:
                value = _compiled(rule["expression"]).eval(data={**data, "params": found}).value()
                if value is not True:  # an error is a refusal: failurePolicy Fail
                    self.hit.add((policy["metadata"]["name"], rule["message"]))
                    yield rule["message"]


def _matches(policy: Object, thing: Object, operation: str) -> bool:
    group, _, version = thing["apiVersion"].rpartition("/")
    return any(
        group in rule["apiGroups"]
        and version in rule["apiVersions"]
        and operation in rule["operations"]
        and _RESOURCES.get(thing["kind"]) in rule["resources"]
        for rule in policy["spec"]["matchConstraints"]["resourceRules"]
    )


def pods_of(objects: list[Object]) -> list[Object]:
    """Of each workload, the pod that its controller makes."""
    return [
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"namespace": each["metadata"]["namespace"], "name": each["metadata"]["name"]}
            | each["spec"]["template"]["metadata"],
            "spec": each["spec"]["template"]["spec"],
        }
        for each in objects
        if each["kind"] in ("StatefulSet", "Deployment")
    ]


def jurisdiction_of(thing: Object) -> str:
    return str(thing["metadata"]["labels"][JURISDICTION])
