"""Data keys as an application holds them: for their time, in a bounded number, and no longer than the service says."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Container, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

import pytest
from aiohttp import web
from domicile_testing import Trust
from domicile_testing.databases import until
from domicile_testing.peers import (
    INSIDE,
    OWN,
    serving,
)

from domicile.client import KeyClient
from domicile.client import keys as keys_module
from domicile.model import (
    DomicileError,
    InvalidInput,
    KeyDestroyed,
    KeyWithheld,
    NotFound,
    Role,
)
from domicile.model.key_wire import DataKey, DataKeysRequest, DataKeysResponse, IndexKeyResponse


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class KeyService:
    """Counts what it is asked; ``shredded`` keys are gone."""

    def __init__(self) -> None:
        self.asked = 0
        self.shredded = False
        self.bound: int | None = None

    async def answer(self, request: web.Request) -> web.Response:
        self.asked += 1
        if request.path == "/v1/index-keys":
            return web.Response(body=IndexKeyResponse(key=bytes([1]) * 32, cache_seconds=self.bound).model_dump_json())
        body = DataKeysRequest.model_validate_json(await request.read())
        secret = self.asked.to_bytes(32, "big")
        keys = [] if self.shredded else [
            DataKey(subject=key.subject, principal=key.principal, key=secret, index_key=secret) for key in body.keys
        ]  # fmt: skip
        return web.Response(body=DataKeysResponse(keys=keys, cache_seconds=self.bound).model_dump_json())


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


async def test_a_key_that_somebody_keeps_is_handed_out_as_it_is_and_no_other_is_kept(
    key_service: tuple[KeyService, KeyClient, Clock],
) -> None:
    _, client, clock = key_service
    await client.data_key(UUID(int=1), OWN)
    kept = await client.data_key(UUID(int=1), OWN)
    assert await client.data_key(UUID(int=1), OWN) is kept
    (held,) = client._cache.values()
    assert held.made() is kept
    del kept
    gc.collect()
    assert held.made() is None, "the cache holds no key outside of its locked memory"
    again = await client.data_key(UUID(int=1), OWN)
    clock.now += 60
    assert await client.data_key(UUID(int=1), OWN) != again


async def test_keys_past_their_time_do_not_stay_in_memory(key_service: tuple[KeyService, KeyClient, Clock]) -> None:
    _, client, clock = key_service
    await client.data_key(UUID(int=1), OWN)
    clock.now += 30
    await client.data_key(UUID(int=2), OWN)
    clock.now += 30
    await client.data_key(UUID(int=2), OWN)
    assert list(client._cache) == [(UUID(int=2), OWN)]


async def test_who_asks_for_nothing_any_more_holds_nothing_past_its_time(
    key_service: tuple[KeyService, KeyClient, Clock], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An application that fell idle, one that keeps a cipher all the while, and a bound that was shortened."""
    monkeypatch.setattr(keys_module, "LOOK_SECONDS", 0.01)
    service, client, clock = key_service
    told: list[list[UUID]] = []

    class Keeper:
        def hold_only(self, held: Container[tuple[UUID, UUID]]) -> None:
            told.append([each for each in (UUID(int=1), UUID(int=2)) if (each, OWN) in held])

    keeper = Keeper()
    client.lend_to(keeper)
    await client.data_key(UUID(int=1), OWN)
    service.bound = 7
    await client.data_key(UUID(int=2), OWN)
    await client.cell_index_key()
    slots = client._slots._memory

    async def looked() -> bool:
        return len(told) > seen

    for passed, left in ((6, [1, 2]), (1, [1]), (52, [1]), (1, [])):
        clock.now += passed
        seen = len(told)
        await until(looked, "the next look")
        assert told[-1] == [UUID(int=each) for each in left]
        assert [subject.int for subject, _ in client._cache] == left
    assert client._index is None
    assert slots[:] == bytes(len(slots)), "wiped"
    assert client._next_look is None, "and nobody looks at nothing"
    assert service.asked == 3


@pytest.mark.parametrize("jump", [-3600.0, -0.1, 59.9, 60.0, 3600.0])
async def test_a_clock_that_jumps_hands_out_no_key_past_its_bound(
    key_service: tuple[KeyService, KeyClient, Clock], jump: float
) -> None:
    """Forward it ends what is held, at worst too early; what is asked for after a jump is held from then on."""
    service, client, clock = key_service
    first = await client.data_key(UUID(int=1), OWN)
    await client.cell_index_key()
    clock.now += jump
    assert (await client.data_key(UUID(int=1), OWN) == first) is (jump < 60)
    await client.cell_index_key()
    assert service.asked == (2 if jump < 60 else 4)
    await client.data_key(UUID(int=2), OWN)
    clock.now += 60
    asked = service.asked
    await client.data_key(UUID(int=2), OWN)
    assert service.asked == asked + 1


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
    assert (await client.cell_index_key()).key == (await client.cell_index_key()).key == bytes([1]) * 32
    assert service.asked == 1
    clock.now += 60
    await client.cell_index_key()
    assert service.asked == 2


async def test_the_cells_index_key_is_held_no_longer_than_the_service_says(
    key_service: tuple[KeyService, KeyClient, Clock],
) -> None:
    service, client, clock = key_service
    service.bound = 7
    await client.cell_index_key()
    clock.now += 6.9
    await client.cell_index_key()
    assert service.asked == 1
    clock.now += 0.1
    await client.data_key(UUID(int=1), OWN)  # any call finds that its time is over
    assert (client._index, client._index_slots._memory[:64]) == (None, bytes(64))
    await client.cell_index_key()
    assert service.asked == 3


async def test_many_who_want_the_cells_index_key_ask_once(key_service: tuple[KeyService, KeyClient, Clock]) -> None:
    service, client, _ = key_service
    first, *others = [asyncio.create_task(client.cell_index_key()) for _ in range(50)]
    await asyncio.sleep(0)
    first.cancel()  # who gives up takes the answer from nobody
    assert {key.key for key in await asyncio.gather(*others)} == {bytes([1]) * 32}
    assert service.asked == 1


async def test_an_answer_of_before_the_secret_was_forgotten_is_not_held(
    key_service: tuple[KeyService, KeyClient, Clock],
) -> None:
    service, client, _ = key_service
    asking = asyncio.create_task(client.cell_index_key())
    await asyncio.sleep(0)
    client.forget_index()
    await asking
    assert client._index is None
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


@dataclass
class Slow:
    """Answers when ``go`` is set. Knows the subjects up to ``known``; makes the others on request."""

    known: int = 1000
    asked: list[list[int]] = field(default_factory=list)
    came: asyncio.Event = field(default_factory=asyncio.Event)
    go: asyncio.Event = field(default_factory=asyncio.Event)
    garbage: bool = False

    async def answer(self, request: web.Request) -> web.Response:
        body = DataKeysRequest.model_validate_json(await request.read())
        self.asked.append([key.subject.int for key in body.keys])
        number = len(self.asked)
        self.came.set()
        await self.go.wait()
        if self.garbage:
            return web.Response(body=b'{"keys": "?"')
        secret = number.to_bytes(32, "big")
        given = [key for key in body.keys if key.subject.int <= self.known or body.create]
        keys = [DataKey(subject=key.subject, principal=key.principal, key=secret, index_key=secret) for key in given]
        withheld = [key for key in body.keys if key not in given and key.subject.int % 2]
        return web.Response(body=DataKeysResponse(keys=keys, withheld=withheld).model_dump_json())


@asynccontextmanager
async def slowly(trust: Trust) -> AsyncIterator[tuple[Slow, KeyClient]]:
    service = Slow()
    async with serving(trust, service.answer, "eu", Role.KEYS) as address:
        client = client_of(trust, address)
        try:
            yield service, client
        finally:
            service.go.set()
            await client.close()


async def begun(service: Slow, *calls: Coroutine[Any, Any, Any]) -> list[asyncio.Task[Any]]:
    """Calls under way, the first of which has reached the service."""
    tasks = [asyncio.create_task(call) for call in calls]
    await service.came.wait()
    service.came.clear()
    return tasks


async def test_a_hundred_cold_readers_are_one_unwrapping(trust: Trust) -> None:
    async with slowly(trust) as (service, client):
        tasks = await begun(service, *(client.data_key(UUID(int=1), OWN) for _ in range(100)))
        tasks += [asyncio.create_task(client.data_keys([(UUID(int=n), OWN) for n in (1, 2)])) for _ in range(100)]
        await service.came.wait()
        service.go.set()
        answers = await asyncio.gather(*tasks)
        assert {answer.key for answer in answers[:100]} == {(1).to_bytes(32, "big")}
        assert all(answer[0] == answers[0] for answer in answers[100:])
        assert service.asked == [[1], [2]]
        assert await client.data_key(UUID(int=1), OWN) == answers[0]
        assert service.asked == [[1], [2]]


async def test_who_waits_for_anothers_question_gets_his_own_answer(trust: Trust) -> None:
    """Also where that question failed for another name, or as a whole."""
    async with slowly(trust) as (service, client):
        names = [(UUID(int=n), OWN) for n in (1, 2001, 2002)]
        tasks = await begun(service, client.data_keys(names), *(client.data_keys([name]) for name in names))
        service.go.set()
        batch, one, withheld, absent = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(answer) for answer in (batch, withheld, absent)] == [KeyWithheld, KeyWithheld, NotFound]
        assert isinstance(one, list)
        assert service.asked == [[1, 2001, 2002]]
        service.garbage = True
        with pytest.raises(DomicileError):
            await client.data_key(UUID(int=3), OWN)
        assert client._flights == {}


async def test_who_wants_a_key_made_is_not_told_that_there_is_none(trust: Trust) -> None:
    async with slowly(trust) as (service, client):
        name = (UUID(int=2002), OWN)
        (reader,) = await begun(service, client.data_key(*name))
        (writer,) = await begun(service, client.data_key(*name, create=True))
        follower = asyncio.create_task(client.data_key(*name))
        service.go.set()
        with pytest.raises(NotFound):
            await reader
        assert await writer == await follower
        assert service.asked == [[2002], [2002]]


async def test_a_reader_who_gives_up_takes_nobodys_answer_along(trust: Trust) -> None:
    async with slowly(trust) as (service, client):
        first, second = await begun(service, *(client.data_key(UUID(int=1), OWN) for _ in range(2)))
        first.cancel()
        service.go.set()
        assert (await second).subject == UUID(int=1)
        assert service.asked == [[1]]


async def test_an_answer_to_a_question_of_before_a_shred_is_not_held(trust: Trust) -> None:
    async with slowly(trust) as (service, client):
        (reader,) = await begun(service, client.data_key(UUID(int=1), OWN))
        client._drop((UUID(int=1), OWN))  # as shred does
        service.go.set()
        before = await reader
        assert not client._cache
        assert await client.data_key(UUID(int=1), OWN) != before


async def test_closing_ends_what_is_under_way(trust: Trust) -> None:
    async with slowly(trust) as (service, client):
        (reader,) = await begun(service, client.data_key(UUID(int=1), OWN))
        await client.close()
        with pytest.raises(asyncio.CancelledError):
            await reader
        assert not client._cache


def test_a_key_service_outside_the_networks_is_refused(trust: Trust) -> None:
    with pytest.raises(InvalidInput, match="outside the networks"):
        client_of(trust, "10.0.0.1:1")
