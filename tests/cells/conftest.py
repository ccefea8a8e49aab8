"""A deployment's trust and the databases of the cells room, for each of its modules."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncpg
import pytest
from domicile_testing import Storage, Trust, running_storage
from domicile_testing.cell import Directory, forget_ledger, gateway_settings, running_directory, superuser
from domicile_testing.erasing import Plan, Running, erasing

from domicile.cells.serve import serving_cell
from domicile.model import GLOBAL, Endpoint
from domicile.sdk.store import apply_schema


@pytest.fixture(scope="module")
def trust(tmp_path_factory: pytest.TempPathFactory) -> Trust:
    folder: Path = tmp_path_factory.mktemp("cells")
    return Trust.create(folder)


@pytest.fixture(scope="module")
def key_storage(trust: Trust) -> Iterator[Storage]:
    with running_storage(trust, trust.folder / "keys", Endpoint.KEY_STORAGE, "eu", "fra", "domicile_keys") as running:
        yield running


@pytest.fixture(scope="module")
def cell_storage(trust: Trust) -> Iterator[Storage]:
    """The storage of cell ``eu-1``, without any schema."""
    with running_storage(trust, trust.folder / "cell", Endpoint.CELL_STORAGE, "eu", "eu-1.fra", None) as running:
        yield running


@pytest.fixture
async def directory(trust: Trust, tmp_path: Path) -> AsyncIterator[Directory]:
    async with running_directory(trust, tmp_path) as served:
        yield served


@pytest.fixture
async def cell(cell_storage: Storage) -> AsyncIterator[asyncpg.Connection]:
    """A superuser's connection to ``eu-1``'s database, the schema applied."""
    async with superuser(cell_storage) as connection:
        await apply_schema(connection, "eu-1", "eu", [])
        await connection.execute("TRUNCATE domicile.fences")
        await forget_ledger(connection)
        yield connection


@pytest.fixture
async def gateway(
    trust: Trust, cell_storage: Storage, cell: asyncpg.Connection, directory: Directory
) -> AsyncIterator[str]:
    """The address of ``eu-1``'s running gateway."""
    settings = gateway_settings(trust, cell_storage.address, directory.address)
    async with serving_cell(settings):
        yield settings.bind


@pytest.fixture(scope="module")
def plan(trust: Trust, cell_storage: Storage, key_storage: Storage) -> Iterator[Plan]:
    folder = trust.folder / "directory"
    owner = "domicile_directory"
    with running_storage(trust, folder, Endpoint.DIRECTORY_STORAGE, GLOBAL, "fra", owner) as running:
        yield Plan.of(trust, cell_storage, key_storage, running)


@pytest.fixture
async def world(plan: Plan, tmp_path: Path) -> AsyncIterator[Running]:
    async with erasing(plan, tmp_path) as running:
        yield running
