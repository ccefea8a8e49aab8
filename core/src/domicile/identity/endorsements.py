"""Whose the key of a lasting statement is: the certificate of the process that signs by it stands behind it, for good.

What is kept with a receipt, or a ledger's head, is one PEM file: the public key, the certificate, and a signature over
the key by the certificate's private key (ECDSA with SHA-256). So a reader needs the jurisdiction's authority alone,
which he has from somewhere else: a key that only lies beside a statement proves nothing.
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass
from typing import Final

from cryptography.hazmat.primitives import serialization

from domicile.identity.statements import signed, signer
from domicile.identity.tls import Credentials
from domicile.model.access import Role
from domicile.model.errors import TokenInvalid
from domicile.model.key_wire import ShredReceipt

_CONTEXT: Final = b"domicile receipt key\0"
_BLOCK: Final = re.compile(rb"-----BEGIN ENDORSEMENT-----\n([A-Za-z0-9+/=\n]{1,400})-----END ENDORSEMENT-----")


def _message(key: bytes) -> bytes:
    """What is signed: the key itself, whatever its PEM looks like. Raises ValueError for none."""
    public = serialization.load_pem_public_key(key)
    return _CONTEXT + public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def endorse(key: bytes, credentials: Credentials) -> bytes:
    """A public key (PEM), and what proves whose it is. Raises InvalidInput, Unavailable."""
    certificate, signature = signed(_message(key), credentials)
    block = b"-----BEGIN ENDORSEMENT-----\n" + base64.encodebytes(signature) + b"-----END ENDORSEMENT-----\n"
    return key + certificate + block


@dataclass(frozen=True, slots=True)
class Stated:
    """Who a statement says that it is by, and when (seconds since 1970). ``what``: the word for it in a refusal."""

    deployment: str
    jurisdiction: str
    role: Role
    uri: str
    at: int
    what: str


def check_endorsed(key: bytes, said: ShredReceipt, authority: bytes) -> None:
    """Hold the key that a receipt is signed by to its jurisdiction's authority, as ``check_stated`` does."""
    check_stated(key, Stated(said.iss, said.jur, Role.KEYS, said.store, said.iat, "receipt"), authority)


def check_stated(key: bytes, said: Stated, authority: bytes) -> None:
    """Hold the key that a statement is signed by to its jurisdiction's authority (PEM, one or several certificates).

    Raises TokenInvalid unless the certificate is of the process that the statement names, held when it was signed, and
    is by that authority; InvalidInput where the authority is none.
    """
    block = _BLOCK.search(key)
    if block is None:
        raise TokenInvalid(f"a {said.what} whose key nobody stands behind")
    try:
        message, signature = _message(key), base64.b64decode(block[1])
    except (ValueError, binascii.Error):
        raise TokenInvalid(f"a {said.what} whose key nobody stands behind") from None
    identity = signer(message, key, signature, authority, at=said.at, what=f"a {said.what}")
    if (identity.uri, identity.deployment, identity.jurisdiction, identity.role) != (
        said.uri, said.deployment, said.jurisdiction, said.role,
    ):  # fmt: skip
        raise TokenInvalid(f"a {said.what} of {said.uri} by a key of {identity.uri}")
