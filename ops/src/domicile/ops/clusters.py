"""Database clusters of two nodes and a witness under Patroni: what each process is told. Pure.

A node is a Patroni, which owns the server, and a door. The server listens on its private Unix socket only, so the
address that Patroni publishes for a node is the *way* at the other node (``domicile.ops.way``): nobody else follows it.
The lease is kept by the three of them in Raft, under a secret of the cluster, or in the etcd or Kubernetes that the
manifest names; then there is no witness. No row passes there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from domicile.model.leases import Lease
from domicile.model.manifest import Address
from domicile.ops.leadership import LEASE_SECONDS, LOOP_SECONDS
from domicile.ops.postgres import BACKUP_SLOT, BACKUP_USER, KEPT_LOG, REPLICATION_USER, REWIND_USER, SUPERUSER

MAX_LAG_BYTES: Final = 1 << 20
RETRY_LOG: Final = "500ms"
"""After how long a standby asks for the log again; each COMMIT waits for it meanwhile, by default for five seconds."""
RAFT, REST = "raft", "rest"
PATRONI_USER: Final = "domicile"
"""Who may ask Patroni for changes, by password and certificate."""
SECRETS: Final = (RAFT, REST, REPLICATION_USER, REWIND_USER)


@dataclass(frozen=True, slots=True)
class Node:
    """``way``: the listener at the other node that leads here; ``folder`` holds data, socket and certificate."""

    zone: str
    storage: str
    way: str
    rest: str
    raft: str
    folder: Path


@dataclass(frozen=True, slots=True)
class Cluster:
    """``strict``: no COMMIT is acknowledged while the standby is gone. ``witness``: its Raft address, unless ``lease``
    says where the lease is kept instead. ``backed_up``: the backup agent's place in the log is kept at both nodes, so
    that a failover loses nothing of it.
    """

    name: str
    strict: bool
    nodes: tuple[Node, Node]
    witness: str
    lease: Lease | None = None
    backed_up: bool = False

    def other(self, node: Node) -> Node:
        first, second = self.nodes
        return second if node is first else first


def _raft(cluster: Cluster, own: str, folder: Path, secrets: dict[str, str]) -> dict[str, Any]:
    everyone = [*(node.raft for node in cluster.nodes), cluster.witness]
    return {
        "data_dir": str(folder / "raft"),
        "self_addr": own,
        "bind_addr": own,  # else it listens on every interface
        "partner_addrs": [address for address in everyone if address != own],
        "password": secrets[RAFT],
    }


def _store(cluster: Cluster, node: Node, secrets: dict[str, str], authority: Path) -> dict[str, Any]:
    if cluster.lease is not None and cluster.lease.etcd is not None:
        etcd = {
            "hosts": list(cluster.lease.etcd.hosts),
            "protocol": "https",
            "cacert": str(authority),
            "cert": str(node.folder / "cert.pem"),
            "key": str(node.folder / "key.pem"),
        }
        return {"etcd3": etcd}
    if cluster.lease is not None and cluster.lease.kubernetes is not None:
        place = Address(node.rest).host
        labels = {"application": "domicile", "cluster-name": cluster.name}
        kubernetes = {
            "namespace": cluster.lease.kubernetes.namespace,
            "labels": labels,
            "use_endpoints": True,
            "pod_ip": place,
            "ports": [{"name": "postgresql", "port": Address(node.storage).port}],
        }
        return {"kubernetes": kubernetes}
    return {"raft": _raft(cluster, node.raft, node.folder, secrets)}


def node_settings(
    cluster: Cluster, node: Node, secrets: dict[str, str], authority: Path, programs: Path
) -> dict[str, Any]:
    """Patroni's configuration of one node. ``authority``: the only one whose certificates it takes and trusts."""
    pair = {"certfile": str(node.folder / "cert.pem"), "keyfile": str(node.folder / "key.pem")}
    return {
        "scope": cluster.name,
        "name": node.zone,
        "restapi": {
            "listen": node.rest,
            "connect_address": node.rest,
            **pair,
            "cafile": str(authority),
            "verify_client": "required",
            "authentication": {"username": PATRONI_USER, "password": secrets[REST]},
        },
        "ctl": {**pair, "cacert": str(authority)},
        **_store(cluster, node, secrets, authority),
        "bootstrap": {
            "dcs": {
                "ttl": LEASE_SECONDS,
                "loop_wait": LOOP_SECONDS,
                "retry_timeout": 5,
                # a leader that crashed and does not recover by itself keeps the lease for no longer than a dead one
                "primary_start_timeout": LEASE_SECONDS,
                "maximum_lag_on_failover": MAX_LAG_BYTES,
                "synchronous_mode": True,
                "synchronous_mode_strict": cluster.strict,
                "postgresql": {
                    "use_pg_rewind": True,
                    "use_slots": True,
                    "parameters": {"max_connections": 60, "max_slot_wal_keep_size": KEPT_LOG},
                },
                **({"slots": {BACKUP_SLOT: {"type": "physical"}}} if cluster.backed_up else {}),
            }
        },
        "postgresql": {
            "listen": ":5432",  # no network: the port names the socket
            "connect_address": node.way,
            "data_dir": str(node.folder / "data"),
            "bin_dir": str(programs),
            "pgpass": str(node.folder / "pgpass"),
            "use_unix_socket": True,
            "use_unix_socket_repl": True,
            "authentication": {
                "superuser": {"username": SUPERUSER},
                "replication": {"username": REPLICATION_USER, "password": secrets[REPLICATION_USER]},
                "rewind": {"username": REWIND_USER, "password": secrets[REWIND_USER]},
            },
            "parameters": {
                "unix_socket_directories": str(node.folder),
                "wal_retrieve_retry_interval": RETRY_LOG,
            },
            "pg_hba": [
                f"local replication {BACKUP_USER} trust",  # whose certificate its door has seen
                f"local all {REPLICATION_USER},{REWIND_USER} scram-sha-256",
                "local replication all scram-sha-256",
                "local all all trust",
            ],
        },
    }


def witness_settings(cluster: Cluster, folder: Path, secrets: dict[str, str]) -> dict[str, Any]:
    return {"raft": _raft(cluster, cluster.witness, folder, secrets)}


def members(cluster: str, document: dict[str, Any]) -> list[dict[str, Any]]:
    """What Patroni's ``GET /cluster`` says of each node, in our words.

    ``lag``: bytes; None for the leader, or where it is not known.
    """
    rows = []
    for member in document.get("members", []):
        lag = member.get("lag")
        rows.append(
            {
                "cluster": cluster,
                "zone": member.get("name", ""),
                "role": member.get("role", ""),
                "state": member.get("state", ""),
                "timeline": member.get("timeline"),
                "lag": lag if isinstance(lag, int) and member.get("role") != "leader" else None,
            }
        )
    return rows


def settled(rows: Sequence[dict[str, Any]]) -> bool:
    """One leads and the other has all that it acknowledges."""
    found = {(row["role"], row["state"]) for row in rows}
    return {("leader", "running"), ("sync_standby", "streaming")} <= found
