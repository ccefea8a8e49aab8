"""The router's figures: what a known subject costs before a byte moves (its look-up is with the directory), and the
whole of it beside other proxies."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib.resources import files
from typing import Final

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from domicile.identity import Signer
from domicile.model import Identity, Manifest, Pepper, Peppers, Pin, Role, SubjectKey, parse_manifest, read_yaml
from domicile.model.manifest import ApplicationIdentity
from domicile.ops.ports import choose_ports
from domicile.router.atlas import Atlas
from domicile.router.decide import Forward, Listener, Question, decide
from domicile.router.jwks import ApplicationKey, KeySet
from domicile.router.sessions import Sessions
from loadtests import beside
from loadtests.cases import Case, Missing, Race, each

SUBJECTS: Final = 1_000


def _manifest() -> Manifest:
    text = files("domicile.ops").joinpath("default_world.yaml").read_text()
    return parse_manifest(choose_ports(read_yaml(text), set()))


def cases() -> Iterator[Case | Race | Missing]:
    manifest = _manifest()
    vantage = Identity("acme", "eu", Role.ROUTER, "fra")
    chance = random.Random(7)
    keys = [SubjectKey(b"\1" + chance.randbytes(16)) for _ in range(SUBJECTS)]
    pins = [Pin(subject_key=key, jurisdiction="eu", cell="eu-1", epoch=1) for key in keys]
    atlas = Atlas(manifest, vantage)
    questions = [Question("/profile", "GET", True, Listener.PUBLIC, pin) for pin in pins]
    assert isinstance(decide(questions[0], atlas), Forward)
    yield Case(
        "routing decision, known subject, in process",
        "us",
        lambda: each(lambda n: decide(questions[n % SUBJECTS], atlas), clock=time.process_time),
        at_most=10.0,
    )
    yield from _identities()
    yield from beside.cases()


class _Keys:
    """A key set that never changes."""

    def __init__(self, keys: KeySet) -> None:
        self._keys = keys

    def at_once(self) -> KeySet:
        return self._keys

    async def current(self) -> KeySet:
        return self._keys

    async def renewed(self, kid: str) -> KeySet:
        return self._keys


def _identities() -> Iterator[Case]:
    """A session's subject: verified before, against verified each time."""
    signer = Signer(Ed25519PrivateKey.generate())
    claims = {"iss": "acme", "aud": "acme", "exp": 4_000_000_000}
    tokens = [jwt.encode({**claims, "sub": f"user-{n}"}, signer.key, "EdDSA", headers={"kid": "k"}) for n in range(100)]
    keys = _Keys({"k": ApplicationKey("EdDSA", signer.key.public_key())})
    identity = ApplicationIdentity(jwks="unused", issuer="acme", audience="acme")

    def reading(make: Callable[[], Sessions]) -> float:
        def call(number: int) -> None:
            with suppress(StopIteration):  # nothing in it waits
                make().session(tokens[number % len(tokens)]).send(None)

        return each(call, loops=2_000)

    kept = Sessions(keys, identity, Peppers(Pepper(1, b"p" * 32)))
    yield Case(
        "subject of a session that was verified before",
        "us",
        lambda: reading(lambda: kept),
        lambda: reading(lambda: Sessions(keys, identity, Peppers(Pepper(1, b"p" * 32)))),
        against="verified each time (Ed25519)",
        at_most=10.0,
    )
