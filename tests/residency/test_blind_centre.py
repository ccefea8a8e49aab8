"""The directory cannot tell whose a subject key is: neither its process nor its files hold the pepper."""

from __future__ import annotations

import base64
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from domicile_testing.worlds import LocalWorld, running_world

from domicile.ops.scan import Scanner, files_below, needles_for_value

pytestmark = [pytest.mark.system, pytest.mark.xdist_group("blind")]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalWorld]:
    with running_world(tmp_path_factory.mktemp("blind") / "s") as running:
        yield running


def test_its_files_hold_no_pepper(world: LocalWorld) -> None:
    _, _, secret = (world.state / "secrets" / "pepper").read_text().strip().partition(":")
    raw = bytes.fromhex(secret)
    scanner = Scanner(needles_for_value("pepper", secret))
    report = scanner.scan(files_below(world.state / "directory"))
    assert report.files > 100
    assert (report.hits, report.unread) == ([], [])
    for path in files_below(world.state / "directory"):
        content = path.read_bytes()
        assert raw not in content, path
        assert base64.b64encode(raw) not in content, path


def test_its_environment_names_no_pepper(world: LocalWorld) -> None:
    for name in ("directory", "directory-storage", "directory-postgres"):
        environment = psutil.Process(world.pids()[name]).environ()
        assert not [key for key in environment if "PEPPER" in key], name
    assert "DOMICILE_PEPPER" in psutil.Process(world.pids()["router-fra"]).environ()


def test_it_refuses_to_start_with_one(world: LocalWorld) -> None:
    environment = psutil.Process(world.pids()["directory"]).environ()
    command = psutil.Process(world.pids()["directory"]).cmdline()
    refused = subprocess.run(
        command,
        env=os.environ | environment | {"DOMICILE_PEPPER": str(world.state / "secrets" / "pepper")},
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert refused.returncode == 1
    assert "pepper" in refused.stderr.lower()


def test_state_folders_of_others_are_not_its_own(world: LocalWorld) -> None:
    """What the directory keeps on disk lies in its own folder and names no cell's private key."""
    assert not list(Path(world.state / "directory").rglob("session.key"))
    assert not list(Path(world.state / "directory").rglob("kek*"))
