"""The manifest's section, and the command: whole or refused with path and reason, and no part of what is signed."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest
from domicile_testing.kubernetes import CLUSTERS, EXAMPLE, TRUST, example, rendered, written
from typer.testing import CliRunner

from domicile.model import InvalidInput, ManifestError, read_yaml
from domicile.model.manifest import parse_manifest
from domicile.ops.k8s.commands import MARKER
from domicile.ops.k8s.render import render
from domicile.ops.main import app

DATA: Any = read_yaml(EXAMPLE.read_text())
DOCS = Path(__file__).parents[2] / "docs"
GONE = object()
SECTION = "kubernetes"
EU = f"{SECTION}/jurisdictions/eu"
ZONE = "cells/eu-1/zones/fra"
BAD: list[tuple[str, Any, str]] = [
    (f"{SECTION}/zones/par", GONE, "kubernetes.zones.par: required key is missing"),
    (f"{SECTION}/zones/xxx", {"region": "x", "zone": "x"}, "kubernetes.zones.xxx: nothing runs in this zone"),
    (f"{SECTION}/zones/iad/region", "eu-west-3", "kubernetes.zones.par.region|iad.region: region eu-west-3 is also"),
    (f"{SECTION}/zones/par", {"region": "eu-central-1", "zone": "eu-central-1a"}, "is the same place as fra"),
    (f"{SECTION}/jurisdictions/us", GONE, "kubernetes.jurisdictions.us: required key is missing"),
    (f"{SECTION}/jurisdictions/mars", DATA[SECTION]["jurisdictions"]["us"], "jurisdictions.mars: unknown jurisdiction"),
    (f"{EU}/storage_class", GONE, "kubernetes.jurisdictions.eu.storage_class: required key is missing"),
    (f"{EU}/storage_class", "us-ssd", "storage_class: us-ssd is also kubernetes.jurisdictions.eu's"),
    (f"{EU}/secret_store", "us-vault", "secret_store: us-vault is also kubernetes.jurisdictions.eu's"),
    (f"{EU}/bucket", "s3://acme-us-backups/domicile/eu", "s3://acme-us-backups/domicile is also"),
    (f"{EU}/bucket", "acme-eu-backups", "kubernetes.jurisdictions.eu.bucket: "),
    (f"{EU}/endpoint", "http://s3.example", "endpoint: is reached over https://"),
    (f"{EU}/cluster", "asia", "kubernetes.jurisdictions.eu.cluster: unknown cluster 'asia'"),
    (f"{EU}/outside", ["10.0.0.0/8"], "kubernetes.jurisdictions.eu.outside[0]: 10.0.0.0/8 holds pods of a cluster"),
    (f"{EU}/telemetry", GONE, "kubernetes.jurisdictions.eu.telemetry: is nothing without jurisdictions.eu.collector"),
    (f"{SECTION}/images/router", "registry.example/router:1.0", "kubernetes.images.router: "),
    (f"{SECTION}/images/app", GONE, "kubernetes.images.app: required key is missing"),
    (f"{SECTION}/domain", "cluster.local", "kubernetes.domain: cluster.local ends at its cluster"),
    (f"{SECTION}/replicas", [5, 2], "kubernetes.replicas: at least more than at most"),
    (
        f"{SECTION}/clusters/europe/networks",
        ["10.9.0.0/16"],
        f"{ZONE.replace('/', '.')}.network: 10.1.0.0/18 is no part",
    ),
    (f"{ZONE}/app", "10.1.0.9:7100", "app: 10.1.0.9:7100 is not the Service that is rendered"),
    (f"{ZONE}/storage", "storage-fra.acme-eu-1.svc.clusterset.local:6432", "is no port of CloudNativePG"),
    ("routers/fra/internal", "router.acme-eu.svc.clusterset.local:7443", "routers.fra.internal: "),
    ("jurisdictions/eu/collector", "https://collector.eu.example", "jurisdictions.eu.collector: "),
    ("jurisdictions/us/backups", GONE, "jurisdictions.us.backups: required key is missing"),
    ("directory/backups", GONE, "directory.backups: required key is missing"),
]


def changed(path: str, value: object) -> Any:
    data = copy.deepcopy(DATA)
    *steps, last = path.split("/")
    place = data
    for step in steps:
        place = place[step]
    if value is GONE:
        del place[last]
    else:
        place[last] = value
    return data


@pytest.mark.parametrize(("path", "value", "reason"), BAD, ids=[f"{path}-{n}" for n, (path, _, _) in enumerate(BAD)])
def test_an_incomplete_or_contradicting_section_is_refused(path: str, value: object, reason: str) -> None:
    with pytest.raises(ManifestError) as caught:
        parse_manifest(changed(path, value))
    told = "\n".join(str(problem) for problem in caught.value.problems)
    pattern = "|".join(re.escape(part) for part in reason.split("|"))
    assert re.search(pattern, told), told


def test_a_cell_does_not_take_a_jurisdictions_namespace() -> None:
    data = changed("cells/us-1", GONE)
    data["cells"]["eu"] = copy.deepcopy(DATA["cells"]["us-1"])
    with pytest.raises(ManifestError, match=r"cells\.eu: a namespace of this name is another's"):
        parse_manifest(data)


def test_it_is_no_part_of_what_is_signed() -> None:
    manifest = example()
    assert "kubernetes" not in manifest.topology()
    assert parse_manifest(changed("kubernetes", GONE)).topology() == manifest.topology()


def test_nothing_is_rendered_without_it() -> None:
    with pytest.raises(InvalidInput, match="kubernetes"):
        render(parse_manifest(changed("kubernetes", GONE)), TRUST)


def test_nothing_is_rendered_without_trust() -> None:
    authorities = {name: text for name, text in TRUST["authorities"].items() if name != "us.pem"}
    with pytest.raises(InvalidInput, match=r"no authority for us.*put us\.pem there"):
        render(example(), {**TRUST, "authorities": authorities})
    with pytest.raises(InvalidInput, match="operators: holds no key"):
        render(example(), {**TRUST, "operators": {}})


@pytest.fixture
def trust(tmp_path: Path) -> Path:
    written(
        {f"{kind}/{name}": text for kind, files in TRUST.items() for name, text in files.items()}, tmp_path / "trust"
    )
    return tmp_path / "trust"


def rendering(trust: Path, output: Path, *more: str) -> tuple[int, str]:
    command = ["k8s", "render", str(EXAMPLE), "--trust", str(trust), "-o", str(output), *more]
    done = CliRunner().invoke(app, command)
    return done.exit_code, done.output


def test_the_command_writes_what_is_rendered_and_takes_the_earlier_away(trust: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    status, told = rendering(trust, output, "--json")
    assert status == 0
    assert json.loads(told) == {
        "ok": True,
        "files": len(rendered()),
        "clusters": [str(output / "clusters" / name) for name in CLUSTERS],
    }
    files = {str(path.relative_to(output)): path.read_text() for path in output.rglob("*") if path.is_file()}
    assert files.pop(MARKER)
    assert files == rendered()
    (output / "overlays" / "gone.yaml").write_text("old")
    status, told = rendering(trust, output)
    assert (status, told.splitlines()[0]) == (0, f"{output}: {len(files)} files")
    assert not (output / "overlays" / "gone.yaml").exists()
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_the_command_overwrites_nothing_of_others(trust: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    status, told = rendering(trust, tmp_path / "mine")
    assert status == 1
    assert "is not empty and was not rendered (name another folder)" in told
    assert (tmp_path / "mine" / "letter.txt").read_text() == "dear"


def test_a_private_key_is_not_published(trust: Path, tmp_path: Path) -> None:
    (trust / "authorities" / "eu.pem").write_text("-----BEGIN PRIVATE KEY-----\n")
    status, told = rendering(trust, tmp_path / "out")
    assert status == 1
    assert "holds a private key" in told
    assert not (tmp_path / "out").exists()


def test_the_page(trust: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its commands that need no cluster, as they stand there."""
    (block,) = re.findall(r"```sh\n(.*?)```", (DOCS / "kubernetes.md").read_text(), re.DOTALL)
    (tmp_path / "domicile.yaml").write_text(EXAMPLE.read_text())
    monkeypatch.chdir(tmp_path)
    assert trust == tmp_path / "trust"
    commands = [line.split() for line in block.splitlines()]
    assert [command[:2] for command in commands] == [["domicile", "check"], ["domicile", "k8s"]]
    for command in commands:
        assert CliRunner().invoke(app, command[1:]).exit_code == 0, command
    assert (tmp_path / "build" / "k8s" / "clusters" / "europe" / "kustomization.yaml").is_file()
