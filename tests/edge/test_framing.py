"""Requests that no HTTP library sends: what a router refuses is not forwarded, and nothing of one gets into another."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import pytest
from domicile_testing.edges import Edge
from domicile_testing.routing import World, pin

ALICE, CAROL = pin("alice", "eu-2", 7), pin("carol", "eu-2", 2)
HOST = "Host: eu.acme.example"
COOKIE = "__Host-domicile"


@pytest.fixture(autouse=True)
def _placed(world: World) -> None:
    world.directory.place(ALICE, CAROL)


def head(line: str, *fields: str) -> bytes:
    return "".join(f"{each}\r\n" for each in (line, *fields, "")).encode()


async def said(edge: Edge, requests: Iterable[bytes]) -> list[int]:
    """The status of each, one after the other on one connection."""
    found = []
    context = edge.world.public_context("eu")
    reader, writer = await asyncio.open_connection(edge.address.host, edge.address.port, ssl=context)
    try:
        async with asyncio.timeout(20):
            for request in requests:
                writer.write(request)
                lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower().split("\r\n")
                found.append(int(lines[0].split()[1]))
                lengths = [line for line in lines if line.startswith("content-length:")]
                await reader.readexactly(int(lengths[0].partition(":")[2]) if lengths else 0)
    finally:
        writer.close()
    return found


async def test_what_a_router_refuses_is_refused(edge: Edge, world: World) -> None:
    shown = f"Domicile-Token: {edge.token(ALICE)}"
    one, other = (f"{COOKIE}={edge.token(each)}" for each in (ALICE, CAROL))
    assert await said(edge, [head("GET /notes HTTP/1.1", HOST, shown)]) == [200]  # a warm edge decides by itself
    world.seen.clear()
    refused = {
        "a method that no application may see": head("TRACE /notes HTTP/1.1", HOST, shown),
        "a host that is none": head("GET /notes HTTP/1.1", "Host: a@b", shown),
        "an empty host": head("GET /notes HTTP/1.1", "Host:", shown),
        "two hosts": head("GET /notes HTTP/1.1", HOST, "Host: us.acme.example", shown),
        "a fragment": head("GET /notes?a=b#/../c HTTP/1.1", HOST, shown),
        "no path": head("OPTIONS * HTTP/1.1", HOST, shown),
        "two tokens": head("GET /notes HTTP/1.1", HOST, f"Cookie: {one}; {other.replace('=', ' =')}"),
        "two cookie fields": head("GET /notes HTTP/1.1", HOST, f"Cookie: {one}", f"Cookie: {other}"),
    }
    for name, request in refused.items():
        (status,) = await said(edge, [request])
        assert 400 <= status < 500, name
    assert not world.seen


async def test_what_is_for_a_neighbour_ends_at_the_edge(edge: Edge, world: World) -> None:
    for_neighbours = (
        "Connection: domicile-subject-key, domicile-cell, http2-settings", "HTTP2-Settings: AAMAAABkAAQAAP__",
        "Upgrade: h2c", "Trailer: X-Role", "Proxy-Authorization: Basic eDp5", "Domicile.Cell: us-1",
    )  # fmt: skip
    shown = f"Cookie: a=1; {COOKIE} = {edge.token(ALICE)}; {COOKIE}={edge.token(ALICE)}"
    token = f"Domicile-Token: {edge.token(ALICE)}"
    assert await said(edge, [head("GET /notes HTTP/1.1", HOST, token, *for_neighbours)]) == [200]
    await said(edge, [head("GET /notes HTTP/1.1", HOST, shown)])
    for seen in world.seen:
        names = {name.lower() for name in seen.headers}
        assert not names & {"http2-settings", "upgrade", "trailer", "proxy-authorization", "domicile.cell"}
        assert "domicile" not in seen.headers.get("Connection", "")
        assert edge.token(ALICE) not in str(seen.headers)


async def test_a_trailer_is_no_field_of_the_next_request(edge: Edge, world: World) -> None:
    """As it would be to aiohttp's server, which reads the last one when the next head begins."""
    chunks = b"1\r\na\r\n0\r\nDomicile-Epoch: 99\r\nDomicile-Subject-Key: 00\r\n\r\n"
    posted = head("POST /notes HTTP/1.1", HOST, f"Domicile-Token: {edge.token(ALICE)}", "Transfer-Encoding: chunked")
    asked = head("GET /notes HTTP/1.1", HOST, f"Domicile-Token: {edge.token(CAROL)}")
    assert await said(edge, [posted + chunks, asked, asked]) == [200, 200, 200]
    assert [(seen.method, seen.body) for seen in world.seen] == [("POST", b"a"), ("GET", b""), ("GET", b"")]
    for seen, whose in zip(world.seen, (ALICE, CAROL, CAROL), strict=True):
        assert seen.headers.getall("Domicile-Subject-Key") == [whose.subject_key.hex()]
        assert seen.headers.getall("Domicile-Epoch") == [str(whose.epoch)]
