"""Whom the router believes: a forged, foreign, expired or contradictory proof opens nothing."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from domicile_testing.routing import APPLICATION_KID, AUDIENCE, ISSUER, World, pin, subject

from domicile.identity import Signer
from domicile.model import TokenType

CLAIMS: dict[str, Any] = {"sub": "alice", "iss": ISSUER, "aud": AUDIENCE, "exp": 4_000_000_000}


def encoded(part: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode()


def unsigned(world: World) -> str:
    return f"{encoded({'alg': 'none', 'kid': APPLICATION_KID})}.{encoded(CLAIMS)}."


def confused(world: World) -> str:
    """HMAC with the public key as its secret: what a verifier that trusts ``alg`` accepts."""
    head = f"{encoded({'alg': 'HS256', 'kid': APPLICATION_KID})}.{encoded(CLAIMS)}"
    secret = world.sessions.key.public_key().public_bytes_raw()
    mac = hmac.new(secret, head.encode(), hashlib.sha256).digest()
    return f"{head}.{base64.urlsafe_b64encode(mac).rstrip(b'=').decode()}"


def by_another_key(world: World) -> str:
    return jwt.encode(CLAIMS, Ed25519PrivateKey.generate(), "EdDSA", headers={"kid": APPLICATION_KID})


def with_own_key(world: World) -> str:
    """Names a key set of its own, as ``jku`` and ``jwk`` would have it."""
    key = Ed25519PrivateKey.generate()
    headers = {"kid": "mine", "jku": "https://evil.example/jwks", "jwk": {"kty": "OKP"}}
    return jwt.encode(CLAIMS, key, "EdDSA", headers=headers)


def critical(world: World) -> str:
    return jwt.encode(
        CLAIMS, world.sessions.key, "EdDSA", headers={"kid": APPLICATION_KID, "crit": ["exp"], "exp": 1}
    )  # fmt: skip


BAD_SESSIONS: dict[str, Callable[[World], str]] = {
    "unsigned": unsigned,
    "key confusion": confused,
    "another key": by_another_key,
    "its own key": with_own_key,
    "critical extension": critical,
    "expired": lambda w: w.jwt("alice", exp=int(time.time()) - 60),
    "not yet": lambda w: w.jwt("alice", nbf=int(time.time()) + 600),
    "no expiry": lambda w: w.jwt("alice", exp=None),
    "another issuer": lambda w: w.jwt("alice", iss="https://evil.example"),
    "no issuer": lambda w: w.jwt("alice", iss=None),
    "another audience": lambda w: w.jwt("alice", aud="other"),
    "no audience": lambda w: w.jwt("alice", aud=None),
    "no subject": lambda w: w.jwt("alice", sub=None),
    "empty subject": lambda w: w.jwt(""),
    "long subject": lambda w: w.jwt("a" * 257),
    "garbage": lambda w: "not.a.jwt",
    "empty": lambda w: "",
    "long": lambda w: w.jwt("alice", more="x" * 9000),
}


@pytest.fixture(autouse=True)
def _placed(world: World) -> None:
    world.directory.place(pin("alice", "eu-1", 2), pin("bob", "eu-2", 2))


async def test_bad_sessions_are_401_on_every_path(world: World) -> None:
    async with world.router() as client:
        for name, make in BAD_SESSIONS.items():
            for path in ("/notes", "/login"):
                headers = {"Authorization": f"Bearer {make(world)}"}
                async with client.get(path, headers=headers) as response:
                    assert response.status == 401, name
                    assert (await response.json())["code"] == "token-invalid", name
    assert not world.seen


async def test_two_authorization_fields_are_400(world: World) -> None:
    headers = [("Authorization", world.bearer("alice")["Authorization"]), ("Authorization", "Bearer x")]
    async with world.router() as client, client.get("/notes", headers=headers) as response:
        assert response.status == 400


async def test_another_scheme_identifies_nobody(world: World) -> None:
    async with world.router() as client, client.get("/notes", headers={"Authorization": "Basic eDp5"}) as response:
        assert response.status == 401
        assert (await response.json())["code"] == "unauthenticated"


@pytest.mark.filterwarnings("ignore::jwt.warnings.InsecureKeyLengthWarning")
async def test_each_kind_of_key_signs_with_its_own_algorithm_only(world: World) -> None:
    curve, big, small = (
        ec.generate_private_key(ec.SECP256R1()),
        rsa.generate_private_key(65537, 2048),
        rsa.generate_private_key(65537, 1024),
    )
    entries = [
        json.loads(jwt.algorithms.ECAlgorithm.to_jwk(curve.public_key())) | {"kid": "ec"},
        json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(big.public_key())) | {"kid": "rsa"},
        json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(small.public_key())) | {"kid": "small"},
        json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(big.public_key())) | {"kid": "enc", "use": "enc"},
        {"kty": "oct", "kid": "oct", "k": base64.urlsafe_b64encode(b"k" * 32).decode()},
        {"kty": "EC", "kid": "broken", "crv": "P-256", "x": "!", "y": "!"},
        "nonsense",
    ]
    (world.folder / "app-jwks.json").write_text(json.dumps({"keys": entries}))
    cases: list[tuple[str, Any, str, int]] = [
        ("ec", curve, "ES256", 200), ("rsa", big, "RS256", 200), ("rsa", big, "RS512", 401),
        ("rsa", big, "PS256", 401), ("small", small, "RS256", 401), ("enc", big, "RS256", 401),
        ("oct", b"k" * 32, "HS256", 401), ("broken", curve, "ES256", 401),
    ]  # fmt: skip
    async with world.router() as client:
        for kid, key, algorithm, status in cases:
            token = jwt.encode(CLAIMS, key, algorithm, headers={"kid": kid})
            async with client.get("/notes", headers={"Authorization": f"Bearer {token}"}) as response:
                assert response.status == status, (kid, algorithm)


async def token_of(world: World, client: Any, name: str) -> str:
    async with client.get("/notes", headers=world.bearer(name)) as response:
        cookie: str = response.headers["Set-Cookie"]
    return cookie.partition(";")[0].partition("=")[2]


async def test_a_token_is_handed_out_once_and_only_to_an_authenticated_subject(world: World) -> None:
    async with world.router() as client:
        async with client.get("/notes", headers=world.bearer("alice")) as response:
            name, *attributes = response.headers["Set-Cookie"].split("; ")
        assert name.startswith("__Host-domicile=")
        assert {a.lower() for a in attributes} == {"secure", "httponly", "samesite=lax", "path=/", "max-age=900"}
        cookie = {"Cookie": name}
        async with client.get("/notes", headers=cookie | world.bearer("alice")) as response:
            assert "Set-Cookie" not in response.headers, "it has a current one"
        async with client.get("/notes", headers=cookie) as response:
            assert response.status == 200
            assert "Set-Cookie" not in response.headers, "a token begets no token"
        async with client.get("/about") as response:
            assert "Set-Cookie" not in response.headers
        world.directory.place(pin("alice", "eu-1", 3))


async def test_a_token_serves_as_cookie_and_as_header_and_never_reaches_the_application(world: World) -> None:
    async with world.router() as client:
        token = await token_of(world, client, "alice")
        for headers in ({"Cookie": f"__Host-domicile={token}; x=1"}, {"Domicile-Token": token}):
            async with client.get("/notes", headers=headers) as response:
                assert response.status == 200
    for seen in world.seen:
        assert seen.headers["Domicile-Subject-Key"] == str(subject("alice"))
        assert token not in str(seen.headers)


async def test_identities_that_disagree_are_400(world: World) -> None:
    async with world.router() as client:
        token = await token_of(world, client, "bob")
        other = await token_of(world, client, "alice")
        for headers in (
            world.bearer("alice") | {"Domicile-Token": token},
            {"Domicile-Token": token, "Cookie": f"__Host-domicile={other}"},
        ):
            async with client.get("/notes", headers=headers) as response:
                assert response.status == 400
                assert (await response.json())["code"] == "identities-disagree"


def forged(world: World) -> str:
    return Signer(Ed25519PrivateKey.generate()).residency_token(pin("alice", "eu-1", 2), "acme")


async def test_an_invalid_token_is_401_alone_and_harmless_beside_a_session_or_on_an_unpinned_path(
    world: World,
) -> None:
    headers = {"Domicile-Token": forged(world)}
    async with world.router() as client:
        async with client.get("/notes", headers=headers) as response:
            assert response.status == 401
            assert (await response.json())["code"] == "token-invalid"
        async with client.get("/notes", headers=headers | world.bearer("alice")) as response:
            assert response.status == 200
        async with client.post("/login", headers=headers) as response:
            assert response.status == 200
    assert "Domicile-Subject-Key" not in world.seen[-1].headers


async def test_a_statement_of_another_type_by_a_published_key_is_no_token(world: World) -> None:
    signer = Signer.load_or_create(world.folder / "other.key")
    world.directory.keys[signer.kid] = signer.public("residency")
    grant = signer.sign({"iss": "acme", "sub": str(subject("alice")), "exp": 4e9, "iat": 1}, TokenType.PIN_GRANT)
    expired = signer.residency_token(pin("alice", "eu-1", 2), "acme", clock=lambda: time.time() - 3600)
    foreign = signer.residency_token(pin("alice", "eu-1", 2), "other-deployment")
    async with world.router() as client:
        for token in (grant, expired, foreign, world.jwt("alice")):
            async with client.get("/notes", headers={"Domicile-Token": token}) as response:
                assert response.status == 401


async def test_made_up_key_names_cost_the_directory_at_most_one_read(world: World) -> None:
    async with world.router() as client:
        await client.get("/notes", headers=world.bearer("alice"))
        before = world.directory.key_reads
        for _ in range(10):
            await client.get("/notes", headers={"Domicile-Token": forged(world)})
    assert world.directory.key_reads - before <= 1


async def test_a_token_by_another_router_is_believed(world: World) -> None:
    async with world.router("iad"), world.router("fra") as client, world.client("iad") as abroad:
        token = await token_of(world, client, "alice")
        async with abroad.get("/notes", headers={"Domicile-Token": token}, allow_redirects=False) as response:
            assert response.status == 307


async def test_a_newer_token_makes_a_stale_replica_ask_again(world: World) -> None:
    signer = Signer.load_or_create(world.folder / "other.key")
    world.directory.keys[signer.kid] = signer.public("residency")
    async with world.router() as client:
        await client.get("/notes", headers=world.bearer("alice"))
        world.directory.place(pin("alice", "eu-2", 5))
        token = signer.residency_token(pin("alice", "eu-2", 5), "acme")
        async with client.get("/notes", headers={"Domicile-Token": token}) as response:
            assert response.status == 200
    assert [seen.place for seen in world.seen] == ["eu-1.fra/app", "eu-2.ams/app"]
