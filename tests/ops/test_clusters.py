"""What Patroni is told: strict, inside the jurisdiction, and no listener that a stranger gets anything from."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import ValidationError

from domicile.model.errors import InvalidInput
from domicile.model.leases import Lease
from domicile.ops import postgres
from domicile.ops.clusters import SECRETS, Cluster, Node, members, node_settings, settled, witness_settings
from domicile.ops.layout import Layout
from domicile.ops.manifests import local_manifest
from domicile.ops.plan import Planner, highly_available
from domicile.ops.ports import free_address
from domicile.ops.provision import Provision

NODES = (
    Node("fra", "127.10.1.13:1", "127.10.2.13:2", "127.10.1.13:3", "127.10.1.13:4", Path("/s/fra")),
    Node("par", "127.10.2.13:1", "127.10.1.13:2", "127.10.2.13:3", "127.10.2.13:4", Path("/s/par")),
)
WITNESS = "127.10.3.10:5"
PASSWORDS = {name: f"secret of {name}" for name in SECRETS}


@pytest.mark.parametrize("strict", [True, False])
def test_a_commit_waits_for_the_standby_unless_the_manifest_says_otherwise(strict: bool) -> None:
    cluster = Cluster("eu-1", strict, NODES, WITNESS)
    settings = node_settings(cluster, NODES[0], PASSWORDS, Path("/trust/eu.pem"), Path("/bin"))
    dcs = settings["bootstrap"]["dcs"]
    assert dcs["synchronous_mode"] is True
    assert dcs["synchronous_mode_strict"] is strict


LEASES = {
    "etcd3": Lease.model_validate({"etcd": {"hosts": ["127.10.1.20:2379", "127.10.2.20:2379"]}}),
    "kubernetes": Lease.model_validate({"kubernetes": {"namespace": "domicile-eu"}}),
}


@pytest.mark.parametrize("store", ["raft", "etcd3", "kubernetes"])
def test_patroni_itself_finds_nothing_wrong_with_what_it_is_told(store: str, tmp_path: Path) -> None:
    nodes = tuple(replace(node, folder=tmp_path / node.zone) for node in NODES)
    cluster = Cluster("eu-1", True, (nodes[0], nodes[1]), WITNESS, LEASES.get(store))
    for file in (tmp_path / "eu.pem", *(node.folder / f"{each}.pem" for node in nodes for each in ("cert", "key"))):
        file.parent.mkdir(exist_ok=True)
        file.touch()
    settings = node_settings(cluster, nodes[0], PASSWORDS, tmp_path / "eu.pem", postgres.binary("postgres").parent)
    assert {"raft", "etcd3", "kubernetes"} & settings.keys() == {store}
    (tmp_path / "patroni.json").write_text(json.dumps(settings))
    told = subprocess.run(
        [sys.executable, "-m", "patroni", "--validate-config", str(tmp_path / "patroni.json")],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    # what is not there to be reached here, and the listener that is left out on purpose
    wrong = [line for line in told.stderr.splitlines() if not line.endswith("is not reachable")]
    assert wrong == ["postgresql.listen :5432 didn't pass validation: [Errno -2] Name or service not known"]


def test_a_lease_is_kept_in_one_place() -> None:
    for wrong in ({}, {"etcd": {"hosts": ["127.10.1.20:2379"]}, "kubernetes": {"namespace": "a"}}):
        with pytest.raises(ValidationError, match="names one store"):
            Lease.model_validate(wrong)


def test_a_lease_kept_elsewhere_needs_no_witness(tmp_path_factory: pytest.TempPathFactory) -> None:
    layout = Layout(tmp_path_factory.mktemp("c") / "s")
    manifest = local_manifest(None, layout)
    places = dict(manifest.jurisdictions)
    places["us"] = places["us"].model_copy(update={"lease": LEASES["etcd3"]})
    manifest = manifest.model_copy(update={"jurisdictions": places})
    taken: set[str] = set()
    specs = Planner(
        manifest, layout, Provision(layout, manifest), lambda host: free_address(host, taken), available={"us-1"}
    ).plan()
    assert [spec.role for spec in specs if spec.cluster] == ["patroni", "patroni"]


def test_every_listener_has_one_address_and_the_server_has_none() -> None:
    cluster = Cluster("eu-1", True, NODES, WITNESS)
    for node in NODES:
        settings = node_settings(cluster, node, PASSWORDS, Path("/trust/eu.pem"), Path("/bin"))
        assert settings["raft"]["bind_addr"] == settings["raft"]["self_addr"] == node.raft
        assert settings["raft"]["partner_addrs"] == [cluster.other(node).raft, WITNESS]
        assert settings["postgresql"]["listen"] == ":5432"
        assert settings["postgresql"]["connect_address"] == node.way
        assert settings["restapi"]["verify_client"] == "required"
        assert settings["restapi"]["cafile"] == settings["ctl"]["cacert"] == "/trust/eu.pem"
    witness = witness_settings(cluster, Path("/s/witness"), PASSWORDS)["raft"]
    assert witness["bind_addr"] == witness["self_addr"] == WITNESS


def test_a_cluster_is_settled_when_the_other_node_has_what_it_acknowledges() -> None:
    leader = {"name": "fra", "role": "leader", "state": "running", "timeline": 2}
    standby = {"name": "par", "role": "sync_standby", "state": "streaming", "timeline": 2, "lag": 0}
    rows = members("eu-1", {"members": [leader, standby]})
    assert [row["lag"] for row in rows] == [None, 0]
    assert settled(rows)
    assert not settled(members("eu-1", {"members": [leader]}))
    assert not settled(members("eu-1", {"members": [leader, standby | {"role": "replica"}]}))
    assert not settled(members("eu-1", {"members": [leader, standby | {"state": "stopped"}]}))
    assert not settled(members("eu-1", {}))


def test_a_highly_available_world_keeps_each_cluster_inside_its_jurisdiction(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    layout = Layout(tmp_path_factory.mktemp("c") / "s")
    manifest = local_manifest(None, layout, second_keys=True)
    taken: set[str] = set()
    available = highly_available(manifest)
    provision = Provision(layout, manifest)
    specs = Planner(manifest, layout, provision, lambda host: free_address(host, taken), available=available).plan()
    assert {spec.cluster for spec in specs} - {""} == {"directory", "keys-eu", "keys-us", "eu-1", "eu-2", "us-1"}
    nets = {"eu": "127.10.", "us": "127.30.", "global": "127.20."}
    for spec in specs:
        assert spec.address.startswith(nets[spec.jurisdiction]), spec.name
    for cluster in available:
        own = [spec for spec in specs if spec.cluster == cluster]
        assert len({spec.zone for spec in own}) == len(own) == 3, cluster
        assert [spec.role for spec in own] == ["patroni", "patroni", "witness"]
    assert len({spec.name for spec in specs}) == len(specs)
    directories = [spec for spec in specs if spec.role == "directory"]
    assert [spec.zone for spec in directories] == ["fra", "iad"]
    assert {spec.environment["DOMICILE_SECOND_ZONE"] for spec in directories} == {"required"}
    assert len({spec.environment["DOMICILE_STATE"] for spec in directories}) == 2
    for jurisdiction, zones in {"eu": ["fra", "par"], "us": ["iad", "pdx"]}.items():
        services = [spec for spec in specs if (spec.role, spec.jurisdiction) == ("keys", jurisdiction)]
        assert [spec.zone for spec in services] == zones
        assert [spec.address for spec in services] == manifest.jurisdictions[jurisdiction].keys.service
        assert len({spec.environment["DOMICILE_STATE"] for spec in services}) == 2
        assert len({spec.environment["DOMICILE_KEKS"] for spec in services}) == 1, "one service, with the same keys"


def test_an_unknown_cell_is_refused(tmp_path: Path) -> None:
    manifest = local_manifest(None, Layout(tmp_path / "s"))
    assert highly_available(manifest, ["eu-2"]) == {"eu-2"}
    with pytest.raises(InvalidInput, match="no cell eu-9"):
        highly_available(manifest, ["eu-9"])


@pytest.mark.parametrize("without", ["network", "zone"])
def test_a_cell_that_lacks_what_it_needs_is_refused(tmp_path: Path, without: str) -> None:
    layout = Layout(tmp_path / "s")
    manifest = local_manifest(None, layout)
    cell = manifest.cells["us-1"]
    assert cell.witness is not None
    changes: dict[str, object] = {"witness": cell.witness.model_copy(update={"network": None})}
    if without == "zone":
        changes = {"zones": {"iad": cell.zones["iad"]}}
    manifest = manifest.model_copy(update={"cells": {**manifest.cells, "us-1": cell.model_copy(update=changes)}})
    taken: set[str] = set()
    planner = Planner(
        manifest, layout, Provision(layout, manifest), lambda host: free_address(host, taken), available={"us-1"}
    )
    with pytest.raises(InvalidInput, match="needs two data zones"):
        planner.plan()
