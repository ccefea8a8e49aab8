"""The kit finds nothing wrong with a router and with each recipe, and finds what is wrong with edges that are."""

from __future__ import annotations

import asyncio
import json
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import jwt
import pytest
from aiohttp import web
from domicile_testing.edges import KINDS, Edge, equipment, trusted_signer
from domicile_testing.routing import World, pin, subject
from yarl import URL

from domicile.model import Role, SubjectKey
from domicile.ops.edge.kit import Brought, Row, examine

UNCHECKED: Any = {"verify_signature": False}
ALICE, BEFORE, AFTER = pin("alice", "eu-2", 7), pin("mover", "eu-1", 2), pin("mover", "eu-2", 4)


@pytest.fixture(autouse=True)
def _placed(world: World) -> None:
    world.directory.place(ALICE, AFTER, pin("bob", "us-1"), pin("carol", "eu-1", 2))

    async def guarded(request: web.BaseRequest) -> web.StreamResponse:
        said = [request.headers.get(f"Domicile-{name}", "") for name in ("Subject-Key", "Cell", "Epoch")]
        try:
            home = world.directory.pins[SubjectKey.parse(said[0])]
        except Exception:
            return web.Response(status=400)
        session = request.headers.get("Authorization", "Bearer ").removeprefix("Bearer ")
        if session and str(subject(jwt.decode(session, options=UNCHECKED)["sub"])) != said[0]:
            return web.Response(status=400)
        if said[1:] == [home.cell, str(home.epoch)]:
            return web.json_response({"served": True}, headers={"Domicile-Epoch": "1"})
        return web.Response(status=421, headers={"Domicile-Guard": "stale-epoch", "Domicile-Epoch": str(home.epoch)})

    world.answers(guarded)


def brought(edge: Edge) -> Brought:
    return Brought(
        f"https://{edge.address}", edge.world.bearer("alice"), "/notes", "acme",
        other={"Domicile-Token": edge.token(pin("carol", "eu-1", 2))},
        abroad=edge.world.bearer("bob"), expired={"Domicile-Token": edge.token(ALICE, age=3600)},
        stale={"Cookie": f"__Host-domicile={edge.token(BEFORE)}"}, write="/notes",
    )  # fmt: skip


async def examined(edge: Edge, what: Brought | None = None) -> dict[str, Row]:
    rows = await examine(what or brought(edge), edge.world.public_context("eu"))
    return {row.check: row for row in rows}


def wrong(rows: dict[str, Row]) -> set[str]:
    return {name for name, row in rows.items() if row.ok is False}


@pytest.mark.parametrize("kind", KINDS, indirect=True)
async def test_it_finds_nothing_wrong_with_a_recipe(edge: Edge) -> None:
    rows = await examined(edge)
    assert not wrong(rows), [row for row in rows.values() if row.ok is False]
    assert all(row.ok for row in rows.values())


async def test_it_finds_nothing_wrong_with_a_router(world: World) -> None:
    async with world.router("fra"):
        address = world.manifest.routers["fra"].public
        edge = Edge(world, equipment(world).address, world.folder, trusted_signer(world))
        rows = await examined(edge, replace(brought(edge), url=f"https://{address}"))
    assert all(row.ok for row in rows.values()), rows


FLAWS = {
    "none": set(),
    "forged": {"forged token", "unsigned token", "expired token"},
    "expired": {"expired token"},
    "spoofed": {"spoofed, alone", "spoofed, beside a proof", "spoofed, as another"},
    "spoofed by underscores": {"spoofed, as another"},
    "elsewhere": {"stale token", "stale token, large body"},
    "shown 421": {"stale token", "stale token, large body"},
    "shown fields": {"answers"},
    "tokens only": {"two people's proofs"},
    "normalised": {"path of two meanings"},
    "no travellers": {"traveller"},
    "small bodies": {"large body", "stale token, large body"},
    "plain refusals": {"no proof"},
}


class Broken:
    """An edge by hand, with one flaw."""

    def __init__(self, world: World, flaw: str, key: object) -> None:
        self._world = world
        self._flaw = flaw
        self._key = key
        own = world.trust.credentials("eu", Role.EDGE, "fra")
        self._inside = aiohttp.TCPConnector(ssl=own.client("eu", [Role.APP]))
        self._outside = aiohttp.TCPConnector(ssl=world.public_context("eu"))

    async def close(self) -> None:
        await self._inside.close()
        await self._outside.close()

    def _claims(self, request: web.BaseRequest) -> dict[str, object] | None:
        token = request.headers.get("Domicile-Token") or request.cookies.get("__Host-domicile")
        if token is None or ("Authorization" in request.headers and self._flaw != "tokens only"):
            return None
        checked = {"verify_signature": self._flaw != "forged", "verify_exp": self._flaw not in ("forged", "expired")}
        try:
            return jwt.decode(token, self._key, ["EdDSA"], options=checked)  # type: ignore[arg-type]
        except jwt.InvalidTokenError:
            return None

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        body = await request.read()
        target = request.raw_path
        flaw = self._flaw
        if flaw == "small bodies" and len(body) > 1000:
            return web.Response(status=413)
        if flaw == "normalised":
            target = target.replace("/%2e%2e", "")
        claims = self._claims(request)
        ambiguous = "%2e" in target
        kept = {"authorization", "cookie", "domicile-token"}
        fields = {name: value for name, value in request.headers.items() if name.lower() in kept}
        if flaw == "spoofed by underscores" and "Domicile_Cell" in request.headers:
            return web.json_response({"served": "whoever"})
        if (
            flaw == "elsewhere"
            and claims is not None
            and claims["epoch"] == BEFORE.epoch
            and claims["cell"] == BEFORE.cell
        ):
            return web.Response(status=307, headers={"Location": "https://[nowhere"})
        if flaw == "spoofed" and "Domicile-Cell" in request.headers:
            return web.json_response({"served": "whoever"}, status=200 if len(fields) == 0 else 421)
        if claims is not None and not ambiguous and (claims["jur"] == "eu" or flaw == "forged"):
            if flaw == "forged" and claims["jur"] != "eu":
                return web.json_response({"served": "whoever"})
            said = {"Domicile-Subject-Key": claims["sub"], "Domicile-Cell": claims["cell"],
                    "Domicile-Epoch": str(claims["epoch"])}  # fmt: skip
            zone = next(iter(self._world.manifest.cells[str(claims["cell"])].zones.values()))
            answer = await self._ask(self._inside, zone.app, request.method, target, {**said}, body)
            if answer.status != 421 or flaw == "shown 421":
                return answer
        router = self._world.manifest.routers["fra"].public
        answer = await self._ask(self._outside, router, request.method, target, fields, body)
        if flaw == "no travellers" and answer.status == 307:
            return web.Response(status=421)
        if flaw == "plain refusals" and answer.status == 401:
            return web.Response(status=401, text="no")
        return answer

    async def _ask(
        self, connector: aiohttp.TCPConnector, address: str, method: str, target: str, headers: Mapping[str, object],
        body: bytes,
    ) -> web.Response:  # fmt: skip
        async with (
            aiohttp.ClientSession(connector=connector, connector_owner=False) as session,
            session.request(
                method, URL(f"https://{address}{target}", encoded=True), data=body or None,
                headers={name: str(value) for name, value in headers.items()}, allow_redirects=False,
            ) as answer,
        ):  # fmt: skip
            passed = {name: answer.headers[name] for name in ("Location", "Retry-After") if name in answer.headers}
            if self._flaw == "shown fields":
                passed["Domicile-Epoch"] = "1"
            return web.Response(status=answer.status, body=await answer.read(), headers=passed)


@asynccontextmanager
async def broken(world: World, flaw: str) -> AsyncIterator[Edge]:
    place = equipment(world)
    assert place.public is not None
    edge = Edge(world, place.address, world.folder, trusted_signer(world))
    proxy = Broken(world, flaw, edge.signer.key.public_key())
    runner = web.ServerRunner(web.Server(proxy.handle), shutdown_timeout=0.1)
    await runner.setup()
    shown = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    shown.load_cert_chain(place.public.certificate, place.public.key)
    await web.TCPSite(runner, place.address.host, place.address.port, ssl_context=shown).start()
    try:
        yield edge
    finally:
        await runner.cleanup()
        await proxy.close()


@pytest.mark.parametrize("flaw", FLAWS)
async def test_it_finds_what_is_wrong(world: World, flaw: str) -> None:
    async with world.router("fra"), broken(world, flaw) as edge:
        rows = await examined(edge)
    assert wrong(rows) == FLAWS[flaw], rows
    assert all(row.remedy for row in rows.values() if row.ok is False)


async def test_what_was_not_brought_along_is_left_out_and_said(world: World) -> None:
    async with world.router("fra"), broken(world, "none") as edge:
        rows = await examined(edge, Brought(f"https://{edge.address}", world.bearer("alice"), "/notes", "acme"))
    left = {name: row.happened for name, row in rows.items() if row.ok is None}
    assert set(left) == {
        "expired token", "stale token", "stale token, large body", "large body", "two people's proofs", "traveller",
        "spoofed, as another",
    }  # fmt: skip
    assert left["traveller"] == "left out: needs --abroad"
    assert not wrong(rows)


async def test_an_edge_that_is_not_there_fails_every_check(world: World) -> None:
    edge = Edge(world, equipment(world).address, world.folder, trusted_signer(world))
    rows = await examined(edge)
    assert all(row.ok is False and "Error" in row.happened for row in rows.values())


def command(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "domicile.ops.main", "edge", "test", *arguments],
        capture_output=True, text=True, check=False, timeout=60, cwd=folder,
    )  # fmt: skip


async def test_the_command_prints_a_table_or_a_document_and_exits_by_it(world: World, tmp_path: Path) -> None:
    session = world.jwt("alice")
    (tmp_path / "session.txt").write_text(f"Authorization: Bearer {session}\n")
    authority = str(world.folder / "authorities" / "eu.pem")
    async with world.router("fra"), broken(world, "plain refusals") as edge:
        common = ["--user", "session.txt", "--path", "/notes", "--authority", authority]
        bad = await asyncio.to_thread(command, tmp_path, f"https://{edge.address}", *common)
        assert bad.returncode == 1, bad.stderr
        assert "leave it to a router" in bad.stdout
        good = await asyncio.to_thread(
            command, tmp_path, f"https://{world.manifest.routers['fra'].public}", *common, "--json"
        )
    assert good.returncode == 0, good.stdout + good.stderr
    document = json.loads(good.stdout)
    assert document["ok"] is True
    assert set(document["rows"][0]) == {"check", "tried", "expected", "happened", "ok", "remedy"}
    assert session not in bad.stdout + good.stdout
