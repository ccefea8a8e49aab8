"""The door lets a certificate in as its own user only, and nobody without one."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest
from domicile_testing import Storage, Trust, running_storage
from domicile_testing.databases import until

from domicile.identity import Credentials
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


async def test_a_forged_standby_of_the_right_name_is_refused_and_counted(storage: Storage, tmp_path: Path) -> None:
    forged = Trust.create(tmp_path).credentials("eu", Role.STORAGE, "par")
    own = storage.trust.credentials("eu", Role.STORAGE, "par")
    context = Credentials(forged.certificate, forged.key, own.authorities).client("eu", [Role.STORAGE])
    before = await counted(storage, "unauthenticated", 0)
    with pytest.raises((asyncpg.PostgresError, ConnectionError, ssl.SSLError)):
        await connect(storage, context, "domicile_replication")
    await counted(storage, "unauthenticated", before + 1)


async def counted(storage: Storage, code: str, least: float) -> float:
    """What the door's file says of refusals, once it is that many."""
    found = -1.0

    async def enough() -> bool:
        nonlocal found
        with contextlib.suppress(FileNotFoundError):
            text = (storage.folder / "door.prom").read_text()
            lines = [line for line in text.splitlines() if line.startswith(f'domicile_refusals_total{{code="{code}"}}')]
            found = float(lines[0].rpartition(" ")[2]) if lines else 0.0
        return found >= least

    await until(enough, f"{least} refusals counted as {code}")
    return found


async def test_without_tls_nothing_is_served(storage: Storage) -> None:
    with pytest.raises((asyncpg.PostgresError, ConnectionError)):
        await connect(storage, False, "domicile_keys")
