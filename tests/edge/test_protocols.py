"""HTTP/2 from clients, and gRPC from end to end, through Envoy: the other edges don't carry both."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import httpx
import pytest
from aiohttp import web
from domicile_testing.edges import Edge, envoy_edge, require
from domicile_testing.routing import HOSTS, World, pin, subject
from loadtests.programs import envoy

from domicile.model import Role
from domicile.ops.edge.envoy import Health

ALICE = pin("alice", "eu-2", 7)
ECHO, TALK, CHECK = "/acme.Notes/Echo", "/acme.Notes/Talk", "/grpc.health.v1.Health/Check"
SERVING = b"\x08\x01"
"""``HealthCheckResponse`` with status SERVING, by the wire format of Protocol Buffers."""


@pytest.fixture(autouse=True)
def _placed(world: World) -> None:
    require(envoy)
    world.directory.place(ALICE)


@asynccontextmanager
async def http2(edge: Edge, **headers: str) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(
        http1=False, http2=True, verify=edge.world.public_context("eu"), base_url=f"https://{edge.address}",
        headers=headers,
    ) as client:  # fmt: skip
        yield client


async def test_many_requests_share_one_http2_connection(world: World) -> None:
    async def back(request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(body=await request.read())

    world.app("eu-2.ams").reads_body = False
    world.answers(back)
    async with (
        world.router("fra"),
        envoy_edge(world, "fra") as edge,
        http2(edge, **{"domicile-token": edge.token(ALICE), "cookie": "a=1"}) as client,
    ):
        answers = await asyncio.gather(*(client.put(f"/{n}", content=b"%d" % n * 1000) for n in range(30)))
        assert [each.content for each in answers] == [b"%d" % n * 1000 for n in range(30)]
        assert {each.http_version for each in answers} == {"HTTP/2"}
        abroad = pin("carol", "us-1", 4)
        world.directory.place(abroad)
        assert (await client.get("/notes", headers={"domicile-token": edge.token(abroad)})).status_code == 307
    assert {seen.headers["Domicile-Subject-Key"] for seen in world.seen} == {str(subject("alice"))}
    assert {seen.headers["Cookie"] for seen in world.seen} == {"a=1"}


class Notes(grpc.GenericRpcHandler):  # type: ignore[misc]
    """A gRPC application that sends back what it gets, and keeps what was said of the caller."""

    def __init__(self) -> None:
        self.told: list[dict[str, Any]] = []

    def service(self, details: Any) -> Any:
        if details.method == CHECK:
            return grpc.unary_unary_rpc_method_handler(self._check)
        return {
            ECHO: grpc.unary_unary_rpc_method_handler(self._echo),
            TALK: grpc.stream_stream_rpc_method_handler(self._talk),
        }.get(details.method)

    async def _check(self, _: bytes, __: Any) -> bytes:
        return SERVING

    async def _echo(self, request: bytes, context: Any) -> bytes:
        self.told.append(dict(context.invocation_metadata()))
        return request

    async def _talk(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        self.told.append(dict(context.invocation_metadata()))
        async for request in requests:
            yield request.upper()


@asynccontextmanager
async def grpc_application(world: World) -> AsyncIterator[Notes]:
    """In the place of alice's home, over mutual TLS and HTTP/2 alone."""
    place = world.app("eu-2.ams")
    await place.stop()
    own = world.trust.credentials("eu", Role.APP, "eu-2.ams", (HOSTS["ams"],))
    pair = (own.key.read_bytes(), own.certificate.read_bytes())
    authority = (own.authorities / "eu.pem").read_bytes()
    notes, server = Notes(), grpc.aio.server()
    server.add_generic_rpc_handlers((notes,))
    server.add_secure_port(place.address, grpc.ssl_server_credentials([pair], authority, require_client_auth=True))
    await server.start()
    try:
        yield notes
    finally:
        await server.stop(None)


async def test_grpc_passes_whole_and_in_streams(world: World) -> None:
    async def said() -> AsyncIterator[bytes]:
        for word in (b"one", b"two", b"three"):
            yield word

    authority = (world.folder / "authorities" / "eu.pem").read_bytes()
    async with (
        world.router("fra"),
        grpc_application(world) as notes,
        envoy_edge(world, "fra", health=Health.GRPC) as edge,
        grpc.aio.secure_channel(str(edge.address), grpc.ssl_channel_credentials(authority)) as channel,
    ):
        token = (("domicile-token", edge.token(ALICE)), ("domicile-cell", "eu-1"))
        assert await channel.unary_unary(ECHO)(b"hello" * 10_000, metadata=token) == b"hello" * 10_000
        stream = channel.stream_stream(TALK)(said(), metadata=token)
        assert [each async for each in stream] == [b"ONE", b"TWO", b"THREE"]
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await channel.unary_unary("/acme.Notes/Nothing")(b"", metadata=token)
        assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await channel.unary_unary(ECHO)(b"")
        assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert len(notes.told) == 2
    for told in notes.told:
        assert (told["domicile-subject-key"], told["domicile-cell"]) == (str(subject("alice")), "eu-2")
        assert "domicile-token" not in told
