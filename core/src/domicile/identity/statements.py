"""Statements that a process signs by its own certificate (ECDSA with SHA-256): who believes one needs the authority of
that process's jurisdiction, which he has from somewhere else, and nothing besides.
"""

from __future__ import annotations

from datetime import UTC, datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from domicile.identity.authority import common_name
from domicile.identity.tls import Credentials
from domicile.model.access import Identity
from domicile.model.errors import InvalidInput, TokenInvalid, Unavailable


def signed(message: bytes, credentials: Credentials) -> tuple[bytes, bytes]:
    """The certificate (PEM), and the signature. Raises InvalidInput, Unavailable.

    ``message`` begins with what it is for, so that nothing is taken for something else.
    """
    private = serialization.load_pem_private_key(credentials.key.read_bytes(), None)
    if not isinstance(private, ec.EllipticCurvePrivateKey):
        raise InvalidInput("not an EC private key", where=str(credentials.key))
    certificate = x509.load_pem_x509_certificate(credentials.certificate.read_bytes())
    if private.public_key() != certificate.public_key():
        raise Unavailable("the certificate is being renewed", where=str(credentials.certificate), remedy="try again")
    return certificate.public_bytes(serialization.Encoding.PEM), private.sign(message, ec.ECDSA(hashes.SHA256()))


def signer(
    message: bytes, certificate: bytes, signature: bytes, authority: bytes, *, at: float, what: str = "a statement"
) -> Identity:
    """Who signed. ``certificate`` and ``authority`` are PEM, the latter one or several; ``at``: when, in Unix seconds.

    Raises TokenInvalid unless the certificate held then, signed this, and is by the authority of its own deployment
    and jurisdiction; InvalidInput where the authority is none.
    """
    try:
        authorities = x509.load_pem_x509_certificates(authority)
    except ValueError:
        raise InvalidInput("the authority is no certificate (PEM)") from None
    try:
        held = x509.load_pem_x509_certificate(certificate)
        public = held.public_key()
        if not isinstance(public, ec.EllipticCurvePublicKey):
            raise TokenInvalid(f"{what} whose key nobody stands behind")
        public.verify(signature, message, ec.ECDSA(hashes.SHA256()))
        names = held.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        (uri,) = names.get_values_for_type(x509.UniformResourceIdentifier)
        identity = Identity.parse(uri)
        moment = datetime.fromtimestamp(at, UTC)
    except (ValueError, OverflowError, OSError, InvalidSignature, x509.ExtensionNotFound, InvalidInput):
        raise TokenInvalid(f"{what} whose key nobody stands behind") from None
    if not held.not_valid_before_utc <= moment <= held.not_valid_after_utc:
        raise TokenInvalid(f"{what} of a time when its certificate did not hold")
    if not any(_issued(held, each, identity) for each in authorities):
        raise TokenInvalid(f"{what} that the authority of {identity.jurisdiction} does not stand behind")
    return identity


def _issued(certificate: x509.Certificate, authority: x509.Certificate, identity: Identity) -> bool:
    named = {name.oid: name.value for name in authority.subject}
    if (named.get(NameOID.ORGANIZATION_NAME), named.get(NameOID.COMMON_NAME)) != (
        identity.deployment, common_name(identity.jurisdiction),
    ):  # fmt: skip
        return False
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True
