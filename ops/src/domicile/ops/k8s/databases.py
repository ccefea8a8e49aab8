"""PostgreSQL by CloudNativePG: synchronous over its zones, certificates for passwords, backups in the jurisdiction.

A server believes the jurisdiction's authority and knows a certificate by its common name, so that only an application
of this cell may be its application's role: the same table as the local world's door.
"""

from __future__ import annotations

from typing import Final

from domicile.model.access import Role
from domicile.model.kubernetes import DATABASE_PORT, DIRECTORY
from domicile.model.manifest import Risk
from domicile.ops.door import USERS
from domicile.ops.k8s.names import DATABASE, ROLE, Object, World, affinity, labels_of
from domicile.ops.postgres import DATABASE as DATABASE_NAME
from domicile.ops.postgres import KEPT_LOG, QUIET

PLUGIN: Final = "barman-cloud.cloudnative-pg.io"
MAJOR: Final = 18
MAP: Final = "domicile"
OWNERS: Final = {Role.DIRECTORY: "domicile_directory", Role.KEYS: "domicile_keys"}
_CLIENTS: Final = {"cell": (Role.APP, Role.GATEWAY), "keys": (Role.KEYS,), DIRECTORY: (Role.DIRECTORY,)}


def _kind(world: World, place: str) -> str:
    return DIRECTORY if place == DIRECTORY else "cell" if place in world.manifest.cells else "keys"


def common_names(world: World, place: str, jurisdiction: str) -> list[str]:
    """Of pg_ident: which certificate may be which role of this database."""
    clients = [(role, f"{role}.{place}") for role in _CLIENTS[_kind(world, place)]]
    clients.append((Role.OPERATOR, f"{Role.OPERATOR}.{jurisdiction}"))
    return [f"{MAP} {name} {user}" for role, name in clients for user in sorted(USERS[role])]


def _strict(world: World, place: str) -> bool:
    cell = world.manifest.cells.get(place)
    return cell is None or Risk.UNREPLICATED_WRITES not in cell.accept


def _cluster(world: World, place: str, jurisdiction: str) -> Object:
    store = world.store(jurisdiction)
    zones = world.database_zones(place, jurisdiction)
    labels = labels_of(world, jurisdiction, place, **{ROLE: str(Role.STORAGE)})
    kind = _kind(world, place)
    owner = {DIRECTORY: "domicile_directory", "keys": "domicile_keys"}.get(kind, "domicile_owner")
    postgresql: Object = {
        "parameters": {"max_slot_wal_keep_size": KEPT_LOG, **QUIET},
        "pg_hba": [f"hostssl {DATABASE_NAME} all all cert map={MAP}", "host all all all reject"],
        "pg_ident": common_names(world, place, jurisdiction),
    }
    if len(zones) > 1:
        durability = "required" if _strict(world, place) else "preferred"
        postgresql["synchronous"] = {"method": "any", "number": 1, "dataDurability": durability}
    spec: Object = {
        "instances": len(zones),
        "imageCatalogRef": {
            "apiGroup": "postgresql.cnpg.io",
            "kind": "ImageCatalog",
            "name": "postgres",
            "major": MAJOR,
        },
        "inheritedMetadata": {"labels": labels},
        "bootstrap": {"initdb": {"database": DATABASE_NAME, "owner": owner, "dataChecksums": True}},
        "enableSuperuserAccess": False,
        "enablePDB": True,
        "primaryUpdateMethod": "switchover",
        "storage": {"size": store.database_size, "storageClass": store.storage_class},
        "resources": {"requests": {"cpu": "1", "memory": "2Gi"}, "limits": {"memory": "4Gi"}},
        "seccompProfile": {"type": "RuntimeDefault"},
        "affinity": {
            "enablePodAntiAffinity": True,
            "podAntiAffinityType": "required",
            "topologyKey": "topology.kubernetes.io/zone",
            "nodeAffinity": affinity(world, jurisdiction, zones),
        },
        "certificates": {
            "serverCASecret": f"{DATABASE}-server-tls",
            "serverTLSSecret": f"{DATABASE}-server-tls",
            "clientCASecret": f"{DATABASE}-replication-tls",
            "replicationTLSSecret": f"{DATABASE}-replication-tls",
        },
        "postgresql": postgresql,
        "plugins": [{"name": PLUGIN, "isWALArchiver": True, "parameters": {"barmanObjectName": DATABASE}}],
    }
    if kind == DIRECTORY:  # to see whether a standby streams
        member = {"name": owner, "ensure": "present", "login": True, "inRoles": ["pg_read_all_stats"]}
        spec["managed"] = {"roles": [member]}
    return {
        "apiVersion": "postgresql.cnpg.io/v1",
        "kind": "Cluster",
        "metadata": {"name": DATABASE, "labels": labels},
        "spec": spec,
    }


def _schedule(hours: int) -> str:
    """Seconds first: CloudNativePG's cron has six fields."""
    return f"0 0 */{hours} * * *" if hours < 24 else "0 0 2 * * *"


def _backups(world: World, place: str, jurisdiction: str) -> list[Object]:
    store = world.store(jurisdiction)
    section = world.manifest.directory if place == DIRECTORY else world.manifest.jurisdictions[jurisdiction]
    assert section.backups is not None, "a manifest with a kubernetes section has them"
    labels = labels_of(world, jurisdiction, place)
    credentials = "backup-credentials"
    target: Object = {
        "apiVersion": "barmancloud.cnpg.io/v1",
        "kind": "ObjectStore",
        "metadata": {"name": DATABASE, "labels": labels},
        "spec": {
            "retentionPolicy": f"{max(1, section.backups.keep_days)}d",
            "configuration": {
                "destinationPath": f"{store.bucket}/{place}",
                "endpointURL": store.endpoint,
                "s3Credentials": {
                    "accessKeyId": {"name": credentials, "key": "id"},
                    "secretAccessKey": {"name": credentials, "key": "secret"},
                },
                "wal": {"compression": "gzip"},
            },
        },
    }
    schedule: Object = {
        "apiVersion": "postgresql.cnpg.io/v1",
        "kind": "ScheduledBackup",
        "metadata": {"name": DATABASE, "labels": labels},
        "spec": {
            "schedule": _schedule(section.backups.every_hours),
            "immediate": True,
            "backupOwnerReference": "self",
            "method": "plugin",
            "pluginConfiguration": {"name": PLUGIN},
            "cluster": {"name": DATABASE},
        },
    }
    return [target, schedule]


def _doors(world: World, place: str) -> list[Object]:
    """The addresses that the manifest gives a cell's storage: each leads to the primary, in whichever zone it is."""
    cell = world.manifest.cells.get(place)
    return [
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": f"storage-{zone}", "labels": {ROLE: str(Role.STORAGE)}},
            "spec": {
                "selector": {"cnpg.io/cluster": DATABASE, "cnpg.io/instanceRole": "primary"},
                "ports": [{"name": "postgres", "port": DATABASE_PORT, "protocol": "TCP"}],
            },
        }
        for zone in (cell.zones if cell is not None else ())
    ]


def database(world: World, place: str, jurisdiction: str) -> list[Object]:
    """A place's database, its backups, and the names that lead to it."""
    catalog: Object = {
        "apiVersion": "postgresql.cnpg.io/v1",
        "kind": "ImageCatalog",
        "metadata": {"name": "postgres", "labels": labels_of(world, jurisdiction, place)},
        "spec": {"images": [{"major": MAJOR, "image": world.section.images.postgres}]},
    }
    found = [_cluster(world, place, jurisdiction), catalog, *_backups(world, place, jurisdiction)]
    return [*found, *_doors(world, place)]
