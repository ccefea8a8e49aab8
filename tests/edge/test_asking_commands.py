"""``domicile edge nginx`` and ``domicile edge haproxy`` write what their programs take, and nothing of other places."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest
from domicile_testing.edges import equipment, nginx_command
from domicile_testing.routing import World
from loadtests.cases import Unmeasured
from loadtests.programs import haproxy, nginx_module

from domicile.identity import Credentials
from domicile.ops.edge.haproxy.configuration import CONFIGURATION


def run(world: World, own: Credentials, *arguments: str) -> subprocess.CompletedProcess[str]:
    told = {
        "CERTIFICATE": own.certificate, "KEY": own.key, "AUTHORITIES": own.authorities,
        "DIRECTORY": world.manifest.directory.sites[0].address, "OPERATORS": world.folder / "operators",
    }  # fmt: skip
    clean = {name: value for name, value in os.environ.items() if not name.startswith("DOMICILE_")}
    return subprocess.run(
        [sys.executable, "-m", "domicile.ops.main", "edge", *arguments],
        env=clean | {f"DOMICILE_{name}": str(value) for name, value in told.items()},
        capture_output=True, text=True, check=False, timeout=60, cwd=world.folder,
    )  # fmt: skip


def ran(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)


def abroad(world: World) -> list[str]:
    zone = world.manifest.cells["us-1"].zones["iad"]
    router = world.manifest.routers["iad"]
    return ["us-1", zone.app, zone.gateway, router.public, router.internal]


@pytest.mark.parametrize("memory", ["lua", "cache"])
async def test_nginx_takes_what_is_printed(world: World, tmp_path: Path, memory: str) -> None:
    try:
        for name in ("http-lua",) if memory == "lua" else ("http-set-misc", "http-headers-more-filter"):
            nginx_module(name)
    except Unmeasured as error:
        pytest.skip(str(error))
    brought = equipment(world)
    done = await asyncio.to_thread(run, world, brought.own, "nginx", "--listen", brought.listen, "--memory", memory)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "edge"
    (folder / "temp").mkdir(parents=True)
    (folder / "nginx.conf").write_text(done.stdout)
    tried = await asyncio.to_thread(ran, [*nginx_command(folder), "-t"])
    assert tried.returncode == 0, tried.stderr
    assert not [place for place in abroad(world) if place in done.stdout]


async def test_haproxy_takes_what_is_written_and_keys_are_private(world: World, tmp_path: Path) -> None:
    try:
        haproxy()
    except Unmeasured as error:
        pytest.skip(str(error))
    brought = equipment(world)
    folder = tmp_path / "edge"
    arguments = ["haproxy", "--listen", brought.listen, "--into", str(folder)]
    done = await asyncio.to_thread(run, world, brought.own, *arguments)
    assert done.returncode == 0, done.stderr
    tried = await asyncio.to_thread(ran, [haproxy(), "-c", "-f", str(folder / CONFIGURATION)])
    assert tried.returncode == 0, tried.stderr
    texts = {path.name: path.read_text() for path in folder.iterdir()}
    assert not [place for place in abroad(world) if place in "".join(texts.values())]
    assert (folder / "own.pem").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["nginx", "--listen", "0.0.0.0:8443"], "without TLS only a loopback address"),
        (["haproxy", "--into", "edge"], "says where clients come in"),
        (["test", "edge.acme.example", "--user", "missing"], "URL: is not the address of an edge"),
        (["test", "https://edge.acme.example:port", "--user", "missing"], "URL: is not the address of an edge"),
        (["test", "https://a@edge.acme.example", "--user", "missing"], "URL: is not the address of an edge"),
        (["test", "https://edge.acme.example", "--user", "missing", "--path", "notes"], "--path: is not a path"),
        (
            ["test", "https://edge.acme.example", "--user", "missing", "--write", ".evil.example/x"],
            "--write: is not a path",
        ),
        (["haproxy", "--into", "edge", "--watch", "--listen", "127.0.0.1:1"], "--listen: is for writing the files"),
        (["test", "https://edge.acme.example", "--user", "missing"], "missing: no such file"),
    ],
)
async def test_a_refusal_is_one_line(world: World, arguments: list[str], expected: str) -> None:
    done = await asyncio.to_thread(run, world, equipment(world).own, *arguments)
    assert done.returncode == 1
    assert expected in done.stderr
    assert len(done.stderr.splitlines()) == 1
