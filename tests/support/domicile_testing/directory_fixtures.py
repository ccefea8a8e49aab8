"""A directory over real PostgreSQL and mutual TLS, its tables empty at the start of each test."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncpg
import pytest

from domicile.identity import Signer
from domicile.model import GLOBAL, Endpoint
from domicile_testing import Storage, Trust, running_storage
from domicile_testing.cell import superuser
from domicile_testing.directories import RunningDirectory, directory_settings, forget_marks, serving


@pytest.fixture(scope="module")
def trust(tmp_path_factory: pytest.TempPathFactory) -> Trust:
    folder: Path = tmp_path_factory.mktemp("directory")
    return Trust.create(folder)


@pytest.fixture(scope="module")
def operator(trust: Trust) -> Signer:
    return Signer.load_or_create(trust.folder / "operator.key")


@pytest.fixture(scope="module")
def storage(trust: Trust) -> Iterator[Storage]:
    folder = trust.folder / "pg"
    with running_storage(trust, folder, Endpoint.DIRECTORY_STORAGE, GLOBAL, "fra", "domicile_directory") as running:
        yield running


@pytest.fixture
async def database(storage: Storage) -> AsyncIterator[asyncpg.Connection]:
    """A superuser's connection to the directory's database, as the last test left it."""
    async with superuser(storage) as connection:
        yield connection


@pytest.fixture
async def empty(
    trust: Trust, storage: Storage, operator: Signer, database: asyncpg.Connection
) -> AsyncIterator[RunningDirectory]:
    """A directory to which nothing was published yet."""
    await database.execute("DROP SCHEMA IF EXISTS directory CASCADE")
    forget_marks(trust)
    async with serving(directory_settings(trust, storage.address, operator), trust, operator) as running:
        yield running


@pytest.fixture
async def directory(empty: RunningDirectory) -> RunningDirectory:
    """A directory with the settled topology, revision 1: eu-1, eu-2 and us-1, open and of equal weight."""
    await empty.publish(1)
    return empty
