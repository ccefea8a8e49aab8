"""One certificate authority for each jurisdiction: what it signs is inside, whatever the paper says.

P-256 keys, X.509 version 3 (RFC 5280). The leaf's URI name is the process's identity; a relying party
must also hold the issuer to the identity's jurisdiction, since an authority could sign any name.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from domicile.model.access import Identity
from domicile.model.errors import InvalidInput

AUTHORITY_DAYS: Final = 3650
LEAF_DAYS: Final = 90
_SKEW: Final = timedelta(minutes=5)


def write_private(path: Path, content: bytes) -> None:
    """Write a secret so that it never exists with wider rights, nor half-written under its name.

    Several processes may write one file at the same time; the last one's content stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.new")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Have what was made, named or taken away in it outlast a loss of power; of a file itself only fsync has that."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def common_name(jurisdiction: str) -> str:
    """The name under which an authority signs; relying parties compare it with the leaf's jurisdiction."""
    return f"{jurisdiction} authority"


@dataclass(frozen=True, slots=True)
class Authority:
    """A jurisdiction's issuing authority. P-256, because every TLS peer knows it."""

    deployment: str
    jurisdiction: str
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @classmethod
    def create(cls, deployment: str, jurisdiction: str, *, now: datetime | None = None) -> Authority:
        now = now or datetime.now(UTC)
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name(
            [
                x509.NameAttribute(NameOID.ORGANIZATION_NAME, deployment),
                x509.NameAttribute(NameOID.COMMON_NAME, common_name(jurisdiction)),
            ]
        )
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _SKEW)
            .not_valid_after(now + timedelta(days=AUTHORITY_DAYS))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(signs_certificates=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            # no intermediates, and URI names of this deployment only
            .add_extension(x509.NameConstraints([x509.UniformResourceIdentifier(deployment)], None), critical=True)
            .sign(key, hashes.SHA256())
        )
        return cls(deployment, jurisdiction, certificate, key)

    def issue(
        self,
        identity: Identity,
        hosts: list[str],
        *,
        days: int = LEAF_DAYS,
        now: datetime | None = None,
    ) -> tuple[bytes, bytes]:
        """A leaf for one process: (certificate PEM, key PEM). ``hosts``: addresses or names it serves under.

        Raises InvalidInput for an identity of another deployment or jurisdiction.
        """
        if (identity.deployment, identity.jurisdiction) != (self.deployment, self.jurisdiction):
            raise InvalidInput(f"the {self.jurisdiction} authority does not sign for {identity.uri}")
        names = [x509.UniformResourceIdentifier(identity.uri), x509.DNSName(identity.dns_name)]
        return self._sign(names, hosts, days, now)

    def issue_public(self, hosts: list[str], *, now: datetime | None = None) -> tuple[bytes, bytes]:
        """A server certificate for a public listener, which browsers see: no identity of ours in it."""
        return self._sign([], hosts, LEAF_DAYS, now)

    def _sign(
        self, names: list[x509.GeneralName], hosts: list[str], days: int, now: datetime | None
    ) -> tuple[bytes, bytes]:
        now = now or datetime.now(UTC)
        key = ec.generate_private_key(ec.SECP256R1())
        alternatives = names + [_host(host) for host in hosts]
        certificate = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, self.deployment)]))
            .issuer_name(self.certificate.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _SKEW)
            .not_valid_after(now + timedelta(days=days))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs_certificates=False), critical=True)
            .add_extension(x509.SubjectAlternativeName(alternatives), critical=True)
            .add_extension(
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]),
                critical=False,
            )
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False)
            .sign(self.key, hashes.SHA256())
        )
        return certificate.public_bytes(serialization.Encoding.PEM), private_pem(key)

    def pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    def save(self, folder: Path) -> None:
        """Write ``authority.pem`` and ``authority.key`` (mode 0600)."""
        write_private(folder / "authority.key", private_pem(self.key))
        write_private(folder / "authority.pem", self.pem())

    @classmethod
    def load(cls, folder: Path, deployment: str, jurisdiction: str) -> Authority:
        """Read what ``save`` wrote; raises InvalidInput where it is somebody else's."""
        try:
            certificate = x509.load_pem_x509_certificate((folder / "authority.pem").read_bytes())
            key = serialization.load_pem_private_key((folder / "authority.key").read_bytes(), None)
        except (OSError, ValueError, TypeError):
            raise InvalidInput("authority.pem and authority.key cannot be read", where=str(folder)) from None
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
            raise InvalidInput("authority.key is not the key of authority.pem", where=str(folder))
        subject = {a.oid: a.value for a in certificate.subject}
        if (subject.get(NameOID.ORGANIZATION_NAME), subject.get(NameOID.COMMON_NAME)) != (
            deployment,
            common_name(jurisdiction),
        ):
            raise InvalidInput(
                f"holds the authority of another deployment or jurisdiction, not {deployment}'s {jurisdiction}",
                where=str(folder),
                remedy="name another state folder, or delete this one with `domicile down --erase`",
            )
        return cls(deployment, jurisdiction, certificate, key)


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )
