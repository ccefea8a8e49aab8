"""Every path of a state folder has one owner, and what has none is foreign to all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from domicile.model import GLOBAL, Identity, InvalidInput, Role
from domicile.ops.layout import Layout, owner_of

CELLS = {"eu-1": "eu", "us-1": "us"}
ROUTERS = {"fra": "eu", "iad": "us"}
PROCESSES = {"eu-1-app": "eu", "directory": GLOBAL}


@pytest.mark.parametrize(
    ("path", "owner"),
    [
        ("cells/eu-1/fra/app/topology.json", "eu"),
        ("cells/us-1/iad/storage/data/base/1", "us"),
        ("cells/gone/fra/app/x", GLOBAL),
        ("routers/fra/router/pins.mdb", "eu"),
        ("routers/iad/control.mdb", "us"),
        ("edges/fra/edge/cert.pem", "eu"),
        ("keys/eu/storage/data/pg_wal/1", "eu"),
        ("operators/eu/cert.pem", "eu"),
        ("logs/eu-1-app.log", "eu"),
        ("logs/directory.log", GLOBAL),
        ("logs/unknown.log", GLOBAL),
        ("directory/storage/data/base/1", GLOBAL),
        ("world.json", GLOBAL),
        ("trust/authorities/eu.pem", GLOBAL),
    ],
)
def test_owner(path: str, owner: str) -> None:
    assert owner_of(Path(path), CELLS, ROUTERS, PROCESSES) == owner


@pytest.mark.parametrize(
    ("identity", "path"),
    [
        (Identity("acme", "eu", Role.APP, "eu-1.fra"), "cells/eu-1/fra/app"),
        (Identity("acme", "eu", Role.STORAGE, "eu-1.fra"), "cells/eu-1/fra/storage"),
        (Identity("acme", "eu", Role.STORAGE, "fra"), "keys/eu/storage"),
        (Identity("acme", "eu", Role.KEYS, "fra"), "keys/eu/keys"),
        (Identity("acme", "us", Role.ROUTER, "iad"), "routers/iad/router"),
        (Identity("acme", "eu", Role.EDGE, "fra"), "edges/fra/edge"),
        (Identity("acme", GLOBAL, Role.DIRECTORY, "fra"), "directory/directory"),
        (Identity("acme", "us", Role.OPERATOR, "root"), "operators/us"),
    ],
)
def test_a_process_lives_in_its_jurisdiction(tmp_path: Path, identity: Identity, path: str) -> None:
    home = Layout(tmp_path).home_of(identity)
    assert home == tmp_path / path
    assert owner_of(home.relative_to(tmp_path) / "x", CELLS, ROUTERS, PROCESSES) == identity.jurisdiction


def test_a_folder_with_other_things_in_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(InvalidInput, match="holds no world"):
        Layout(tmp_path).prepare()
    assert sorted(os.listdir(tmp_path)) == ["thesis.tex"]


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidInput, match="cannot be written"):
        Layout(tmp_path / "file" / "state").prepare()


def test_the_state_folder_is_private(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "s")
    layout.prepare()
    layout.prepare()
    assert (tmp_path / "s").stat().st_mode & 0o777 == 0o700
