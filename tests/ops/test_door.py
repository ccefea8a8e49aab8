"""The door lets a certificate in as its own user only, and nobody without one."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest
from domicile_testing import Storage, Trust, running_storage

from domicile.model import Endpoint, Role


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Storage]:
    folder: Path = tmp_path_factory.mktemp("door")
    trust = Trust.create(folder)
    with running_storage(trust, folder / "pg", Endpoint.KEY_STORAGE, "eu", "fra", "domicile_keys") as running:
        yield running


async def connect(storage: Storage, context: ssl.SSLContext | bool, user: str) -> asyncpg.Connection:
    return await asyncpg.connect(
        host=storage.host, port=storage.port, user=user, database="domicile", ssl=context, timeout=5
    )


async def test_the_right_certificate_logs_in_as_its_own_user(storage: Storage) -> None:
    connection = await connect(storage, storage.context(Role.KEYS, "fra"), "domicile_keys")
    assert await connection.fetchval("select current_user") == "domicile_keys"
    await connection.close()


@pytest.mark.parametrize(
    ("jurisdiction", "role", "name", "user"),
    [
        ("eu", Role.KEYS, "fra", "postgres"),
        ("eu", Role.GATEWAY, "eu-1.fra", "domicile_gateway"),
        ("eu", Role.ROUTER, "fra", "domicile_keys"),
        ("us", Role.KEYS, "iad", "domicile_keys"),
        ("global", Role.OPERATOR, "root", "postgres"),
        # a standby of another cell, of another jurisdiction, and one that asks for more than a copy
        ("eu", Role.STORAGE, "eu-1.par", "domicile_replication"),
        ("us", Role.STORAGE, "iad", "domicile_replication"),
        ("eu", Role.STORAGE, "par", "postgres"),
    ],
)
async def test_another_role_user_or_jurisdiction_is_refused(
    storage: Storage, jurisdiction: str, role: Role, name: str, user: str
) -> None:
    context = storage.trust.credentials(jurisdiction, role, name).client("eu", [Role.STORAGE])
    with pytest.raises((asyncpg.PostgresError, ConnectionError, ssl.SSLError)):
        await connect(storage, context, user)


async def test_without_tls_nothing_is_served(storage: Storage) -> None:
    with pytest.raises((asyncpg.PostgresError, ConnectionError)):
        await connect(storage, False, "domicile_keys")
