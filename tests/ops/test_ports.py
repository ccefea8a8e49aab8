"""Port 0 becomes a free port, once each; a fixed port that is taken is an error that names it."""

from __future__ import annotations

import socket
from importlib.resources import files
from typing import Any

import pytest

from domicile.model import InvalidInput, Unavailable, parse_manifest, read_yaml
from domicile.ops.ports import choose_ports, free_address, require_free


def default_world() -> Any:
    return read_yaml(files("domicile.ops").joinpath("default_world.yaml").read_text())


def test_the_default_world_loads_once_its_ports_are_chosen() -> None:
    taken: set[str] = set()
    manifest = parse_manifest(choose_ports(default_world(), taken))
    assert set(manifest.cells) == {"eu-1", "eu-2", "us-1"}
    assert manifest.losses() == []
    port = manifest.routers["fra"].public.rpartition(":")[2]
    assert manifest.jurisdictions["eu"].public_host == f"eu.acme.localhost:{port}"
    assert len(taken) == 2 + 2 + 6 * 3 + 4


def test_fixed_ports_stay() -> None:
    data = default_world()
    data["routers"]["fra"]["public"] = "127.10.1.31:8443"
    manifest = parse_manifest(choose_ports(data, set()))
    assert manifest.routers["fra"].public == "127.10.1.31:8443"
    assert manifest.jurisdictions["eu"].public_host == "eu.acme.localhost:8443"


def test_a_taken_port_is_named() -> None:
    manifest = parse_manifest(choose_ports(default_world(), set()))
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        address = f"127.0.0.1:{holder.getsockname()[1]}"
        with pytest.raises(InvalidInput, match="router-fra cannot listen: address already in use") as refused:
            require_free(manifest, [("router-fra", address)])
    assert refused.value.where == address


def test_an_address_that_is_not_this_machines_is_named() -> None:
    with pytest.raises(Unavailable, match="cannot listen on this machine"):
        free_address("192.0.2.1", set())
