"""Signed statements: what passes, and every way of forging one that does not."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from domicile.identity import Signer, Verifier, key_id, public_key, sign_topology, verify_topology
from domicile.identity.tokens import LEEWAY_SECONDS, MAX_TOKEN_BYTES
from domicile.model import (
    PIN_GRANT_SECONDS,
    RESIDENCY_TOKEN_SECONDS,
    InvalidInput,
    Pin,
    SubjectKey,
    TokenInvalid,
    TokenType,
)
from domicile.model.wire import SigningKey, TopologyDocument

NOW = 1_800_000_000
INCARNATION = UUID(int=7)
PIN = Pin(subject_key=SubjectKey(b"\1" * 17), jurisdiction="eu", cell="eu-1", epoch=3)
ROUTER, DIRECTORY, STRANGER = (Signer(Ed25519PrivateKey.from_private_bytes(bytes([n]) * 32)) for n in (1, 2, 3))
PUBLISHED = [ROUTER.public("residency"), DIRECTORY.public("pin-grant")]
CLAIMS: dict[str, Any] = {
    "iss": "acme", "sub": str(PIN.subject_key), "jur": "eu", "cell": "eu-1", "epoch": 3, "iat": NOW, "exp": NOW + 60,
}  # fmt: skip
GRANT = CLAIMS | {"incarnation": str(INCARNATION)}


def clock() -> float:
    return NOW


def verifier(at: float = NOW) -> Verifier:
    return Verifier("acme", PUBLISHED, clock=lambda: at)


def b64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def raw_token(header: dict[str, Any], claims: object, sign: Callable[[bytes], bytes]) -> str:
    """A JWS put together by hand, so that no library keeps us from a bad one."""
    message = f"{b64(json.dumps(header).encode())}.{b64(json.dumps(claims).encode())}"
    return f"{message}.{b64(sign(message.encode()))}"


def good_header(**more: Any) -> dict[str, Any]:
    return {"alg": "EdDSA", "typ": "residency", "kid": ROUTER.kid} | more


def test_a_residency_token_says_what_the_pin_says() -> None:
    token = ROUTER.residency_token(PIN, "acme", clock=clock)
    statement = verifier().residency(token)
    assert (statement.sub, statement.jur, statement.cell, statement.epoch) == (PIN.subject_key, "eu", "eu-1", 3)
    assert statement.iat == NOW
    assert jwt.get_unverified_header(token) == {"alg": "EdDSA", "typ": "residency", "kid": ROUTER.kid}


def test_tokens_of_a_fleet_do_not_expire_at_once() -> None:
    lives = {verifier().residency(ROUTER.residency_token(PIN, "acme", clock=clock)).exp - NOW for _ in range(200)}
    assert len(lives) > 20
    assert min(lives) > 0.9 * RESIDENCY_TOKEN_SECONDS - 1
    assert max(lives) <= RESIDENCY_TOKEN_SECONDS


def test_a_grant_says_what_the_pin_says() -> None:
    grant = verifier().pin_grant(DIRECTORY.pin_grant(PIN, "acme", INCARNATION, clock=clock))
    assert (grant.sub, grant.jur, grant.cell, grant.epoch) == (PIN.subject_key, "eu", "eu-1", 3)
    assert (grant.incarnation, grant.iat, grant.exp) == (INCARNATION, NOW, NOW + PIN_GRANT_SECONDS)


def test_a_token_made_by_hand_is_accepted() -> None:
    """Otherwise the forgeries below could be refused for another reason."""
    assert verifier().residency(raw_token(good_header(), CLAIMS, ROUTER.key.sign)).epoch == 3
    assert verifier().pin_grant(
        raw_token(good_header(typ="pin-grant", kid=DIRECTORY.kid), GRANT, DIRECTORY.key.sign)
    ).incarnation == INCARNATION  # fmt: skip


PUBLIC_PEM = ROUTER.public_pem()
PUBLIC_RAW = ROUTER.key.public_key().public_bytes_raw()
EC = ec.generate_private_key(ec.SECP256R1())
GOOD = raw_token(good_header(), CLAIMS, ROUTER.key.sign)
JWK = {"kty": "OKP", "crv": "Ed25519", "x": b64(STRANGER.key.public_key().public_bytes_raw())}


def hs256(secret: bytes) -> Callable[[bytes], bytes]:
    return lambda message: hmac.new(secret, message, hashlib.sha256).digest()


def tampered(**changes: Any) -> str:
    head, _, signature = GOOD.split(".")
    return f"{head}.{b64(json.dumps(CLAIMS | changes).encode())}.{signature}"


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in CLAIMS.items() if key != name}


FORGED: dict[str, str] = {
    "no algorithm": raw_token(good_header(alg="none"), CLAIMS, lambda _: b""),
    "no algorithm, in capitals": raw_token(good_header(alg="NONE"), CLAIMS, lambda _: b""),
    "HS256 with the public key as PEM": raw_token(good_header(alg="HS256"), CLAIMS, hs256(PUBLIC_PEM)),
    "HS256 with the public key's bytes": raw_token(good_header(alg="HS256"), CLAIMS, hs256(PUBLIC_RAW)),
    "HS256 under the name of EdDSA": raw_token(good_header(), CLAIMS, hs256(PUBLIC_RAW)),
    "another algorithm's name, properly signed": raw_token(good_header(alg="ES256"), CLAIMS, ROUTER.key.sign),
    "no algorithm named": raw_token({"typ": "residency", "kid": ROUTER.kid}, CLAIMS, ROUTER.key.sign),
    "a grant": DIRECTORY.pin_grant(PIN, "acme", INCARNATION, clock=clock),
    "a topology": ROUTER.sign(CLAIMS, TokenType.TOPOLOGY),
    "another type by the right key": raw_token(good_header(typ="JWT"), CLAIMS, ROUTER.key.sign),
    "no type": raw_token({"alg": "EdDSA", "kid": ROUTER.kid}, CLAIMS, ROUTER.key.sign),
    "a list of types": raw_token(good_header(typ=["residency"]), CLAIMS, ROUTER.key.sign),
    "the directory's key, for grants": raw_token(good_header(kid=DIRECTORY.kid), CLAIMS, DIRECTORY.key.sign),
    "a key that is not published": raw_token(good_header(kid=STRANGER.kid), CLAIMS, STRANGER.key.sign),
    "a key under another's kid": raw_token(good_header(), CLAIMS, STRANGER.key.sign),
    "no kid": raw_token({"alg": "EdDSA", "typ": "residency"}, CLAIMS, ROUTER.key.sign),
    "a kid that is no text": raw_token(good_header(kid=[ROUTER.kid]), CLAIMS, ROUTER.key.sign),
    "a key in the head": raw_token(good_header(kid=STRANGER.kid, jwk=JWK), CLAIMS, STRANGER.key.sign),
    "a key in the head under a known kid": raw_token(good_header(jwk=JWK), CLAIMS, STRANGER.key.sign),
    "the place of a key in the head": raw_token(
        good_header(kid=STRANGER.kid, jku="https://evil.example/jwks", x5u="https://evil.example/x"),
        CLAIMS,
        STRANGER.key.sign,
    ),
    "a critical extension": raw_token(good_header(crit=["later"], later=1), CLAIMS, ROUTER.key.sign),
    "another issuer": raw_token(good_header(), CLAIMS | {"iss": "other"}, ROUTER.key.sign),
    "no issuer": raw_token(good_header(), without("iss"), ROUTER.key.sign),
    "a list of issuers": raw_token(good_header(), CLAIMS | {"iss": ["acme"]}, ROUTER.key.sign),
    "an audience": raw_token(good_header(), CLAIMS | {"aud": "elsewhere"}, ROUTER.key.sign),
    "no end": raw_token(good_header(), without("exp"), ROUTER.key.sign),
    "an end that is no number": raw_token(good_header(), CLAIMS | {"exp": "later"}, ROUTER.key.sign),
    "an endless one": raw_token(good_header(), CLAIMS | {"exp": 1e400}, ROUTER.key.sign),
    "no beginning": raw_token(good_header(), without("iat"), ROUTER.key.sign),
    "no subject": raw_token(good_header(), without("sub"), ROUTER.key.sign),
    "a subject's id": raw_token(good_header(), CLAIMS | {"sub": "alice"}, ROUTER.key.sign),
    "epoch 0": raw_token(good_header(), CLAIMS | {"epoch": 0}, ROUTER.key.sign),
    "claims that are a list": raw_token(good_header(), [CLAIMS], ROUTER.key.sign),
    "another cell, after signing": tampered(cell="eu-2"),
    "another epoch, after signing": tampered(epoch=4),
    "a later end, after signing": tampered(exp=NOW + 9999),
    "no signature": GOOD.rpartition(".")[0] + ".",
    "two parts": GOOD.rpartition(".")[0],
    "a signature cut short": GOOD[:-4],
    "five parts": GOOD + ".x.y",
    "over the limit": raw_token(good_header(), CLAIMS | {"more": "x" * MAX_TOKEN_BYTES}, ROUTER.key.sign),
    "nothing": "",
    "text": "not a token",
    "a surrogate": "\ud800." + GOOD,
    "a head nested too deeply": b64(b"[" * 3000) + ".e30.AA",
    "a head that is a list": b64(b"[]") + ".e30.AA",
    "a head that is not UTF-8": b64(b"\xff\xff") + ".e30.AA",
}


@pytest.mark.parametrize("case", FORGED)
def test_no_forgery_is_a_residency_token(case: str) -> None:
    with pytest.raises(TokenInvalid) as caught:
        verifier().residency(FORGED[case])
    assert "alice" not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("case", [case for case in FORGED if case != "a grant"])
def test_nor_is_it_a_grant(case: str) -> None:
    with pytest.raises(TokenInvalid):
        verifier().pin_grant(FORGED[case])


def test_a_residency_token_is_no_grant() -> None:
    with pytest.raises(TokenInvalid):
        verifier().pin_grant(GOOD)
    relabelled = raw_token(good_header(typ="pin-grant"), GRANT, ROUTER.key.sign)
    with pytest.raises(TokenInvalid, match="not published"):
        verifier().pin_grant(relabelled)


@given(
    st.text(max_size=200)
    | st.lists(st.binary(max_size=30), min_size=3, max_size=3).map(lambda p: ".".join(map(b64, p)))
)
def test_junk_is_refused(token: str) -> None:
    with pytest.raises(TokenInvalid):
        verifier().residency(token)
    verifier().knows(token, "residency")


@given(st.integers(0, len(GOOD) - 1), st.characters(codec="ascii"))
def test_one_changed_character_is_refused_or_means_the_same(position: int, character: str) -> None:
    changed = GOOD[:position] + character + GOOD[position + 1 :]
    try:
        statement = verifier().residency(changed)
    except TokenInvalid:
        return
    assert statement == verifier().residency(GOOD)


@pytest.mark.parametrize(
    ("at", "good"),
    [
        (NOW, True),
        (NOW - LEEWAY_SECONDS, True),
        (NOW - LEEWAY_SECONDS - 1, False),
        (NOW + 60 + LEEWAY_SECONDS - 1, True),
        (NOW + 60 + LEEWAY_SECONDS, False),
        (0, False),
        (NOW + 10**9, False),
    ],
)
def test_a_token_holds_in_its_time_only(at: float, good: bool) -> None:
    if good:
        assert verifier(at).residency(GOOD).epoch == 3
    else:
        with pytest.raises(TokenInvalid, match="outside its time"):
            verifier(at).residency(GOOD)


def test_keys_that_are_no_longer_published_verify_nothing() -> None:
    checks = verifier()
    assert checks.knows(GOOD, "residency")
    assert not checks.knows(GOOD, "pin-grant")
    checks.replace([STRANGER.public("residency")])
    assert not checks.knows(GOOD, "residency")
    with pytest.raises(TokenInvalid):
        checks.residency(GOOD)


def test_the_kid_is_the_keys_thumbprint() -> None:
    """RFC 8037, appendix A.3: the thumbprint of its example key."""
    key = SigningKey(
        kid="kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k",
        domicile_use="residency",
        x="11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo",
    )
    assert key_id(public_key(key)) == key.kid


def test_a_kid_that_is_no_thumbprint_is_refused() -> None:
    stolen = STRANGER.public("residency").model_copy(update={"kid": ROUTER.kid})
    with pytest.raises(InvalidInput, match="thumbprint"):
        public_key(stolen)
    checks = verifier()
    with pytest.raises(InvalidInput):
        checks.replace([stolen])
    assert checks.residency(GOOD).epoch == 3, "a bad set replaces nothing"


def test_a_signing_key_is_kept_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "state" / "grant.key"
    signer = Signer.load_or_create(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert Signer.load_or_create(path).kid == signer.kid


@pytest.mark.parametrize("kind", ["junk", "empty", "elliptic"])
def test_another_file_is_no_signing_key(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "grant.key"
    pem = EC.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path.write_bytes({"junk": b"junk", "empty": b"", "elliptic": pem}[kind])
    before = path.read_bytes()
    with pytest.raises(InvalidInput, match="Ed25519"):
        Signer.load_or_create(path)
    assert path.read_bytes() == before


# --- topology

OPERATOR = STRANGER
TOPOLOGY = {"version": 1, "deployment": "acme"}


def test_a_topology_that_an_operator_signed_is_taken() -> None:
    document = sign_topology(OPERATOR, "acme", 4, TOPOLOGY)
    assert document.revision == 4
    assert verify_topology(document, "acme", [ROUTER.public_pem(), OPERATOR.public_pem()]) == TOPOLOGY


def forged_topologies() -> dict[str, TopologyDocument]:
    good = sign_topology(OPERATOR, "acme", 4, TOPOLOGY)
    head, _, signature = good.signed.split(".")
    other = b64(json.dumps({"iss": "acme", "revision": 4, "topology": {"version": 2}}).encode())
    claims = {"iss": "acme", "revision": 4, "topology": TOPOLOGY}
    header = {"alg": "EdDSA", "typ": "topology", "kid": OPERATOR.kid}
    made = {
        "by nobody we know": sign_topology(ROUTER, "acme", 4, TOPOLOGY).signed,
        "for another deployment": sign_topology(OPERATOR, "other", 4, TOPOLOGY).signed,
        "of another revision": sign_topology(OPERATOR, "acme", 3, TOPOLOGY).signed,
        "changed after signing": f"{head}.{other}.{signature}",
        "without an algorithm": raw_token(header | {"alg": "none"}, claims, lambda _: b""),
        "HS256 with the public key": raw_token(header | {"alg": "HS256"}, claims, hs256(OPERATOR.public_pem())),
        "a residency token's type": raw_token(header | {"typ": "residency"}, claims, OPERATOR.key.sign),
        "another's signature under the operator's kid": raw_token(header, claims, ROUTER.key.sign),
        "no topology in it": raw_token(header, {"iss": "acme", "revision": 4}, OPERATOR.key.sign),
        "a list as topology": raw_token(header, claims | {"topology": []}, OPERATOR.key.sign),
        "junk": "junk",
    }
    return {name: TopologyDocument(revision=4, signed=signed) for name, signed in made.items()}


@pytest.mark.parametrize("case", forged_topologies())
def test_no_forgery_is_a_topology(case: str) -> None:
    with pytest.raises(TokenInvalid):
        verify_topology(forged_topologies()[case], "acme", [OPERATOR.public_pem()])


def test_without_an_operators_key_no_topology_is_good() -> None:
    document = sign_topology(OPERATOR, "acme", 1, TOPOLOGY)
    with pytest.raises(TokenInvalid):
        verify_topology(document, "acme", [])
    with pytest.raises(InvalidInput, match="no public key"):
        verify_topology(document, "acme", [b"junk"])
