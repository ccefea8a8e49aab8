"""What `make release` builds installs into an empty environment, and runs from there, without this repository."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from domicile_testing.kubernetes import EXAMPLE
from domicile_testing.long import MINUTES
from domicile_testing.worlds import clean_environment

pytestmark = [MINUTES, pytest.mark.full, pytest.mark.system, pytest.mark.timeout(1500)]
ROOT = Path(__file__).parents[2]
ROOMS = ("core", "sdk", "directory", "router", "cells", "ops")


def run(*command: str, cwd: Path, timeout: float = 600, **environment: str) -> str:
    done = subprocess.run(
        command,
        cwd=cwd,
        env=clean_environment() | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def built(place: Path) -> dict[str, bytes]:
    programs = Path(sys.executable).parent
    run("make", "release", f"VENV={programs.parent}", f"DIST={place}", cwd=ROOT)
    return {path.name: path.read_bytes() for path in place.glob("*.whl")}


def test_the_wheels_install_and_run_from_a_clean_environment(tmp_path: Path) -> None:
    wheels = built(tmp_path / "dist")
    assert sorted(name.partition("-")[0] for name in wheels) == sorted(f"domicile_{room}" for room in ROOMS)
    assert built(tmp_path / "again") == wheels  # the same source is the same wheel
    sums = (tmp_path / "dist" / "SHA256SUMS").read_text().splitlines()
    assert sums == sorted(f"{hashlib.sha256(data).hexdigest()}  {name}" for name, data in wheels.items())
    for name in wheels:
        with zipfile.ZipFile(tmp_path / "dist" / name) as wheel:
            names = wheel.namelist()
            assert "domicile/__init__.py" not in names
            metadata = wheel.read(next(each for each in names if each.endswith("/METADATA"))).decode()
            assert "License-Expression: Apache-2.0" in metadata

    folder = tmp_path / "elsewhere"
    folder.mkdir()
    run(sys.executable, "-m", "venv", str(folder / "venv"), cwd=folder)
    programs = folder / "venv" / "bin"
    constraints = str(ROOT / "constraints.txt")
    run(
        str(programs / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-c", constraints,
        *(str(tmp_path / "dist" / name) for name in wheels),
        cwd=folder,
    )  # fmt: skip
    path = f"{programs}{os.pathsep}{os.environ['PATH']}"
    assert "Keep people's data where the law says it lives" in run("domicile", "--help", cwd=folder, PATH=path)
    assert "sound" in run("domicile", "check", str(EXAMPLE), cwd=folder, PATH=path)
    for program in ("domicile-directory", "domicile-router", "domicile-cell", "domicile-keys"):
        assert "serve" in run(program, "--help", cwd=folder, PATH=path)
    told = json.loads(run("domicile", "demo", "--json", cwd=folder, PATH=path))
    assert told["ok"] is True
    assert len(told["rows"]) > 40
