"""A world with a router, and each kind of edge in front of it in turn."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from socket import AF_INET
from typing import Any

import psutil
import pytest
from domicile_testing.edges import KINDS, Edge, Kind, require
from domicile_testing.routing import World, routing_world


def _behind_edges(data: dict[str, Any]) -> None:
    """An edge may name one of the machine's own addresses in the place of a loopback one."""
    own = [each.address for found in psutil.net_if_addrs().values() for each in found if each.family is AF_INET]
    data["routers"]["fra"]["trusted_peers"] += [f"{address}/32" for address in own]


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with routing_world(tmp_path, change=_behind_edges) as running:
        yield running


@pytest.fixture(
    params=[pytest.param(name, marks=pytest.mark.full if kind.rare else ()) for name, kind in KINDS.items()]
)
def kind(request: pytest.FixtureRequest) -> Kind:
    """A recipe whose program is here, and that can do what the test asks for."""
    found = KINDS[request.param]
    require(found.program)
    name = getattr(request.function, "__name__", "")
    if name in found.cannot:
        pytest.skip(f"{request.param}: {found.cannot[name]}")
    return found


@pytest.fixture
async def edge(world: World, kind: Kind) -> AsyncIterator[Edge]:
    """In zone fra, as is the router that it leaves things to."""
    async with world.router("fra"), kind.run(world, "fra") as running:
        yield running
