"""Fixtures: two cells' real storages, ``eu-1`` and ``us-1``, for a whole run; each test brings subjects of its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest

from domicile.model import Endpoint, Pepper, Role, SubjectKey
from domicile.sample import Note, Profile
from domicile.sdk import Residency
from domicile.sdk.store import FenceStore, apply_schema, open_pool
from domicile_testing import Storage, Trust, running_storage
from domicile_testing.cell import superuser
from domicile_testing.homes import Surroundings, surroundings


@pytest.fixture(scope="session")
def trust(tmp_path_factory: pytest.TempPathFactory) -> Trust:
    folder: Path = tmp_path_factory.mktemp("sdk")
    return Trust.create(folder)


async def _apply(storage: Storage, cell: str) -> None:
    async with superuser(storage) as connection:
        await apply_schema(connection, cell, storage.jurisdiction, [Profile, Note])


@pytest.fixture(scope="session")
def eu(trust: Trust) -> Iterator[Storage]:
    """The storage of ``eu-1``, the sample's schema applied."""
    with running_storage(trust, trust.folder / "eu-1", Endpoint.CELL_STORAGE, "eu", "eu-1.fra", None) as running:
        asyncio.run(_apply(running, "eu-1"))
        yield running


@pytest.fixture(scope="session")
def us(trust: Trust) -> Iterator[Storage]:
    """The storage of ``us-1``, the sample's schema applied."""
    with running_storage(trust, trust.folder / "us-1", Endpoint.CELL_STORAGE, "us", "us-1.iad", None) as running:
        asyncio.run(_apply(running, "us-1"))
        yield running


@pytest.fixture
async def eu_root(eu: Storage) -> AsyncIterator[asyncpg.Connection]:
    """The superuser in ``eu-1``: a test's own eyes, and its way around every lock but the trigger."""
    async with superuser(eu) as connection:
        yield connection


@pytest.fixture
async def us_root(us: Storage) -> AsyncIterator[asyncpg.Connection]:
    async with superuser(us) as connection:
        yield connection


@pytest.fixture
async def us_app(us: Storage) -> AsyncIterator[asyncpg.Connection]:
    """The application's role in ``us-1``, by a plain driver: no SDK, no guard."""
    connection = await asyncpg.connect(
        host=us.host,
        port=us.port,
        user="domicile_app",
        database="domicile",
        ssl=us.context(Role.APP, "us-1.iad"),
    )
    yield connection
    await connection.close()


@pytest.fixture
async def us_fences(trust: Trust, us: Storage) -> AsyncIterator[FenceStore]:
    """Fences of ``us-1`` as its gateway opens them."""
    credentials = trust.credentials("us", Role.GATEWAY, "us-1.iad")
    pool = await open_pool(credentials, [us.address], jurisdiction="us", cell="us-1", user="domicile_gateway")
    yield FenceStore(pool)
    pool.terminate()


@pytest.fixture(scope="session")
def pepper(trust: Trust) -> Pepper:
    return Pepper.parse((trust.folder / "pepper").read_text())


@pytest.fixture
def somebody(pepper: Pepper) -> Callable[[], tuple[str, SubjectKey]]:
    """A new subject's id and key, each time that it is called."""

    def new() -> tuple[str, SubjectKey]:
        user = f"user-{uuid4()}"
        return user, pepper.subject_key(user)

    return new


@pytest.fixture
async def around(trust: Trust, eu: Storage, us: Storage) -> AsyncIterator[Surroundings]:
    async with surroundings(trust, eu, us) as running:
        yield running


@pytest.fixture
async def residency(around: Surroundings, tmp_path: Path) -> AsyncIterator[Residency]:
    """The residency of ``eu-1``'s application."""
    async with Residency.connect(around.settings(state=tmp_path)) as connected:
        yield connected
