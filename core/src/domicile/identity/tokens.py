"""Signed statements: residency tokens, pin grants and topology, as JWS by Ed25519 (RFC 7515, RFC 8037).

A verifier takes one algorithm, one ``typ`` and the keys published for that use; header members that name a
key's place (``jku``, ``x5u``, ``jwk``) are never read (RFC 8725).
"""

from __future__ import annotations

import base64
import hashlib
import json
import random
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from pydantic import ValidationError

from domicile.identity.authority import write_private
from domicile.model.errors import InvalidInput, TokenInvalid
from domicile.model.key_wire import ShredReceipt
from domicile.model.pins import (
    PIN_GRANT_SECONDS,
    RESIDENCY_TOKEN_SECONDS,
    KeyUse,
    Pin,
    PinGrant,
    ResidencyToken,
    TokenType,
)
from domicile.model.wire import SigningKey, TopologyDocument

MAX_TOKEN_BYTES: Final = 4096
MAX_TOPOLOGY_BYTES: Final = 4 << 20
LEEWAY_SECONDS: Final = 30
_ALGORITHM: Final = "EdDSA"
Clock = Callable[[], float]
Claims = TypeVar("Claims", PinGrant, ResidencyToken)


def _b64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def key_id(public: Ed25519PublicKey) -> str:
    """The key's thumbprint (RFC 7638), so that a kid can't be reused for another key."""
    x = _b64(public.public_bytes_raw())
    canonical = json.dumps({"crv": "Ed25519", "kty": "OKP", "x": x}, separators=(",", ":"), sort_keys=True)
    return _b64(hashlib.sha256(canonical.encode()).digest())


@dataclass(frozen=True, slots=True)
class Signer:
    """A private Ed25519 key and its kid."""

    key: Ed25519PrivateKey

    @classmethod
    def load_or_create(cls, path: Path) -> Signer:
        """Read the key at ``path`` (PEM, mode 0600), or make one there: a restart keeps its signatures good."""
        if path.exists():
            try:
                key = serialization.load_pem_private_key(path.read_bytes(), None)
            except (ValueError, TypeError):
                key = None
            if not isinstance(key, Ed25519PrivateKey):
                raise InvalidInput("not an Ed25519 private key", where=str(path), remedy="restore it, or delete it")
            return cls(key)
        key = Ed25519PrivateKey.generate()
        write_private(
            path,
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            ),
        )
        return cls(key)

    @property
    def kid(self) -> str:
        return key_id(self.key.public_key())

    def public(self, use: KeyUse) -> SigningKey:
        return SigningKey(kid=self.kid, domicile_use=use, x=_b64(self.key.public_key().public_bytes_raw()))

    def public_pem(self) -> bytes:
        return self.key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )

    def sign(self, claims: dict[str, Any], kind: TokenType) -> str:
        return jwt.encode(claims, self.key, _ALGORITHM, headers={"kid": self.kid, "typ": kind.value})

    def residency_token(self, pin: Pin, issuer: str, *, clock: Clock = time.time) -> str:
        """Good for 15 minutes less up to a tenth, so that a fleet's tokens don't expire at once."""
        now = int(clock())
        life = RESIDENCY_TOKEN_SECONDS - random.randrange(RESIDENCY_TOKEN_SECONDS // 10)  # noqa: S311 - jitter
        token = ResidencyToken(
            iss=issuer,
            sub=pin.subject_key,
            jur=pin.jurisdiction,
            cell=pin.cell,
            epoch=pin.epoch,
            iat=now,
            exp=now + life,
        )
        return self.sign(token.model_dump(mode="json"), TokenType.RESIDENCY)

    def pin_grant(self, pin: Pin, issuer: str, incarnation: Any, *, clock: Clock = time.time) -> str:
        now = int(clock())
        grant = PinGrant(
            iss=issuer,
            sub=pin.subject_key,
            jur=pin.jurisdiction,
            cell=pin.cell,
            epoch=pin.epoch,
            incarnation=incarnation,
            iat=now,
            exp=now + PIN_GRANT_SECONDS,
        )
        return self.sign(grant.model_dump(mode="json"), TokenType.PIN_GRANT)


def public_key(key: SigningKey) -> Ed25519PublicKey:
    raw = base64.urlsafe_b64decode(key.x + "=")
    public = Ed25519PublicKey.from_public_bytes(raw)
    if key.kid != key_id(public):
        raise InvalidInput("a signing key whose kid is not its thumbprint", where=key.kid)
    return public


def in_time(statement: PinGrant | ResidencyToken, now: float) -> bool:
    """Whether ``now`` (seconds since 1970) lies between its issue and its expiry, clocks apart by the leeway."""
    return statement.iat <= now + LEEWAY_SECONDS and now - LEEWAY_SECONDS < statement.exp


class Verifier:
    """Checks one type of statement by the keys published for it."""

    def __init__(self, issuer: str, keys: Iterable[SigningKey] = (), *, clock: Clock = time.time) -> None:
        self._issuer = issuer
        self._clock = clock
        self._keys: dict[tuple[KeyUse, str], Ed25519PublicKey] = {}
        self.replace(keys)

    def replace(self, keys: Iterable[SigningKey]) -> None:
        """Take a newly published key set; keys that are no longer in it verify nothing from now on."""
        self._keys = {(key.domicile_use, key.kid): public_key(key) for key in keys}

    def knows(self, token: str, use: KeyUse) -> bool:
        """Whether the key that a token names is in the set: if not, fetching the set anew may help."""
        try:
            return (use, str(_unverified_header(token).get("kid"))) in self._keys
        except jwt.InvalidTokenError:
            return True

    def residency(self, token: str) -> ResidencyToken:
        """Raises TokenInvalid for anything but a current residency token of this deployment."""
        return self._verify(token, "residency", TokenType.RESIDENCY, ResidencyToken)

    def pin_grant(self, token: str) -> PinGrant:
        """Raises TokenInvalid for anything but a current grant by the directory."""
        return self._verify(token, "pin-grant", TokenType.PIN_GRANT, PinGrant)

    def _verify(self, token: str, use: KeyUse, kind: TokenType, claims: type[Claims]) -> Claims:
        header = signed_header(token, kind, MAX_TOKEN_BYTES)
        key = self._keys.get((use, str(header.get("kid"))))
        if key is None:
            raise TokenInvalid(f"a {kind} by a key that is not published for it")
        try:
            # the clock is ours, so that tests and clock jumps are handled in one place
            options: Any = {"verify_exp": False, "verify_iat": False, "verify_nbf": False}
            body = jwt.decode(token, key, [_ALGORITHM], issuer=self._issuer, options=options)
            statement = claims.model_validate(body)
        except (jwt.InvalidTokenError, ValidationError) as error:
            raise TokenInvalid(f"not a valid {kind}: {type(error).__name__}") from None
        if not in_time(statement, self._clock()):
            raise TokenInvalid(f"a {kind} outside its time")
        return statement


def _unverified_header(token: str) -> dict[str, Any]:
    try:
        return jwt.get_unverified_header(token)
    except (ValueError, RecursionError):
        # what is no text, or nested deeper than any header of ours
        raise jwt.DecodeError from None


def signed_header(token: str, kind: TokenType, limit: int) -> dict[str, Any]:
    """Of a statement of this kind, nothing of it verified; raises TokenInvalid for anything else."""
    if len(token) > limit:
        raise TokenInvalid(f"a {kind} longer than {limit} bytes")
    try:
        header = _unverified_header(token)
    except jwt.InvalidTokenError:
        raise TokenInvalid(f"not a {kind}: malformed") from None
    if header.get("typ") != kind.value or header.get("alg") != _ALGORITHM:
        raise TokenInvalid(f"not a {kind}: another type or algorithm")
    return dict(header)


def sign_topology(signer: Signer, deployment: str, revision: int, topology: dict[str, Any]) -> TopologyDocument:
    """An operator's signature over a numbered revision of the topology."""
    claims = {"iss": deployment, "revision": revision, "topology": topology}
    return TopologyDocument(revision=revision, signed=signer.sign(claims, TokenType.TOPOLOGY))


def verify_topology(document: TopologyDocument, deployment: str, operators: Iterable[bytes]) -> dict[str, Any]:
    """The topology in a document, if one of the operators' public keys (PEM) signed it; else TokenInvalid.

    Raises InvalidInput for a key that is none.
    """
    header = signed_header(document.signed, TokenType.TOPOLOGY, MAX_TOPOLOGY_BYTES)
    for pem in operators:
        try:
            key = serialization.load_pem_public_key(pem)
        except ValueError:
            raise InvalidInput("an operator's key that is no public key (PEM)", remedy="see the folder") from None
        if not isinstance(key, Ed25519PublicKey) or header.get("kid") != key_id(key):
            continue
        try:
            claims = jwt.decode(document.signed, key, [_ALGORITHM], issuer=deployment)
        except jwt.InvalidTokenError as error:
            raise TokenInvalid(f"a topology with a bad signature: {type(error).__name__}") from None
        if claims.get("revision") != document.revision or not isinstance(claims.get("topology"), dict):
            raise TokenInvalid("a topology whose revision is not the one that was signed")
        topology: dict[str, Any] = claims["topology"]
        return topology
    raise TokenInvalid("a topology that none of the known operators signed")


def fingerprint(key: bytes) -> str:
    """SHA-256 of a public key (PEM) as DER, in hexadecimal: what people read to each other to know that it is the same.

    Raises TokenInvalid for what is no key.
    """
    try:
        public = serialization.load_pem_public_key(key)
    except ValueError:
        raise TokenInvalid("no public key (PEM)") from None
    der = public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(der).hexdigest()


def verify_receipt(receipt: str, deployment: str, key: bytes) -> ShredReceipt:
    """What a key service signed by ``key`` (PEM) about a shred; raises TokenInvalid. It holds for good: no ``exp``."""
    signed_header(receipt, TokenType.SHRED_RECEIPT, MAX_TOPOLOGY_BYTES)
    try:
        public = serialization.load_pem_public_key(key)
        if not isinstance(public, Ed25519PublicKey):
            raise TokenInvalid("a receipt by a key that is no Ed25519 key")
        options: Any = {"verify_iat": False}
        return ShredReceipt.model_validate(
            jwt.decode(receipt, public, [_ALGORITHM], issuer=deployment, options=options)
        )
    except (ValueError, jwt.InvalidTokenError, ValidationError) as error:
        raise TokenInvalid(f"not a valid receipt: {type(error).__name__}") from None
