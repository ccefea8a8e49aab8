"""Names that several objects share: labels, ports, folders in a container, and the identities of what runs where.

An instance is one role in one zone: what one certificate names. All is read from a manifest with a ``kubernetes``
section; who may speak to whom is decided over these instances by ``domicile.model.access.may``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

from domicile.model.access import GLOBAL, Identity, Role
from domicile.model.addresses import Address
from domicile.model.kubernetes import (
    DATABASE_PORT,
    DIRECTORY,
    KubernetesSection,
    Store,
    namespace,
    service_host,
    zones_of,
)
from domicile.model.manifest import Manifest

PREFIX: Final = "domicile.internal"
"""Of labels: nobody's to register."""
JURISDICTION: Final = f"{PREFIX}/jurisdiction"
CELL: Final = f"{PREFIX}/cell"
ROLE: Final = f"{PREFIX}/role"
ZONE: Final = f"{PREFIX}/zone"
REGION_LABEL: Final = "topology.kubernetes.io/region"
ZONE_LABEL: Final = "topology.kubernetes.io/zone"
DATABASE: Final = "db"
EDGE_PORT: Final = 8443
COLLECTOR: Final = "collector"
OPERATORS: Final = "operators"
"""The namespace that operators work from, and whoever collects metrics with an operator's certificate."""

Object = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Instance:
    """``place``: the cell, jurisdiction or ``directory`` that its namespace is named after; ``ports`` by name."""

    role: Role
    jurisdiction: str
    place: str
    zone: str
    ports: tuple[tuple[str, int], ...]

    def identity(self, deployment: str) -> Identity:
        name = f"{self.place}.{self.zone}" if self.is_cells else self.zone
        return Identity(deployment, self.jurisdiction, self.role, name)

    @property
    def is_cells(self) -> bool:
        return self.place not in (self.jurisdiction, DIRECTORY)

    @property
    def name(self) -> str:
        return str(self.role) if self.role is Role.KEYS else f"{self.role}-{self.zone}"

    @property
    def cell(self) -> str | None:
        return self.place if self.is_cells else None

    def port(self, name: str) -> int:
        return dict(self.ports)[name]

    @property
    def common_name(self) -> str:
        """What PostgreSQL knows a certificate by, which reads no URI."""
        return f"{self.role}.{self.place}"


class World:
    """A manifest with its ``kubernetes`` section, as the renderers ask it."""

    def __init__(self, manifest: Manifest) -> None:
        assert manifest.kubernetes is not None
        self.manifest = manifest
        self.section: KubernetesSection = manifest.kubernetes
        self.instances = list(_instances(manifest))

    @property
    def deployment(self) -> str:
        return self.manifest.deployment

    def namespace(self, place: str) -> str:
        return namespace(self.manifest, place)

    def host(self, service: str, place: str) -> str:
        return service_host(self.manifest, service, place)

    def store(self, jurisdiction: str) -> Store:
        return self.section.directory if jurisdiction == GLOBAL else self.section.jurisdictions[jurisdiction]

    def cluster(self, jurisdiction: str) -> str:
        return self.store(jurisdiction).cluster

    def places(self) -> dict[str, str]:
        """Each namespace's place, and its jurisdiction."""
        cells = {name: cell.jurisdiction for name, cell in self.manifest.cells.items()}
        return {DIRECTORY: GLOBAL} | {name: name for name in self.manifest.jurisdictions} | cells

    def zones(self, jurisdiction: str) -> list[str]:
        if jurisdiction == GLOBAL:
            return [site.zone for site in self.manifest.directory.sites]
        return zones_of(self.manifest, jurisdiction)

    def regions(self, jurisdiction: str) -> list[str]:
        return sorted({self.section.zones[zone].region for zone in self.zones(jurisdiction)})

    def database_zones(self, place: str, jurisdiction: str) -> list[str]:
        if place in self.manifest.cells:
            return list(self.manifest.cells[place].zones)
        if place == DIRECTORY:
            return self.zones(GLOBAL)[:2]
        return data_zones(self.manifest, jurisdiction)[:2]

    def of(self, place: str, *roles: Role) -> list[Instance]:
        return [each for each in self.instances if each.place == place and each.role in roles]


def data_zones(manifest: Manifest, jurisdiction: str) -> list[str]:
    return list(dict.fromkeys(zone for cell in manifest.cells_of(jurisdiction).values() for zone in cell.zones))


def labels_of(world: World, jurisdiction: str, place: str, **more: str) -> dict[str, str]:
    found = {JURISDICTION: jurisdiction, "app.kubernetes.io/part-of": "domicile"}
    if place in world.manifest.cells:
        found[CELL] = place
    return found | more


def affinity(world: World, jurisdiction: str, zones: list[str]) -> Object:
    """Required: nodes of the zones, in the jurisdiction's regions."""
    places = [world.section.zones[zone] for zone in zones]
    expressions = [
        {"key": REGION_LABEL, "operator": "In", "values": sorted({place.region for place in places})},
        {"key": ZONE_LABEL, "operator": "In", "values": sorted({place.zone for place in places})},
    ]
    return {
        "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{"matchExpressions": expressions}]}
    }


def collector_port(world: World, jurisdiction: str) -> int | None:
    place = world.manifest.jurisdictions.get(jurisdiction)
    return urlsplit(place.collector).port if place is not None and place.collector is not None else None


def _one(address: str) -> tuple[tuple[str, int], ...]:
    return (("tls", Address(address).port),)


def _instances(manifest: Manifest) -> Iterator[Instance]:
    database = (("postgres", DATABASE_PORT),)
    for site in manifest.directory.sites:
        yield Instance(Role.DIRECTORY, GLOBAL, DIRECTORY, site.zone, _one(site.address))
    yield Instance(Role.STORAGE, GLOBAL, DIRECTORY, manifest.directory.sites[0].zone, database)
    for name, jurisdiction in manifest.jurisdictions.items():
        if zones := data_zones(manifest, name):
            yield Instance(Role.KEYS, name, name, zones[0], _one(jurisdiction.keys.service[0]))
            yield Instance(Role.STORAGE, name, name, zones[0], database)
        for zone, router in manifest.routers_of(name).items():
            ports = (("public", Address(router.public).port), ("tls", Address(router.internal).port))
            yield Instance(Role.ROUTER, name, name, zone, ports)
            yield Instance(Role.EDGE, name, name, zone, (("public", EDGE_PORT),))
    for name, cell in manifest.cells.items():
        for zone, place in cell.zones.items():
            yield Instance(Role.APP, cell.jurisdiction, name, zone, _one(place.app))
            yield Instance(Role.GATEWAY, cell.jurisdiction, name, zone, _one(place.gateway))
        yield Instance(Role.STORAGE, cell.jurisdiction, name, next(iter(cell.zones)), database)
