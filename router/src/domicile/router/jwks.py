"""The application's public keys as its identity provider writes them down: a JWK set (RFC 7517).

Each key is for one algorithm, decided here from the key and its ``alg`` and never by a token (RFC 8725, 3.1).
Symmetric keys, private ones, keys for encryption and names that two keys share are left out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias, cast

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from domicile.model import InvalidInput
from domicile.telemetry import warn

MIN_RSA_BITS: Final = 2048
MAX_JWKS_BYTES: Final = 1 << 20
_ALGORITHMS: Final[dict[tuple[object, object], tuple[str, ...]]] = {
    ("OKP", "Ed25519"): ("EdDSA",),
    ("EC", "P-256"): ("ES256",),
    ("EC", "P-384"): ("ES384",),
    ("EC", "P-521"): ("ES512",),
    ("RSA", None): ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
}
"""By ``kty`` and ``crv``: what a key may be for; the first where it does not say."""
_PRIVATE: Final = frozenset({"d", "p", "q", "dp", "dq", "qi", "k"})


@dataclass(frozen=True, slots=True)
class ApplicationKey:
    """A public key and the one algorithm that it may be used with."""

    algorithm: str
    key: Any


KeySet: TypeAlias = Mapping[str, ApplicationKey]
"""By kid. Never changed: another set is another object."""


def _algorithm(jwk: Mapping[str, Any]) -> str | None:
    known = _ALGORITHMS.get((jwk.get("kty"), jwk.get("crv")), ())
    algorithm = jwk.get("alg", known[0] if known else None)
    fit = jwk.get("use", "sig") == "sig" and "verify" in jwk.get("key_ops", ["verify"])
    return algorithm if algorithm in known and fit and not _PRIVATE & jwk.keys() else None


def _application_key(jwk: Mapping[str, Any]) -> ApplicationKey | None:
    algorithm = _algorithm(jwk)
    if algorithm is None:
        return None
    text = json.dumps(jwk)
    key: Any
    match jwk["kty"]:
        case "OKP":
            key = OKPAlgorithm.from_jwk(text)
        case "EC":
            key = ECAlgorithm.from_jwk(text)
        case _:
            key = RSAAlgorithm.from_jwk(text)
            if key.key_size < MIN_RSA_BITS:
                return None
    return ApplicationKey(algorithm, key)


def read_jwks(raw: bytes, *, where: str) -> KeySet:
    """The usable keys of a set. Raises InvalidInput for what is no key set."""
    try:
        entries = json.loads(raw)["keys"] if len(raw) <= MAX_JWKS_BYTES else None
    except (ValueError, KeyError, TypeError, RecursionError):
        entries = None
    if not isinstance(entries, list):
        raise InvalidInput("not a JWK set", where=where, remedy='such as {"keys": [...]}')
    found: dict[str, ApplicationKey | None] = {}
    for jwk in entries:
        if not isinstance(jwk, dict) or not isinstance(jwk.get("kid"), str):
            continue
        try:
            key = _application_key(cast("dict[str, Any]", jwk))
        except (jwt.PyJWTError, ValueError, TypeError, KeyError, UnsupportedAlgorithm):
            key = None
        if key is None:
            warn("application-key-ignored", reason="unsupported")
        elif found.get(jwk["kid"], key) is not key:
            warn("application-key-ignored", reason="kid-twice")
            key = None
        else:
            found[jwk["kid"]] = key
            continue
        found[jwk["kid"]] = None
    return {kid: key for kid, key in found.items() if key is not None}
