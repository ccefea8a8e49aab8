"""Heads of a ledger, signed: what a gateway states of its cell's ledger, and can never take back.

By a key of the gateway's own (Ed25519) that its certificate stands behind, so that whoever has the jurisdiction's
authority can check one years later, without asking anybody.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from pydantic import ValidationError

from domicile.identity.endorsements import Stated, check_stated, endorse
from domicile.identity.tls import Credentials
from domicile.identity.tokens import MAX_TOKEN_BYTES, Signer, signed_header
from domicile.model.access import Identity, Role
from domicile.model.errors import InvalidInput, TokenInvalid
from domicile.model.ledger_wire import SignedHead, TreeHead
from domicile.model.pins import TokenType


class HeadSigner:
    """A gateway's. ``path``: of its key, made there if there is none."""

    def __init__(self, credentials: Credentials, path: Path, clock: Callable[[], float] = time.time) -> None:
        self._credentials = credentials
        self._signer = Signer.load_or_create(path)
        self._clock = clock

    def sign(self, log: object, size: int, root: bytes) -> SignedHead:
        """Raises Unavailable while the certificate is being renewed."""
        identity = self._credentials.identity
        claims = {
            "iss": identity.deployment, "jur": identity.jurisdiction, "cell": identity.cell, "log": str(log),
            "size": size, "root": root.hex(), "iat": int(self._clock()), "by": identity.uri,
        }  # fmt: skip
        key = endorse(self._signer.public_pem(), self._credentials)
        return SignedHead(signed=self._signer.sign(claims, TokenType.TREE_HEAD), key=key.decode())


def verify_head(head: SignedHead, deployment: str, authority: bytes) -> TreeHead:
    """What was signed, if a gateway of its cell did, and ``authority`` (PEM) is its jurisdiction's.

    Raises TokenInvalid, and InvalidInput where the authority is none.
    """
    signed_header(head.signed, TokenType.TREE_HEAD, MAX_TOKEN_BYTES)
    try:
        public = serialization.load_pem_public_key(head.key.encode())
        if not isinstance(public, Ed25519PublicKey):
            raise TokenInvalid("a tree head by a key that is no Ed25519 key")
        claims = jwt.decode(head.signed, public, ["EdDSA"], issuer=deployment, options={"verify_iat": False})
        said = TreeHead.model_validate(claims)
        signer = Identity.parse(said.by)
    except (ValueError, jwt.InvalidTokenError, ValidationError, InvalidInput) as error:
        raise TokenInvalid(f"not a valid tree head: {type(error).__name__}") from None
    if signer.cell != said.cell:
        raise TokenInvalid(f"a tree head of {said.cell} by {signer.uri}")
    stated = Stated(said.iss, said.jur, Role.GATEWAY, said.by, said.iat, "tree head")
    check_stated(head.key.encode(), stated, authority)
    return said
