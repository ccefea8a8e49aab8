"""The Litestar application that docs/application.md shows, as it stands there: guarded, and its bodies stream."""

from __future__ import annotations

import asyncio
import re
import sys
import types
from collections.abc import AsyncIterator, Callable
from functools import cache
from pathlib import Path

import aiohttp
import asyncpg
import pytest
from domicile_testing import Trust
from domicile_testing.homes import Surroundings
from domicile_testing.logged import logged

from domicile.model import Role, SubjectKey
from domicile.sdk import Record, Residency, asgi
from domicile.sdk.store import apply_schema

Somebody = Callable[[], tuple[str, SubjectKey]]
PAGE = Path(__file__).parents[2] / "docs" / "application.md"
CANARY = "canary-51d0"


@cache
def program() -> types.ModuleType:
    (text,) = re.findall(r"```python\n([^`]*litestar[^`]*)```", PAGE.read_text())
    module = sys.modules["documented_lines"] = types.ModuleType("documented_lines")
    exec(compile(text, str(PAGE), "exec", dont_inherit=True), vars(module))
    return module


@pytest.fixture
async def client(
    around: Surroundings, residency: Residency, trust: Trust, eu_root: asyncpg.Connection, tmp_path: Path
) -> AsyncIterator[aiohttp.ClientSession]:
    """A router's connection to the program, which is served for as long."""
    module = program()
    record: type[Record] = module.Line
    await apply_schema(eu_root, "eu-1", "eu", [record])
    settings = around.settings(state=tmp_path)
    connector = aiohttp.TCPConnector(ssl=trust.credentials("eu", Role.ROUTER, "fra").client("eu", [Role.APP]))
    async with (
        asgi.serving(module.app, settings),
        aiohttp.ClientSession(f"https://{settings.bind}", connector=connector) as session,
    ):
        yield session


def named(key: SubjectKey, *, cell: str = "eu-1", epoch: int = 1) -> dict[str, str]:
    return {"Domicile-Subject-Key": str(key), "Domicile-Cell": cell, "Domicile-Epoch": str(epoch)}


async def test_it_stores_what_streams_in_while_it_comes_and_streams_it_out(
    client: aiohttp.ClientSession, around: Surroundings, somebody: Somebody, eu_root: asyncpg.Connection
) -> None:
    _, key = somebody()
    around.directory.pin(key)
    stored = asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        yield f"{CANARY} 0\n{CANARY}".encode()
        async with asyncio.timeout(10):
            while not await eu_root.fetchval("SELECT count(*) FROM lines WHERE subject_key = $1", key):
                pass
        stored.set()
        for number in range(1, 120):
            yield f" {number}\n{CANARY}".encode()
        yield b"\n"

    async with client.post("/lines", data=body(), headers=named(key)) as answer:
        assert (answer.status, await answer.json()) == (201, {"stored": 121})
    assert stored.is_set(), "the first line was stored before the second had come"
    async with client.get("/lines", headers=named(key)) as answer:
        assert answer.headers.get("Content-Length") is None
        lines = (await answer.text()).splitlines()
    assert sorted(lines) == sorted([*(f"{CANARY} {number}" for number in range(120)), CANARY])
    async with client.ws_connect("/talk", headers=named(key)) as talking:
        await talking.send_str("hello")
        assert await talking.receive_str() == "stored"
    sealed = await eu_root.fetch("SELECT t::text FROM lines t WHERE subject_key = $1", key)
    assert len(sealed) == 122
    assert CANARY.encode().hex() not in str(sealed)


async def test_who_is_not_at_home_here_reaches_no_handler(
    client: aiohttp.ClientSession, around: Surroundings, somebody: Somebody
) -> None:
    _, key = somebody()
    around.directory.pin(key)
    for who, verdict in ((named(key, cell="eu-2"), "wrong-cell"), (named(key, epoch=9), "stale-epoch")):
        for method, path in (("GET", "/lines"), ("POST", "/lines"), ("GET", "/nothing")):
            async with client.request(method, path, data=b"x\n", headers=who) as answer:
                assert (answer.status, answer.headers["Domicile-Guard"]) == (421, verdict)
        with pytest.raises(aiohttp.WSServerHandshakeError) as refusal:
            await client.ws_connect("/talk", headers=who)
        assert refusal.value.status == 421


async def test_what_a_handler_raises_is_answered_by_the_guard(
    client: aiohttp.ClientSession, around: Surroundings, somebody: Somebody
) -> None:
    """307 abroad (451: in ``test_guard``), 421 and where to go for a sibling's, 422 for a bad value, never told."""
    (user, key), (sibling, other), (_, german) = somebody(), somebody(), somebody()
    around.directory.pin(key, "us-1")
    around.directory.pin(other, "eu-2")
    around.directory.pin(german)
    answers = {}
    with logged() as lines:
        for who in (user, sibling, CANARY * 30):
            body = {"user": who, "residence": "DE"}
            async with client.post("/signup", json=body, allow_redirects=False) as answer:
                answers[who] = (answer.status, answer.headers, await answer.text())
        for line in (f"{CANARY}\0", f"{CANARY}\udcff"):  # what no text column and no text takes
            raw = f"{line}\n".encode("utf-8", "surrogateescape")
            async with client.post("/lines", data=raw, headers=named(german)) as answer:
                assert CANARY not in await answer.text()
                answers[line] = (answer.status, answer.headers, "")
        async with client.get(f"/lines?{CANARY}={CANARY}", headers={"X": CANARY}) as answer:
            assert CANARY not in await answer.text()
    assert (answers[f"{CANARY}\0"][0], answers[f"{CANARY}\udcff"][0]) == (201, 500)
    assert lines.getvalue().count("\n") >= 2, "refusals were logged"
    for shown in (CANARY, user, sibling):
        assert shown not in lines.getvalue()
    assert (answers[user][0], answers[user][1]["Location"]) == (307, "https://us.example/signup")
    assert (answers[sibling][0], answers[sibling][1]["Domicile-Guard"]) == (421, "wrong-cell")
    assert answers[CANARY * 30][0] == 422
    assert CANARY not in answers[CANARY * 30][2]
