"""What a caller gets for everything that a peer can do to it, over real connections."""

from __future__ import annotations

import asyncio
import socket
from ipaddress import ip_network

import aiohttp
import pytest
from aiohttp import web
from domicile_testing import Trust
from domicile_testing.peers import (
    INSIDE,
    KEY,
    PIN,
    answering,
    dead,
    manifest_at,
    peer,
    refused,
    serving,
    silent,
)

from domicile.client import DirectoryClient, GatewayClient, JailedResolver
from domicile.client.http import MAX_ANSWER_BYTES, error_from
from domicile.model import (
    Conflict,
    CrossBorderAccess,
    DomicileError,
    Forbidden,
    InvalidInput,
    NotFound,
    Pin,
    Role,
    SubjectKey,
    Unavailable,
    UnknownSubject,
    WrongCell,
)
from domicile.service import problem_response


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
