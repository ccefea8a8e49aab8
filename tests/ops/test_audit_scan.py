"""``domicile audit scan`` as it is typed: its verdict is its exit status, and no value is ever told."""

from __future__ import annotations

import gzip
import json
import re
import signal
import subprocess
from pathlib import Path

import psutil
import pytest
from domicile_testing.databases import wait_for
from domicile_testing.worlds import COMMAND, clean_environment
from typer.testing import CliRunner

from domicile.model.sealed import Sealed, frame
from domicile.ops.layout import Layout
from domicile.ops.main import app
from domicile.ops.manifests import local_manifest
from domicile.ops.scan import feeds

DOCS = Path(__file__).parents[2] / "docs"
VALUE = "heike-1234567@mail.example"
SEALED = frame(Sealed("eu", b"n" * 12, b"c" * 32))


def run(*arguments: str, stdin: str = "") -> tuple[int, str]:
    done = CliRunner().invoke(app, ["audit", "scan", *arguments], input=stdin)
    return done.exit_code, done.stdout


def canary(**more: str) -> str:
    return json.dumps({"label": "e-mail 1", "value": VALUE, **more})


def test_verdicts_and_exit_statuses(tmp_path: Path) -> None:
    folder, listed = tmp_path / "place", tmp_path / "canaries.jsonl"
    folder.mkdir()
    listed.write_text(canary() + "\n\n")
    (folder / "a.log").write_text("nothing")
    (folder / "own").write_bytes(SEALED)
    assert run(str(folder), "--home", "eu", "--canaries", str(listed))[0] == 0
    (folder / "b").write_bytes(b"\xff\x06\x00\x00sNaPpY")
    assert run(str(folder), "--home", "eu", "--canaries", str(listed))[0] == 4
    (folder / "c.gz").write_bytes(gzip.compress(VALUE.encode() + b"." * 500))
    status, told = run(str(folder), "--home", "eu", "--canaries", "-", "--json", stdin=canary())
    document = json.loads(told)
    assert (status, document["ok"], document["verdict"]) == (3, False, "found")
    assert [(hit["label"], hit["inside"]) for hit in document["hits"]] == [("e-mail 1", "gzip")]
    assert (document["files"], document["at_home"]) == (4, 1)
    assert document["kinds"]["gzip"] == document["streams"]["gzip"] == 1
    assert len(document["unread"]) == 1
    assert len(document["controls"]) >= 20
    assert VALUE not in told
    status, told = run(str(folder), "--home", "us", "--canaries", str(listed))
    assert status == 3
    assert "sealed value of eu" in told
    assert "not read" in told
    assert VALUE not in told
    assert run(str(folder), "--home", "eu", "--canaries", "-", stdin=canary(jurisdiction="eu"))[0] == 4


def test_a_missed_control_is_the_verdict_whatever_else_there_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").write_bytes(SEALED)
    monkeypatch.setattr(feeds, "MAX_DEPTH", 0)
    status, told = run(str(tmp_path), "--home", "us")
    assert status == 5
    assert "control missed: gzip" in told
    assert "cannot be trusted" in told


def test_a_world_is_read_by_who_owns_each_file(tmp_path: Path) -> None:
    layout = Layout.at(tmp_path / "w")
    local_manifest(None, layout)
    for cell, zone in (("eu-1", "fra"), ("us-1", "iad")):
        layout.cell(cell, zone).mkdir(parents=True)
        (layout.cell(cell, zone) / "f").write_bytes(SEALED)
    status, told = run("--state", str(layout.root), "--json")
    assert status == 3
    assert [hit["path"] for hit in json.loads(told)["hits"]] == [str(layout.cell("us-1", "iad") / "f")]
    (layout.cell("us-1", "iad") / "f").unlink()
    assert run("--state", str(layout.root))[0] == 0


@pytest.mark.parametrize(
    ("arguments", "stdin"),
    [
        (["missing"], ""),
        ([".", "--home", "E U"], ""),
        (["--home", "eu"], ""),
        (["--state", "nowhere"], ""),
        ([".", "--canaries", "missing"], ""),
        ([".", "--canaries", "-"], '{"value": "short"}'),
        ([".", "--canaries", "-"], '{"valeu": "heike-1234567"}'),
        ([".", "--canaries", "-"], "heike-1234567"),
    ],
)
def test_what_makes_no_sense_is_refused_without_its_value(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], stdin: str
) -> None:
    monkeypatch.chdir(tmp_path)
    status, told = run(*arguments, "--json", stdin=stdin)
    assert status == 1
    assert json.loads(told)["ok"] is False
    assert "1234567" not in told


def test_ctrl_c_ends_it_with_what_was_seen(tmp_path: Path) -> None:
    folder, temporary = tmp_path / "place", tmp_path / "tmp"
    for path in (folder, temporary):
        path.mkdir()
    big = folder / "a"
    with big.open("wb") as stream:
        stream.truncate(1 << 40)  # holes: a file that is never read to its end
    process = subprocess.Popen(
        [*COMMAND, "audit", "scan", str(folder)],
        env=clean_environment() | {"TMPDIR": str(temporary)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        reader = psutil.Process(process.pid)
        wait_for(lambda: str(big) in [each.path for each in reader.open_files()], "the scan to have begun")
        process.send_signal(signal.SIGINT)
        told, error = process.communicate(timeout=30)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130, error
    assert "interrupted" in told
    assert "Traceback" not in error
    assert list(temporary.iterdir()) == []


def test_what_the_pages_show_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    local_manifest(None, Layout.at(None))
    for name in ("srv", "log"):
        (tmp_path / name).mkdir()
    (blocks, listed), (keys,) = (
        re.findall(r"```(?:sh)?\n((?:domicile audit|\{).*?)```", (DOCS / page).read_text(), re.DOTALL)
        for page in ("scan.md", "keys.md")
    )
    Path("canaries.jsonl").write_text(listed)
    commands = [line.partition(" #")[0].split() for line in (blocks + keys).splitlines()]
    assert len(commands) == 3
    places = {"/srv/data": "srv", "/var/lib/postgresql": "srv", "/var/log": "log"}
    for command in commands:
        assert command[:3] == ["domicile", "audit", "scan"]
        assert run(*(places.get(word, word) for word in command[3:]))[0] == 0
    Path("log", "app").write_text(json.loads(listed.splitlines()[1])["value"])
    assert run(*(places.get(word, word) for word in commands[1][3:]))[0] == 3


def test_its_help_has_an_example() -> None:
    status, told = run("--help")
    assert status == 0
    assert "Example: domicile audit scan" in told
