"""A world around the router, fresh for each test."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from domicile_testing.routing import World, routing_world


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with routing_world(tmp_path) as running:
        yield running
