"""``domicile explain``: who may ask, what is told to whom, and that nothing else happens."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from domicile_testing.directories import NAMES
from domicile_testing.routing import HOSTS, TRAVELLER_PATHS, World, pin, routing_world, subject
from ruamel.yaml import YAML

from domicile.client import RouterClient
from domicile.model import GLOBAL, Endpoint, Identity, PinState, Role, may
from domicile.model.explanation import ExplainRequest, Explanation
from domicile.router.serve import serve

URL = "https://eu.acme.example/notes?q=1"


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    def change(data: dict[str, Any]) -> None:
        data["jurisdictions"]["eu"]["traveller_paths"] = TRAVELLER_PATHS
        tenant = {"by": "header", "name": "X-Tenant", "networks": ["10.0.0.0/8"]}
        for router in data["routers"].values():
            router["rules"] += [{"by": "jwt"}, tenant, {"by": "token"}]

    async with routing_world(tmp_path, change=change) as running:
        running.directory.place(
            pin("alice", "eu-1", 7), pin("uncle", "us-1"), pin("mover", "eu-2", 3, PinState.MOVING),
            pin("gone", "eu-1", 9, PinState.ERASED),
        )  # fmt: skip
        yield running


async def explain(
    world: World, who: str | None = None, *, url: str = URL, zone: str = "fra", by: str | None = None,
    method: str = "GET", headers: dict[str, str] | None = None, peer: str | None = None, router: str | None = None,
) -> Explanation:  # fmt: skip
    """As an operator of ``by``, else of the router's own jurisdiction."""
    place = world.manifest.routers[zone]
    home = world.manifest.jurisdiction_of(place.country) or ""
    credentials = world.trust.credentials(by or home, Role.OPERATOR, "root")
    sent = headers or (world.bearer(who) if who is not None else {})
    client = RouterClient(credentials, place.internal, home)
    try:
        return await client.explain(
            ExplainRequest(method=method, url=url, headers=list(sent.items()), peer=peer, router=router)
        )
    finally:
        await client.close()


@asynccontextmanager
async def running(world: World, zone: str = "fra") -> AsyncIterator[None]:
    async with serve(world.settings(zone)):
        yield


async def test_it_tells_the_rule_the_pin_the_decision_and_why_and_forwards_nothing(world: World) -> None:
    async with running(world):
        first = await explain(world, "alice")
        assert first == Explanation(
            zone="fra",
            jurisdiction="eu",
            path_class="pinned",
            rules=[
                {"rule": "by jwt", "found": "found"},
                {"rule": "by header X-Tenant", "found": "not a trusted peer"},
                {"rule": "by token", "found": "nothing"},
            ],
            rule="by jwt",
            pin_from="directory",
            home="eu",
            subject_key=subject("alice"),
            cell="eu-1",
            epoch=7,
            state=PinState.ACTIVE,
            decision="forward",
            why="the subject's home is in this jurisdiction",
            to=["fra", "par"],
        )
        assert (await explain(world, "alice")).pin_from == "replica"
    assert world.seen == []


async def test_a_claim_is_explained_as_if_from_the_peer_that_is_named(world: World) -> None:
    async with running(world):
        tenant = {"X-Tenant": "alice"}
        anybody = await explain(world, headers=tenant)
        assert (anybody.decision, anybody.code, anybody.rule) == ("refuse", "unauthenticated", None)
        edge = await explain(world, headers=tenant, peer="10.3.0.1")
        assert (edge.decision, edge.rule, edge.cell) == ("forward", "by header X-Tenant", "eu-1")
        both = await explain(world, headers=tenant | world.bearer("uncle"), peer="10.3.0.1")
        assert (both.status, both.code, both.cell) == (400, "identities-disagree", None)


@pytest.mark.parametrize(
    ("who", "url", "method", "decision", "code"),
    [
        ("alice", "https://x/notes", "GET", "redirect", None),
        ("alice", "https://x/export/1", "GET", "refuse", "cross-border-access"),
        ("alice", "https://x/live/1", "GET", "hairpin", None),
        ("alice", "https://x/login", "GET", "forward", None),
        ("uncle", "https://x/notes", "GET", "forward", None),
        ("nobody", "https://x/notes", "GET", "refuse", "unknown-subject"),
        ("gone", "https://x/notes", "GET", "refuse", "unknown-subject"),
        ("uncle", "https://x/a/../b", "GET", "refuse", "bad-request"),
        (None, "https://x/notes", "GET", "refuse", "unauthenticated"),
        (None, "https://x/login", "GET", "forward", None),
        (None, "https://x", "GET", "refuse", "unauthenticated"),
    ],
)
async def test_every_decision_is_explained(
    world: World, who: str | None, url: str, method: str, decision: str, code: str | None
) -> None:
    async with running(world, "iad"):
        found = await explain(world, who, url=url, zone="iad", method=method)
        assert (found.decision, found.code) == (decision, code)
        assert found.why
        assert found.public_host == ("eu.acme.example" if decision == "redirect" else None)
    assert world.seen == []


async def test_the_country_that_an_application_would_be_told_is_shown(world: World) -> None:
    unpinned, behind = "https://eu.acme.example/signup", {"X-Forwarded-For": "193.99.144.80"}
    async with running(world):
        assert (await explain(world, url=unpinned, peer="193.99.144.80")).country == "DE"
        assert (await explain(world, url=unpinned, peer="127.0.0.1", headers=behind)).country == "DE", "a trusted peer"
        assert (await explain(world, url=unpinned, peer="8.8.8.8", headers=behind)).country == "US"
        assert (await explain(world, url=unpinned)).country is None
        assert (await explain(world, "alice", peer="193.99.144.80")).country is None, "nobody is told on a pinned path"


async def test_what_another_router_would_be_answered_is_explained(world: World) -> None:
    iad = "spiffe://acme/us/router/iad"
    async with running(world):
        found = await explain(world, "alice", router=iad)
        assert (found.listener, found.decision, found.cell) == ("internal", "forward", "eu-1")
        found = await explain(world, "uncle", router=iad, peer="193.99.144.80")
        assert (found.listener, found.decision, found.code) == ("internal", "refuse", "misdirected"), "never in a ring"
        assert (await explain(world, "uncle")).decision == "redirect"
        found = await explain(world, "alice", router="spiffe://other/us/router/iad")
        assert (found.decision, found.code) == ("refuse", "forbidden")
    assert world.seen == []


async def test_a_write_in_the_middle_of_a_move_is_explained_without_waiting(world: World) -> None:
    async with running(world):
        assert (await explain(world, "mover")).state is PinState.MOVING
        found = await explain(world, "mover", method="POST")
        assert (found.decision, found.status) == ("refuse", 503)


PERSONAL = ("subject_key", "cell", "epoch", "state")


@pytest.mark.parametrize("zone", ["fra", "iad"])
@pytest.mark.parametrize("by", ["eu", "us", GLOBAL])
@pytest.mark.parametrize(("who", "home"), [("alice", "eu"), ("uncle", "us"), ("nobody", None), ("mover", "eu")])
async def test_only_an_operator_of_the_home_is_told_the_subject_and_the_pin(
    world: World, zone: str, by: str, who: str, home: str | None
) -> None:
    async with running(world, zone):
        found = await explain(world, who, zone=zone, by=by, method="POST")
    mine = by == (home or {"fra": "eu", "iad": "us"}[zone])
    assert found.withheld is not mine
    assert (found.subject_key == subject(who)) is mine
    text = found.model_dump_json()
    if not mine:
        assert all(getattr(found, name) is None for name in PERSONAL)
        assert found.to == []
        for secret in (str(subject(who)), "eu-1", "eu-2", "us-1"):
            assert secret not in text
    assert world.jwt(who) not in text
    assert f'"{who}"' not in text
    assert found.home == home, "where a request would be sent is no secret to who can send it"


@pytest.mark.parametrize("role", Role)
async def test_the_matrix_holds_for_explaining(world: World, role: Role) -> None:
    callee = Identity("acme", "eu", Role.ROUTER, "fra")
    body = ExplainRequest(method="GET", url=URL).model_dump(mode="json")
    async with running(world):
        for jurisdiction in ("eu", "us", GLOBAL):
            name = NAMES.get(role, "fra")
            allowed = may(Identity("acme", jurisdiction, role, name), callee, Endpoint.EXPLAIN)
            assert allowed is (role is Role.OPERATOR)
            context = world.trust.credentials(jurisdiction, role, name).client("eu", [Role.ROUTER])
            async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)) as session:
                url = f"https://{world.manifest.routers['fra'].internal}/v1/explain"
                if role not in (Role.OPERATOR, Role.ROUTER, Role.EDGE):
                    with pytest.raises(aiohttp.ClientError):
                        await session.post(url, json=body)
                    continue
                async with session.post(url, json=body) as answer:
                    # to a router every path is a request that another router passes on
                    assert (answer.status == 200) is allowed, (jurisdiction, answer.status)
    assert world.seen == []


async def test_it_is_not_there_for_the_public(world: World) -> None:
    async with world.router() as client, client.post("/v1/explain", json={"method": "GET", "url": URL}) as answer:
        assert answer.status == 401
        assert (await answer.json())["code"] == "unauthenticated"


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"method": "get it", "url": URL},
        {"method": "GET", "url": "/notes"},
        {"method": "GET", "url": "https://x/a b"},
        {"method": "GET", "url": "https://x/" + "a" * 9000},
        {"method": "GET", "url": URL, "headers": [["a b", "c"]]},
        {"method": "GET", "url": URL, "headers": [["a", "secret\n"]]},
        {"method": "GET", "url": URL, "headers": [["a", "b"]] * 129},
        {"method": "GET", "url": URL, "peer": "1" * 65},
    ],
)
async def test_what_is_no_request_is_refused_without_being_quoted(world: World, body: dict[str, Any]) -> None:
    context = world.trust.credentials("eu", Role.OPERATOR, "root").client("eu", [Role.ROUTER])
    url = f"https://{world.manifest.routers['fra'].internal}/v1/explain"
    session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context))
    async with running(world), session, session.post(url, json=body) as answer:
        assert answer.status == 422
        assert "secret" not in await answer.text()


def command(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("DOMICILE_")}
    return subprocess.run(
        [sys.executable, "-m", "domicile.ops.main", "explain", *arguments, "--manifest", str(folder / "m.yaml")],
        env=clean | environment, capture_output=True, text=True, check=False, timeout=60, cwd=folder,
    )  # fmt: skip


@asynccontextmanager
async def commanded(world: World, folder: Path, by: str = "eu") -> AsyncIterator[dict[str, str]]:
    """A router that runs, the manifest in a file, and the environment of an operator's shell."""
    with (folder / "m.yaml").open("w") as stream:
        YAML(typ="safe", pure=True).dump(world.manifest.topology(), stream)
    credentials = world.trust.credentials(by, Role.OPERATOR, "root", (HOSTS["fra"],))
    names = {"CERTIFICATE": credentials.certificate, "KEY": credentials.key, "AUTHORITIES": credentials.authorities}
    async with running(world):
        yield {f"DOMICILE_{name}": str(path) for name, path in names.items()}


async def run(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return await asyncio.to_thread(command, folder, *arguments, **environment)


async def test_the_command_prints_it(world: World, tmp_path: Path) -> None:
    (tmp_path / "session.txt").write_text(f"Authorization: Bearer {world.jwt('alice')}\n")
    async with commanded(world, tmp_path) as shell:
        done = await run(tmp_path, f"GET {URL}", "-H", "@session.txt", "--from", "fra", **shell)
        assert done.returncode == 0, done.stderr
        for expected in ("by jwt", "eu/eu-1, epoch 7, active", "forward to fra, par", str(subject("alice"))):
            assert expected in done.stdout
        done = await run(tmp_path, URL, "-H", "@session.txt", "-H", "X-Tenant: bob", "--peer", "10.1.1.1",
                         "--from", "fra", "--json", **shell)  # fmt: skip
        assert done.returncode == 1
        document = json.loads(done.stdout)
        assert (document["ok"], document["code"]) == (False, "identities-disagree")
    assert world.seen == []


async def test_the_command_says_what_it_may_not_show(world: World, tmp_path: Path) -> None:
    async with commanded(world, tmp_path, by="us") as shell:
        header = f"Authorization: Bearer {world.jwt('alice')}"
        done = await run(tmp_path, f"GET {URL}", "-H", header, "--from", "fra", **shell)
    assert done.returncode == 0, done.stderr
    assert "left out" in done.stderr
    assert str(subject("alice")) not in done.stdout
    assert "eu-1" not in done.stdout


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([URL, "--from", "nowhere"], "--from: no router in zone 'nowhere' (one of fra, iad)"),
        (["GET notes", "--from", "fra"], "not a request by its url"),
        ([URL, "-H", "no header", "--from", "fra"], "not a request by its headers"),
        ([URL, "-H", "@missing", "--from", "fra"], "missing: no such file or directory"),
    ],
)
async def test_the_command_refuses_in_one_line(
    world: World, tmp_path: Path, arguments: list[str], expected: str
) -> None:
    async with commanded(world, tmp_path) as shell:
        done = await run(tmp_path, *arguments, **shell)
    assert done.returncode == 1
    assert expected in done.stderr
    assert len(done.stderr.splitlines()) == 1
