"""Clients that nobody here wrote: curl and httpx, with what each of them does in its own way."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from aiohttp import web
from domicile_testing.routing import World, pin


@pytest.fixture(autouse=True)
def _placed(world: World) -> None:
    world.directory.place(pin("alice", "eu-2"), pin("bob", "us-1"))


async def curl(world: World, path: str, *more: str, name: str = "alice") -> tuple[int, bytes]:
    """curl's status and output."""
    command = [
        "curl", "--silent", "--show-error", "--max-time", "20",
        "--cacert", str(world.folder / "authorities" / "eu.pem"),
        "--header", f"Authorization: Bearer {world.jwt(name)}", *more,
        f"https://{world.manifest.routers['fra'].public}{path}",
    ]  # fmt: skip
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, stdin=asyncio.subprocess.DEVNULL
    )
    output, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, output


with_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="no curl on this machine")


@with_curl
async def test_curl_uploads_and_downloads(world: World, tmp_path: Path) -> None:
    sent, got = tmp_path / "sent", tmp_path / "got"
    sent.write_bytes(bytes(range(256)) * 20_000)

    async def back(seen: web.BaseRequest) -> web.StreamResponse:
        answer = web.StreamResponse()
        await answer.prepare(seen)
        await answer.write(await seen.content.read())
        return answer

    place = world.app("eu-2.ams")
    place.reads_body = False
    world.answers(back)
    async with world.router():
        for framing in ((), ("--header", "Transfer-Encoding: chunked"), ("--http1.0",)):
            upload = ("--upload-file", str(sent), "--output", str(got), *framing)
            if framing == ("--http1.0",):
                upload = ("--data-binary", f"@{sent}", "--output", str(got), *framing)
            assert await curl(world, "/blob", *upload) == (0, b"")
            assert got.read_bytes() == sent.read_bytes()
            got.unlink()


@with_curl
async def test_curl_waits_for_100_continue_and_is_sent_elsewhere_without_it(world: World, tmp_path: Path) -> None:
    sent = tmp_path / "sent"
    sent.write_bytes(bytes(100_000))
    expecting = (
        "--data-binary",
        f"@{sent}",
        "--header",
        "Expect: 100-continue",
        "--expect100-timeout",
        "15",
        "--include",
    )
    async with world.router():
        status, output = await curl(world, "/blob", *expecting)
        assert status == 0
        assert output.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 ")
        status, output = await curl(world, "/blob", *expecting, name="bob")
        assert status == 0
        assert output.startswith(b"HTTP/1.1 307 ")
        assert b"100 Continue" not in output
    assert [len(seen.body) for seen in world.seen] == [100_000]


@with_curl
async def test_curl_asks_several_times_on_one_connection_and_for_heads(world: World) -> None:
    async with world.router():
        again = f"https://{world.manifest.routers['fra'].public}/again"
        told = ("--write-out", "%{num_connects} ", "--output", "/dev/null", "--output", "/dev/null", again)
        assert await curl(world, "/notes", *told) == (0, b"1 0 ")
        status, output = await curl(world, "/notes", "--head")
        assert status == 0
        assert output.startswith(b"HTTP/1.1 200 OK\r\n")
        assert b"Content-Length: 16\r\n" in output


@with_curl
async def test_curl_notices_an_answer_that_was_cut(world: World) -> None:
    async def cut(seen: web.BaseRequest) -> web.StreamResponse:
        answer = web.StreamResponse()
        await answer.prepare(seen)
        await answer.write(b"begin")
        assert seen.transport is not None
        seen.transport.abort()
        return answer

    world.answers(cut)
    async with world.router():
        status, output = await curl(world, "/notes")
        assert status in (18, 56), "an incomplete transfer, or a connection that was reset"
        assert b"begin" in output


async def test_httpx_streams_both_ways_and_keeps_its_connections(world: World) -> None:
    async def parts() -> AsyncIterator[bytes]:
        for number in range(50):
            yield b"%d," % number * 1000

    async def back(seen: web.BaseRequest) -> web.StreamResponse:
        return web.Response(body=await seen.read(), headers={"Set-Cookie": "a=1"})

    world.app("eu-2.ams").reads_body = False
    world.answers(back)
    base = f"https://{world.manifest.routers['fra'].public}"
    async with (
        httpx.AsyncClient(verify=world.public_context("eu"), base_url=base, headers=world.bearer("alice")) as client,
        world.router(),
    ):
        answer = await client.post("/blob", content=parts())
        assert answer.content == b"".join([part async for part in parts()])
        answers = await asyncio.gather(*(client.put(f"/{n}", content=b"%d" % n) for n in range(30)))
        assert [each.content for each in answers] == [b"%d" % n for n in range(30)]
        async with client.stream("GET", "/notes") as stream:
            assert [part async for part in stream.aiter_raw()] == []
            assert stream.headers.get_list("Set-Cookie")[0] == "a=1"
        assert (await client.get("/notes", headers={"Host": "a b"})).status_code == 400


async def test_httpx_follows_a_redirect_with_its_body(world: World) -> None:
    base = f"https://{world.manifest.routers['fra'].public}"
    async with httpx.AsyncClient(verify=world.public_context("eu"), base_url=base) as client, world.router():
        answer = await client.post("/notes?a=b", content=b"text", headers=world.bearer("bob"))
        assert answer.status_code == 307
        assert answer.next_request is not None
        assert str(answer.next_request.url) == "https://us.acme.example/notes?a=b"
        assert "Authorization" not in answer.next_request.headers
