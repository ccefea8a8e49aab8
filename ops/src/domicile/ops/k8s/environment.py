"""What each process is told: the DOMICILE_* variables of an instance, all of which its settings know."""

from __future__ import annotations

from domicile.model.access import Role
from domicile.model.kubernetes import DATABASE_PORT
from domicile.ops.k8s.names import DATABASE, EDGE_PORT, Instance, World
from domicile.ops.k8s.pods import DRAIN_SECONDS, PEPPERED, RUN, STATE

STORED = frozenset({Role.DIRECTORY, Role.KEYS, Role.GATEWAY, Role.APP})


def _storage(world: World, instance: Instance) -> str:
    """A cell's storage in each of its zones, the nearest first; else the one address that leads to the primary."""
    if instance.cell is None:
        return f"{world.host(f'{DATABASE}-rw', instance.place)}:{DATABASE_PORT}"
    zones = world.manifest.cells[instance.cell].zones
    nearest = sorted(zones, key=lambda zone: zone != instance.zone)
    return ",".join(zones[zone].storage for zone in nearest)


def environment(world: World, instance: Instance) -> dict[str, str]:
    role = instance.role
    port = EDGE_PORT if role is Role.EDGE else instance.port("tls")
    place = instance.zone if instance.place == instance.jurisdiction else f"{instance.place}-{instance.zone}"
    told = {
        "DEPLOYMENT": world.deployment,
        "PROCESS": f"{role}-{place}"[:64],
        "BIND": f"0.0.0.0:{port}",
        "CERTIFICATE": f"{RUN}/identity/tls.crt",
        "KEY": f"{RUN}/identity/tls.key",
        "AUTHORITIES": f"{RUN}/authorities",
        "OPERATORS": f"{RUN}/operators",
        "STATE": STATE,
        "DRAIN_SECONDS": str(DRAIN_SECONDS),
    }
    if role is Role.DIRECTORY:
        told["SECOND_ZONE"] = "required" if len(world.manifest.directory.sites) > 1 else "absent"
    else:
        sites = sorted(world.manifest.directory.sites, key=lambda site: site.zone != instance.zone)
        told["DIRECTORY"] = ",".join(site.address for site in sites)
    if role in STORED:
        told["STORAGE"] = _storage(world, instance)
    if role in PEPPERED:
        told["PEPPER"] = f"{RUN}/pepper/pepper"
    if role is Role.ROUTER:
        told["PUBLIC_BIND"] = f"0.0.0.0:{instance.port('public')}"
        told["PUBLIC_CERTIFICATE"] = f"{RUN}/public/tls.crt"
        told["PUBLIC_KEY"] = f"{RUN}/public/tls.key"
    return {f"DOMICILE_{name}": value for name, value in told.items()}
