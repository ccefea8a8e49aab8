"""The commands of the pages for operators, in one world, in the order in which somebody comes to them."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from typing import Any

import pytest
from domicile_testing.documentation import DOCS, Shell, blocks
from domicile_testing.worlds import processes_of

from domicile.model.yaml_text import read_yaml

pytestmark = [
    pytest.mark.system,
    pytest.mark.full,
    pytest.mark.xdist_group("operator-pages"),
    pytest.mark.skipif(shutil.which("curl") is None, reason="pages ask with curl, which is not here"),
]
PEOPLE = 24


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    folder = tmp_path_factory.mktemp("operators")
    shell = Shell(folder)
    try:
        assert "router-fra" in shell.page("observe.md", 0)
        manifest: Any = read_yaml((folder / ".domicile/domicile.yaml").read_text(), source="the world's manifest")
        router = manifest["routers"]["fra"]["public"]
        for number in range(PEOPLE):
            body = {
                "user": f"user{number}",
                "email": f"user{number}@example.org",
                "password": "correct horse",
                "plan": "pro",
                "residence": "DE",
                "born": "1985-01-01",
            }
            authority = ".domicile/trust/authorities/eu.pem"
            shell(f"curl -sf --cacert {authority} https://{router}/signup -d '{json.dumps(body)}'")
        yield shell
    finally:
        shell("domicile down || true")
    assert processes_of(folder / ".domicile") == []


def world(shell: Shell) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((shell.folder / ".domicile" / "world.json").read_text())
    return found


def address_of(shell: Shell, name: str) -> str:
    found: str = next(each["address"] for each in world(shell)["processes"] if each["name"] == name)
    return found


def test_observe(shell: Shell) -> None:
    counted = shell.page("observe.md", 1)
    assert '"status": "ready"' in counted
    assert re.search(rf"^domicile_replica_pins {PEOPLE}(\.0)?$", counted, re.MULTILINE)
    assert '"process"' in shell.page("observe.md", 2, {"domicile down\n": ""})


def test_the_ledger(shell: Shell) -> None:
    shell.page("ledger.md", 0, {"--authorities trust ": "--authorities .domicile/trust/authorities "})
    assert "<html" in (shell.folder / "border.html").read_text().lower()


def test_an_erasure(shell: Shell) -> None:
    (shell.folder / "subject.txt").write_text("user1\n")
    told = shell.page("keys.md", 2, {"alice.receipt\ndomicile": "alice.receipt --yes\ndomicile"})
    assert re.search(r"believed by +the authority", told)


def test_the_map_of_pins(shell: Shell) -> None:
    operator = ".domicile/operators/global"
    storage = address_of(shell, "directory-storage")
    credentials = {
        "operator.pem": f"{operator}/cert.pem",
        "operator.key": f"{operator}/key.pem",
        "AUTHORITIES=authorities": "AUTHORITIES=.domicile/trust/authorities",
    }
    into = {
        "10.0.0.1:5432": storage,
        "10.0.1.1:5432": storage,
        "OPERATORS=operators": "OPERATORS=.domicile/trust/operators",
    }
    shell.page("pins.md", 0, credentials | into)
    assert len((shell.folder / "pins.tsv").read_text().splitlines()) >= PEOPLE
    identity = "\n".join(blocks(DOCS / "pins.md")[0].splitlines()[:2])
    for theirs, ours in credentials.items():
        identity = identity.replace(theirs, ours)
    waiting = blocks(DOCS / "pins.md")[1].replace("10.0.0.1:7000,10.0.1.1:7000", address_of(shell, "directory"))
    shell(f"{identity}\nexport DOMICILE_OPERATORS=.domicile/trust/operators\n{waiting}")


def test_a_signing_key_is_taken_out(shell: Shell) -> None:
    operator, authorities = ".domicile/operators/global", ".domicile/trust/authorities"
    ask = f"curl -sf --cert {operator}/cert.pem --key {operator}/key.pem --cacert {authorities}/global.pem"
    directory = address_of(shell, "directory")
    keys = json.loads(shell(f"{ask} https://{directory}/.well-known/jwks.json"))["keys"]
    kid = next(key["kid"] for key in keys if key["domicile_use"] == "residency")
    places = {
        "operator.pem": f"{operator}/cert.pem",
        "operator.key": f"{operator}/key.pem",
        "global.pem": f"{authorities}/global.pem",
        "DIRECTORY": directory,
        "KID": kid,
        "curl": "curl -sf",
    }
    shell.page("rotation.md", 4, places)
    left = json.loads(shell(f"{ask} https://{directory}/.well-known/jwks.json"))["keys"]
    assert kid not in {key["kid"] for key in left}


def test_an_upgrade(shell: Shell) -> None:
    before = {each["name"]: each["pid"] for each in world(shell)["processes"]}
    shell.page("upgrade.md", 0)
    after = {each["name"]: each["pid"] for each in world(shell)["processes"]}
    assert after.keys() == before.keys()
    assert all(after[name] != before[name] for name in ("router-fra", "eu-1-app", "directory"))
    assert "router-fra" in shell("domicile status")
