"""What is rendered: valid for three versions of Kubernetes, in its place, and true to what the code does."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
from domicile_testing.kubernetes import Object, example, pods_of, rendered
from ruamel.yaml import YAML

from domicile.cells.gateway import GatewaySettings
from domicile.cells.keys import KeySettings
from domicile.directory.main import DirectorySettings
from domicile.identity.probe import PATHS
from domicile.model.access import Role
from domicile.ops.k8s.environment import environment
from domicile.ops.k8s.names import CELL, JURISDICTION, REGION_LABEL, ROLE, ZONE_LABEL, World
from domicile.router.settings import RouterSettings
from domicile.service import ProcessSettings, load_settings

VERSIONS = ("1.35", "1.36", "1.37")
SCHEMAS = Path(__file__).parent / "schemas"
SETTINGS: dict[str, type[ProcessSettings]] = {
    Role.DIRECTORY: DirectorySettings,
    Role.ROUTER: RouterSettings,
    Role.GATEWAY: GatewaySettings,
    Role.KEYS: KeySettings,
    Role.APP: ProcessSettings,
    Role.EDGE: ProcessSettings,
}


def is_custom(thing: Object) -> bool:
    group = thing["apiVersion"].partition("/")[0]
    ours = ("gateway.", "multicluster.")
    return group.startswith(ours) or ("." in group and not group.endswith("k8s.io"))


def named(thing: Object) -> str:
    return f"{thing['kind']} {thing['metadata'].get('namespace', '')}/{thing['metadata']['name']}"


class Kubernetes:
    """The strict schemas of one version, read once: kubernetes_validate's own function reads 2 MB for each object."""

    def __init__(self, version: str) -> None:
        folder = Path(kubernetes_validate.__file__).parent / "kubernetes-json-schema" / f"v{version}.0-local-strict"
        self._definitions = json.loads((folder / "_definitions.json").read_text())["$defs"]
        self._names: dict[tuple[str, str], str] = {}
        for name, schema in self._definitions.items():
            fields = schema.get("properties", {})
            kinds, versions = (fields.get(each, {}).get("enum", []) for each in ("kind", "apiVersion"))
            for kind in kinds:
                self._names |= {(each, kind): name for each in versions}

    def errors(self, thing: Object) -> list[str]:
        name = self._names[(thing["apiVersion"], thing["kind"])]
        schema = {"$defs": self._definitions, "$ref": f"#/$defs/{name}"}
        found = jsonschema.Draft202012Validator(schema).iter_errors(thing)
        return [f"{named(thing)}: {error.json_path}: {error.message}" for error in found]


@pytest.mark.parametrize("version", VERSIONS)
def test_each_object_is_valid_for_kubernetes(objects: list[Object], version: str) -> None:
    schemas = Kubernetes(version)
    things = [each for each in objects if not is_custom(each)]
    assert [error for each in things for error in schemas.errors(each)] == []
    service = next(each for each in things if each["kind"] == "Service")
    assert schemas.errors({**service, "spec": {**service["spec"], "clusterIp": "None"}})
    kinds = {each["kind"] for each in things}
    assert kinds >= {"StatefulSet", "NetworkPolicy", "ValidatingAdmissionPolicy", "PodDisruptionBudget", "Service"}


def closed(schema: Any) -> Any:
    """Kubernetes prunes what a schema doesn't know; here it is an error."""
    if isinstance(schema, list):
        return [closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    found = {key: closed(value) for key, value in schema.items()}
    open_ended = schema.get("x-kubernetes-preserve-unknown-fields") or "additionalProperties" in schema
    if schema.get("type") == "object" and isinstance(schema.get("properties"), dict) and not open_ended:
        found["additionalProperties"] = False
    if schema.get("x-kubernetes-int-or-string"):
        found.pop("type", None)
    return found


@cache
def schema_of(version: str, kind: str) -> Any:
    path = SCHEMAS / f"{version.replace('/', '_')}_{kind}.json".lower()
    schema = closed(json.loads(path.read_text()))
    schema["properties"]["metadata"] = {"type": "object"}
    return schema


def test_each_custom_resource_is_valid_by_its_published_schema(objects: list[Object]) -> None:
    kinds: set[str] = set()
    for thing in filter(is_custom, objects):
        errors = list(jsonschema.Draft202012Validator(schema_of(thing["apiVersion"], thing["kind"])).iter_errors(thing))
        assert not errors, f"{named(thing)}: {errors[0].json_path}: {errors[0].message}"
        kinds.add(thing["kind"].lower())
    assert kinds == {path.stem.rpartition("_")[2] for path in SCHEMAS.glob("*.json")}  # none stands there for nothing


def test_a_misspelt_field_of_a_custom_resource_is_seen(objects: list[Object]) -> None:
    database = next(each for each in objects if each["kind"] == "Cluster")
    validator = jsonschema.Draft202012Validator(schema_of(database["apiVersion"], "Cluster"))
    assert not list(validator.iter_errors(database))
    assert list(validator.iter_errors({**database, "spec": {**database["spec"], "instence": 2}}))


def test_every_workload_is_confined(objects: list[Object]) -> None:
    pods = pods_of(objects)
    assert len(pods) == 17
    for pod in pods:
        spec = pod["spec"]
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert spec["automountServiceAccountToken"] is False
        assert "hostNetwork" not in spec
        for container in [*spec["containers"], *spec.get("initContainers", [])]:
            context = container["securityContext"]
            assert context["readOnlyRootFilesystem"] is True
            assert context["allowPrivilegeEscalation"] is False
            assert context["runAsNonRoot"] is True
            assert context["capabilities"] == {"drop": ["ALL"]}
            assert set(container["resources"]["requests"]) == {"cpu", "memory"}


def test_every_workload_stays_in_its_regions(objects: list[Object]) -> None:
    world = World(example())
    for pod in pods_of(objects):
        home = pod["metadata"]["labels"][JURISDICTION]
        affinity = pod["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
        (term,) = affinity["nodeSelectorTerms"]
        values = {each["key"]: each["values"] for each in term["matchExpressions"]}
        assert set(values[REGION_LABEL]) <= set(world.regions(home)), named(pod)
        assert values[ZONE_LABEL]


def test_a_cell_is_spread_over_its_zones(objects: list[Object]) -> None:
    for name, cell in example().cells.items():
        zones: dict[str, set[str]] = {}
        for pod in pods_of(objects):
            if pod["metadata"]["labels"].get(CELL) == name:
                expressions = pod["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
                values = expressions["nodeSelectorTerms"][0]["matchExpressions"][1]["values"]
                zones.setdefault(pod["metadata"]["labels"][ROLE], set()).update(values)
        assert {role: len(found) for role, found in zones.items()} == {"app": len(cell.zones), "gateway": 2}
    for thing in objects:
        if thing["kind"] == "Cluster":
            assert thing["spec"]["affinity"]["podAntiAffinityType"] == "required"
            assert thing["spec"]["affinity"]["topologyKey"] == ZONE_LABEL
            assert thing["spec"]["postgresql"]["synchronous"]["dataDurability"] == "required"


def told(objects: list[Object]) -> Iterator[tuple[Object, dict[str, str]]]:
    """Each workload with the variables that it gets."""
    maps = {(each["metadata"].get("namespace"), each["metadata"]["name"]): each for each in objects}
    for thing in objects:
        if thing["kind"] == "StatefulSet":
            template = thing["spec"]["template"]["spec"]
            container = [*template.get("initContainers", []), *template["containers"]][0]
            (source,) = container["envFrom"]
            yield thing, maps[(thing["metadata"]["namespace"], source["configMapRef"]["name"])]["data"]


def test_each_variable_is_one_of_the_process(objects: list[Object], monkeypatch: pytest.MonkeyPatch) -> None:
    seen: set[str] = set()
    for thing, variables in told(objects):
        role = thing["metadata"]["labels"][ROLE]
        kind = SETTINGS[role]
        assert {name.removeprefix("DOMICILE_").lower() for name in variables} <= set(kind.model_fields), named(thing)
        with monkeypatch.context() as patched:
            for name, value in variables.items():
                patched.setenv(name, value)
            settings = load_settings(kind)
        assert settings.deployment == "acme"
        assert settings.drain_seconds + 10 < thing["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
        assert (settings.pepper is not None) is (role in (Role.ROUTER, Role.APP))
        seen.add(role)
    assert seen == set(SETTINGS)


def test_paths_that_a_process_is_told_are_mounted(objects: list[Object]) -> None:
    for thing, variables in told(objects):
        template = thing["spec"]["template"]["spec"]
        container = [*template.get("initContainers", []), *template["containers"]][0]
        mounts = [mount["mountPath"] for mount in container["volumeMounts"]]
        paths = [value for value in variables.values() if value.startswith("/")]
        assert len(paths) >= 5
        for path in paths:
            assert any(path == mount or path.startswith(f"{mount}/") for mount in mounts), f"{named(thing)}: {path}"
        volumes = {volume["name"] for volume in template["volumes"]} | {"state"}
        assert {mount["name"] for mount in container["volumeMounts"]} <= volumes


def test_probes_ask_what_the_service_serves(objects: list[Object]) -> None:
    for pod in pods_of(objects):
        for container in pod["spec"]["containers"]:
            for probe in ("readinessProbe", "livenessProbe"):
                command = container[probe].get("exec", {}).get("command")
                if command is None:
                    assert container["name"] in ("envoy", "collector")
                    continue
                assert command[:3] == ["python", "-m", "domicile.identity.probe"]
                assert command[3] in PATHS


def test_secrets_and_services_that_are_named_are_there(objects: list[Object]) -> None:
    made = {
        (each["metadata"]["namespace"], each["spec"].get("secretName") or each["spec"]["target"]["name"])
        for each in objects
        if each["kind"] in ("Certificate", "ExternalSecret")
    }
    services = {
        (each["metadata"]["namespace"], each["metadata"]["name"]): {port["port"] for port in each["spec"]["ports"]}
        for each in objects
        if each["kind"] == "Service"
    }
    for pod in pods_of(objects):
        for volume in pod["spec"]["volumes"]:
            if "secret" in volume:
                assert (pod["metadata"]["namespace"], volume["secret"]["secretName"]) in made, named(pod)
    for route in (each for each in objects if each["kind"] == "TLSRoute"):
        for backend in route["spec"]["rules"][0]["backendRefs"]:
            assert backend["port"] in services[(route["metadata"]["namespace"], backend["name"])]
    for address in addresses_of_the_manifest():
        host, _, port = address.rpartition(":")
        service, namespace = host.split(".")[:2]
        assert int(port) in services[(namespace, service)], address


def addresses_of_the_manifest() -> Iterator[str]:
    manifest = example()
    yield from (site.address for site in manifest.directory.sites)
    for jurisdiction in manifest.jurisdictions.values():
        yield from jurisdiction.keys.service
        if jurisdiction.collector is not None:
            yield jurisdiction.collector.removeprefix("https://")
    for cell in manifest.cells.values():
        for zone in cell.zones.values():
            yield from (zone.app, zone.gateway, zone.storage)
    for router in manifest.routers.values():
        yield from (router.public, router.internal)


def test_the_centre_has_no_pepper(objects: list[Object]) -> None:
    of_directory = [each for each in objects if each["metadata"].get("namespace") == "acme-directory"]
    assert of_directory
    assert not any("pepper" in json.dumps(each).lower() for each in of_directory)


def test_a_cluster_gets_what_is_of_its_jurisdictions_alone(clusters: dict[str, list[Object]]) -> None:
    homes = {
        name: {each["metadata"].get("labels", {}).get(JURISDICTION) for each in objects} - {None}
        for name, objects in clusters.items()
    }
    assert homes == {"europe": {"global", "eu"}, "america": {"us"}}


def test_topology_is_in_overlays_alone() -> None:
    world = World(example())
    places = {*world.section.zones, *world.manifest.cells, *world.regions("eu"), *world.regions("us"), "amazonaws"}
    bases = {name: text for name, text in rendered().items() if name.startswith("bases/") and "/trust/" not in name}
    assert len(bases) > 20
    for name, text in bases.items():
        words = set(text.replace('"', " ").replace("/", " ").split())
        assert not words & places, name


def test_every_certificate_names_an_instance(objects: list[Object]) -> None:
    world = World(example())
    identities = {each.identity("acme").uri for each in world.instances}
    named_by = [uri for each in objects if each["kind"] == "Certificate" for uri in each["spec"].get("uris", [])]
    assert sorted(named_by) == sorted(identities)
    issuers = {each["metadata"]["name"] for each in objects if each["kind"] == "ClusterIssuer"}
    assert issuers == {"acme-global", "acme-eu", "acme-us"}
    for each in (thing for thing in objects if thing["kind"] == "Certificate"):
        for uri in each["spec"].get("uris", []):
            assert each["spec"]["issuerRef"]["name"] == f"acme-{uri.split('/')[3]}"


def test_every_instance_is_told_where_it_is() -> None:
    world = World(example())
    for instance in world.instances:
        if instance.role is not Role.STORAGE:
            assert environment(world, instance)["DOMICILE_PROCESS"].startswith(str(instance.role))


def test_files_are_plain_yaml() -> None:
    for name, text in rendered().items():
        if name.endswith(".yaml"):
            YAML(typ="safe", pure=True).load(text)
            assert "&id" not in text, name
