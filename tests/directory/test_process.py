"""``domicile-directory serve`` as a process: starts from its environment, ends on SIGTERM, refuses in one line."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import aiohttp
import pytest
from domicile_testing import Storage, Trust, free_port
from domicile_testing.databases import wait_for
from domicile_testing.directories import directory_settings
from domicile_testing.directory_processes import COMMAND, environment_of

from domicile.identity import Signer
from domicile.model import GLOBAL, Role
from domicile.ops.postgres import launched


@pytest.fixture
def environment(trust: Trust, storage: Storage, operator: Signer) -> dict[str, str]:
    return environment_of(directory_settings(trust, storage.address, operator, name="ams"))


@contextmanager
def started(environment: dict[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as stream:
        process = subprocess.Popen(
            launched(COMMAND, ends_with=signal.SIGTERM), env=environment, stdout=stream, stderr=stream
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait(10)


def refused(environment: dict[str, str]) -> str:
    """The one line with which it ends; log lines (JSON) aside."""
    done = subprocess.run(COMMAND, env=environment, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 1
    lines = [line for line in done.stderr.splitlines() if not line.startswith("{")]
    assert len(lines) == 1, done.stderr
    return lines[0]


async def test_it_serves_and_ends_with_status_zero_on_sigterm(
    trust: Trust, environment: dict[str, str], tmp_path: Path
) -> None:
    log = tmp_path / "log"
    with started(environment, log) as process:
        wait_for(lambda: '"event":"ready"' in log.read_text() or process.poll() is not None, "ready")
        assert process.poll() is None, log.read_text()
        context = trust.credentials(GLOBAL, Role.OPERATOR, "fra").client(GLOBAL, [Role.DIRECTORY])
        async with (
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)) as session,
            session.get(f"https://{environment['DOMICILE_BIND']}/readyz") as response,
        ):
            assert response.status == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(15) == 0
    assert '"event":"stopped"' in log.read_text()


def test_it_refuses_to_start_with_a_pepper(trust: Trust, environment: dict[str, str]) -> None:
    line = refused(environment | {"DOMICILE_PEPPER": str(trust.folder / "pepper")})
    assert "DOMICILE_PEPPER" in line
    assert "no pepper" in line


@pytest.mark.parametrize("name", ["DOMICILE_STORAGE", "DOMICILE_OPERATORS", "DOMICILE_STATE", "DOMICILE_CERTIFICATE"])
def test_a_missing_setting_is_named(environment: dict[str, str], name: str) -> None:
    del environment[name]
    assert f"{name}: is not set" in refused(environment)


def test_a_certificate_of_another_role_is_refused(trust: Trust, environment: dict[str, str]) -> None:
    other = trust.credentials("eu", Role.ROUTER, "fra")
    changed = environment | {"DOMICILE_CERTIFICATE": str(other.certificate), "DOMICILE_KEY": str(other.key)}
    assert "not for the directory" in refused(changed)


def test_a_database_that_is_not_there_is_named(environment: dict[str, str]) -> None:
    assert "database" in refused(environment | {"DOMICILE_STORAGE": f"127.0.0.1:{free_port()}"})


def test_a_state_folder_that_is_a_file_is_named(environment: dict[str, str], tmp_path: Path) -> None:
    place = tmp_path / "state"
    place.touch()
    assert str(place) in refused(environment | {"DOMICILE_STATE": str(place)})


def test_operators_without_a_key_are_refused(environment: dict[str, str], tmp_path: Path) -> None:
    assert str(tmp_path) in refused(environment | {"DOMICILE_OPERATORS": str(tmp_path)})


def test_help_shows_an_example() -> None:
    done = subprocess.run([*COMMAND, "--help"], capture_output=True, text=True, timeout=30, check=True)
    assert "DOMICILE_STORAGE=" in done.stdout
    assert "\n    domicile-directory serve" in done.stdout
