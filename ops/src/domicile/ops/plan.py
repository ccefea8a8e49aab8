"""Which processes a manifest asks for in the local world, in which order, and how each is told its place.

Pure but for the choice of ports: a list of ``ProcessSpec``, one for each process, by stage. A process starts
when all of the stages before its own are ready. One data zone of each cell runs, the first; of a highly available
one, both, each with a node of its database under Patroni.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from domicile.model.access import CELL_ROLES, GLOBAL, Endpoint, Identity, Role
from domicile.model.addresses import literal
from domicile.model.errors import InvalidInput
from domicile.model.manifest import Address, Manifest, Risk, Witness, Zone
from domicile.ops import postgres
from domicile.ops.clusters import SECRETS, Cluster, Node, node_settings, witness_settings
from domicile.ops.layout import Layout
from domicile.ops.provision import Provision

SAMPLE: Final = "domicile.sample"
_CONSOLE: Final = "from {module} import {app} as app; app()"


@dataclass(frozen=True, slots=True)
class ProcessSpec:
    """One process: who it is, where it listens, how it is started, ended and asked whether it is ready.

    ``database``: the folder of the PostgreSQL cluster that this process is; ``health``: whether it answers
    ``/readyz`` over mutual TLS (otherwise a connection is all that can be asked of it). ``cluster``: the one under
    Patroni that this is a process of; ``founder``: of the node whose data the other copies at first; ``secrets``:
    passwords of the roles that copy. ``group``: the control group in which it runs; none: where its starter does.
    """

    name: str
    role: str
    jurisdiction: str
    zone: str
    address: str
    command: list[str]
    environment: dict[str, str] = field(default_factory=dict)
    ends_with: signal.Signals = signal.SIGTERM
    database: Path | None = None
    database_owner: str | None = None
    health: bool = True
    stage: int = 0
    cluster: str = ""
    founder: bool = False
    secrets: dict[str, str] = field(default_factory=dict, repr=False)
    group: Path | None = None


STORAGE, DOORS, DIRECTORY, CELLS = range(4)
MAX_SOCKET_PATH: Final = 100
"""Below the 107 bytes that Linux gives an address in the file system: libpq names a socket by its whole path."""
WITNESS_HOST: Final = 10
"""Which address of its network a witness listens at."""


def doors_of(specs: Collection[ProcessSpec], storage: str) -> list[ProcessSpec]:
    """The doors of one database, the first node's first."""
    name = f"{storage}-storage"
    return [spec for spec in specs if spec.name == name or spec.name.startswith(f"{name}.")]


def databases_of(manifest: Manifest, jurisdiction: str) -> list[str]:
    """The databases that a jurisdiction's backup agent keeps, the key store's first; ``global`` has the directory's."""
    return ["directory"] if jurisdiction == GLOBAL else [f"keys-{jurisdiction}", *manifest.cells_of(jurisdiction)]


def highly_available(manifest: Manifest, cells: Collection[str] = ()) -> frozenset[str]:
    """The databases that get a standby and a witness: those of ``cells``, or every one. Raises InvalidInput."""
    if unknown := sorted(set(cells) - set(manifest.cells)):
        raise InvalidInput(f"no cell {unknown[0]}", where="--ha-cell", remedy=f"one of {', '.join(manifest.cells)}")
    everything = ["directory", *(f"keys-{name}" for name in manifest.jurisdictions), *manifest.cells]
    return frozenset(cells or everything)


def other_zone(manifest: Manifest, jurisdiction: str, first: str) -> tuple[str, Zone] | None:
    """A data zone of the jurisdiction's cells beside ``first``: where the second of its key services and stores is."""
    cells = manifest.cells_of(jurisdiction).values()
    return next(((name, zone) for cell in cells for name, zone in cell.zones.items() if name != first), None)


class Planner:
    """Builds the list for one start. ``available``: the databases that get a standby."""

    def __init__(
        self,
        manifest: Manifest,
        layout: Layout,
        provision: Provision,
        free: Callable[[str], str],
        log_level: str = "info",
        app: str = SAMPLE,
        available: Collection[str] = (),
    ) -> None:
        self._manifest = manifest
        self._layout = layout
        self._provision = provision
        self._free = free
        self._log_level = log_level
        self._commands = _COMMANDS | {Role.APP: ["-m", app]}
        self._available = available
        self.specs: list[ProcessSpec] = []

    def plan(self) -> list[ProcessSpec]:
        sites = self._manifest.directory.sites[: 2 if "directory" in self._available else 1]
        places = [(site.zone, self._free(Address(site.address).host)) for site in sites]
        self._storage("directory", GLOBAL, places, "domicile_directory", self._manifest.directory.witness)
        for site in sites:
            self._service("directory", GLOBAL, Role.DIRECTORY, site.zone, site.address, DIRECTORY, storage="directory")
        for name, jurisdiction in self._manifest.jurisdictions.items():
            address = jurisdiction.keys.service[0]
            key_zone = self._zone_of(name, address)
            places = [(key_zone, self._free(Address(address).host))]
            witness: Witness | None = None
            if f"keys-{name}" in self._available:
                second, witness = self._key_places(name, key_zone)
                places.append(second)
            self._storage(f"keys-{name}", name, places, "domicile_keys", witness)
            self._key_services(name, jurisdiction.keys.service[: len(places)])
        for name, cell in self._manifest.cells.items():
            zones = list(cell.zones.items())[: 2 if name in self._available else 1]
            nodes = [(f"{name}.{zone_name}", zone.storage) for zone_name, zone in zones]
            strict = Risk.UNREPLICATED_WRITES not in cell.accept
            self._storage(name, cell.jurisdiction, nodes, None, cell.witness, strict=strict)
            for (_, zone), (full, _) in zip(zones, nodes, strict=True):
                self._service(
                    f"{name}-gateway", cell.jurisdiction, Role.GATEWAY, full, zone.gateway, CELLS, storage=name
                )
                self._service(f"{name}-app", cell.jurisdiction, Role.APP, full, zone.app, CELLS, storage=name)
        for zone_name, router in self._manifest.routers.items():
            home = self._manifest.jurisdiction_of(router.country)
            assert home is not None, "a manifest that loaded has every router in a jurisdiction"
            self._service(f"router-{zone_name}", home, Role.ROUTER, zone_name, router.internal, CELLS)
            self._edge(home, zone_name)
        self._backups()
        return self.specs

    def _key_services(self, jurisdiction: str, addresses: Sequence[str]) -> None:
        """A process at each address; all hold the key-encryption keys that the first one made."""
        name = f"keys-{jurisdiction}"
        for address in addresses:
            zone = self._zone_of(jurisdiction, address)
            self._service(name, jurisdiction, Role.KEYS, zone, address, CELLS, storage=name)
            first = next(spec for spec in self.specs if spec.name == name)
            self.specs[-1].environment["DOMICILE_KEKS"] = str(Path(first.environment["DOMICILE_STATE"]) / "kek")

    def _backups(self) -> None:
        """For each jurisdiction with a target, and the directory: what keeps its databases' log there."""
        sections = {name: jurisdiction.backups for name, jurisdiction in self._manifest.jurisdictions.items()}
        for jurisdiction, target in {GLOBAL: self._manifest.directory.backups, **sections}.items():
            if target is None:
                continue
            names = databases_of(self._manifest, jurisdiction)
            first = doors_of(self.specs, names[-1])[0]
            address = self._free(Address(first.address).host)
            self._service(f"backup-{jurisdiction}", jurisdiction, Role.BACKUP, first.zone, address, CELLS)
            doors = {name: ",".join(door.address for door in doors_of(self.specs, name)) for name in names}
            self.specs[-1].environment["DOMICILE_DATABASES"] = ";".join(f"{name}={doors[name]}" for name in names)
            self.specs[-1].environment["DOMICILE_TARGETS"] = str(self._layout.root)

    def _is_backed_up(self, jurisdiction: str) -> bool:
        if jurisdiction == GLOBAL:
            return self._manifest.directory.backups is not None
        return self._manifest.jurisdictions[jurisdiction].backups is not None

    def _zone_of(self, jurisdiction: str, address: str) -> str:
        place = literal(address)
        if place is None:
            raise InvalidInput(
                f"{address} names a host; the local world needs its address",
                where=f"jurisdictions.{jurisdiction}.keys.service",
                remedy="write an address of one of the jurisdiction's zones",
            )
        for cell in self._manifest.cells_of(jurisdiction).values():
            for name, zone in cell.zones.items():
                if place in zone.network:
                    return name
        raise InvalidInput(f"{address} lies in no zone of {jurisdiction}", where="keys.service")

    def _key_places(self, jurisdiction: str, first: str) -> tuple[tuple[str, str], Witness | None]:
        """Where a key store's second node is, and its witness: in zones of the jurisdiction's cells."""
        cells = self._manifest.cells_of(jurisdiction).values()
        found = other_zone(self._manifest, jurisdiction, first)
        if found is None:
            raise InvalidInput(
                "has one data zone", where=f"jurisdictions.{jurisdiction}", remedy="add a second, or run without --ha"
            )
        second, zone = found
        voters = [cell.witness for cell in cells if cell.witness and cell.witness.zone not in (first, second)]
        return (second, self._free(Address(zone.storage).host)), voters[0] if voters else None

    def _storage(
        self,
        name: str,
        jurisdiction: str,
        places: list[tuple[str, str]],
        owner: str | None,
        witness: Witness | None,
        *,
        strict: bool = True,
    ) -> None:
        """A database and the door of each of its nodes. ``places``: the node's name and its door's address."""
        endpoint = {
            "domicile_directory": Endpoint.DIRECTORY_STORAGE,
            "domicile_keys": Endpoint.KEY_STORAGE,
        }.get(owner or "", Endpoint.CELL_STORAGE)
        if name in self._available:
            self._cluster(name, jurisdiction, places, owner, witness, endpoint, strict=strict)
            return
        ((zone, address),) = places
        folder = self._provision.process(jurisdiction, Role.STORAGE, zone, address).certificate.parent
        self.specs.append(
            ProcessSpec(
                name=f"{name}-postgres",
                role="postgres",
                jurisdiction=jurisdiction,
                zone=zone.rpartition(".")[2],
                address=str(folder / postgres.SOCKET),
                command=postgres.server_command(folder),
                ends_with=signal.SIGINT,
                database=folder,
                database_owner=owner,
                health=False,
                stage=STORAGE,
            )
        )
        self._door(name, jurisdiction, zone, address, folder, endpoint)

    def _door(
        self,
        name: str,
        jurisdiction: str,
        zone: str,
        address: str,
        folder: Path,
        endpoint: Endpoint,
        cluster: dict[str, str] | None = None,
        *,
        beside: bool = False,
    ) -> None:
        self._python(
            f"{name}-storage",
            Identity(self._manifest.deployment, jurisdiction, Role.STORAGE, zone),
            address,
            ["-m", "domicile.ops.door"],
            {"DOMICILE_SOCKET": str(folder), "DOMICILE_ENDPOINT": endpoint.value, **(cluster or {})},
            stage=DOORS,
            health=False,
            beside=beside,
        )

    def _cluster(
        self,
        name: str,
        jurisdiction: str,
        places: list[tuple[str, str]],
        owner: str | None,
        witness: Witness | None,
        endpoint: Endpoint,
        *,
        strict: bool,
    ) -> None:
        """Two nodes under Patroni, their doors, and a witness that holds no data unless the lease is kept elsewhere."""
        place = self._manifest.jurisdictions.get(jurisdiction)
        lease = place.lease if place is not None else None
        if len(places) < 2 or (lease is None and (witness is None or witness.network is None)):
            raise InvalidInput(
                "needs two data zones and a witness whose network is known",
                where=f"cells.{name}" if name in self._manifest.cells else name,
                remedy="add them, or run without --ha",
            )
        hosts = [Address(address).host for _, address in places]
        nodes, homes = [], []
        for number, (zone, address) in enumerate(places):
            beside = number > 0 and endpoint is not Endpoint.CELL_STORAGE
            home = self._provision.process(jurisdiction, Role.STORAGE, zone, address, beside=beside)
            folder = home.certificate.parent
            if len(str(folder / postgres.SOCKET)) > MAX_SOCKET_PATH:
                raise InvalidInput(
                    f"the path of its socket would have more than {MAX_SOCKET_PATH} characters",
                    where=str(folder),
                    remedy="name a --state folder with a shorter path",
                )
            rest, raft = self._free(hosts[number]), self._free(hosts[number])
            way = self._free(hosts[1 - number])
            nodes.append(Node(zone.rpartition(".")[2], address, way, rest, raft, folder))
            homes.append((zone, beside))
        voter = self._free(str(witness.network[WITNESS_HOST])) if witness and witness.network and not lease else ""
        cluster = Cluster(name, strict, (nodes[0], nodes[1]), voter, lease, self._is_backed_up(jurisdiction))
        common = nodes[0].folder.parent.parent if endpoint is Endpoint.CELL_STORAGE else nodes[0].folder.parent
        secrets = self._provision.cluster_secrets(common, SECRETS)
        authority = self._layout.authorities / f"{jurisdiction}.pem"
        programs = postgres.binary("postgres").parent
        for node, (zone, beside) in zip(cluster.nodes, homes, strict=True):
            founder = node is nodes[0]
            suffix = "" if founder else f".{node.zone}"
            settings = node_settings(cluster, node, secrets, authority, programs)
            self._patroni(
                f"{name}-patroni{suffix}", jurisdiction, node.zone, node.rest, node.folder, settings, name,
                founder=founder, owner=owner, secrets=secrets,
            )  # fmt: skip
            other = cluster.other(node)
            told = {"DOMICILE_PATRONI": node.rest, "DOMICILE_WAY": other.way, "DOMICILE_PEER": other.storage}
            self._door(name, jurisdiction, zone, node.storage, node.folder, endpoint, told, beside=beside)
        if witness is None or not voter:
            return
        folder = common / "witness"
        settings = witness_settings(cluster, folder, secrets)
        self._patroni(f"{name}-witness", jurisdiction, witness.zone, cluster.witness, folder, settings, name)

    def _patroni(
        self,
        name: str,
        jurisdiction: str,
        zone: str,
        address: str,
        folder: Path,
        settings: dict[str, Any],
        cluster: str,
        *,
        founder: bool = False,
        owner: str | None = None,
        secrets: dict[str, str] | None = None,
    ) -> None:
        """A node's Patroni; without ``secrets`` a witness."""
        module, main = ("domicile.ops.node", "main") if secrets else ("patroni.raft_controller", "main")
        self.specs.append(
            ProcessSpec(
                name=name,
                role="patroni" if secrets else "witness",
                jurisdiction=jurisdiction,
                zone=zone,
                address=address,
                command=[
                    sys.executable,
                    "-c",
                    _CONSOLE.format(module=module, app=main),
                    str(self._provision.settings(folder / "patroni.json", settings)),
                ],
                database=folder if secrets else None,
                database_owner=owner,
                health=False,
                stage=STORAGE,
                cluster=cluster,
                founder=founder,
                secrets=secrets or {},
            )
        )

    def _service(
        self, name: str, jurisdiction: str, role: Role, place: str, address: str, stage: int, *, storage: str = ""
    ) -> None:
        identity = Identity(self._manifest.deployment, jurisdiction, role, place)
        first = next((spec for spec in self.specs if spec.name == name), None)
        beside = first is not None and role not in CELL_ROLES
        self._provision.process(jurisdiction, role, place, address, beside=beside)
        environment: dict[str, str] = {"DOMICILE_OPERATORS": str(self._layout.operator_keys)}
        if role is not Role.DIRECTORY:
            directories = [spec.address for spec in self.specs if spec.role == Role.DIRECTORY]
            environment["DOMICILE_DIRECTORY"] = ",".join(directories)
        elif storage in self._available:
            environment["DOMICILE_SECOND_ZONE"] = "required"
        if storage:
            nearest = sorted(doors_of(self.specs, storage), key=lambda door: door.zone != identity.zone)
            environment["DOMICILE_STORAGE"] = ",".join(door.address for door in nearest)
        if role is Role.APP and first is not None:  # a cell's sessions hold in each of its zones
            environment["DOMICILE_SESSION_KEY"] = str(Path(first.environment["DOMICILE_STATE"]) / "session.key")
        if role in (Role.APP, Role.ROUTER):
            environment["DOMICILE_PEPPER"] = str(self._layout.pepper)
        if role is Role.ROUTER:
            environment |= self._public_listener(jurisdiction, place, identity)
        self._python(name, identity, address, self._commands[role], environment, stage=stage, beside=beside)

    def _public_listener(self, jurisdiction: str, zone: str, identity: Identity) -> dict[str, str]:
        router = self._manifest.routers[zone]
        hosts = [Address(router.public).host, *self._public_names()]
        certificate, key = self._provision.public(jurisdiction, self._layout.home_of(identity), hosts)
        return {
            "DOMICILE_PUBLIC_BIND": router.public,
            "DOMICILE_PUBLIC_CERTIFICATE": str(certificate),
            "DOMICILE_PUBLIC_KEY": str(key),
        }

    def _public_names(self) -> list[str]:
        hosts = [place.public_host for place in self._manifest.jurisdictions.values()]
        return ["localhost", *(host.rpartition(":")[0] or host for host in hosts)]

    def _edge(self, jurisdiction: str, zone: str) -> None:
        """Certificates for an edge of one's own in a router's zone; `domicile edge` finds them. It isn't started."""
        identity = Identity(self._manifest.deployment, jurisdiction, Role.EDGE, zone)
        self._provision.process(jurisdiction, Role.EDGE, zone, "127.0.0.1:1")
        self._provision.public(jurisdiction, self._layout.home_of(identity), ["127.0.0.1", *self._public_names()])

    def _python(
        self,
        name: str,
        identity: Identity,
        address: str,
        arguments: list[str],
        environment: dict[str, str],
        *,
        stage: int,
        health: bool = True,
        beside: bool = False,
    ) -> None:
        """The process of a second zone is named after it: ``<name>.<zone>``."""
        home = self._layout.home_of(identity, beside=beside)
        if any(spec.name == name for spec in self.specs):
            name = f"{name}.{identity.zone}"
        self.specs.append(
            ProcessSpec(
                name=name,
                role=str(identity.role),
                jurisdiction=identity.jurisdiction,
                zone=identity.zone,
                address=address,
                command=[sys.executable, *arguments],
                environment={
                    "DOMICILE_DEPLOYMENT": identity.deployment,
                    "DOMICILE_PROCESS": name,
                    "DOMICILE_BIND": address,
                    "DOMICILE_CERTIFICATE": str(home / "cert.pem"),
                    "DOMICILE_KEY": str(home / "key.pem"),
                    "DOMICILE_AUTHORITIES": str(self._layout.authorities),
                    "DOMICILE_STATE": str(home),
                    "DOMICILE_LOG_LEVEL": self._log_level,
                    **environment,
                },
                health=health,
                stage=stage,
            )
        )


def _serve(module: str, app: str) -> list[str]:
    """The room's own console script, by the interpreter that runs us: it needn't be on the PATH."""
    return ["-c", _CONSOLE.format(module=module, app=app), "serve"]


_COMMANDS: Final[dict[Role, list[str]]] = {
    Role.DIRECTORY: _serve("domicile.directory.main", "app"),
    Role.ROUTER: _serve("domicile.router.main", "app"),
    Role.GATEWAY: _serve("domicile.cells.serve", "cell"),
    Role.KEYS: _serve("domicile.cells.serve", "keys"),
    Role.BACKUP: ["-m", "domicile.ops.backup.agent"],
}
