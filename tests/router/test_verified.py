"""What was verified before is told again exactly as a verification would, for as long as it would."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from domicile_testing import Trust
from domicile_testing.conditions import until
from domicile_testing.routing import AUDIENCE, ISSUER, World, pin
from hypothesis import given, settings
from hypothesis import strategies as st

from domicile.client import DirectoryClient
from domicile.identity import Keyring, Signer
from domicile.model import DomicileError, Pepper, Peppers, Role, SubjectKey, TokenInvalid
from domicile.model.manifest import ApplicationIdentity
from domicile.model.wire import SigningKey
from domicile.router.jwks import ApplicationKey, KeySet
from domicile.router.keys import REREAD_SECONDS, ResidencyKeys
from domicile.router.sessions import Sessions
from domicile.router.verified import Verified

PEPPERS = Peppers(Pepper(1, b"p" * 32), (Pepper(2, b"q" * 32),))
IDENTITY = ApplicationIdentity(jwks="x", issuer=ISSUER, audience=AUDIENCE)
SIGNERS = [Signer(Ed25519PrivateKey.generate()) for _ in range(3)]
FIRST: KeySet = {"a": ApplicationKey("EdDSA", SIGNERS[0].key.public_key()), "b": ApplicationKey("EdDSA", SIGNERS[1].key.public_key())}  # fmt: skip # noqa: E501
SETS: list[KeySet] = [FIRST, dict(FIRST), {"a": FIRST["a"]}, {"a": FIRST["b"]}, {}]


class Keys:
    def __init__(self) -> None:
        self.keys: KeySet = FIRST

    def at_once(self) -> KeySet:
        return self.keys

    async def current(self) -> KeySet:
        return self.keys

    async def renewed(self, kid: str) -> KeySet:
        return self.keys


class Clock:
    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def token(signer: int, kid: str, subject: str, starts: float, expires: Any) -> str:
    claims = {"sub": subject, "iss": ISSUER, "aud": AUDIENCE, "nbf": starts, "exp": expires}
    return jwt.encode(claims, SIGNERS[signer].key, "EdDSA", headers={"kid": kid})


TOKENS = [
    token(signer, kid, subject, starts, expires)
    for signer, kid in ((0, "a"), (1, "b"), (1, "a"), (2, "c"))
    for subject, starts, expires in (("alice", 0, 1100), ("bob", 1050, 1e9), ("carol", 0, float("nan")))
]
TOKENS += [TOKENS[0][:-4] + "AAAA", TOKENS[0] + "=", "x", ""]


async def outcome(sessions: Sessions, text: str) -> tuple[SubjectKey, ...] | str:
    try:
        return (await sessions.session(text)).keys
    except DomicileError as error:
        return str(error)


TIMES = [900.0, 1000, 1069, 1071, 1129, 1131]


STEPS = st.lists(st.tuples(st.sampled_from(TOKENS), st.sampled_from(SETS), st.sampled_from(TIMES)), max_size=20)


@settings(max_examples=150, deadline=None)
@given(STEPS)
async def test_a_session_is_told_as_one_that_is_verified_each_time(steps: list[tuple[str, KeySet, float]]) -> None:
    keys, clock = Keys(), Clock()
    remembering = Sessions(keys, IDENTITY, PEPPERS, clock=clock)
    for text, key_set, now in steps:
        keys.keys, clock.now = key_set, now
        anew = Sessions(keys, IDENTITY, PEPPERS, clock=clock)
        assert await outcome(remembering, text) == await outcome(anew, text)


async def test_a_session_is_verified_once_until_the_keys_are_others() -> None:
    verified = 0

    class Counted(Sessions):
        async def _verify(self, token: str, keys: KeySet) -> Any:
            nonlocal verified
            verified += 1
            return await super()._verify(token, keys)

    keys = Keys()
    sessions = Counted(keys, IDENTITY, PEPPERS, clock=Clock())
    for _ in range(3):
        await sessions.session(TOKENS[0])
    assert verified == 1
    keys.keys = {"b": FIRST["b"]}
    with pytest.raises(TokenInvalid):
        await sessions.session(TOKENS[0])
    keys.keys = FIRST
    await sessions.session(TOKENS[0])
    assert verified == 3


def own(folder: Path) -> Keyring:
    return Keyring(folder / "token.key", "residency")


@pytest.fixture
async def residency(tmp_path: Path) -> AsyncIterator[tuple[ResidencyKeys, Clock]]:
    clock = Clock(time.time())
    credentials = Trust.create(tmp_path).credentials("eu", Role.ROUTER, "fra")
    directory = DirectoryClient(credentials, ["127.0.0.1:1"])  # never asked: the clock of its reads stands still
    keys = ResidencyKeys(directory, own(tmp_path), "acme", tmp_path / "keys.json", clock=lambda: 0.0, wall=clock)
    keys._next_fetch = keys._reread_at = 1.0
    yield keys, clock
    await directory.close()


async def test_a_residency_token_is_forgotten_with_its_key_and_its_time(residency: tuple[ResidencyKeys, Clock]) -> None:
    keys, clock = residency
    other = SIGNERS[1].public("residency")
    text = SIGNERS[1].residency_token(pin("alice", "eu-1"), "acme", clock=clock)
    with pytest.raises(TokenInvalid):
        await keys.verify(text)
    keys._take([other])
    first = await keys.verify(text)
    assert await keys.verify(text) == first
    keys._take([SigningKey.model_validate(other.model_dump())])
    assert await keys.verify(text) is first, "the same keys"
    keys._take([])
    with pytest.raises(TokenInvalid):
        await keys.verify(text)
    keys._take([other])
    assert await keys.verify(text) == first
    clock.now = first.exp + 31
    with pytest.raises(TokenInvalid, match="outside its time"):
        await keys.verify(text)


async def test_a_routers_key_that_is_withdrawn_is_forgotten_within_its_bound(world: World, tmp_path: Path) -> None:
    clock = Clock(0.0)
    credentials = world.trust.credentials("eu", Role.ROUTER, "fra")
    directory = DirectoryClient(credentials, [world.manifest.directory.sites[0].address])
    keys = ResidencyKeys(directory, own(tmp_path), "acme", tmp_path / "keys.json", clock=clock)
    other = SIGNERS[1].public("residency")
    world.directory.keys[other.kid] = other
    text = SIGNERS[1].residency_token(pin("alice", "eu-1"), "acme")
    first = await keys.verify(text)
    del world.directory.keys[other.kid]
    clock.now = REREAD_SECONDS - 1
    assert await keys.verify(text) == first
    reads = world.directory.key_reads
    clock.now = REREAD_SECONDS + 1
    assert await keys.verify(text) == first, "the reading goes on beside"
    await until(lambda: world.directory.key_reads > reads and keys._flight is None)
    with pytest.raises(TokenInvalid):
        await keys.verify(text)
    await keys.close()
    await directory.close()


def test_it_is_bounded_and_holds_no_token() -> None:
    held: Verified[int] = Verified(limit=100)
    keys = object()
    texts = [f"token-{number}" for number in range(1000)]
    for number, text in enumerate(texts):
        digest = held.digest(text)
        assert held.get(digest, keys) is None
        held.put(digest, keys, number)
    assert len(held) == 100
    assert held.get(held.digest("token-999"), keys) == 999
    assert held.get(held.digest("token-0"), keys) is None
    assert "token" not in repr((held._held, held._keys))
    assert held.digest("x") != Verified().digest("x"), "keyed by a secret of its own"


def test_what_was_verified_by_replaced_keys_is_not_put() -> None:
    held: Verified[int] = Verified()
    old, new = object(), object()
    digest = held.digest("t")
    held.get(digest, old)
    held.get(digest, new)
    held.put(digest, old, 1)
    assert held.get(digest, new) is None
