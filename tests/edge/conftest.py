"""A world with a router, and each kind of edge in front of it in turn."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from domicile_testing.edges import KINDS, Edge, Kind
from domicile_testing.routing import World, routing_world
from loadtests.cases import Unmeasured


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with routing_world(tmp_path) as running:
        yield running


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    """A recipe whose program is here, and that can do what the test asks for."""
    found = KINDS[request.param]
    try:
        found.program()
    except Unmeasured as error:
        pytest.skip(str(error))
    name = getattr(request.function, "__name__", "")
    if name in found.cannot:
        pytest.skip(f"{request.param}: {found.cannot[name]}")
    return found


@pytest.fixture
async def edge(world: World, kind: Kind) -> AsyncIterator[Edge]:
    """In zone fra, as is the router that it leaves things to."""
    async with world.router("fra"), kind.run(world, "fra") as running:
        yield running
