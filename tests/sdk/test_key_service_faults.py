"""A key service that is down, slow, or talks nonsense: what is held serves on for its time, all else is refused."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any
from unittest.mock import patch
from uuid import UUID

import pytest
from aiohttp import web
from domicile_testing import Trust
from domicile_testing.peers import serving

from domicile.client import KeyClient
from domicile.client.keys import since_boot
from domicile.model import DomicileError, KeyWithheld, Role, SubjectKey, Unavailable
from domicile.model.key_wire import DataKey, DataKeysRequest, DataKeysResponse
from domicile.sdk import Home, Personal, Record
from domicile.sdk.home import Vault
from domicile.sdk.testing import MemoryStore

VALUE = "zoé.lefèvre@mail.example"
BOUND = 60.0


class Letter(Record, table="letters_of_faults"):
    text: Annotated[str, Personal("user.content")]


@pytest.fixture(scope="module")
def trust(tmp_path_factory: pytest.TempPathFactory) -> Trust:
    folder: Path = tmp_path_factory.mktemp("faults")
    return Trust.create(folder)


@dataclass
class Service:
    """Keys of any name, made of the name; ``fault`` is what is wrong with it."""

    fault: str = ""
    asked: int = 0
    hanging: asyncio.Event = field(default_factory=asyncio.Event)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.asked += 1
        body = DataKeysRequest.model_validate_json(await request.read())
        if self.fault == "hangs":
            await self.hanging.wait()
        if self.fault in ("500", "503", "302"):
            return web.Response(status=int(self.fault), body=b"<html>", headers={"Location": "https://127.0.0.1:1/"})
        if self.fault in ("no JSON", "no object"):
            return web.Response(body={"no JSON": b"{]", "no object": b"[]"}[self.fault])
        keys = [self._key(key.subject, key.principal) for key in body.keys]
        raw = DataKeysResponse(keys=keys).model_dump(mode="json")
        if self.fault == "short key":
            raw["keys"][0]["key"] = raw["keys"][0]["key"][:8]
        if self.fault == "withheld":
            raw |= {"keys": [], "withheld": [key.model_dump(mode="json") for key in body.keys]}
        return web.json_response(raw)

    def _key(self, subject: UUID, principal: UUID) -> DataKey:
        secret = subject.bytes + principal.bytes
        if self.fault == "wrong key":
            secret = secret[::-1]
        if self.fault == "another's key":
            subject = UUID(int=9)
        return DataKey(subject=subject, principal=principal, key=secret, index_key=secret)


@dataclass
class World:
    service: Service
    keys: KeyClient
    home: Home
    letter: Letter
    now: list[float]
    stop: Callable[[], Awaitable[None]]

    async def read(self) -> str:
        found = await self.home.get(Letter, self.letter.id)
        assert found is not None
        return found.text


@asynccontextmanager
async def world(trust: Trust, **more: Any) -> AsyncIterator[World]:
    """A letter was written, and its key is held."""
    service, now = Service(), [1000.0]
    async with AsyncExitStack() as stack:
        address = await stack.enter_async_context(serving(trust, service.answer, "eu", Role.KEYS))
        caller = trust.credentials("eu", Role.APP, "eu-1.fra")
        more = {"clock": lambda: now[0], **more}
        keys = KeyClient(caller, [address], jurisdiction="eu", cell="eu-1", cache_seconds=BOUND, **more)
        keys._peer._deadline = 0.3
        store = MemoryStore()
        home = Home(Vault(store, keys, "eu-1", "eu"), store.open(SubjectKey(b"\1" * 17)))
        letter = home.new(Letter, text=VALUE)
        await home.put(letter)
        try:
            yield World(service, keys, home, letter, now, stack.aclose)
        finally:
            service.hanging.set()
            await keys.close()


FAULTS = {
    "hangs": Unavailable,
    "500": DomicileError,
    "503": Unavailable,
    "302": DomicileError,
    "no JSON": DomicileError,
    "no object": DomicileError,
    "short key": DomicileError,
    "another's key": DomicileError,
    "withheld": KeyWithheld,
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_what_is_held_serves_on_for_its_time_then_all_is_refused_until_it_is_right(
    trust: Trust, fault: str
) -> None:
    async with world(trust) as at:
        asked = at.service.asked
        at.service.fault = fault
        at.now[0] += BOUND - 0.1
        assert await at.read() == VALUE
        await at.home.put(at.home.new(Letter, text="more"))
        assert at.service.asked == asked
        at.now[0] += 0.1
        started = time.monotonic()
        for refused in (at.read(), at.home.put(at.home.new(Letter, text=VALUE)), at.home.all(Letter)):
            with pytest.raises(FAULTS[fault]) as caught:
                await refused
            assert VALUE not in f"{caught.value} {caught.value!r}"
        assert time.monotonic() - started < 10
        assert not at.keys._cache
        at.service.fault = ""
        at.service.hanging.set()
        assert await at.read() == VALUE
        assert len(await at.home.all(Letter)) == 2, "nothing was written that was refused"


async def test_a_service_that_is_gone_is_unavailable_once_nothing_is_held(trust: Trust) -> None:
    async with world(trust) as at:
        await at.stop()
        at.now[0] += BOUND - 0.1
        assert await at.read() == VALUE
        at.now[0] += 0.1
        for refused in (at.read(), at.home.put(at.home.new(Letter, text=VALUE))):
            with pytest.raises(Unavailable):
                await refused


async def test_a_wrong_key_opens_nothing_and_is_told_as_such(trust: Trust) -> None:
    """Never as another text. The service is trusted not to lie to who writes: it holds a check value of each key."""
    async with world(trust) as at:
        at.now[0] += BOUND
        at.service.fault = "wrong key"
        with pytest.raises(DomicileError, match="does not belong in its place"):
            await at.read()
        at.service.fault = ""
        at.now[0] += BOUND  # a wrong key lives no longer than a right one
        assert await at.read() == VALUE


@pytest.mark.parametrize("jump", [-3650 * 86_400, 3650 * 86_400], ids=["ten years back", "ten years on"])
async def test_a_clock_that_is_set_neither_prolongs_a_key_nor_ends_it(trust: Trust, jump: int) -> None:
    """Nobody sets the clock that counts: the wall's may jump as it likes."""
    async with world(trust, clock=since_boot) as at:
        asked = at.service.asked
        wall = time.time
        with patch.object(time, "time", lambda: wall() + jump):
            assert await at.read() == VALUE
        assert at.service.asked == asked
        until = at.keys._cache[next(iter(at.keys._cache))][0]
        assert 0 < until - since_boot() <= BOUND
        with patch.object(at.keys, "_clock", lambda: until):
            await at.read()
        assert at.service.asked == asked + 1


async def test_what_the_machine_slept_through_counts(trust: Trust) -> None:
    """A suspended machine's monotonic clock stands still on Linux, and the one that is used does not."""
    async with world(trust) as at:
        asked = at.service.asked
        still = time.monotonic()
        with patch.object(time, "monotonic", lambda: still):
            at.now[0] += 8 * 3600
            await at.read()
        assert at.service.asked == asked + 1
    if hasattr(time, "CLOCK_BOOTTIME"):
        assert abs(since_boot() - time.clock_gettime(time.CLOCK_BOOTTIME)) < 1
