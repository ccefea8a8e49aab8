"""Keys for backups: made and opened for who backs up a jurisdiction's databases, and for nobody else."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from domicile_testing import Storage, Trust
from domicile_testing.cell import key_section, key_settings, superuser

from domicile.cells.keys import serve_keys
from domicile.client import BackupKeyClient
from domicile.model import Forbidden, InvalidInput, Role, Unavailable
from domicile.ops.backup.keys import KEYS_AT, FileKeys


@pytest.fixture
async def service(trust: Trust, key_storage: Storage) -> AsyncIterator[tuple[str, Path]]:
    """The address of a running key service of ``eu``, and its state folder."""
    settings = key_settings(trust, key_storage)
    async with serve_keys(settings, key_section()):
        yield settings.bind, settings.state


def caller(trust: Trust, address: str, jurisdiction: str = "eu", role: Role = Role.BACKUP) -> BackupKeyClient:
    name = "eu-1.fra" if role is Role.APP else "fra"
    return BackupKeyClient(trust.credentials(jurisdiction, role, name), [address], jurisdiction="eu")


async def test_a_key_opens_again_by_the_service_and_by_its_files(
    trust: Trust, service: tuple[str, Path], key_storage: Storage
) -> None:
    address, state = service
    client = caller(trust, address)
    made = await client.make("eu-1")
    assert await client.open("eu-1", made.wrapped) == made
    assert await FileKeys(state / KEYS_AT, "eu").open("eu-1", made.wrapped) == made, "without the service"
    with pytest.raises(Unavailable):
        await client.open("eu-2", made.wrapped)
    with pytest.raises(Unavailable):
        await FileKeys(state / KEYS_AT, "us").open("eu-1", made.wrapped)
    await client.close()
    async with superuser(key_storage) as database:
        rows = await database.fetch("SELECT action FROM keys.audit WHERE caller LIKE '%/backup/%' ORDER BY time")
        kept = await database.fetchval("SELECT count(*) FROM keys.data_keys WHERE wrapped = $1", made.wrapped.value)
    assert [row["action"] for row in rows] == ["made", "unwrapped"]
    assert kept == 0, "it lies with the backup alone"


@pytest.mark.parametrize("role", [Role.APP, Role.OPERATOR, Role.GATEWAY])
async def test_nobody_else_is_given_one(trust: Trust, service: tuple[str, Path], role: Role) -> None:
    name = "eu-1.fra" if role is not Role.OPERATOR else "fra"
    client = BackupKeyClient(trust.credentials("eu", role, name), [service[0]], jurisdiction="eu")
    with pytest.raises(Forbidden):
        await client.make("eu-1")
    await client.close()


async def test_a_backup_process_from_abroad_is_let_in_by_nobody(trust: Trust, service: tuple[str, Path]) -> None:
    client = caller(trust, service[0], "us")
    with pytest.raises(Unavailable):
        await client.make("eu-1")
    await client.close()


async def test_files_that_are_not_there_are_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="no key-encryption key"):
        await FileKeys(tmp_path, "eu").make("eu-1")
