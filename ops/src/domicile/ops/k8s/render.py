"""From a manifest to files: bases by role, overlays by cell and jurisdiction, a root for each cluster.

Pure: text by path. Nothing about places is written in a base, and nothing in an overlay is of anybody's writing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from io import StringIO
from typing import Final

from ruamel.yaml import YAML

from domicile.model.access import GLOBAL, Role
from domicile.model.errors import InvalidInput
from domicile.model.kubernetes import DIRECTORY
from domicile.model.manifest import Manifest
from domicile.ops.k8s import admission, overlays, pods
from domicile.ops.k8s.alerts import alert_rules
from domicile.ops.k8s.certificates import certificates, issuer
from domicile.ops.k8s.dashboards import dashboard
from domicile.ops.k8s.databases import database
from domicile.ops.k8s.names import COLLECTOR, OPERATORS, Instance, Object, World
from domicile.ops.k8s.network import network_policies
from domicile.ops.k8s.routes import exports, gateway, secrets

ROOT: Final = "clusters"


def dump(document: Object) -> str:
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.width = 120
    stream = StringIO()
    yaml.dump(json.loads(json.dumps(document)), stream)  # as plain data: no anchors where parts are shared
    return stream.getvalue()


def _file(each: Object) -> str:
    return f"{each['kind'].lower()}-{each['metadata']['name']}.yaml"


def _inline(kustomization: Object) -> Object:
    """A patch is text inside of a kustomization."""
    if "patches" not in kustomization:
        return kustomization
    inlined = [patch | {"patch": dump_list(patch["patch"])} for patch in kustomization["patches"]]
    return kustomization | {"patches": inlined}


def dump_list(operations: list[Object]) -> str:
    return json.dumps(operations, indent=1)


def _folder(path: str, objects: list[Object], **more: object) -> Iterator[tuple[str, str]]:
    """Objects, a file each, and the kustomization that names them."""
    for each in objects:
        yield f"{path}/{_file(each)}", dump(each)
    resources = [*more.pop("resources", []), *(_file(each) for each in objects)]  # type: ignore[misc]
    yield f"{path}/kustomization.yaml", dump({**overlays.KUSTOMIZATION, "resources": resources, **more})


def _bases() -> Iterator[tuple[str, str]]:
    for role, kind in pods.KINDS.items():
        told = [{"name": f"{role}-{pods.SETTINGS}", "literals": ["DOMICILE_LOG_LEVEL=info"]}]
        yield from _folder(f"bases/{role}", pods.workload(kind), configMapGenerator=told)
    told = [{"name": f"{Role.EDGE}-{pods.SETTINGS}", "literals": ["DOMICILE_LOG_LEVEL=info"]}]
    yield from _folder(f"bases/{Role.EDGE}", pods.edge(), configMapGenerator=told)
    yield from _folder(f"bases/{COLLECTOR}", pods.collector(dump(pods.collector_settings())))


def _trust(trust: Mapping[str, Mapping[str, str]]) -> Iterator[tuple[str, str]]:
    """``trust``: public files by the folder that they are mounted as."""
    maps = [
        {"name": name, "files": [f"{name}/{file}" for file in sorted(files)]} for name, files in sorted(trust.items())
    ]
    for name, files in trust.items():
        for file, text in files.items():
            yield f"bases/trust/{name}/{file}", text
    yield from _folder("bases/trust", [], configMapGenerator=maps, generatorOptions={"disableNameSuffixHash": True})


def _by_zone(instances: list[Instance]) -> dict[str, list[Instance]]:
    zones: dict[str, list[Instance]] = {}
    for each in instances:
        if each.role is not Role.STORAGE:
            zones.setdefault("keys" if each.role is Role.KEYS else each.zone, []).append(each)
    return zones


def overlay_of(place: str, jurisdiction: str) -> str:
    """The folder of a namespace's overlay."""
    if place == DIRECTORY:
        return f"overlays/{DIRECTORY}"
    return f"overlays/jurisdictions/{place}" if place == jurisdiction else f"overlays/cells/{place}"


def _place(world: World, place: str, jurisdiction: str) -> Iterator[tuple[str, str]]:
    path = overlay_of(place, jurisdiction)
    up = "/".join([".."] * (path.count("/") + 2))
    resources = [f"{up.removesuffix('/..')}/bases/trust"]
    for folder, instances in _by_zone([each for each in world.instances if each.place == place]).items():
        yield f"{path}/{folder}/kustomization.yaml", dump(_inline(overlays.zone(world, instances, up)))
        resources.append(folder)
    objects = [overlays.namespace(world, place, jurisdiction)]
    if place == jurisdiction:
        if world.manifest.jurisdictions[jurisdiction].collector is not None:
            kustomization = overlays.collector(world, jurisdiction, up)
            yield f"{path}/{COLLECTOR}/kustomization.yaml", dump(_inline(kustomization))
            resources.append(COLLECTOR)
        objects += gateway(world, jurisdiction)
    if world.of(place, Role.STORAGE):
        objects += database(world, place, jurisdiction) + secrets(world, place, jurisdiction)
    objects += certificates(world, place, jurisdiction) + network_policies(world, place, jurisdiction)
    objects += exports(world, place)
    yield from _folder(path, objects, resources=resources, namespace=world.namespace(place))


def _admission(world: World, cluster: str, jurisdictions: list[str]) -> Iterator[tuple[str, str]]:
    path = f"admission/{cluster}"
    own: Object = {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": world.namespace(admission.NAMESPACE)},
    }
    objects = [own, admission.namespaces_binding(world)]
    for name in jurisdictions:
        objects += [admission.parameters(world, name), *admission.bindings(world, name), issuer(world, name)]
    yield from _folder("admission/policies", admission.policies(world))
    yield from _folder(path, objects, resources=["../policies"])


def _observed(world: World) -> Iterator[tuple[str, str]]:
    namespace: Object = {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": world.namespace(OPERATORS)},
    }
    objects = [namespace, alert_rules(), dashboard()]
    yield from _folder("observability", objects, namespace=world.namespace(OPERATORS))


def render(manifest: Manifest, trust: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """Every file by its path. Raises InvalidInput for a manifest without a ``kubernetes`` section, or trust that lacks
    an authority."""
    if manifest.kubernetes is None:
        raise InvalidInput("required key is missing", where="kubernetes", remedy="see docs/kubernetes.md")
    for name in (GLOBAL, *manifest.jurisdictions):
        if f"{name}.pem" not in trust.get("authorities", {}):
            raise InvalidInput(f"no authority for {name}", where="authorities", remedy=f"put {name}.pem there")
    if not trust.get("operators"):
        raise InvalidInput("holds no key (*.pem)", where="operators", remedy="put the operators' public keys there")
    world = World(manifest)
    files = dict([*_bases(), *_trust(trust), *_observed(world)])
    for place, jurisdiction in world.places().items():
        files |= dict(_place(world, place, jurisdiction))
    for cluster in dict.fromkeys(world.cluster(name) for name in (GLOBAL, *manifest.jurisdictions)):
        mine = [name for name in (GLOBAL, *manifest.jurisdictions) if world.cluster(name) == cluster]
        files |= dict(_admission(world, cluster, mine))
        places = [overlay_of(place, home) for place, home in world.places().items() if home in mine]
        roots = [f"../../admission/{cluster}", "../../observability", *(f"../../{path}" for path in places)]
        root = {**overlays.KUSTOMIZATION, "resources": roots}
        files[f"{ROOT}/{cluster}/kustomization.yaml"] = dump(root)
    return files
