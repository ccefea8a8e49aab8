"""Which processes a manifest asks for in the local world, in which order, and how each is told its place.

Pure but for the choice of ports: a list of ``ProcessSpec``, one for each process, by stage. A process starts
when all of the stages before its own are ready. One data zone of each cell runs: the first.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from domicile.model.access import GLOBAL, Endpoint, Identity, Role
from domicile.model.addresses import literal
from domicile.model.errors import InvalidInput
from domicile.model.manifest import Address, Manifest
from domicile.ops import postgres
from domicile.ops.layout import Layout
from domicile.ops.provision import Provision

SAMPLE: Final = "domicile.sample"
_CONSOLE: Final = "from {module} import {app} as app; app()"


@dataclass(frozen=True, slots=True)
class ProcessSpec:
    """One process: who it is, where it listens, how it is started, ended and asked whether it is ready.

    ``database``: the folder of the PostgreSQL cluster that this process is; ``health``: whether it answers
    ``/readyz`` over mutual TLS (otherwise a connection is all that can be asked of it).
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


STORAGE, DOORS, DIRECTORY, CELLS = range(4)


class Planner:
    """Builds the list for one start."""

    def __init__(
        self,
        manifest: Manifest,
        layout: Layout,
        provision: Provision,
        free: Callable[[str], str],
        log_level: str = "info",
        app: str = SAMPLE,
    ) -> None:
        self._manifest = manifest
        self._layout = layout
        self._provision = provision
        self._free = free
        self._log_level = log_level
        self._commands = _COMMANDS | {Role.APP: ["-m", app]}
        self._directory = manifest.directory.sites[0]
        self.specs: list[ProcessSpec] = []

    def plan(self) -> list[ProcessSpec]:
        site = self._directory
        self._storage("directory", GLOBAL, site.zone, self._free(Address(site.address).host), "domicile_directory")
        self._service("directory", GLOBAL, Role.DIRECTORY, site.zone, site.address, DIRECTORY, storage="directory")
        for name, jurisdiction in self._manifest.jurisdictions.items():
            address = jurisdiction.keys.service[0]
            key_zone = self._zone_of(name, address)
            self._storage(f"keys-{name}", name, key_zone, self._free(Address(address).host), "domicile_keys")
            self._service(f"keys-{name}", name, Role.KEYS, key_zone, address, CELLS, storage=f"keys-{name}")
        for name, cell in self._manifest.cells.items():
            zone_name, zone = next(iter(cell.zones.items()))
            full = f"{name}.{zone_name}"
            self._storage(name, cell.jurisdiction, full, zone.storage, None)
            self._service(f"{name}-gateway", cell.jurisdiction, Role.GATEWAY, full, zone.gateway, CELLS, storage=name)
            self._service(f"{name}-app", cell.jurisdiction, Role.APP, full, zone.app, CELLS, storage=name)
        for zone_name, router in self._manifest.routers.items():
            home = self._manifest.jurisdiction_of(router.country)
            assert home is not None, "a manifest that loaded has every router in a jurisdiction"
            self._service(f"router-{zone_name}", home, Role.ROUTER, zone_name, router.internal, CELLS)
            self._edge(home, zone_name)
        return self.specs

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

    def _storage(self, name: str, jurisdiction: str, zone: str, address: str, owner: str | None) -> None:
        """A PostgreSQL server and its door."""
        endpoint = {
            "domicile_directory": Endpoint.DIRECTORY_STORAGE,
            "domicile_keys": Endpoint.KEY_STORAGE,
        }.get(owner or "", Endpoint.CELL_STORAGE)
        credentials = self._provision.process(jurisdiction, Role.STORAGE, zone, address)
        folder = credentials.certificate.parent
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
        self._python(
            f"{name}-storage",
            Identity(self._manifest.deployment, jurisdiction, Role.STORAGE, zone),
            address,
            ["-m", "domicile.ops.door"],
            {"DOMICILE_SOCKET": str(folder), "DOMICILE_ENDPOINT": endpoint.value},
            stage=DOORS,
            health=False,
        )

    def _service(
        self, name: str, jurisdiction: str, role: Role, place: str, address: str, stage: int, *, storage: str = ""
    ) -> None:
        identity = Identity(self._manifest.deployment, jurisdiction, role, place)
        self._provision.process(jurisdiction, role, place, address)
        environment: dict[str, str] = {"DOMICILE_OPERATORS": str(self._layout.operator_keys)}
        if role is not Role.DIRECTORY:
            environment["DOMICILE_DIRECTORY"] = self._directory.address
        if storage:
            door = next(spec for spec in self.specs if spec.name == f"{storage}-storage")
            environment["DOMICILE_STORAGE"] = door.address
        if role in (Role.APP, Role.ROUTER):
            environment["DOMICILE_PEPPER"] = str(self._layout.pepper)
        if role is Role.ROUTER:
            environment |= self._public_listener(jurisdiction, place, identity)
        self._python(name, identity, address, self._commands[role], environment, stage=stage)

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
    ) -> None:
        home = self._layout.home_of(identity)
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
}
