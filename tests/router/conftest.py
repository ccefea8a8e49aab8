"""A world around the router, fresh for each test."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from domicile_testing.directory_fixtures import database, directory, empty, operator, storage, trust
from domicile_testing.routing import World, routing_world

__all__ = ["database", "directory", "empty", "operator", "storage", "trust"]


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with routing_world(tmp_path) as running:
        yield running
