"""For how long a key of the application is believed: rotated, withdrawn, with its provider gone, over a restart."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from domicile_testing.databases import free_port
from domicile_testing.routing import APPLICATION_KID, jwk_of, pin, routing_world
from hypothesis import given, settings
from hypothesis import strategies as st
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from domicile.identity import Authority, Signer
from domicile.model import InvalidInput, Unavailable
from domicile.model.manifest import ApplicationIdentity
from domicile.router.application_keys import EARLY_SECONDS, KeyAddress, KeyFile, fetch_over_https
from domicile.router.jwks import MAX_JWKS_BYTES, read_jwks

ADDRESS = "https://id.acme.example/jwks"
IDENTITY = ApplicationIdentity(jwks=ADDRESS, issuer="i", audience="a", refresh_seconds=60, outage_seconds=600)


def signer() -> Signer:
    return Signer(Ed25519PrivateKey.generate())


def key_set(*kids: str) -> bytes:
    return json.dumps({"keys": [jwk_of(signer(), kid) for kid in kids]}).encode()


class Provider:
    """An identity provider, the clock by which it is asked, and the router's side of it."""

    def __init__(self, folder: Path) -> None:
        self.now = 1000.0
        self.answer: bytes | None = key_set("a")
        self.asked = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self._cache = folder / "keys.json"
        self._began = self.now

    async def fetch(self, _: str) -> bytes:
        self.asked += 1
        await self.gate.wait()
        if self.answer is None:
            raise Unavailable("gone")
        return self.answer

    def keys(self, identity: ApplicationIdentity = IDENTITY) -> KeyAddress:
        return KeyAddress(identity, self._cache, self.fetch, clock=lambda: self.now, wall=lambda: self.now)

    async def kids(self, keys: KeyAddress) -> list[str]:
        """Who is believed now, and then whatever goes on beside requests comes to its end."""
        found = sorted(await keys.current())
        if keys._flight is not None:
            await asyncio.wait([keys._flight])
        return found


@pytest.fixture
async def provider(tmp_path: Path) -> Provider:
    return Provider(tmp_path)


async def test_a_withdrawn_key_is_not_believed_longer_than_its_bound(provider: Provider) -> None:
    keys = provider.keys()
    provider.answer = key_set("a", "b")
    assert await provider.kids(keys) == ["a", "b"]
    provider.answer = key_set("b")
    provider.now += 59
    believed = await keys.current()
    assert sorted(believed) == ["a", "b"], "within the bound"
    provider.gate.clear()
    provider.now += 1
    waiting = asyncio.ensure_future(keys.current())
    await asyncio.wait([waiting], timeout=0.05)
    assert not waiting.done(), "nobody is believed by the old set any more"
    provider.gate.set()
    assert sorted(await waiting) == ["b"]
    await keys.close()


async def test_a_busy_router_reads_beside_its_requests(provider: Provider) -> None:
    keys = provider.keys()
    await provider.kids(keys)
    provider.answer = key_set("b")
    provider.now += 30
    provider.gate.clear()
    assert sorted(await asyncio.wait_for(keys.current(), 1)) == ["a"], "it does not wait"
    provider.gate.set()
    await provider.kids(keys)
    assert await provider.kids(keys) == ["b"]
    assert provider.asked == 2


async def test_the_same_set_stays_the_same_object(provider: Provider) -> None:
    keys = provider.keys()
    await provider.kids(keys)
    before = await keys.current()
    provider.now += 60
    assert await keys.current() is before
    assert provider.asked == 2


async def test_while_the_provider_is_gone_the_last_set_counts_up_to_its_bound(provider: Provider) -> None:
    keys = provider.keys()
    await provider.kids(keys)
    provider.answer = None
    for _ in range(59):
        provider.now += 10
        assert await provider.kids(keys) == ["a"]
    provider.now += 10
    with pytest.raises(Unavailable):
        await keys.current()
    provider.answer = key_set("b")
    provider.now += EARLY_SECONDS
    with pytest.raises(Unavailable):
        await provider.kids(keys)
    await asyncio.wait([keys._flight] if keys._flight else [asyncio.ensure_future(asyncio.sleep(0))])
    assert await provider.kids(keys) == ["b"]


async def test_an_outage_makes_nobody_wait(provider: Provider) -> None:
    keys = provider.keys()
    await provider.kids(keys)
    provider.answer = None
    provider.now += 60
    assert await provider.kids(keys) == ["a"]
    provider.gate.clear()
    provider.now += EARLY_SECONDS
    assert sorted(await asyncio.wait_for(keys.current(), 1)) == ["a"]
    await keys.close()


async def test_made_up_keys_cost_one_read_in_a_while(provider: Provider) -> None:
    keys = provider.keys()
    await provider.kids(keys)
    provider.now += EARLY_SECONDS
    for number in range(100):
        assert f"x{number}" not in await keys.renewed(f"x{number}")
    assert provider.asked == 2
    provider.answer = key_set("new")
    provider.now += EARLY_SECONDS
    assert "new" in await keys.renewed("new")
    assert provider.asked == 3


@pytest.mark.parametrize(
    "answer", [b"", b"[]", b"{}", b'{"keys": 3}', b"\xff", b'{"keys": [' + b" " * MAX_JWKS_BYTES + b"]}"]
)
async def test_what_is_no_key_set_changes_nothing(provider: Provider, answer: bytes) -> None:
    keys = provider.keys()
    await provider.kids(keys)
    provider.answer = answer
    provider.now += 60
    assert await provider.kids(keys) == ["a"]


async def test_a_provider_that_names_no_key_is_taken_at_its_word(provider: Provider) -> None:
    keys = provider.keys()
    await provider.kids(keys)
    provider.answer = b'{"keys": []}'
    provider.now += 60
    assert await provider.kids(keys) == []


async def test_a_restart_goes_on_with_what_is_kept_as_old_as_it_is(provider: Provider) -> None:
    await provider.kids(provider.keys())
    provider.answer = None
    provider.now += 590
    again = provider.keys()
    assert await provider.kids(again) == ["a"]
    provider.now += 10
    with pytest.raises(Unavailable):
        await again.current()
    provider.now -= 700
    from_the_future = provider.keys()
    with pytest.raises(Unavailable):
        await provider.kids(from_the_future)


async def test_what_is_kept_belongs_to_one_address(provider: Provider) -> None:
    await provider.kids(provider.keys())
    provider.answer = None
    other = provider.keys(IDENTITY.model_copy(update={"jwks": "https://other.example/jwks"}))
    with pytest.raises(Unavailable):
        await provider.kids(other)


@pytest.mark.parametrize("kept", [b"", b"{}", b"[]", b'{"address": "%s", "read": "x", "set": 3}' % ADDRESS.encode()])
async def test_a_broken_cache_is_none(provider: Provider, tmp_path: Path, kept: bytes) -> None:
    (tmp_path / "keys.json").write_bytes(kept)
    assert await provider.kids(provider.keys()) == ["a"]


class FileClock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


async def test_a_file_is_looked_at_every_second_and_believed_for_a_bound_without_it(tmp_path: Path) -> None:
    path, clock = tmp_path / "jwks.json", FileClock()
    path.write_bytes(key_set("a", "b"))
    keys = KeyFile(path, 600, clock=clock)
    before = await keys.current()
    path.write_bytes(key_set("b"))
    assert await keys.current() is before
    clock.now += 1
    assert sorted(await keys.current()) == ["b"]
    path.write_bytes(b"nonsense")
    clock.now += 1
    assert sorted(await keys.renewed("c")) == ["b"]
    path.unlink()
    clock.now += 590
    assert sorted(await keys.current()) == ["b"]
    clock.now += 10
    with pytest.raises(Unavailable):
        await keys.current()
    path.write_bytes(key_set("c"))
    clock.now += 1
    assert sorted(await keys.current()) == ["c"]


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"identity\.jwks"):
        KeyFile(tmp_path / "none", 600)


CURVES = {"ES256": ec.SECP256R1(), "ES384": ec.SECP384R1(), "ES512": ec.SECP521R1()}
RSA_KEY = rsa.generate_private_key(65537, 2048)


def rsa_jwk(**more: Any) -> dict[str, Any]:
    return json.loads(RSAAlgorithm.to_jwk(RSA_KEY.public_key())) | {"kid": "k"} | more  # type: ignore[no-any-return]


def ec_jwk(curve: ec.EllipticCurve, **more: Any) -> dict[str, Any]:
    public = ec.generate_private_key(curve).public_key()
    return json.loads(ECAlgorithm.to_jwk(public)) | {"kid": "k"} | more  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("jwk", "algorithm"),
    [
        (jwk_of(signer(), "k"), "EdDSA"),
        (jwk_of(signer(), "k") | {"alg": "none"}, None),
        (jwk_of(signer(), "k") | {"alg": "HS256"}, None),
        (jwk_of(signer(), "k") | {"d": "secret"}, None),
        (jwk_of(signer(), "k") | {"use": "enc"}, None),
        (jwk_of(signer(), "k") | {"key_ops": ["sign"]}, None),
        (jwk_of(signer(), "k") | {"key_ops": 3}, None),
        (jwk_of(signer(), "k") | {"alg": ["EdDSA"]}, None),
        (jwk_of(signer(), "k") | {"kty": ["OKP"]}, None),
        *((ec_jwk(curve), algorithm) for algorithm, curve in CURVES.items()),
        (ec_jwk(ec.SECP256R1(), alg="ES384"), None),
        (ec_jwk(ec.SECP256K1()), None),
        (rsa_jwk(), "RS256"),
        (rsa_jwk(alg="PS512"), "PS512"),
        (rsa_jwk(alg="HS256"), None),
        ({"kty": "oct", "kid": "k", "k": "c2VjcmV0", "alg": "HS256"}, None),
    ],
)  # fmt: skip
def test_each_key_is_for_one_algorithm(jwk: dict[str, Any], algorithm: str | None) -> None:
    found = read_jwks(json.dumps({"keys": [jwk]}).encode(), where="x")
    assert [key.algorithm for key in found.values()] == ([] if algorithm is None else [algorithm])


def test_a_name_that_two_keys_share_names_neither() -> None:
    entries = [jwk_of(signer(), kid) for kid in ("a", "twice", "twice", "twice")]
    assert list(read_jwks(json.dumps({"keys": entries}).encode(), where="x")) == ["a"]


JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=8), lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["kty", "kid", "crv", "x", "alg", "use", "key_ops", "n", "e"]), inner, max_size=9))  # fmt: skip # noqa: E501


@settings(max_examples=300, deadline=None)
@given(JSON)
def test_no_junk_breaks_the_reading(junk: object) -> None:
    for raw in (junk, {"keys": junk}, {"keys": [junk]}):
        try:
            found = read_jwks(json.dumps(raw).encode(), where="x")
        except InvalidInput:
            continue
        assert all(key.algorithm != "none" for key in found.values())


Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def served(authority: Authority, answer: Answer, folder: Path) -> AsyncIterator[str]:
    """An identity provider over real TLS."""
    certificate, key = authority.issue_public(["127.0.0.1"])
    (folder / "idp.pem").write_bytes(certificate + key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "idp.pem")
    app = web.Application()
    app.router.add_get("/jwks", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    port = free_port("127.0.0.1")
    await web.TCPSite(runner, "127.0.0.1", port, ssl_context=context).start()
    try:
        yield f"https://127.0.0.1:{port}/jwks"
    finally:
        await runner.cleanup()


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    made = Authority.create("idp", "idp")
    (tmp_path / "idp-authority.pem").write_bytes(made.pem())
    return made


async def test_a_fetch_is_bounded_and_follows_nothing(authority: Authority, tmp_path: Path) -> None:
    context = ssl.create_default_context(cafile=tmp_path / "idp-authority.pem")
    answers: list[web.Response] = [
        web.Response(status=302, headers={"Location": "/jwks"}),
        web.Response(status=500),
        web.Response(body=b"x" * (MAX_JWKS_BYTES + 1)),
        web.Response(body=b"fine"),
    ]
    asked = 0

    async def answer(_: web.Request) -> web.StreamResponse:
        nonlocal asked
        asked += 1
        return answers[asked - 1]

    async with served(authority, answer, tmp_path) as address:
        for _ in range(3):
            with pytest.raises(Unavailable):
                await fetch_over_https(address, context)
        assert await fetch_over_https(address, context) == b"fine"
        assert asked == 4
        with pytest.raises(Unavailable):
            await fetch_over_https(address, ssl.create_default_context())
    with pytest.raises(Unavailable):
        await fetch_over_https(address, context)


async def test_a_router_reads_its_keys_from_an_address_and_boots_without_it(
    authority: Authority, tmp_path: Path
) -> None:
    world_keys: list[dict[str, str]] = []

    async def answer(_: web.Request) -> web.StreamResponse:
        return web.json_response({"keys": world_keys}) if world_keys else web.Response(status=503)

    async with served(authority, answer, tmp_path) as address:

        def change(data: dict[str, Any]) -> None:
            data["identity"]["jwks"] = address

        async with routing_world(tmp_path, change=change) as world:
            world_keys.append(jwk_of(world.sessions))
            world.directory.place(pin("alice", "eu-1"))
            more: dict[str, Any] = {"identity_authorities": tmp_path / "idp-authority.pem"}
            async with world.router(**more) as client, client.get("/notes", headers=world.bearer("alice")) as response:
                assert response.status == 200
            world_keys.clear()
            async with world.router(**more) as client, client.get("/notes", headers=world.bearer("alice")) as response:
                assert response.status == 200, "kept, and not old yet"
            kept = json.loads((world.settings("fra").state / "application-keys.json").read_text())
            assert json.loads(kept["set"])["keys"][0]["kid"] == APPLICATION_KID
