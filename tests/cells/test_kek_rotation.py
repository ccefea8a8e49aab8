"""Rotation of a key-encryption key: every data key stays what it is, whoever dies, shreds or rotates meanwhile."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from domicile_testing import Storage, Trust
from domicile_testing.cell import key_client, key_section, key_settings, superuser

from domicile.cells.keys import KeySettings, serve_keys
from domicile.cells.keys.rotation import KeyOperatorSettings, rotate
from domicile.client import KeyOperatorClient
from domicile.model import Forbidden, KeyDestroyed, NotFound, Role, Unavailable

SECTION = key_section()


@asynccontextmanager
async def operator(trust: Trust, address: str, role: Role = Role.OPERATOR) -> AsyncIterator[KeyOperatorClient]:
    name = "eu-1.fra" if role is Role.APP else "root"
    client = KeyOperatorClient(trust.credentials("eu", role, name), [address], jurisdiction="eu")
    try:
        yield client
    finally:
        await client.close()


async def made(trust: Trust, address: str, count: int) -> dict[UUID, bytes]:
    """New subjects and their keys."""
    names = [uuid4() for _ in range(count)]
    async with key_client(trust, address) as keys:
        found = await keys.data_keys([(name, name) for name in names], create=True)
    return {key.subject: key.key for key in found}


async def read(trust: Trust, address: str, names: list[UUID]) -> dict[UUID, bytes]:
    async with key_client(trust, address) as keys:
        return {key.subject: key.key for key in await keys.data_keys([(name, name) for name in names])}


def operator_settings(trust: Trust, settings: KeySettings) -> KeyOperatorSettings:
    own = trust.credentials("eu", Role.OPERATOR, "root")
    return KeyOperatorSettings(
        certificate=own.certificate, key=own.key, authorities=own.authorities, keys=settings.bind
    )


async def test_every_key_is_under_the_new_version_and_is_the_same_key(trust: Trust, key_storage: Storage) -> None:
    settings, told = key_settings(trust, key_storage), list[int]()
    async with serve_keys(settings, SECTION):
        before = await made(trust, settings.bind, 450)
        async with key_client(trust, settings.bind) as keys:
            index_key = await keys.cell_index_key()
        asking = operator_settings(trust, settings)
        start = await rotate(asking, "default", told.append, only_tell=True)
        done = await rotate(asking, "default", told.append)
        assert (done.version > start.version, done.left) == (True, 0)
        assert len(told) >= 3
        assert told == sorted(told, reverse=True)
        assert await read(trust, settings.bind, list(before)) == before
        async with key_client(trust, settings.bind) as keys:
            assert await keys.cell_index_key() == index_key
    async with superuser(key_storage) as connection:
        under = await connection.fetch(
            "SELECT version FROM keys.data_keys UNION SELECT version FROM keys.index_keys UNION SELECT max(version)"
            " FROM keys.keks"
        )
    assert [row[0] for row in under] == [done.version]
    async with serve_keys(settings, SECTION):  # and after a restart
        assert await read(trust, settings.bind, list(before)) == before


async def test_one_that_was_begun_goes_on_with_whoever_comes_next(trust: Trust, key_storage: Storage) -> None:
    one, two = key_settings(trust, key_storage), key_settings(trust, key_storage)
    async with serve_keys(one, SECTION):
        before = await made(trust, one.bind, 300)
        async with operator(trust, one.bind) as first:
            begun = await first.rotate("default")
            await first.rewrap("default")
    # the process that began it is gone; two others at another process go on at the same time
    async with serve_keys(two, SECTION), operator(trust, two.bind) as other:
        assert (await other.rotate("default")).version == begun.version
        asking = operator_settings(trust, two)
        results = await asyncio.gather(*(rotate(asking, "default", lambda left: None) for _ in range(2)))
        assert {result.left for result in results} == {0}
        assert await read(trust, two.bind, list(before)) == before


async def test_keys_are_made_handed_out_and_destroyed_meanwhile(trust: Trust, key_storage: Storage) -> None:
    settings = key_settings(trust, key_storage)
    async with serve_keys(settings, SECTION), operator(trust, settings.bind) as client:
        before = await made(trust, settings.bind, 300)
        gone = list(before)[::10]
        now = await client.rotate("default")

        async def shred() -> None:
            async with key_client(trust, settings.bind) as keys:
                for name in gone:
                    await keys.shred(name)

        async def re_wrap() -> int:
            while (await client.rewrap("default")).left:
                pass
            return now.version

        _, _, fresh, during = await asyncio.gather(
            shred(),
            re_wrap(),
            made(trust, settings.bind, 100),
            read(trust, settings.bind, [name for name in before if name not in gone]),
        )
        assert during == {name: key for name, key in before.items() if name not in gone}
        assert await read(trust, settings.bind, list(fresh)) == fresh
        async with key_client(trust, settings.bind) as keys:
            for name in gone:
                with pytest.raises(KeyDestroyed):
                    await keys.data_key(name, name, create=True)


@pytest.mark.parametrize("step", ["the file", "the record", "a batch"])
async def test_an_end_at_each_step_loses_no_key(
    trust: Trust, key_storage: Storage, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As kill -9 leaves it: the step before is on disk, nothing after it is."""
    settings = key_settings(trust, key_storage)
    place = {
        "the file": "domicile.cells.keys.storage.KeyStore.add_kek",
        "the record": "domicile.cells.keys.own.OwnHolder._hold",
        "a batch": "domicile.cells.keys.storage.KeyStore.rewrap",
    }[step]
    async with serve_keys(settings, SECTION), operator(trust, settings.bind) as client:
        before = await made(trust, settings.bind, 20)

        def ended(*_: object) -> None:
            raise Unavailable("ended here")

        with monkeypatch.context() as patch:
            patch.setattr(place, ended)
            with suppress(Unavailable):
                await client.rotate("default")
            with pytest.raises(Unavailable):
                await client.rewrap("default") if step == "a batch" else await client.rotate("default")
    async with serve_keys(settings, SECTION):
        assert await read(trust, settings.bind, list(before)) == before
        done = await rotate(operator_settings(trust, settings), "default", lambda left: None)
        assert done.left == 0
        assert await read(trust, settings.bind, list(before)) == before


async def test_only_an_operator_rotates_and_it_gets_no_key(trust: Trust, key_storage: Storage) -> None:
    settings = key_settings(trust, key_storage)
    async with serve_keys(settings, SECTION):
        async with operator(trust, settings.bind, Role.APP) as application:
            for call in (
                application.keks,
                lambda: application.rotate("default"),
                lambda: application.rewrap("default"),
            ):
                with pytest.raises(Forbidden):
                    await call()
        async with operator(trust, settings.bind) as client:
            with pytest.raises(NotFound):
                await client.rotate("nobody")
            assert [each.domain for each in await client.keks()] == ["default"]


async def test_the_page_on_keys_rotates_by_its_commands(trust: Trust, key_storage: Storage) -> None:
    page = Path(__file__).parents[2] / "docs" / "keys.md"
    blocks = re.findall(r"```sh\n(.*?)```", page.read_text(), re.DOTALL)
    (block,) = [each for each in blocks if "domicile-keys rotate" in each]
    settings = key_settings(trust, key_storage)
    asking = operator_settings(trust, settings)
    told = {
        "PATH": str(Path(sys.executable).parent),
        "DOMICILE_KEYS": settings.bind,
        "DOMICILE_CERTIFICATE": str(asking.certificate),
        "DOMICILE_KEY": str(asking.key),
        "DOMICILE_AUTHORITIES": str(asking.authorities),
    }
    said = []
    async with serve_keys(settings, SECTION):
        before = await made(trust, settings.bind, 3)
        for command in block.splitlines():
            process = await asyncio.create_subprocess_exec(
                *command.split(), "--json", env=told, stdout=asyncio.subprocess.PIPE
            )
            said.append(json.loads((await process.communicate())[0]))
            assert process.returncode == 0
        assert await read(trust, settings.bind, list(before)) == before
    status, done = said
    assert done.pop("version") > status["version"]
    assert done == {"ok": True, "domain": "default", "left": 0, "unverified": False}
