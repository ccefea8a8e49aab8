"""Data keys as an application holds them: for their time, in a bounded number, and no longer than the service says."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID, uuid4

import pytest
from aiohttp import web
from domicile_testing import Trust
from domicile_testing.peers import (
    INSIDE,
    OWN,
    serving,
)

from domicile.client import KeyClient
from domicile.client import keys as keys_module
from domicile.model import (
    InvalidInput,
    KeyDestroyed,
    KeyWithheld,
    NotFound,
    Role,
)
from domicile.model.wire import DataKey, DataKeysRequest, DataKeysResponse, IndexKeyResponse


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class KeyService:
    """Counts what it is asked; ``shredded`` keys are gone."""

    def __init__(self) -> None:
        self.asked = 0
        self.shredded = False

    async def answer(self, request: web.Request) -> web.Response:
        self.asked += 1
        if request.path == "/v1/index-keys":
            return web.Response(body=IndexKeyResponse(key=bytes(32)).model_dump_json())
        body = DataKeysRequest.model_validate_json(await request.read())
        secret = self.asked.to_bytes(32, "big")
        keys = [] if self.shredded else [
            DataKey(subject=key.subject, principal=key.principal, key=secret, index_key=secret) for key in body.keys
        ]  # fmt: skip
        return web.Response(body=DataKeysResponse(keys=keys).model_dump_json())


def client_of(trust: Trust, address: str, **more: Any) -> KeyClient:
    caller = trust.credentials("eu", Role.APP, "eu-1.fra")
    return KeyClient(caller, [address], jurisdiction="eu", cell="eu-1", cache_seconds=60, networks=INSIDE, **more)


@pytest.fixture
async def key_service(trust: Trust) -> AsyncIterator[tuple[KeyService, KeyClient, Clock]]:
    service, clock = KeyService(), Clock()
    async with serving(trust, service.answer, "eu", Role.KEYS) as address:
        client = client_of(trust, address, clock=clock)
        yield service, client, clock
        await client.close()


async def test_a_data_key_is_held_for_its_time_and_not_longer(key_service: tuple[KeyService, KeyClient, Clock]) -> None:
    service, client, clock = key_service
    subject = uuid4()
    first = await client.data_key(subject, OWN, create=True)
    clock.now += 59.9
    assert await client.data_key(subject, OWN) == first
    assert service.asked == 1
    clock.now += 0.1
    assert await client.data_key(subject, OWN) != first
    assert service.asked == 2
    service.shredded = True
    clock.now += 60
    with pytest.raises(NotFound):
        await client.data_key(subject, OWN)
    assert not client._cache


async def test_keys_past_their_time_do_not_stay_in_memory(key_service: tuple[KeyService, KeyClient, Clock]) -> None:
    _, client, clock = key_service
    await client.data_key(UUID(int=1), OWN)
    clock.now += 30
    await client.data_key(UUID(int=2), OWN)
    clock.now += 30
    await client.data_key(UUID(int=2), OWN)
    assert list(client._cache) == [(UUID(int=2), OWN)]


async def test_the_cache_is_bounded_in_number(
    key_service: tuple[KeyService, KeyClient, Clock], monkeypatch: pytest.MonkeyPatch
) -> None:
    service, client, _ = key_service
    monkeypatch.setattr(keys_module, "MAX_CACHED", 3)
    for number in range(5):
        await client.data_key(UUID(int=number), OWN)
    assert [subject.int for subject, _ in client._cache] == [2, 3, 4]
    await client.data_key(UUID(int=4), OWN)
    assert service.asked == 5
    await client.data_key(UUID(int=0), OWN)
    assert service.asked == 6


async def test_another_principal_has_another_key(key_service: tuple[KeyService, KeyClient, Clock]) -> None:
    service, client, _ = key_service
    await client.data_key(UUID(int=1), OWN)
    await client.data_key(UUID(int=1), UUID(int=8))
    assert service.asked == 2


async def test_the_cells_index_key_is_held_for_its_time(key_service: tuple[KeyService, KeyClient, Clock]) -> None:
    service, client, clock = key_service
    assert await client.cell_index_key() == await client.cell_index_key() == bytes(32)
    assert service.asked == 1
    clock.now += 60
    await client.cell_index_key()
    assert service.asked == 2


async def test_closing_forgets_every_key(key_service: tuple[KeyService, KeyClient, Clock]) -> None:
    _, client, _ = key_service
    await client.data_key(UUID(int=1), OWN)
    await client.cell_index_key()
    await client.close()
    assert not client._cache
    assert client._index is None


async def test_a_batch_is_one_call_and_each_absence_has_its_error(trust: Trust) -> None:
    asked: list[int] = []

    async def answer(request: web.Request) -> web.Response:
        body = DataKeysRequest.model_validate_json(await request.read())
        asked.append(len(body.keys))
        given = [
            DataKey(
                subject=key.subject,
                principal=key.principal,
                key=key.subject.int.to_bytes(32, "big"),
                index_key=bytes(32),
            )
            for key in body.keys
            if key.subject.int < 2000
        ]
        return web.Response(
            body=DataKeysResponse(
                keys=given,
                withheld=[key for key in body.keys if key.subject.int == 2001],
                destroyed=[key for key in body.keys if key.subject.int == 2002],
                cache_seconds=5,
            ).model_dump_json()
        )

    now = [0.0]
    async with serving(trust, answer, "eu", Role.KEYS) as address:
        client = client_of(trust, address, clock=lambda: now[0])
        names = [(UUID(int=number), UUID(int=1)) for number in range(1, 1200)]
        keys = await client.data_keys(names + names[:3])
        assert [key.key for key in keys[:2]] == [number.to_bytes(32, "big") for number in (1, 2)]
        assert keys[-3:] == keys[:3]
        assert asked == [1000, 199]
        now[0] = 4.9
        assert await client.data_keys(names[:5]) == keys[:5]
        assert asked == [1000, 199]
        now[0] = 5.0  # the service's bound is the shorter one
        await client.data_key(*names[0])
        assert asked == [1000, 199, 1]
        for number, kind in ((2001, KeyWithheld), (2002, KeyDestroyed), (2003, NotFound)):
            with pytest.raises(kind):
                await client.data_keys([names[0], (UUID(int=number), UUID(int=1))])
        await client.close()


def test_a_key_service_outside_the_networks_is_refused(trust: Trust) -> None:
    with pytest.raises(InvalidInput, match="outside the networks"):
        client_of(trust, "10.0.0.1:1")
