"""The kustomizations that give a base its place: a zone's workloads, and what a namespace has beside them."""

from __future__ import annotations

from typing import Any, Final

from domicile.model.access import Role
from domicile.ops.k8s.environment import environment
from domicile.ops.k8s.names import COLLECTOR, ZONE, Instance, Object, World, affinity, collector_port, labels_of
from domicile.ops.k8s.pods import KINDS, SETTINGS

KUSTOMIZATION: Final[Object] = {"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization"}
SINGLE: Final = frozenset({Role.KEYS})
"""Of the key service one pod runs: the key-encryption key lies in its folder."""
DIRECTORIES: Final = 2
"""Directory processes at each site."""
_IMAGES: Final = {Role.EDGE: ("operations", "envoy")}


def _image(world: World, kind: str) -> Object:
    name, _, digest = getattr(world.section.images, kind).partition("@")
    return {"name": f"domicile-{kind}", "newName": name, "digest": digest}


def images(world: World, roles: list[Role]) -> list[Object]:
    kinds = [kind for role in roles for kind in _IMAGES.get(role, (KINDS[role].image,) if role in KINDS else ())]
    return [_image(world, kind) for kind in dict.fromkeys(kinds)]


def _set(path: str, value: Any) -> Object:
    return {"op": "add", "path": path, "value": value}


def _patch(kind: str, name: str, *operations: Object) -> Object:
    return {"target": {"kind": kind, "name": name}, "patch": list(operations)}


def patches(world: World, instance: Instance) -> list[Object]:
    """For one instance: its node affinity, its certificate, its folder's class, its ports and its number of pods."""
    role, store = instance.role, world.store(instance.jurisdiction)
    name, (least, most) = str(role), world.section.replicas
    pods = 1 if role in SINGLE else DIRECTORIES if role is Role.DIRECTORY else least
    place = {"nodeAffinity": affinity(world, instance.jurisdiction, [instance.zone])}
    spec = [
        _set("/spec/replicas", pods),
        _set("/spec/template/spec/affinity", place),
        _set("/spec/template/spec/volumes/0/secret/secretName", f"{instance.name}-tls"),
        _set("/spec/volumeClaimTemplates/0/spec/storageClassName", store.storage_class),
        _set("/spec/volumeClaimTemplates/0/spec/resources/requests/storage", store.state_size),
    ]
    if role is Role.ROUTER:
        spec.append(_set("/spec/template/spec/volumes/5/secret/secretName", f"router-public-{instance.zone}-tls"))
    ports = [_set(f"/spec/ports/{number}/port", port) for number, (_, port) in enumerate(instance.ports)]
    found = [_patch("StatefulSet", name, *spec), _patch("Service", name, *ports)]
    if role not in SINGLE and role is not Role.DIRECTORY:
        limits = [_set("/spec/minReplicas", least), _set("/spec/maxReplicas", most)]
        found.append(_patch("HorizontalPodAutoscaler", name, *limits))
    return found


def zone(world: World, instances: list[Instance], up: str) -> Object:
    """One zone's kustomization; ``up`` leads from its folder to the bases. All instances have one place."""
    first = instances[0]
    pairs = labels_of(world, first.jurisdiction, first.place, **{ZONE: first.zone})
    found: Object = {
        **KUSTOMIZATION,
        "resources": [f"{up}/bases/{each.role}" for each in instances],
        "labels": [{"pairs": pairs, "includeSelectors": True}],
        "images": images(world, [each.role for each in instances]),
        "configMapGenerator": [
            {
                "name": f"{each.role}-{SETTINGS}",
                "behavior": "merge",
                "literals": [f"{name}={value}" for name, value in environment(world, each).items()],
            }
            for each in instances
        ],
        "patches": [patch for each in instances for patch in patches(world, each)],
    }
    if first.name != first.role:
        found["nameSuffix"] = f"-{first.zone}"
    return found


def collector(world: World, jurisdiction: str, up: str) -> Object:
    place = world.section.jurisdictions[jurisdiction]
    port = collector_port(world, jurisdiction)
    nodes = {"nodeAffinity": affinity(world, jurisdiction, world.zones(jurisdiction))}
    spec = [
        _set("/spec/template/spec/affinity", nodes),
        _set("/spec/template/spec/containers/0/env/0/value", place.telemetry),
    ]
    pairs = labels_of(world, jurisdiction, jurisdiction)
    return {
        **KUSTOMIZATION,
        "resources": [f"{up}/bases/{COLLECTOR}"],
        "labels": [{"pairs": pairs, "includeSelectors": True}],
        "images": [_image(world, COLLECTOR)],
        "patches": [
            _patch("Deployment", COLLECTOR, *spec),
            _patch("Service", COLLECTOR, _set("/spec/ports/0/port", port)),
        ],
    }


def namespace(world: World, place: str, jurisdiction: str) -> Object:
    """Bound to its jurisdiction by its label, and held to Kubernetes' own restricted profile."""
    labels = labels_of(world, jurisdiction, place)
    labels |= {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn")}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": world.namespace(place), "labels": labels}}
