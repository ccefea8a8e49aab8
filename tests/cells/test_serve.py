"""The programs as a deployment starts them: they say what is missing, serve, and leave on SIGTERM with status 0."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from domicile_testing import Storage, Trust, free_port
from domicile_testing.cell import keep_topology, manifest, variables
from domicile_testing.databases import wait_for

from domicile.model import Role

PROGRAMS = Path(sys.executable).parent
CASES = [("domicile-keys", Role.KEYS, "fra"), ("domicile-cell", Role.GATEWAY, "eu-1.fra")]


def environment(trust: Trust, role: Role, name: str, storage: Storage | None) -> dict[str, str]:
    settings = trust.settings("eu", role, name, f"127.0.0.1:{free_port()}")
    told = variables(trust, settings)
    # it starts from the topology that it had when the directory was there
    keep_topology(trust, settings, manifest(f"127.0.0.1:{free_port()}"))
    if storage is not None:
        told["DOMICILE_STORAGE"] = storage.address
    return {name: value for name, value in os.environ.items() if not name.startswith("DOMICILE_")} | told


@contextmanager
def started(program: str, told: dict[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as stream:
        process = subprocess.Popen([PROGRAMS / program, "serve"], env=told, stdout=stream, stderr=stream)
        try:
            yield process
        finally:
            process.kill()
            process.wait()


@pytest.mark.parametrize(("program", "role", "name"), CASES)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_serves_until_it_is_told_to_stop(
    trust: Trust,
    key_storage: Storage,
    cell_storage: Storage,
    tmp_path: Path,
    program: str,
    role: Role,
    name: str,
    number: signal.Signals,
) -> None:
    log = tmp_path / "log"
    storage = key_storage if role is Role.KEYS else cell_storage
    with started(program, environment(trust, role, name, storage), log) as process:
        wait_for(lambda: process.poll() is not None or b'"ready"' in log.read_bytes(), program)
        process.send_signal(number)
        assert process.wait(20) == 0, log.read_text()
    assert '"stopped"' in log.read_text()


def finished(program: str, told: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [PROGRAMS / program, *arguments], env=told, capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.parametrize(("program", "role", "name"), CASES)
def test_what_it_lacks_is_said_in_one_line(trust: Trust, program: str, role: Role, name: str) -> None:
    told = environment(trust, role, name, None)
    result = finished(program, told, "serve")
    assert result.returncode == 1
    assert "DOMICILE_STORAGE: no database" in result.stderr
    assert "Traceback" not in result.stderr
    del told["DOMICILE_BIND"]
    result = finished(program, told, "serve")
    assert result.returncode == 1
    assert result.stderr == "DOMICILE_BIND: is not set (set it)\n"


@pytest.mark.parametrize(("program", "role", "name"), CASES)
def test_the_word_serve_is_needed(trust: Trust, program: str, role: Role, name: str) -> None:
    result = finished(program, environment(trust, role, name, None))
    assert result.returncode == 2
    assert "serve" in result.stdout + result.stderr
