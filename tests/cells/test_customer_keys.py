"""Hold-your-own-key: the customer's switch closes his data within the cache's bound, and nobody else's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from uuid import UUID, uuid4

import pytest
from aiohttp import web
from domicile_testing import Storage, Trust, free_port
from domicile_testing.cell import key_section, key_settings, superuser

from domicile.cells.keys import begin_version, serve_holder, serve_keys, switch
from domicile.client import KeyClient, KeyOperatorClient, Peer
from domicile.model import Conflict, Endpoint, InvalidInput, KeyWithheld, NotFound, Role, Unavailable
from domicile.model.key_wire import HeldKey, HeldKeysRequest, HeldKeysResponse, HeldVersion
from domicile.service import ProcessSettings, Service, json_response, read_body
from domicile.telemetry import render_metrics


@dataclass
class Clock:
    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class World:
    trust: Trust
    service: str
    holder: ProcessSettings
    clock: Clock
    keys: KeyClient

    async def subject(self, domain: str = "bank") -> UUID:
        """A new one, its key made and held."""
        subject = uuid4()
        await self.keys.assign(subject, domain)
        await self.keys.data_key(subject, subject, create=True)
        return subject


def holder_settings(trust: Trust, domain: str = "bank") -> ProcessSettings:
    return trust.settings("eu", Role.HOLDER, f"{domain}.fra", f"127.0.0.1:{free_port()}")


@asynccontextmanager
async def running(trust: Trust, storage: Storage, holder: ProcessSettings) -> AsyncIterator[World]:
    """A key service of ``eu`` whose domain ``bank`` has its holder at this address; the holder isn't started."""
    settings = key_settings(trust, storage)
    section = key_section(domains={"bank": {"country": "DE", "holder": [holder.bind]}})
    clock = Clock()
    async with serve_keys(settings, section):
        credentials = trust.credentials("eu", Role.APP, "eu-1.fra")
        keys = KeyClient(credentials, [settings.bind], jurisdiction="eu", cell="eu-1", cache_seconds=600, clock=clock)
        try:
            yield World(trust, settings.bind, holder, clock, keys)
        finally:
            await keys.close()


@pytest.fixture
async def world(trust: Trust, key_storage: Storage) -> AsyncIterator[World]:
    holder = holder_settings(trust)
    async with serve_holder(holder), running(trust, key_storage, holder) as found:
        yield found


async def test_the_switch_closes_the_customers_data_within_the_bound_and_opens_it_again(world: World) -> None:
    his, other = await world.subject(), await world.subject("default")
    held = await world.keys.data_key(his, his)
    switch(world.holder, cut=True)
    world.clock.now += 59.9  # the service's bound, 60 s, is shorter than this client's own
    assert await world.keys.data_key(his, his) == held
    world.clock.now += 0.1
    for create in (False, True):
        with pytest.raises(KeyWithheld):
            await world.keys.data_key(his, his, create=create)
    assert (await world.keys.data_key(other, other)).subject == other
    newcomer = uuid4()
    await world.keys.assign(newcomer, "bank")
    with pytest.raises(KeyWithheld):
        await world.keys.data_key(newcomer, newcomer, create=True)
    switch(world.holder, cut=False)
    assert await world.keys.data_key(his, his) == held
    assert (await world.keys.data_key(newcomer, newcomer, create=True)).subject == newcomer
    assert b'domicile_key_holder_failures_total{domain="bank",reason="withheld"}' in render_metrics()[0]


async def test_in_one_batch_the_others_keys_are_given(world: World) -> None:
    his, other = await world.subject(), await world.subject("default")
    switch(world.holder, cut=True)
    try:
        world.clock.now += 600
        with pytest.raises(KeyWithheld):
            await world.keys.data_keys([(other, other), (his, his)])
        assert (await world.keys.data_key(other, other)).subject == other  # held since that call
    finally:
        switch(world.holder, cut=False)


async def test_a_dead_holder_hurts_nobody_else_and_is_not_waited_for(trust: Trust, key_storage: Storage) -> None:
    holder = holder_settings(trust)
    async with running(trust, key_storage, holder) as world:
        async with serve_holder(holder):
            his = await world.subject()
        world.clock.now += 600
        for _ in range(6):
            with pytest.raises(KeyWithheld):
                await world.keys.data_key(his, his)
        assert b'domicile_key_holder_failures_total{domain="bank",reason="broken"}' in render_metrics()[0]
        other = await world.subject("default")
        assert (await world.keys.data_key(other, other)).subject == other


async def test_a_subject_is_in_one_key_domain(world: World) -> None:
    his = await world.subject()
    await world.keys.assign(his, "bank")
    with pytest.raises(Conflict):
        await world.keys.assign(his, "default")
    with pytest.raises(InvalidInput):
        await world.keys.assign(uuid4(), "nobody")
    with pytest.raises(NotFound):
        await world.keys.data_key(uuid4(), his)


async def test_the_customer_renews_his_key_and_the_operator_re_wraps(world: World, key_storage: Storage) -> None:
    subjects = [await world.subject() for _ in range(3)]
    before = [await world.keys.data_key(subject, subject) for subject in subjects]
    operator = KeyOperatorClient(
        world.trust.credentials("eu", Role.OPERATOR, "root"), [world.service], jurisdiction="eu"
    )
    try:
        with pytest.raises(Conflict, match="only its holder"):
            await operator.rotate("bank")
        version = await begin_version(world.holder)
        now = await operator.rotate("bank")
        assert (now.version, now.left >= 3) == (version, True)
        while now.left:
            now = await operator.rewrap("bank")
    finally:
        await operator.close()
    world.clock.now += 600
    assert await world.keys.data_keys([(subject, subject) for subject in subjects]) == before
    async with superuser(key_storage) as connection:
        found = await connection.fetch("SELECT DISTINCT version FROM keys.data_keys WHERE domain = 'bank'")
    assert [row[0] for row in found] == [version]


@dataclass
class Liar:
    """A customer's holder that answers whatever it is set to; else it hands back what it was given, framed."""

    say: str = "truth"

    async def version(self, _: web.Request) -> web.Response:
        return json_response(HeldVersion(version=1))

    async def wrap(self, request: web.Request) -> web.Response:
        keys = (await read_body(request, HeldKeysRequest)).keys
        if self.say == "forgets":
            keys = [key.model_copy(update={"value": bytes(len(key.value))}) for key in keys]
        return json_response(
            HeldKeysResponse(
                keys=[HeldKey(context=key.context, value=b"framed" + key.value[::-1], version=1) for key in keys]
            )
        )

    async def unwrap(self, request: web.Request) -> web.Response:
        keys = (await read_body(request, HeldKeysRequest)).keys
        if self.say == "hangs":
            await asyncio.sleep(30)
        if self.say == "garbage":
            return web.Response(body=b"{]")
        if self.say == "refuses":
            raise InvalidInput("no")
        value = {"wrong": bytes(64), "short": b"x"}.get(self.say)
        keys = [key.model_copy(update={"value": value or key.value.removeprefix(b"framed")[::-1]}) for key in keys]
        return json_response(HeldKeysResponse(keys=keys[1:] if self.say == "fewer" else keys))


@pytest.mark.parametrize("say", ["wrong", "short", "fewer", "garbage", "refuses", "hangs"])
async def test_a_holder_that_lies_or_hangs_seals_nothing(trust: Trust, key_storage: Storage, say: str) -> None:
    settings, liar = holder_settings(trust), Liar()

    async def ready() -> None: ...

    service = Service(settings, ready)
    service.route("GET", "/v1/version", Endpoint.HELD_KEYS, liar.version)
    service.route("POST", "/v1/wrap", Endpoint.HELD_KEYS, liar.wrap)
    service.route("POST", "/v1/unwrap", Endpoint.HELD_KEYS, liar.unwrap)
    context = service.internal_context([Role.KEYS], ["eu"])
    async with (
        service.listen(settings.address(), context),
        running(trust, key_storage, settings) as world,
    ):
        his, newcomer = await world.subject(), uuid4()
        await world.keys.assign(newcomer, "bank")
        held = await world.keys.data_key(his, his)
        world.clock.now += 600
        liar.say = say
        with pytest.raises(KeyWithheld):
            await world.keys.data_key(his, his)
        with pytest.raises(KeyWithheld):
            await world.keys.data_key(newcomer, newcomer, create=True)
        liar.say = "truth"
        assert await world.keys.data_key(his, his) == held
        with pytest.raises(NotFound):  # nothing was kept of the key that could not be given back
            await world.keys.data_key(newcomer, newcomer)


async def test_a_holder_that_cannot_give_back_what_it_wrapped_gets_no_key(trust: Trust, key_storage: Storage) -> None:
    settings, liar = holder_settings(trust), Liar("forgets")

    async def ready() -> None: ...

    service = Service(settings, ready)
    service.route("POST", "/v1/wrap", Endpoint.HELD_KEYS, liar.wrap)
    service.route("POST", "/v1/unwrap", Endpoint.HELD_KEYS, liar.unwrap)
    async with (
        service.listen(settings.address(), service.internal_context([Role.KEYS], ["eu"])),
        running(trust, key_storage, settings) as world,
    ):
        with pytest.raises(KeyWithheld):
            await world.subject()


@pytest.mark.parametrize(
    ("jurisdiction", "name"), [("eu", "other.fra"), ("us", "bank.iad")], ids=["another customer", "abroad"]
)
async def test_another_holder_at_its_address_is_told_nothing(
    trust: Trust, key_storage: Storage, jurisdiction: str, name: str
) -> None:
    impostor = trust.settings(jurisdiction, Role.HOLDER, name, f"127.0.0.1:{free_port()}")
    async with serve_holder(impostor), running(trust, key_storage, impostor) as world:
        with pytest.raises(KeyWithheld):
            await world.subject()


@pytest.mark.parametrize(("jurisdiction", "role"), [("us", Role.KEYS), ("eu", Role.APP), ("eu", Role.GATEWAY)])
async def test_a_holder_answers_its_jurisdictions_key_service_alone(
    trust: Trust, jurisdiction: str, role: Role
) -> None:

    holder = holder_settings(trust)
    async with (
        serve_holder(holder),
        Peer(
            trust.credentials(jurisdiction, role, "eu-1.fra"), [holder.bind], jurisdiction="eu", role=Role.HOLDER
        ) as caller,
    ):
        with pytest.raises(Unavailable):
            await caller.call("GET", "/v1/version")
