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
from datetime import UTC, datetime
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from domicile.identity.authority import common_name
from domicile.identity.tls import Credentials
from domicile.model.access import Identity, Role
from domicile.model.errors import InvalidInput, TokenInvalid, Unavailable
from domicile.model.key_wire import ShredReceipt

_CONTEXT: Final = b"domicile receipt key\0"
_BLOCK: Final = re.compile(rb"-----BEGIN ENDORSEMENT-----\n([A-Za-z0-9+/=\n]{1,400})-----END ENDORSEMENT-----")


def _message(key: bytes) -> bytes:
    """What is signed: the key itself, whatever its PEM looks like. Raises ValueError for none."""
    public = serialization.load_pem_public_key(key)
    return _CONTEXT + public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def endorse(key: bytes, credentials: Credentials) -> bytes:
    """A public key (PEM), and what proves whose it is. Raises InvalidInput, Unavailable."""
    private = serialization.load_pem_private_key(credentials.key.read_bytes(), None)
    if not isinstance(private, ec.EllipticCurvePrivateKey):
        raise InvalidInput("not an EC private key", where=str(credentials.key))
    certificate = x509.load_pem_x509_certificate(credentials.certificate.read_bytes())
    if private.public_key() != certificate.public_key():
        raise Unavailable("the certificate is being renewed", where=str(credentials.certificate), remedy="try again")
    signature = base64.encodebytes(private.sign(_message(key), ec.ECDSA(hashes.SHA256())))
    block = b"-----BEGIN ENDORSEMENT-----\n" + signature + b"-----END ENDORSEMENT-----\n"
    return key + certificate.public_bytes(serialization.Encoding.PEM) + block


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
    try:
        authorities = x509.load_pem_x509_certificates(authority)
    except ValueError:
        raise InvalidInput("the authority is no certificate (PEM)") from None
    try:
        certificate = x509.load_pem_x509_certificate(key)
        block = _BLOCK.search(key)
        public = certificate.public_key()
        if block is None or not isinstance(public, ec.EllipticCurvePublicKey):
            raise TokenInvalid(f"a {said.what} whose key nobody stands behind")
        public.verify(base64.b64decode(block[1]), _message(key), ec.ECDSA(hashes.SHA256()))
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        (uri,) = names.get_values_for_type(x509.UniformResourceIdentifier)
        identity = Identity.parse(uri)
    except (ValueError, binascii.Error, InvalidSignature, x509.ExtensionNotFound, InvalidInput):
        raise TokenInvalid(f"a {said.what} whose key nobody stands behind") from None
    try:
        signed = datetime.fromtimestamp(said.at, UTC)
    except (ValueError, OverflowError, OSError):
        raise TokenInvalid(f"a {said.what} of no time") from None
    if (identity.uri, identity.deployment, identity.jurisdiction, identity.role) != (
        said.uri, said.deployment, said.jurisdiction, said.role,
    ):  # fmt: skip
        raise TokenInvalid(f"a {said.what} of {said.uri} by a key of {identity.uri}")
    if not certificate.not_valid_before_utc <= signed <= certificate.not_valid_after_utc:
        raise TokenInvalid(f"a {said.what} of a time when its certificate did not hold")
    if not any(_issued(certificate, each, said) for each in authorities):
        raise TokenInvalid(f"a {said.what} that the authority of {said.jurisdiction} does not stand behind")


def _issued(certificate: x509.Certificate, authority: x509.Certificate, said: Stated) -> bool:
    named = {name.oid: name.value for name in authority.subject}
    organisation, name = named.get(NameOID.ORGANIZATION_NAME), named.get(NameOID.COMMON_NAME)
    if (organisation, name) != (said.deployment, common_name(said.jurisdiction)):
        return False
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True
