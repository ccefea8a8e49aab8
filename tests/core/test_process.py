"""How a process starts, ends, and refuses to start: real processes, judged by what an operator sees."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import aiohttp
import pytest
from domicile_testing import Trust, free_port

from domicile.model import GLOBAL, Role

PROGRAM = Path(__file__).with_name("served.py")


@pytest.fixture
def environment(trust: Trust, tmp_path: Path) -> dict[str, str]:
    ours = trust.credentials("eu", Role.GATEWAY, "eu-1.fra")
    return {
        "PATH": os.environ["PATH"],
        "DOMICILE_DEPLOYMENT": "acme",
        "DOMICILE_PROCESS": "gateway-eu-1",
        "DOMICILE_BIND": f"127.0.0.1:{free_port()}",
        "DOMICILE_CERTIFICATE": str(ours.certificate),
        "DOMICILE_KEY": str(ours.key),
        "DOMICILE_AUTHORITIES": str(ours.authorities),
        "DOMICILE_STATE": str(tmp_path),
        "DOMICILE_DRAIN_SECONDS": "20",
    }


@contextmanager
def running(environment: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, str(PROGRAM)],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def failed(environment: dict[str, str]) -> tuple[str, list[dict[str, object]]]:
    """The one line for people of a process that does not start, and its log."""
    done = subprocess.run(
        [sys.executable, str(PROGRAM)], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    lines = done.stderr.splitlines()
    plain = [line for line in lines if not line.startswith("{")]
    assert len(plain) == 1, done.stderr
    return plain[0], [json.loads(line) for line in lines if line.startswith("{")]


def events(stderr: str) -> list[str]:
    return [json.loads(line)["event"] for line in stderr.splitlines()]


def wait_until_ready(process: subprocess.Popen[str]) -> None:
    assert process.stderr is not None
    for line in process.stderr:
        if json.loads(line)["event"] == "ready":
            return
    raise AssertionError("ended before it was ready")


REQUIRED = ["DEPLOYMENT", "PROCESS", "BIND", "CERTIFICATE", "KEY", "AUTHORITIES", "STATE"]


@pytest.mark.parametrize("name", REQUIRED)
def test_a_missing_variable_is_named(environment: dict[str, str], name: str) -> None:
    del environment[f"DOMICILE_{name}"]
    assert failed(environment)[0] == f"DOMICILE_{name}: is not set (set it)"


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("BIND", "here", "'here' is not host:port with a port from 1 to 65535"),
        ("DEPLOYMENT", "Acme Inc", "string should match pattern"),
        ("LOG_LEVEL", "loud", "string should match pattern"),
        ("DRAIN_SECONDS", "-1", "input should be greater than or equal to 0"),
        ("DIRECTORY", "127.0.0.1:1,nowhere", "'nowhere' is not host:port"),
    ],
)
def test_a_wrong_variable_is_named(environment: dict[str, str], name: str, value: str, reason: str) -> None:
    line, _ = failed(environment | {f"DOMICILE_{name}": value})
    assert line.startswith(f"DOMICILE_{name}: {reason}")


def test_a_taken_port_is_one_line(environment: dict[str, str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        bind = f"127.0.0.1:{taken.getsockname()[1]}"
        line, log = failed(environment | {"DOMICILE_BIND": bind})
    assert line.startswith(f"gateway-eu-1: {bind}: cannot listen: ")
    assert "DOMICILE_BIND" in line
    assert log[-1]["event"] == "refused-to-start"


@pytest.mark.parametrize("name", ["CERTIFICATE", "KEY", "AUTHORITIES"])
@pytest.mark.parametrize("how", ["missing", "junk"])
def test_a_file_of_the_identity_that_cannot_be_used_is_one_line(
    environment: dict[str, str], tmp_path: Path, name: str, how: str
) -> None:
    place = tmp_path / "other"
    if how == "junk" and name == "AUTHORITIES":
        place.mkdir()
        (place / "eu.pem").write_bytes(b"junk")
    elif how == "junk":
        place.write_bytes(b"junk")
    line, _ = failed(environment | {f"DOMICILE_{name}": str(place)})
    assert str(place) in line


def test_a_certificate_of_another_deployment_is_one_line(environment: dict[str, str]) -> None:
    line, _ = failed(environment | {"DOMICILE_DEPLOYMENT": "other"})
    assert "the certificate is for deployment acme, not other" in line


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "no such file or directory"),
        (b"\xff\xff", "not text"),
        (b"1:zz", "VERSION:HEX"),
        (b"1:abab", "32 to 64 bytes"),
    ],
)
def test_a_pepper_file_that_cannot_be_used_is_one_line(
    environment: dict[str, str], tmp_path: Path, content: bytes | None, reason: str
) -> None:
    if content is not None:
        (tmp_path / "pepper").write_bytes(content)
    line, _ = failed(environment | {"STAGE": "pepper", "DOMICILE_PEPPER": str(tmp_path / "pepper")})
    assert reason in line
    assert str(tmp_path / "pepper") in line
    assert "abab" not in line


def test_a_pepper_that_is_not_named_is_one_line(environment: dict[str, str]) -> None:
    assert (
        failed(environment | {"STAGE": "pepper"})[0]
        == "gateway-eu-1: DOMICILE_PEPPER: no pepper (name the pepper file)"
    )


def test_operators_without_keys_are_one_line(environment: dict[str, str], tmp_path: Path) -> None:
    assert "DOMICILE_OPERATORS" in failed(environment | {"STAGE": "operators"})[0]
    line, _ = failed(environment | {"STAGE": "operators", "DOMICILE_OPERATORS": str(tmp_path)})
    assert f"{tmp_path}: holds no key" in line


def test_a_state_folder_that_cannot_be_written_is_one_line(environment: dict[str, str], tmp_path: Path) -> None:
    line, _ = failed(environment | {"STAGE": "file", "DOMICILE_STATE": str(tmp_path / "gone")})
    assert line.startswith(f"gateway-eu-1: {tmp_path / 'gone' / 'journal'}: no such file or directory")


def test_an_unforeseen_error_tells_its_class_and_place_and_no_more(environment: dict[str, str]) -> None:
    line, log = failed(environment | {"STAGE": "bug"})
    assert line.startswith("gateway-eu-1: unforeseen ValueError at core/served.py:")
    assert "alice" not in json.dumps(log) + line
    assert (log[-1]["event"], log[-1]["error"]) == ("ended-by-error", "ValueError")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_process_told_to_stop_before_it_is_ready_stops(environment: dict[str, str], number: signal.Signals) -> None:
    with running(environment | {"STAGE": "never"}) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "starting\n"
        process.send_signal(number)
        _, stderr = process.communicate(timeout=20)
    assert process.returncode == 0
    assert events(stderr) == ["stopped"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_request_in_flight_is_finished_and_no_other_begun(
    trust: Trust, environment: dict[str, str], number: signal.Signals
) -> None:
    address = environment["DOMICILE_BIND"]
    context = trust.credentials(GLOBAL, Role.OPERATOR, "root").client("eu", [Role.GATEWAY])
    with running(environment) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        await asyncio.to_thread(wait_until_ready, process)
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)) as session:

            async def ask() -> str:
                async with session.get(f"https://{address}/wait") as response:
                    return await response.text()

            asked = asyncio.create_task(ask())
            assert await asyncio.to_thread(process.stdout.readline) == "waiting\n"
            process.send_signal(number)
            assert await asyncio.to_thread(process.stdout.readline) == "told\n"
            await refuses_connections(address, context)
            assert not asked.done()
            process.stdin.write("finished\n")
            process.stdin.flush()
            assert await asked == "finished\n"
        _, stderr = await asyncio.to_thread(process.communicate, timeout=20)
    assert process.returncode == 0
    assert events(stderr) == ["draining", "stopped"]


async def refuses_connections(address: str, context: ssl.SSLContext) -> None:
    """Waits for the listener to close, which follows the signal at once."""
    host, _, port = address.rpartition(":")
    async with asyncio.timeout(10):
        while True:
            try:
                _, writer = await asyncio.open_connection(host, int(port), ssl=context)
                writer.close()
            except OSError:
                return


async def test_a_request_that_outlasts_the_drain_is_cut_off(trust: Trust, environment: dict[str, str]) -> None:
    context = trust.credentials(GLOBAL, Role.OPERATOR, "root").client("eu", [Role.GATEWAY])
    with running(environment | {"DOMICILE_DRAIN_SECONDS": "0.2"}) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        await asyncio.to_thread(wait_until_ready, process)
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)) as session:
            asked = asyncio.create_task(session.get(f"https://{environment['DOMICILE_BIND']}/wait"))
            assert await asyncio.to_thread(process.stdout.readline) == "waiting\n"
            process.send_signal(signal.SIGTERM)
            with pytest.raises(aiohttp.ClientError):
                await asked
        await asyncio.to_thread(process.communicate, "\n", 20)
    assert process.returncode == 0


def probed(environment: dict[str, str], question: str) -> tuple[int, str]:
    command = [sys.executable, "-m", "domicile.identity.probe", question]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == ""
    return done.returncode, done.stderr


def test_a_probe_asks_with_the_certificate_of_the_process_itself(environment: dict[str, str], trust: Trust) -> None:
    port = environment["DOMICILE_BIND"].rpartition(":")[2]
    assert probed(environment, "ready") == (1, "probe: connection refused\n")
    with running(environment | {"DOMICILE_BIND": f"0.0.0.0:{port}"}) as process:
        wait_until_ready(process)
        assert probed(environment | {"DOMICILE_BIND": f"0.0.0.0:{port}"}, "ready") == (0, "")
        assert probed(environment, "live") == (0, "")
        other = trust.credentials("eu", Role.GATEWAY, "eu-1.par")
        stranger = {"DOMICILE_CERTIFICATE": str(other.certificate), "DOMICILE_KEY": str(other.key)}
        assert probed(environment | stranger, "ready")[0] == 1
    assert probed(environment, "well")[0] == 2
    assert probed({"PATH": environment["PATH"]}, "ready")[1].startswith("probe: DOMICILE_CERTIFICATE: is not set")
