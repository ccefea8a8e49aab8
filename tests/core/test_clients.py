"""What a caller gets for everything that a peer can do to it, over real connections."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, contextmanager
from ipaddress import ip_network
from typing import Any
from uuid import UUID, uuid4

import aiohttp
import pytest
from aiohttp import web
from domicile_testing import Trust, free_port

from domicile.client import DirectoryClient, GatewayClient, JailedResolver, KeyClient, Peer, Topology
from domicile.client import keys as keys_module
from domicile.client.http import MAX_ANSWER_BYTES, error_from
from domicile.identity import Signer, sign_topology
from domicile.model import (
    Conflict,
    CrossBorderAccess,
    DomicileError,
    Forbidden,
    InvalidInput,
    KeyDestroyed,
    KeyWithheld,
    Manifest,
    NotFound,
    Pin,
    Role,
    SubjectKey,
    TokenInvalid,
    Unavailable,
    UnknownSubject,
    WrongCell,
    parse_manifest,
)
from domicile.model.wire import DataKey, DataKeysRequest, DataKeysResponse, IndexKeyResponse
from domicile.service import problem_response

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
KEY = SubjectKey(b"\1" * 17)
OWN = UUID(int=7)
PIN = Pin(subject_key=KEY, jurisdiction="eu", cell="eu-1", epoch=3)
INSIDE = [ip_network("127.0.0.0/24")]


@asynccontextmanager
async def serving(
    trust: Trust, handler: Handler, jurisdiction: str = "global", role: Role = Role.DIRECTORY, name: str = "fra"
) -> AsyncIterator[str]:
    """A process of ours whose every path is answered by ``handler``; yields its address."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    context = trust.credentials(jurisdiction, role, name).server(["eu", "us", "global"], [Role.APP])
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
    await site.start()
    assert isinstance(site._server, asyncio.Server)
    try:
        yield f"127.0.0.1:{site._server.sockets[0].getsockname()[1]}"
    finally:
        await runner.cleanup()


def answering(body: str | bytes = b"ok", status: int = 200, **headers: str) -> Handler:
    async def handle(_: web.Request) -> web.Response:
        raw = body.encode() if isinstance(body, str) else body
        return web.Response(status=status, body=raw, headers=headers)

    return handle


@contextmanager
def silent() -> Any:
    """An address where connections are taken by the system, and nobody ever speaks."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"127.0.0.1:{listener.getsockname()[1]}"


def dead() -> str:
    return f"127.0.0.1:{free_port()}"


def peer(trust: Trust, *addresses: str, **more: Any) -> Peer:
    caller = trust.credentials("eu", Role.APP, "eu-1.fra")
    settings: dict[str, Any] = {"jurisdiction": "global", "role": Role.DIRECTORY, "deadline": 5} | more
    return Peer(caller, addresses, **settings)


async def refused(
    client: Peer, kind: type[DomicileError] = Unavailable, method: str = "GET", **more: Any
) -> DomicileError:
    async with client:
        with pytest.raises(kind) as caught:
            await client.call(method, "/v1/x", **more)
    assert type(caught.value) is kind
    return caught.value


async def test_an_answer_is_read(trust: Trust) -> None:
    async with serving(trust, answering("hello")) as address, peer(trust, address) as client:
        assert await client.call("GET", "/v1/x") == b"hello"


async def test_a_dead_address_costs_an_attempt_and_then_none(trust: Trust) -> None:
    async with serving(trust, answering()) as address, peer(trust, address, dead(), dead()) as client:
        client._addresses.sort(key=lambda each: each == address)
        assert await client.call("GET", "/v1/x") == b"ok"
        assert client._addresses[0] == address


async def test_an_address_that_takes_connections_and_never_speaks_is_passed_over(trust: Trust) -> None:
    with silent() as mute:
        async with serving(trust, answering()) as address, peer(trust, address, mute, deadline=2) as client:
            client._addresses.sort(key=lambda each: each == address)
            assert await client.call("GET", "/v1/x", repeatable=False) == b"ok"


async def test_a_peer_that_hangs_costs_one_call_and_not_each(trust: Trust) -> None:
    """A stopped process takes requests on connections that are open, and says nothing any more."""
    hung: list[str] = []

    async def hang(request: web.Request) -> web.StreamResponse:
        hung.append(request.path)
        await asyncio.Event().wait()
        raise AssertionError

    async with (
        serving(trust, hang) as mute,
        serving(trust, answering()) as address,
        peer(trust, mute, address, deadline=1) as client,
    ):
        client._addresses.sort(key=lambda each: each == address)
        with pytest.raises(Unavailable, match="no answer"):
            await client.call("GET", "/v1/x")
        for _ in range(3):
            assert await client.call("GET", "/v1/x") == b"ok"
    assert len(hung) == 1


async def test_where_all_are_dead_the_peer_is_unavailable(trust: Trust) -> None:
    error = await refused(peer(trust, dead(), dead()))
    assert str(error) == "directory of global: cannot be reached (ClientConnectorError)"
    assert error.__cause__ is None


async def test_a_peer_without_an_address_is_refused_at_once(trust: Trust) -> None:
    with pytest.raises(InvalidInput, match="no address of the global directory"):
        peer(trust)


@pytest.mark.parametrize(
    ("jurisdiction", "role"), [("eu", Role.DIRECTORY), ("us", Role.DIRECTORY), ("global", Role.ROUTER)]
)
async def test_a_peer_with_another_name_is_not_spoken_to(trust: Trust, jurisdiction: str, role: Role) -> None:
    asked = False

    async def handle(_: web.Request) -> web.Response:
        nonlocal asked
        asked = True
        return web.Response()

    async with serving(trust, handle, jurisdiction, role) as address:
        await refused(peer(trust, address))
    assert not asked


async def test_a_slow_peer_is_given_up_at_the_deadline(trust: Trust) -> None:
    async def handle(_: web.Request) -> web.Response:
        await asyncio.Event().wait()
        return web.Response()

    async with serving(trust, handle) as address:
        error = await refused(peer(trust, address, deadline=0.3))
    assert "no answer within 0.3 s" in str(error)


async def test_what_may_have_been_received_is_repeated_only_where_that_is_harmless(trust: Trust) -> None:
    asked = 0

    async def hang_up(request: web.Request) -> web.Response:
        nonlocal asked
        asked += 1
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    async with serving(trust, hang_up) as one, serving(trust, hang_up) as other:
        await refused(peer(trust, one, other), method="POST", repeatable=False)
        assert asked == 1
        await refused(peer(trust, one, other), method="POST")
        assert asked == 7, "three rounds of both"


@pytest.mark.parametrize(
    ("problem", "kind"),
    [
        (NotFound("no such"), NotFound),
        (UnknownSubject("no pin"), UnknownSubject),
        (Conflict("other residence"), Conflict),
        (Forbidden("not you"), Forbidden),
        (Unavailable("draining", retry_after=7), Unavailable),
        (InvalidInput("bad"), InvalidInput),
        (WrongCell("go", jurisdiction="eu", cell="eu-2", subject_key=str(KEY)), WrongCell),
    ],
)
async def test_a_problem_document_becomes_its_error(
    trust: Trust, problem: DomicileError, kind: type[DomicileError]
) -> None:
    async def handle(_: web.Request) -> web.Response:
        return problem_response(problem)

    async with serving(trust, handle) as address:
        error = await refused(peer(trust, address), kind)
    assert error.what == problem.what
    if isinstance(error, Unavailable):
        assert error.retry_after == 7


def test_a_misdirection_names_where_to_go() -> None:
    sent = CrossBorderAccess("abroad", jurisdiction="us", cell="us-1", subject_key=str(KEY), public_host="us.x")
    error = error_from(451, (problem_response(sent).text or "").encode(), "here")
    assert isinstance(error, CrossBorderAccess)
    assert (error.jurisdiction, error.public_host) == ("us", "us.x")


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (404, b"", Unavailable),
        (500, b"<html>", Unavailable),
        (404, b'{"title": "t"}', Unavailable),
        (418, b'{"title": "t", "status": 418, "code": "teapot"}', InvalidInput),
        (500, b'{"title": "t", "status": 500, "code": "internal"}', Unavailable),
        (422, b'{"title": "t", "status": 422, "code": "manifest-invalid"}', InvalidInput),
        (403, b'{"title": "t", "status": 403, "code": "forbidden", "later": 1}', Forbidden),
    ],
)
def test_what_is_no_problem_of_ours_has_an_error_too(status: int, body: bytes, kind: type[DomicileError]) -> None:
    assert type(error_from(status, body, "here")) is kind


@pytest.mark.parametrize(
    ("header", "seconds"), [(None, 2), ("9", 9), ("999999", 3600), ("soon", 2), ("-1", 2), ("9" * 9, 2)]
)
def test_retry_after_is_bounded(header: str | None, seconds: int) -> None:
    error = error_from(503, b'{"title": "t", "status": 503, "code": "unavailable"}', "here", header)
    assert isinstance(error, Unavailable)
    assert error.retry_after == seconds


async def test_a_redirect_is_not_followed(trust: Trust) -> None:
    paths = []

    async def handle(request: web.Request) -> web.Response:
        paths.append(request.path)
        return web.Response(status=307, headers={"Location": "/elsewhere"})

    async with serving(trust, handle) as address:
        error = await refused(peer(trust, address))
    assert "307" in str(error)
    assert paths == ["/v1/x"]


async def test_an_answer_over_the_limit_is_refused(trust: Trust) -> None:
    async with serving(trust, answering(bytes(MAX_ANSWER_BYTES + 1))) as address:
        assert "over" in str(await refused(peer(trust, address, deadline=30)))
    async with (
        serving(trust, answering(bytes(MAX_ANSWER_BYTES))) as address,
        peer(trust, address, deadline=30) as client,
    ):
        assert len(await client.call("GET", "/v1/x")) == MAX_ANSWER_BYTES


async def test_an_answer_of_another_shape_is_unavailable(trust: Trust) -> None:
    async with serving(trust, answering('{"epoch": "x"}')) as address, peer(trust, address) as client:
        with pytest.raises(Unavailable, match="another shape"):
            await client.ask(Pin, "GET", "/v1/x")


async def test_no_proxy_and_no_cookie_of_the_environment(trust: Trust, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", f"http://{dead()}")
    seen: list[dict[str, str]] = []

    async def handle(request: web.Request) -> web.Response:
        seen.append(dict(request.headers))
        return web.Response(headers={"Set-Cookie": "a=b; Path=/"})

    async with serving(trust, handle) as address, peer(trust, address) as client:
        await client.call("GET", "/v1/x")
        await client.call("GET", "/v1/x")
    assert [sorted(headers) for headers in seen] == [["Accept", "Host"]] * 2


# --- the jail


@pytest.mark.parametrize(
    "address",
    [
        "127.0.1.1:80",
        "10.0.0.1:80",
        "169.254.169.254:80",
        "[::1]:80",
        "[::ffff:10.0.0.1]:80",
        "0.0.0.0:80",
        "224.0.0.1:80",
    ],
)
def test_a_literal_address_outside_the_networks_is_refused(trust: Trust, address: str) -> None:
    """aiohttp asks no resolver about these."""
    with pytest.raises(InvalidInput, match="outside the networks"):
        peer(trust, "127.0.0.1:80", address, networks=INSIDE)


@pytest.mark.parametrize("address", ["169.254.169.254:80", "[fe80::1]:80", "[::ffff:169.254.1.1]:80", "0.0.0.0:80"])
def test_link_local_is_refused_also_without_networks(trust: Trust, address: str) -> None:
    with pytest.raises(InvalidInput, match="outside the networks"):
        peer(trust, address)


class Names(aiohttp.abc.AbstractResolver):
    """A name service that says what a test wants."""

    def __init__(self, *addresses: str) -> None:
        self.addresses = addresses

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[aiohttp.abc.ResolveResult]:
        return [
            {"hostname": host, "host": a, "port": port, "family": socket.AF_INET6 if ":" in a else socket.AF_INET,
             "proto": 0, "flags": 0}
            for a in self.addresses
        ]  # fmt: skip

    async def close(self) -> None:
        pass


@pytest.mark.parametrize(
    ("answers", "admitted"),
    [
        (["127.0.0.1"], ["127.0.0.1"]),
        (["10.0.0.1", "127.0.0.1", "169.254.169.254", "127.0.1.1"], ["127.0.0.1"]),
        (["169.254.169.254"], []),
        (["::ffff:169.254.169.254"], []),
        (["fe80::1%lo"], []),
        (["10.0.0.1"], []),
        ([], []),
    ],
)
async def test_a_name_resolves_to_addresses_inside_only(answers: list[str], admitted: list[str]) -> None:
    resolver = JailedResolver(INSIDE)
    resolver._inner = Names(*answers)  # type: ignore[assignment]
    if admitted:
        assert [answer["host"] for answer in await resolver.resolve("db.fra", 80)] == admitted
    else:
        with pytest.raises(OSError, match="inside the peer's networks"):
            await resolver.resolve("db.fra", 80)


async def test_a_name_that_points_outside_is_not_connected_to(trust: Trust) -> None:
    async with serving(trust, answering()) as address:
        port = address.rpartition(":")[2]
        error = await refused(peer(trust, f"localhost:{port}", networks=[ip_network("10.0.0.0/8")]))
    assert "ClientConnectorDNSError" in str(error)


# --- directory, gateway


async def test_look_ups_of_one_subject_share_a_request(trust: Trust) -> None:
    asked, both, go = 0, asyncio.Event(), asyncio.Event()

    async def handle(_: web.Request) -> web.Response:
        nonlocal asked
        asked += 1
        if asked == 2:
            both.set()
        await go.wait()
        return web.Response(body=PIN.model_copy(update={"epoch": asked}).model_dump_json())

    async with serving(trust, handle) as address:
        client = DirectoryClient(trust.credentials("eu", Role.APP, "eu-1.fra"), [address])
        waiting = [asyncio.create_task(client.pin(KEY)) for _ in range(20)]
        other = asyncio.create_task(client.pin(SubjectKey(b"\2" * 17)))
        await both.wait()
        waiting[0].cancel()
        go.set()
        pins = await asyncio.gather(*waiting[1:])
        await other
        assert len({pin.epoch for pin in pins}) == 1
        assert asked == 2
        assert (await client.pin(KEY)).epoch == 3, "what is over is asked anew"
        await client.close()


async def test_a_failed_look_up_fails_all_and_is_not_kept(trust: Trust) -> None:
    broken = True

    async def handle(_: web.Request) -> web.Response:
        return problem_response(Forbidden("no pin")) if broken else web.Response(body=PIN.model_dump_json())

    async with serving(trust, handle) as address:
        client = DirectoryClient(trust.credentials("eu", Role.APP, "eu-1.fra"), [address])
        results = await asyncio.gather(*(client.pin(KEY) for _ in range(5)), return_exceptions=True)
        assert [type(result) for result in results] == [Forbidden] * 5
        broken = False
        assert await client.pin(KEY) == PIN
        await client.close()


async def test_closing_ends_what_is_under_way(trust: Trust) -> None:
    arrived = asyncio.Event()

    async def handle(_: web.Request) -> web.Response:
        arrived.set()
        await asyncio.Event().wait()
        return web.Response()

    async with serving(trust, handle) as address:
        client = DirectoryClient(trust.credentials("eu", Role.APP, "eu-1.fra"), [address])
        waiting = asyncio.create_task(client.pin(KEY))
        await arrived.wait()
        await client.close()
        with pytest.raises(asyncio.CancelledError):
            await waiting


def manifest_at(gateway: str, keys: str = "127.0.0.1:9") -> Manifest:
    zone = {
        "country": "DE",
        "network": "127.0.0.0/24",
        "app": "127.0.0.1:1",
        "gateway": gateway,
        "storage": "127.0.0.1:3",
    }
    return parse_manifest(
        {
            "version": 1,
            "deployment": "acme",
            "directory": {"sites": [{"zone": "fra", "country": "DE", "address": "127.0.0.1:4"}]},
            "jurisdictions": {"eu": {"countries": ["DE"], "public_host": "eu.x", "keys": {"service": [keys]}}},
            "cells": {
                "eu-1": {"jurisdiction": "eu", "zones": {"fra": zone}, "accept": ["single-zone", "shared-witness"]}
            },
        }
    )


async def test_a_table_and_its_conditions_cannot_become_another_path(trust: Trust) -> None:
    seen = []

    async def handle(request: web.Request) -> web.Response:
        seen.append((request.raw_path.partition("?")[0], dict(request.query)))
        return web.Response(body='{"jurisdiction": "eu", "cell": "eu-1", "rows": [], "withheld": {}}')

    async with serving(trust, handle, "eu", Role.GATEWAY, "eu-1.fra") as address:
        client = GatewayClient(trust.credentials("us", Role.APP, "us-1.iad"), manifest_at(address), "eu-1")
        conditions = {"plan": "a&b=c +%25/é?#"}
        await client.abroad(KEY, "profiles", conditions)
        await client.abroad(KEY, "../../fences/x?y#z", {})
        await client.close()
    base = f"/.domicile/v1/abroad/{KEY}/"
    assert seen == [(base + "profiles", conditions), (base + "..%2F..%2Ffences%2Fx%3Fy%23z", {})]


async def test_a_gateway_of_a_sibling_cell_is_not_spoken_to(trust: Trust) -> None:
    async with serving(trust, answering("{}"), "eu", Role.GATEWAY, "eu-2.fra") as address:
        client = GatewayClient(trust.credentials("us", Role.APP, "us-1.iad"), manifest_at(address), "eu-1")
        with pytest.raises(Unavailable, match="cannot be reached"):
            await client.abroad(KEY, "profiles", {})
        await client.close()


# --- keys


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


@pytest.fixture
async def key_service(trust: Trust) -> AsyncIterator[tuple[KeyService, KeyClient, Clock]]:
    service, clock = KeyService(), Clock()
    async with serving(trust, service.answer, "eu", Role.KEYS) as address:
        client = KeyClient(
            trust.credentials("eu", Role.APP, "eu-1.fra"),
            [address],
            jurisdiction="eu",
            cell="eu-1",
            cache_seconds=60,
            networks=INSIDE,
            clock=clock,
        )
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
        client = KeyClient(
            trust.credentials("eu", Role.APP, "eu-1.fra"),
            [address],
            jurisdiction="eu",
            cell="eu-1",
            cache_seconds=60,
            clock=lambda: now[0],
        )
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
        KeyClient(trust.credentials("eu", Role.APP, "eu-1.fra"), ["10.0.0.1:1"], jurisdiction="eu", cell="eu-1",
                  cache_seconds=60, networks=INSIDE)  # fmt: skip


# --- topology


@pytest.fixture
def operator(tmp_path: Any) -> Signer:
    return Signer.load_or_create(tmp_path / "operator.key")


@asynccontextmanager
async def topology_from(
    trust: Trust, operator: Signer, tmp_path: Any, handler: Handler | None
) -> AsyncIterator[Topology]:
    async def load(addresses: list[str]) -> AsyncIterator[Topology]:
        client = DirectoryClient(trust.credentials("eu", Role.APP, "eu-1.fra"), addresses, deadline=2)
        yield Topology(client, "acme", [operator.public_pem()], tmp_path / "state" / "topology.json")
        await client.close()

    if handler is None:
        async for topology in load([dead()]):
            yield topology
    else:
        async with serving(trust, handler) as address:
            async for topology in load([address]):
                yield topology


def document(signer: Signer, revision: int, public_host: str = "eu.x") -> Handler:
    topology = manifest_at("127.0.0.1:2").topology()
    topology["jurisdictions"]["eu"]["public_host"] = public_host
    return answering(sign_topology(signer, "acme", revision, topology).model_dump_json())


async def test_a_topology_is_kept_and_started_from_without_the_directory(
    trust: Trust, operator: Signer, tmp_path: Any
) -> None:
    async with topology_from(trust, operator, tmp_path, document(operator, 3)) as topology:
        loaded = await topology.load()
    assert (tmp_path / "state" / "topology.json").stat().st_mode & 0o777 == 0o600
    async with topology_from(trust, operator, tmp_path, None) as topology:
        assert await topology.load() == loaded


async def test_a_newer_revision_replaces_the_one_on_disk_and_an_older_one_is_refused(
    trust: Trust, operator: Signer, tmp_path: Any
) -> None:
    for revision, host in ((3, "three.x"), (4, "four.x")):
        async with topology_from(trust, operator, tmp_path, document(operator, revision, host)) as topology:
            assert (await topology.load()).jurisdictions["eu"].public_host == host
    async with topology_from(trust, operator, tmp_path, document(operator, 3, "three.x")) as topology:
        with pytest.raises(InvalidInput, match="revision 3, below 4 seen before"):
            await topology.load()
    async with topology_from(trust, operator, tmp_path, None) as topology:
        assert (await topology.load()).jurisdictions["eu"].public_host == "four.x"


async def test_a_topology_by_a_stranger_is_refused_wherever_it_comes_from(
    trust: Trust, operator: Signer, tmp_path: Any
) -> None:
    stranger = Signer.load_or_create(tmp_path / "stranger.key")
    async with topology_from(trust, operator, tmp_path, document(stranger, 9)) as topology:
        with pytest.raises(TokenInvalid):
            await topology.load()
    assert not (tmp_path / "state" / "topology.json").exists()
    async with topology_from(trust, stranger, tmp_path, document(stranger, 9)) as topology:
        await topology.load()
    async with topology_from(trust, operator, tmp_path, None) as topology:
        with pytest.raises(TokenInvalid):
            await topology.load()
    # a file that anybody could have put there holds no revision back
    async with topology_from(trust, operator, tmp_path, document(operator, 1, "one.x")) as topology:
        assert (await topology.load()).jurisdictions["eu"].public_host == "one.x"


async def test_a_broken_file_is_as_good_as_none(trust: Trust, operator: Signer, tmp_path: Any) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "topology.json").write_bytes(b"\xff{")
    async with topology_from(trust, operator, tmp_path, document(operator, 1)) as topology:
        await topology.load()
        assert topology.cached() is not None


@pytest.mark.parametrize("reachable", [True, False])
async def test_with_neither_it_waits_and_then_says_what_to_do(
    trust: Trust, operator: Signer, tmp_path: Any, reachable: bool
) -> None:
    async def handle(_: web.Request) -> web.Response:
        return problem_response(NotFound("no topology yet"))

    async with topology_from(trust, operator, tmp_path, handle if reachable else None) as topology:
        with pytest.raises(Unavailable, match="domicile apply"):
            await topology.load(patience=0.1)


async def test_a_first_revision_is_waited_for(trust: Trust, operator: Signer, tmp_path: Any) -> None:
    asked = 0

    async def handle(request: web.Request) -> web.StreamResponse:
        nonlocal asked
        asked += 1
        return problem_response(NotFound("not yet")) if asked < 3 else await document(operator, 1)(request)

    async with topology_from(trust, operator, tmp_path, handle) as topology:
        assert (await topology.load()).deployment == "acme"
    assert asked == 3


async def test_a_signed_topology_that_is_no_manifest_is_refused(trust: Trust, operator: Signer, tmp_path: Any) -> None:
    handler = answering(sign_topology(operator, "acme", 1, {"version": 1}).model_dump_json())
    async with topology_from(trust, operator, tmp_path, handler) as topology:
        with pytest.raises(InvalidInput, match="topology revision 1"):
            await topology.load()
    assert not (tmp_path / "state" / "topology.json").exists()
