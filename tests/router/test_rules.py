"""Rules of the manifest at a router that runs: who is found by a cookie, a header, a path, a host, and who is not."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from domicile_testing.certificates import PEPPER
from domicile_testing.routing import World, pin, routing_world, subject
from yarl import URL

from domicile.identity import Signer
from domicile.telemetry import RULE_DISAGREEMENTS

LOCAL, FOREIGN = ["127.0.0.0/8"], ["10.0.0.0/8"]
IAD = "spiffe://acme/us/router/iad"
UNPINNED = {"path": "/login", "class": "unpinned"}


@asynccontextmanager
async def ruled(folder: Path, *rules: dict[str, Any], **more: Any) -> AsyncIterator[World]:
    """``alice`` lives in eu-1, ``bob`` in eu-2, ``uncle`` in us-1; both routers have these rules."""

    def change(data: dict[str, Any]) -> None:
        for zone in data["routers"].values():
            zone["rules"] = [UNPINNED, *rules]
            zone.update(more)

    async with routing_world(folder, change=change, eu="hairpin") as world:
        world.directory.place(pin("alice", "eu-1"), pin("bob", "eu-2"), pin("uncle", "us-1"))
        yield world


async def answer(client: aiohttp.ClientSession, path: str = "/notes", **headers: str) -> tuple[int, str | None]:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    async with client.get(URL(path, encoded=True), headers=named, allow_redirects=False) as response:
        body = await response.json(content_type=None)
        return response.status, body.get("code")


async def test_a_header_is_believed_from_a_trusted_peer(tmp_path: Path) -> None:
    rule = {"by": "header", "name": "X-Tenant", "networks": LOCAL}
    async with ruled(tmp_path, rule) as world, world.router() as client:
        assert await answer(client, X_Tenant="bob") == (200, None)
        assert world.seen[-1].headers["Domicile-Subject-Key"] == str(subject("bob"))
        assert world.seen[-1].headers["X-Tenant"] == "bob"
        assert await answer(client) == (401, "unauthenticated")
        assert await answer(client, X_Tenant="") == (400, "bad-request")
        async with client.get("/notes", headers=[("X-Tenant", "bob"), ("X-Tenant", "bob")]) as response:
            assert response.status == 400


async def test_from_anybody_else_the_header_says_nothing_and_goes_no_further(tmp_path: Path) -> None:
    rules: list[dict[str, Any]] = [
        {"by": "header", "name": "X-Tenant", "networks": FOREIGN, "peers": [IAD]},
        {"by": "jwt"},
    ]
    async with ruled(tmp_path, *rules) as world, world.router() as client:
        assert await answer(client, X_Tenant="alice") == (401, "unauthenticated")
        assert await answer(client, X_Tenant="bob", **world.bearer("alice")) == (200, None)
        assert await answer(client, "/login", X_Tenant="bob") == (200, None)
        async with client.get("/login", headers={"X_Tenant": "bob", "x-tenant": "bob", "X-TENANTS": "all"}) as response:
            assert response.status in (200, 400)
    assert len(world.seen) >= 2
    for seen in world.seen:
        # WSGI and its kin read X_Tenant as X-Tenant
        assert "x-tenant" not in {name.lower().replace("_", "-") for name in seen.headers}
    assert world.seen[0].headers["Domicile-Subject-Key"] == str(subject("alice"))


@pytest.mark.parametrize(("peers", "status"), [([IAD], 200), (["spiffe://acme/eu/router/fra"], 401)])
async def test_a_router_believes_another_by_its_certificate_only(tmp_path: Path, peers: list[str], status: int) -> None:
    """A European who comes to New York through the edge there; her home's router hears of her from the one there."""
    rule = {"by": "header", "name": "X-Tenant", "networks": LOCAL, "peers": peers}
    async with ruled(tmp_path, rule) as world, world.router("iad"), world.router("fra"), world.client("iad") as client:
        assert (await answer(client, X_Tenant="alice"))[0] == status
        assert [seen.place for seen in world.seen] == (["eu-1.fra/app"] if status == 200 else [])


async def test_a_router_passes_no_claim_on_that_it_does_not_believe(tmp_path: Path) -> None:
    """Somebody in New York claims to be bob, with alice's session: her home must not hear of the claim."""
    rules: list[dict[str, Any]] = [
        {"by": "header", "name": "X-Tenant", "networks": FOREIGN, "peers": [IAD]},
        {"by": "jwt"},
    ]
    async with (
        ruled(tmp_path, *rules) as world,
        world.router("iad"),
        world.router("fra"),
        world.client("iad") as client,
    ):
        assert await answer(client, X_Tenant="bob", **world.bearer("alice")) == (200, None)
    assert [seen.headers["Domicile-Subject-Key"] for seen in world.seen] == [str(subject("alice"))]


@pytest.mark.parametrize(
    ("path", "status", "who"),
    [
        ("/t/alice/notes", 200, "alice"),
        ("/t/bob/", 200, "bob"),
        ("/t/b%6Fb/", 200, "bob"),
        ("/t/alice", 401, None),
        ("/t/", 401, None),
        ("/x/alice/notes", 401, None),
        ("/t/nobody/notes", 404, None),
        ("/t/Alice/notes", 404, None),
        ("/t/a%2Fb/notes", 400, None),
        ("/t/%5C/notes", 400, None),
        ("/t/%ff/notes", 400, None),
        ("/%74/alice/notes", 400, None),
        ("/t//alice/notes", 400, None),
    ],
)
async def test_a_path_names_a_subject(tmp_path: Path, path: str, status: int, who: str | None) -> None:
    async with ruled(tmp_path, {"by": "path", "pattern": "/t/{subject}/*"}) as world, world.router() as client:
        assert (await answer(client, path))[0] == status
        assert [seen.headers["Domicile-Subject-Key"] for seen in world.seen] == ([str(subject(who))] if who else [])
        assert [seen.target for seen in world.seen] == ([path] if who else [])


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("alice.app.acme.example", 200),
        ("ALICE.app.Acme.example:443", 200),
        ("alice.app.acme.example.", 200),
        ("nobody.app.acme.example", 404),
        ("app.acme.example", 401),
        ("x.alice.app.acme.example", 401),
        ("alice.app.acme.example.evil.example", 401),
        ("alice-.app.acme.example", 401),
        ("aliceXappYacme.example", 401),
    ],
)
async def test_a_host_names_a_subject(tmp_path: Path, host: str, status: int) -> None:
    rule = {"by": "host", "pattern": "{subject}.app.acme.example"}
    async with ruled(tmp_path, rule) as world, world.router() as client:
        assert (await answer(client, Host=host))[0] == status


async def test_the_public_host_of_a_jurisdiction_names_no_subject(tmp_path: Path) -> None:
    rule = {"by": "host", "pattern": "{subject}.acme.example"}
    async with ruled(tmp_path, rule) as world, world.router() as client:
        assert await answer(client, Host="eu.acme.example") == (401, "unauthenticated")
        assert await answer(client, Host="uk.acme.example") == (404, "unknown-subject")


async def test_a_cookie_holds_a_session_and_a_stale_one_is_harmless_on_the_way_to_the_login(tmp_path: Path) -> None:
    async with ruled(tmp_path, {"by": "jwt", "cookie": "sid"}, {"by": "token"}) as world, world.router() as client:
        good, stale = world.jwt("alice"), world.jwt("alice", exp=1)
        assert await answer(client, Cookie=f"x=1; sid={good}") == (200, None)
        assert await answer(client, Cookie=f"sid={stale}") == (401, "token-invalid")
        assert await answer(client, "/login", Cookie=f"sid={stale}") == (200, None)
        assert await answer(client, Cookie=f"sid={good}; sid={stale}") == (401, "token-invalid")
        assert await answer(client, **world.bearer("alice")) == (401, "unauthenticated"), "no rule reads it"


async def test_any_two_rules_that_name_different_subjects_are_400(tmp_path: Path) -> None:
    rules: list[dict[str, Any]] = [
        {"by": "jwt"},
        {"by": "header", "name": "X-Tenant", "networks": LOCAL},
        {"by": "path", "pattern": "/t/{subject}/*"},
        {"by": "host", "pattern": "{subject}.app.acme.example"},
    ]
    async with ruled(tmp_path, *rules) as world, world.router() as client:

        async def ask(**who: str) -> tuple[int, str | None]:
            headers = world.bearer(who["jwt"]) if "jwt" in who else {}
            headers |= {"X-Tenant": who["header"]} if "header" in who else {}
            headers |= {"Host": f"{who['host']}.app.acme.example"} if "host" in who else {}
            return await answer(client, f"/t/{who['path']}/x" if "path" in who else "/x", **headers)

        kinds = ["jwt", "header", "path", "host"]
        assert await ask(**dict.fromkeys(kinds, "alice")) == (200, None)
        for first in kinds:
            for second in kinds:
                if first != second:
                    found = await ask(**{first: "alice", second: "bob"})
                    assert found == (400, "identities-disagree"), (first, second)
        for odd in kinds:
            assert await ask(**(dict.fromkeys(kinds, "alice") | {odd: "bob"})) == (400, "identities-disagree"), odd


async def test_in_a_rotation_every_rule_finds_a_subject_by_each_pepper(tmp_path: Path) -> None:
    """The pepper in force is a new one, under which nobody has a pin yet; a token still names the key of before."""
    rules: list[dict[str, Any]] = [
        {"by": "token"},
        {"by": "jwt"},
        {"by": "header", "name": "X-Tenant", "networks": LOCAL},
        {"by": "path", "pattern": "/t/{subject}/*"},
        {"by": "host", "pattern": "{subject}.app.acme.example"},
    ]
    async with ruled(tmp_path, *rules) as world:
        (tmp_path / "pepper").write_text(f"2:{'cd' * 32}\n{PEPPER}")
        signer = Signer.load_or_create(tmp_path / "other.key")
        world.directory.keys[signer.kid] = signer.public("residency")
        token = signer.residency_token(pin("alice", "eu-1"), "acme")
        ways: list[tuple[str, dict[str, str]]] = [
            ("/x", world.bearer("alice")),
            ("/x", {"X-Tenant": "alice"}),
            ("/x", {"Host": "alice.app.acme.example"}),
            ("/t/alice/x", {}),
            ("/x", {"Domicile-Token": token}),
            ("/t/alice/x", world.bearer("alice") | {"X-Tenant": "alice", "Domicile-Token": token}),
        ]
        async with world.router() as client:
            for path, headers in ways:
                assert await answer(client, path, **headers) == (200, None), (path, list(headers))
            disagreeing = world.bearer("bob") | {"Domicile-Token": token}
            assert await answer(client, **disagreeing) == (400, "identities-disagree")
    assert {seen.headers["Domicile-Subject-Key"] for seen in world.seen} == {str(subject("alice"))}


async def test_only_who_is_vouched_for_is_handed_a_token(tmp_path: Path) -> None:
    rules: list[dict[str, Any]] = [
        {"by": "header", "name": "X-Tenant", "networks": LOCAL},
        {"by": "path", "pattern": "/t/{subject}/*"},
        {"by": "host", "pattern": "{subject}.app.acme.example"},
    ]
    async with ruled(tmp_path, *rules) as world, world.router() as client:
        for path, headers, handed in (
            ("/notes", {"X-Tenant": "alice"}, True),
            ("/t/alice/x", {}, False),
            ("/x", {"Host": "alice.app.acme.example"}, False),
        ):
            async with client.get(path, headers=headers) as response:
                assert response.status == 200
                assert ("Set-Cookie" in response.headers) is handed, path


def counted(kind: str) -> float:
    value: float = RULE_DISAGREEMENTS.labels(kind)._value.get()
    return value


async def test_new_rules_run_dry_and_what_they_would_change_is_counted(tmp_path: Path) -> None:
    tenant = {"by": "header", "name": "X-Tenant", "networks": LOCAL}
    more = {"rules_next": {"rules": [UNPINNED, {"path": "/free", "class": "unpinned"}, tenant]}}
    async with ruled(tmp_path, {"by": "jwt"}, **more) as world, world.router() as client:
        alice = world.bearer("alice")
        for kind, path, headers, status in (
            ("refused", "/notes", alice, 200),
            ("subject", "/notes", {"X-Tenant": "bob"} | alice, 200),
            ("admitted", "/notes", {"X-Tenant": "bob"}, 401),
            ("reason", "/notes", {"Authorization": "Bearer x"}, 401),
            ("lost", "/login", alice, 200),
            ("gained", "/login", {"X-Tenant": "bob"}, 200),
            ("class", "/free", {"X-Tenant": "alice"} | alice, 200),
        ):
            before = {
                each: counted(each) for each in ("refused", "subject", "admitted", "reason", "lost", "gained", "class")
            }
            assert (await answer(client, path, **headers))[0] == status, kind
            after = {each: counted(each) for each in before}
            assert after == before | {kind: before[kind] + 1}, kind
        before_all = sum(after.values())
        assert (await answer(client, X_Tenant="alice", **alice))[0] == 200
        assert sum(counted(each) for each in after) == before_all
    keys = [seen.headers.get("Domicile-Subject-Key") for seen in world.seen if seen.target == "/notes"]
    assert set(keys) == {str(subject("alice"))}, "the live rules served"


@pytest.mark.parametrize("percent", [0, 100])
async def test_new_rules_are_rolled_out_by_subject(tmp_path: Path, percent: int) -> None:
    more = {"rules_next": {"percent": percent, "rules": [UNPINNED, {"by": "jwt", "cookie": "sid"}]}}
    async with ruled(tmp_path, {"by": "jwt"}, **more) as world, world.router() as client:
        session = world.jwt("alice")
        old = (await answer(client, Authorization=f"Bearer {session}"))[0]
        new = (await answer(client, Cookie=f"sid={session}"))[0]
        assert (old, new) == ((401, 200) if percent else (200, 401))
