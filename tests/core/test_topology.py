"""The topology as a process takes it: signed, kept on disk, never an older one than was seen."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web
from domicile_testing import Trust
from domicile_testing.peers import (
    Handler,
    answering,
    dead,
    manifest_at,
    serving,
)

from domicile.client import DirectoryClient, Topology
from domicile.identity import Signer, sign_topology
from domicile.model import (
    InvalidInput,
    NotFound,
    Role,
    TokenInvalid,
    Unavailable,
)
from domicile.service import problem_response


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
