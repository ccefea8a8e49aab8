"""Container files: linted, and true to the distributions that they install. No image is built here."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from domicile.ops.k8s.pods import KINDS, USER

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "k8s" / "images").glob("*.Dockerfile"))
HADOLINT = shutil.which("hadolint", path=str(Path(sys.executable).parent))


def lines_of(path: Path) -> list[str]:
    return path.read_text().replace("\\\n", " ").splitlines()


def test_each_deployable_has_its_file() -> None:
    names = {path.name.removesuffix(".Dockerfile") for path in FILES}
    assert names == {kind.image for kind in KINDS.values()} - {"app"} | {"operations"}


@pytest.mark.skipif(HADOLINT is None, reason="hadolint has no wheel for this system")
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_hadolint_finds_nothing(path: Path, tmp_path: Path) -> None:
    assert HADOLINT is not None
    done = subprocess.run([HADOLINT, str(path)], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (0, "")
    bad = tmp_path / "bad.Dockerfile"
    bad.write_text(path.read_text() + "RUN cd /tmp && sudo pip install x\n")
    assert subprocess.run([HADOLINT, str(bad)], capture_output=True, check=False, timeout=60).returncode == 1


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_file_is_small_unprivileged_and_pinned(path: Path) -> None:
    lines = lines_of(path)
    last = lines[max(n for n, line in enumerate(lines) if line.startswith("FROM ")) :]
    assert f"USER {USER}:{USER}" in last
    assert not any(line.startswith(("RUN", "ADD")) for line in last)  # nothing but what was built
    assert [line for line in lines if line.startswith("FROM")] == ["FROM ${PYTHON} AS build", "FROM ${PYTHON}"]
    assert "ARG PYTHON" in lines  # no default: a tag could be moved
    (run,) = (line for line in lines if line.startswith("RUN"))
    assert run.count("pip install -c constraints.txt") == run.count("pip install") == 2
    assert "cyclonedx-py environment --output-reproducible" in run


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_file_installs_each_room_that_it_needs(path: Path) -> None:
    lines = lines_of(path)
    rooms = {line.split()[1] for line in lines if line.startswith("COPY ") and "--from" not in line} - {
        "constraints.txt"
    }
    (run,) = (line for line in lines if line.startswith("RUN"))
    assert set(re.findall(r" \./(\w+)", run)) == rooms
    scripts: set[str] = set()
    for room in rooms:
        project = tomllib.loads((ROOT / room / "pyproject.toml").read_text())["project"]
        needed = {each.removeprefix("domicile-") for each in project["dependencies"] if each.startswith("domicile-")}
        assert needed <= rooms, room
        scripts |= set(project.get("scripts", {}))
    (program, *_) = re.findall(r'^(?:ENTRYPOINT|CMD) \["([\w-]+)"', path.read_text(), re.MULTILINE)
    assert program in scripts
    image = path.name.removesuffix(".Dockerfile")
    assert {kind.command[0] for kind in KINDS.values() if kind.image == image} <= scripts
