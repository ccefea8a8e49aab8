"""The sample application over HTTP, as a router of its jurisdiction calls it."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import aiohttp
import asyncpg
import pytest
from domicile_testing import Trust
from domicile_testing.homes import Surroundings

from domicile.identity import Signer
from domicile.model import GLOBAL, Pepper, Role, SubjectKey
from domicile.sample.__main__ import SampleSettings, serve
from domicile.sample.sessions import SESSION_SECONDS, Sessions

Somebody = Callable[[], tuple[str, SubjectKey]]


@dataclass
class Client:
    """A router's connection to the sample application of ``eu-1``."""

    http: aiohttp.ClientSession
    address: str
    pepper: Pepper
    state: Path
    around: Surroundings

    async def ask(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        session: str = "",
        support: str = "",
        routed: str | None = None,
        country: str = "DE",
        raw: bytes | None = None,
    ) -> tuple[int, Any, dict[str, str]]:
        headers = {"Domicile-Observed-Country": country} if routed is None else {}
        if routed is not None:
            key = str(self.pepper.subject_key(routed))
            headers |= {"Domicile-Subject-Key": key, "Domicile-Cell": "eu-1", "Domicile-Epoch": "1"}
        if session:
            headers["Authorization"] = f"Bearer {session}"
        if support:
            headers["Authorization"] = f"Support {support}"
        content: dict[str, Any] = {"data": io.BytesIO(raw)} if raw is not None else {"json": body}
        async with self.http.request(
            method, f"https://{self.address}{path}", headers=headers, allow_redirects=False, **content
        ) as response:
            answer = await response.json(content_type=None) if response.status != 307 else None
            return response.status, answer, dict(response.headers)

    def live(self, routed: str, session: str) -> AbstractAsyncContextManager[aiohttp.ClientWebSocketResponse]:
        key = str(self.pepper.subject_key(routed))
        headers = {"Domicile-Subject-Key": key, "Domicile-Cell": "eu-1", "Domicile-Epoch": "1"}
        headers["Authorization"] = f"Bearer {session}"
        return self.http.ws_connect(f"https://{self.address}/notes/live", headers=headers)

    async def sign_up(self, user: str, **changes: Any) -> tuple[int, Any, dict[str, str]]:
        body = {"user": user, "email": f"{user}@example.eu", "password": "correct horse", "plan": "pro"}
        return await self.ask("POST", "/signup", {**body, **changes})


@pytest.fixture
async def client(around: Surroundings, trust: Trust, pepper: Pepper, tmp_path: Path) -> AsyncIterator[Client]:
    settings = around.settings(SampleSettings, state=tmp_path)
    assert isinstance(settings, SampleSettings)
    connector = aiohttp.TCPConnector(ssl=trust.credentials("eu", Role.ROUTER, "fra").client("eu", [Role.APP]))
    async with serve(settings), aiohttp.ClientSession(connector=connector) as http:
        yield Client(http, settings.bind, pepper, tmp_path, around)


async def test_a_user_signs_up_and_lives_here(client: Client, somebody: Somebody) -> None:
    user, _ = somebody()
    status, body, _ = await client.sign_up(user, born="1912-06-23")
    assert (status, body["jurisdiction"], body["cell"]) == (201, "eu", "eu-1")
    session = body["session"]
    status, body, _ = await client.ask("GET", "/profile", session=session, routed=user)
    assert (status, body) == (
        200,
        {"user": user, "email": f"{user}@example.eu", "born": "1912-06-23", "plan": "pro", "jurisdiction": "eu"},
    )
    status, body, _ = await client.ask("PUT", "/profile", {"plan": "free"}, session=session, routed=user)
    assert (status, body["plan"]) == (200, "free")
    status, note, _ = await client.ask("POST", "/notes", {"text": "Grüße"}, session=session, routed=user)
    assert status == 201
    status, notes, _ = await client.ask("GET", "/notes", session=session, routed=user)
    assert (status, notes) == (200, [{"id": note["id"], "text": "Grüße", "topic": "general"}])


async def test_log_in_by_e_mail_alone(client: Client, somebody: Somebody) -> None:
    user, _ = somebody()
    email = f"{user}@example.eu"
    await client.sign_up(user)
    status, body, _ = await client.ask("POST", "/login", {"email": email.upper(), "password": "correct horse"})
    assert (status, body["jurisdiction"], body["cell"]) == (200, "eu", "eu-1")
    assert (await client.ask("GET", "/profile", session=body["session"], routed=user))[0] == 200
    wrong = await client.ask("POST", "/login", {"email": email, "password": "wrong"})
    unknown = await client.ask("POST", "/login", {"email": f"no.{email}", "password": "wrong"})
    assert wrong[:2] == unknown[:2]
    assert wrong[0] == 401
    assert wrong[2].keys() == unknown[2].keys()


async def test_a_taken_user_and_a_taken_address_look_alike_and_change_nothing(
    client: Client, somebody: Somebody, eu_root: asyncpg.Connection
) -> None:
    (user, key), (other, _) = somebody(), somebody()
    await client.sign_up(user)
    taken_user = await client.sign_up(user, email=f"thief-{user}@example.eu", password="mine")
    taken_address = await client.sign_up(other, email=f"{user}@example.eu")
    assert taken_user[:2] == taken_address[:2]
    assert taken_user[0] == 409
    status, _, _ = await client.ask("POST", "/login", {"email": f"{user}@example.eu", "password": "correct horse"})
    assert status == 200
    assert list(client.around.directory.aliases.values()).count(key) == 1


async def test_a_traveller_is_sent_home(client: Client, somebody: Somebody) -> None:
    user, key = somebody()
    status, _, headers = await client.sign_up(user, residence="US")
    assert (status, headers["Location"]) == (307, "https://us.example/signup")
    client.around.directory.aliases["email", str(client.pepper.alias_key("email", f"{user}@example.us"))] = key
    status, _, headers = await client.ask("POST", "/login", {"email": f"{user}@example.us", "password": "x"})
    assert (status, headers["Location"]) == (307, "https://us.example/login")
    status, body, _ = await client.sign_up(somebody()[0], residence="JP")
    assert (status, body["code"]) == (422, "invalid-input")


async def test_a_wrong_label_is_refused(client: Client, somebody: Somebody) -> None:
    user, _ = somebody()
    session = (await client.sign_up(user))[1]["session"]
    change = {"plan": "free", "jurisdiction": "us"}
    status, body, _ = await client.ask("PUT", "/profile", change, session=session, routed=user)
    assert (status, body["code"]) == (403, "wrong-jurisdiction")
    assert (await client.ask("GET", "/profile", session=session, routed=user))[1]["plan"] == "pro"


async def test_sessions_are_checked_again_in_the_cell(client: Client, somebody: Somebody) -> None:
    (user, _), (other, _) = somebody(), somebody()
    session = (await client.sign_up(user))[1]["session"]
    await client.sign_up(other)
    identity = client.around.manifest.identity
    assert identity is not None
    own = Signer.load_or_create(client.state / "session.key")
    foreign = Sessions(Signer.load_or_create(client.state / "another.key"), identity).issue(user)
    over = Sessions(own, identity, clock=lambda: 1_000_000.0 + SESSION_SECONDS).issue(user)
    elsewhere = Sessions(own, identity.model_copy(update={"audience": "other"})).issue(user)
    for forged in ("", "x", foreign, over, elsewhere, session[:-4] + "AAAA", session.rpartition(".")[0] + "."):
        status, body, _ = await client.ask("GET", "/profile", session=forged, routed=user)
        assert status == 401, forged
        assert body["code"] in ("unauthenticated", "token-invalid")
    status, body, _ = await client.ask("GET", "/profile", session=session, routed=other)
    assert (status, body["code"]) == (400, "identities-disagree")


async def test_support_sees_what_is_shareable_and_changes_what_is_at_home(
    client: Client, somebody: Somebody, us_root: asyncpg.Connection
) -> None:
    (user, _), (american, key), (stranger, _) = somebody(), somebody(), somebody()
    await client.sign_up(user)
    client.around.directory.pin(key, "us-1")
    desk = (client.state / "support.key").read_text()

    async def ask(path: str, **body: str) -> tuple[int, Any]:
        return (await client.ask("POST", f"/support/{path}", body, support=desk))[:2]

    status, body = await ask("profile", user=user)
    assert (status, body["plan"]) == (200, "pro")
    assert body["email"] == {"withheld": "user.contact.email", "jurisdiction": "eu"}
    status, body = await ask("plan", user=user, plan="free")
    assert (status, body["plan"]) == (200, "free")
    status, body = await ask("plan", user=american, plan="free")
    assert (status, body["code"], body["jurisdiction"]) == (451, "cross-border-access", "us")
    for status, body in (await ask("profile", user=stranger), await ask("plan", user=stranger, plan="x")):
        assert (status, body["code"]) == (404, "unknown-subject")


async def test_nobody_but_the_support_desk_is_served_at_its_paths(client: Client, somebody: Somebody) -> None:
    user, _ = somebody()
    session = (await client.sign_up(user))[1]["session"]
    for proof in ({}, {"session": session}, {"support": "x"}, {"support": "\u00ff" * 64}):
        for path, body in (("profile", {"user": user}), ("plan", {"user": user, "plan": "hacked"})):
            status, answer, _ = await client.ask("POST", f"/support/{path}", body, **proof)
            assert (status, answer["code"]) == (401, "unauthenticated")
    assert (await client.ask("GET", "/profile", session=session, routed=user))[1]["plan"] == "pro"


async def test_what_postgresql_cannot_store_ties_no_address_to_a_user(client: Client, somebody: Somebody) -> None:
    (user, _), (other, _) = somebody(), somebody()
    email = f"{user}@example.eu"
    assert (await client.sign_up(user, plan="p\0ro"))[0] == 422
    assert (await client.sign_up(other, email=email))[0] == 201


async def test_about_says_where_one_is(client: Client) -> None:
    assert (await client.ask("GET", "/about"))[1] == {"cell": "eu-1", "jurisdiction": "eu"}


async def test_bodies_are_limited_and_their_faults_are_told_without_them(client: Client, somebody: Somebody) -> None:
    status, body, headers = await client.ask("POST", "/signup", raw=b" " * (1 << 20) + b"{}")
    assert (status, body["code"]) == (413, "too-large")
    assert headers["Content-Type"].startswith("application/problem+json")
    canary = f"canary-{uuid4()}"
    for raw in (b"{", b"[]", f'{{"user": "{canary}", "age": "{canary}"}}'.encode(), b"\xff\xfe"):
        status, body, _ = await client.ask("POST", "/signup", raw=raw)
        assert (status, body["code"]) == (422, "invalid-input")
        assert canary not in str(body)
    for email in ("nobody", "a b@c.d", "@example.eu"):
        status, body, _ = await client.sign_up(somebody()[0], email=email)
        assert status == 422
        assert email not in str(body)


async def test_an_unknown_path_is_a_problem_too(client: Client) -> None:
    status, body, headers = await client.ask("GET", "/support/none")
    assert (status, body["code"]) == (404, "http-404")
    assert headers["Content-Type"].startswith("application/problem+json")


async def test_operators_are_told_how_it_does(client: Client, trust: Trust) -> None:
    context = trust.credentials(GLOBAL, Role.OPERATOR, "root").client("eu", [Role.APP])
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)) as http:
        for path in ("/healthz", "/readyz", "/metrics"):
            async with http.get(f"https://{client.address}{path}") as response:
                assert response.status == 200
        async with http.get(f"https://{client.address}/about") as response:
            assert response.status == 403


async def test_notes_are_written_through_a_websocket(client: Client, somebody: Somebody) -> None:
    user, _ = somebody()
    session = (await client.sign_up(user))[1]["session"]
    async with client.live(user, session) as socket:
        await socket.send_json({"text": "one", "topic": "live"})
        told = await socket.receive_json()
        await socket.send_json({"text": ""})
        refused = await socket.receive_json()
        await socket.send_json({"text": "two"})
        assert (await socket.receive_json()).keys() == {"id", "topic"}
    assert (refused["status"], refused["code"]) == (422, "invalid-input")
    notes = (await client.ask("GET", "/notes", session=session, routed=user))[1]
    assert {note["text"] for note in notes} == {"one", "two"}
    assert {"id": told["id"], "text": "one", "topic": "live"} in notes


async def test_a_websocket_opens_to_the_one_whose_session_it_is(client: Client, somebody: Somebody) -> None:
    (user, _), (other, _) = somebody(), somebody()
    session = (await client.sign_up(user))[1]["session"]
    await client.sign_up(other)
    for routed, sent, status in ((user, "x", 401), (other, session, 400)):
        with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
            async with client.live(routed, sent):
                pass
        assert caught.value.status == status


async def test_an_open_websocket_writes_nothing_past_a_closed_fence(
    client: Client, somebody: Somebody, eu_root: asyncpg.Connection
) -> None:
    user, key = somebody()
    session = (await client.sign_up(user))[1]["session"]
    async with client.live(user, session) as socket:
        await socket.send_json({"text": "before"})
        assert "id" in await socket.receive_json()
        await eu_root.execute("UPDATE domicile.fences SET state = 'closed' WHERE subject_key = $1", bytes(key))
        await socket.send_json({"text": "after"})
        assert (await socket.receive_json())["status"] in (421, 503)
        assert (await socket.receive()).type is aiohttp.WSMsgType.CLOSE
    count = await eu_root.fetchval("SELECT count(*) FROM notes WHERE subject_key = $1", bytes(key))
    assert count == 1
