"""What Kubernetes has to be told beside the topology: labels of places, classes, stores and images by digest.

The section stays out of the signed topology: no process reads it, so that a new image is no new revision. It is whole
or refused; addresses that are names of Services must be those that `domicile k8s render` gives them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Final
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, StringConstraints

from domicile.model.addresses import Address, NetworkField
from domicile.model.errors import ManifestProblem
from domicile.model.ids import JurisdictionName, Name, ZoneName
from domicile.model.key_domains import over_tls
from domicile.model.rules import Strict

if TYPE_CHECKING:
    from domicile.model.manifest import Manifest

DIRECTORY: Final = "directory"
DATABASE_PORT: Final = 5432
_MAX_NAMESPACE: Final = 63

Label = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?$")]
"""A value of a label of Kubernetes."""
ObjectName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$")]
Domain = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*$")]
Size = Annotated[str, StringConstraints(pattern=r"^[1-9][0-9]{0,5}(Mi|Gi|Ti)$")]
Bucket = Annotated[str, StringConstraints(pattern=r"^s3://[A-Za-z0-9][A-Za-z0-9./_-]*[A-Za-z0-9]$")]
Image = Annotated[
    str,
    StringConstraints(
        pattern=r"^[a-z0-9][a-z0-9.-]*(:[0-9]{1,5})?(/[a-z0-9]+([._-]+[a-z0-9]+)*)+@sha256:[0-9a-f]{64}$",
        max_length=512,
    ),
]
"""By digest: a tag can be moved under a running cell."""


class Images(Strict):
    """``operations`` holds the ``domicile`` command, which keeps an edge's configuration; ``app`` is the application's
    own, built on the SDK."""

    directory: Image
    router: Image
    cell: Image
    operations: Image
    app: Image
    envoy: Image
    collector: Image
    postgres: Image


class Cluster(Strict):
    """``networks``: its pods'. What runs in another cluster is let through by them, since no label of its pods shows.
    ``api``: where its API server is, which the databases' managers keep their leases at."""

    networks: list[NetworkField] = Field(min_length=1, max_length=64)
    api: NetworkField


class Place(Strict):
    """The values of a node's ``topology.kubernetes.io/region`` and ``/zone``."""

    region: Label
    zone: Label


class Store(Strict):
    """Where one jurisdiction's data may lie, and the directory's: nothing else is admitted.

    ``secret_store``: a ClusterSecretStore (External Secrets) that holds the pepper and the backups' credentials;
    ``bucket``, ``endpoint``: where CloudNativePG puts backups, whose country and days are ``backups`` of the manifest;
    ``outside``: networks beyond the clusters that databases, routers and collectors may reach on port 443: the
    endpoint's, the identity provider's, other jurisdictions' public hosts.
    """

    cluster: Name
    storage_class: ObjectName
    secret_store: ObjectName
    bucket: Bucket
    endpoint: Annotated[str, AfterValidator(over_tls)]
    outside: list[NetworkField] = Field(default_factory=list, max_length=64)
    database_size: Size = "20Gi"
    state_size: Size = "8Gi"


class JurisdictionStore(Store):
    """``gateway_class``: of the Gateway API; ``public_issuer``: a ClusterIssuer that signs for the public host;
    ``telemetry``: where the collector sends to; without it there is none."""

    gateway_class: ObjectName
    public_issuer: ObjectName
    telemetry: Annotated[str, AfterValidator(over_tls)] | None = None


class KubernetesSection(Strict):
    """``domain``: what stands behind ``.svc.`` in the names of Services; ``replicas``: pods of each zone's app,
    gateway, router and edge, at least and at most."""

    clusters: dict[Name, Cluster] = Field(min_length=1)
    domain: Domain = "cluster.local"
    images: Images
    zones: dict[ZoneName, Place]
    directory: Store
    jurisdictions: dict[JurisdictionName, JurisdictionStore]
    replicas: tuple[Annotated[int, Field(ge=1, le=1000)], Annotated[int, Field(ge=1, le=1000)]] = (2, 10)


def namespace(manifest: Manifest, place: str) -> str:
    """Of a cell, a jurisdiction or the directory."""
    return f"{manifest.deployment}-{place}"


def service_host(manifest: Manifest, service: str, place: str) -> str:
    """The name under which a Service is found. The manifest has a ``kubernetes`` section."""
    assert manifest.kubernetes is not None
    return f"{service}.{namespace(manifest, place)}.svc.{manifest.kubernetes.domain}"


def zones_of(manifest: Manifest, jurisdiction: str) -> list[str]:
    """Where a jurisdiction has pods: zones of its cells' data and of its routers."""
    zones = [zone for cell in manifest.cells_of(jurisdiction).values() for zone in cell.zones]
    return list(dict.fromkeys([*zones, *manifest.routers_of(jurisdiction)]))


def check_kubernetes(manifest: Manifest) -> Iterator[ManifestProblem]:
    """Nothing where there is no section."""
    section = manifest.kubernetes
    if section is None:
        return
    yield from _check_places(manifest, section)
    yield from _check_stores(manifest, section)
    yield from _check_names(manifest)
    if section.replicas[0] > section.replicas[1]:
        yield ManifestProblem("kubernetes.replicas", "at least more than at most", "such as [2, 10]")


def _check_places(manifest: Manifest, section: KubernetesSection) -> Iterator[ManifestProblem]:
    owners: dict[str, str] = {}
    used = [site.zone for site in manifest.directory.sites]
    for name in manifest.jurisdictions:
        for zone in zones_of(manifest, name):
            used.append(zone)
            place = section.zones.get(zone)
            if place is not None and (other := owners.setdefault(place.region, name)) != name:
                yield ManifestProblem(
                    f"kubernetes.zones.{zone}.region",
                    f"region {place.region} is also {other}'s",
                    "a region lies in one jurisdiction, or no node could be told from one abroad",
                )
    for zone in dict.fromkeys(used):
        if zone not in section.zones:
            yield ManifestProblem(f"kubernetes.zones.{zone}", "required key is missing", "name its region and zone")
    for zone in section.zones:
        if zone not in used:
            yield ManifestProblem(f"kubernetes.zones.{zone}", "nothing runs in this zone", "remove it")
    seen: dict[tuple[str, str], str] = {}
    for zone, place in section.zones.items():
        if (twin := seen.setdefault((place.region, place.zone), zone)) != zone:
            yield ManifestProblem(f"kubernetes.zones.{zone}", f"is the same place as {twin}", "a zone fails by itself")


def _check_stores(manifest: Manifest, section: KubernetesSection) -> Iterator[ManifestProblem]:
    stores: dict[str, Store] = {"kubernetes.directory": section.directory}
    for name in manifest.jurisdictions:
        path = f"kubernetes.jurisdictions.{name}"
        if (own := section.jurisdictions.get(name)) is None:
            yield ManifestProblem(path, "required key is missing", "say where its data may lie")
            continue
        stores[path] = own
        if manifest.jurisdictions[name].backups is None:
            yield ManifestProblem(f"jurisdictions.{name}.backups", "required key is missing", f"{path}.bucket is kept")
        if (own.telemetry is None) != (manifest.jurisdictions[name].collector is None):
            yield ManifestProblem(
                f"{path}.telemetry",
                f"is nothing without jurisdictions.{name}.collector, nor that without it",
                "name both or neither",
            )
    if manifest.directory.backups is None:
        yield ManifestProblem("directory.backups", "required key is missing", "kubernetes.directory.bucket is kept")
    for name in section.jurisdictions:
        if name not in manifest.jurisdictions:
            yield ManifestProblem(f"kubernetes.jurisdictions.{name}", "unknown jurisdiction", "remove it")
    for field in ("storage_class", "secret_store", "bucket"):
        seen: dict[str, str] = {}
        for path, store in stores.items():
            value = getattr(store, field)
            for other, theirs in seen.items():
                if f"{value}/".startswith(f"{theirs}/") or f"{theirs}/".startswith(f"{value}/"):
                    yield ManifestProblem(f"{path}.{field}", f"{value} is also {other}'s", "each place has its own")
            seen[path] = value
    for path, store in stores.items():
        if store.cluster not in section.clusters:
            known = ", ".join(section.clusters)
            yield ManifestProblem(f"{path}.cluster", f"unknown cluster {store.cluster!r}", f"one of {known}")
    pods = [network for cluster in section.clusters.values() for network in cluster.networks]
    for path, store in stores.items():
        for number, outside in enumerate(store.outside):
            if any(outside.version == network.version and outside.overlaps(network) for network in pods):
                yield ManifestProblem(
                    f"{path}.outside[{number}]", f"{outside} holds pods of a cluster", "name what lies beyond them"
                )
    if len({store.cluster for store in stores.values()}) > 1 and section.domain == "cluster.local":
        yield ManifestProblem("kubernetes.domain", "cluster.local ends at its cluster", "such as clusterset.local")
    for name, cell in manifest.cells.items():
        place = section.jurisdictions.get(cell.jurisdiction)
        cluster = section.clusters.get(place.cluster) if place is not None else None
        for zone_name, zone in cell.zones.items():
            if cluster is not None and not any(
                zone.network.version == network.version and zone.network.subnet_of(network)  # type: ignore[arg-type]
                for network in cluster.networks
            ):
                yield ManifestProblem(
                    f"cells.{name}.zones.{zone_name}.network",
                    f"{zone.network} is no part of its cluster's pod networks",
                    "a zone's network is that of its nodes' pods",
                )


def _check_names(manifest: Manifest) -> Iterator[ManifestProblem]:
    for path, address, host in _expected(manifest):
        if address.host != host:
            yield ManifestProblem(path, f"{address} is not the Service that is rendered", f"{host}:{address.port}")
    for name, cell in manifest.cells.items():
        if name == DIRECTORY or name in manifest.jurisdictions:
            yield ManifestProblem(f"cells.{name}", "a namespace of this name is another's", "rename the cell")
        for zone_name, zone in cell.zones.items():
            if Address(zone.storage).port != DATABASE_PORT:
                yield ManifestProblem(
                    f"cells.{name}.zones.{zone_name}.storage",
                    f"{zone.storage} is no port of CloudNativePG",
                    f"it listens on {DATABASE_PORT}",
                )
    for place in (DIRECTORY, *manifest.jurisdictions, *manifest.cells):
        if len(namespace(manifest, place)) > _MAX_NAMESPACE:
            yield ManifestProblem("deployment", f"namespace {namespace(manifest, place)} is too long", "shorten it")
    for name, jurisdiction in manifest.jurisdictions.items():
        if len(jurisdiction.keys.service) != 1:
            yield ManifestProblem(
                f"jurisdictions.{name}.keys.service", "one address is rendered", "one Service leads to the key service"
            )
        collector = jurisdiction.collector
        expected = service_host(manifest, "collector", name)
        if collector is not None and (urlsplit(collector).hostname != expected or urlsplit(collector).port is None):
            yield ManifestProblem(
                f"jurisdictions.{name}.collector",
                f"{collector} is not the Service that is rendered",
                f"https://{expected}:4318",
            )


def _expected(manifest: Manifest) -> Iterator[tuple[str, Address, str]]:
    for number, site in enumerate(manifest.directory.sites):
        host = service_host(manifest, f"directory-{site.zone}", DIRECTORY)
        yield f"directory.sites[{number}].address", Address(site.address), host
    for name, jurisdiction in manifest.jurisdictions.items():
        for number, address in enumerate(jurisdiction.keys.service):
            yield f"jurisdictions.{name}.keys.service[{number}]", Address(address), service_host(manifest, "keys", name)
    for name, cell in manifest.cells.items():
        for zone_name, zone in cell.zones.items():
            for field in ("app", "gateway", "storage"):
                host = service_host(manifest, f"{field}-{zone_name}", name)
                yield f"cells.{name}.zones.{zone_name}.{field}", Address(getattr(zone, field)), host
    for zone_name, router in manifest.routers.items():
        home = manifest.jurisdiction_of(router.country)
        for field in ("public", "internal") if home is not None else ():
            assert home is not None
            host = service_host(manifest, f"router-{zone_name}", home)
            yield f"routers.{zone_name}.{field}", Address(getattr(router, field)), host
