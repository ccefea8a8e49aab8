"""Certificates that no authority of ours would issue, made with its key: what a stolen key could do."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from domicile.identity import Authority, Credentials

NOW = datetime.now(UTC)


def named(jurisdiction: str, deployment: str = "acme") -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, deployment),
            x509.NameAttribute(NameOID.COMMON_NAME, f"{jurisdiction} authority"),
        ]
    )


@dataclass
class Forgery:
    """One leaf. Without anything changed it is what the authority itself would have issued."""

    uris: list[str] = field(default_factory=list)
    hosts: list[str] = field(default_factory=lambda: ["127.0.0.1"])
    issuer: x509.Name | None = None
    begins: datetime = NOW - timedelta(minutes=1)
    ends: datetime = NOW + timedelta(hours=1)
    through: str | None = None
    """The jurisdiction that an authority between the real one and this leaf claims to be."""

    def write(self, authority: Authority, folder: Path) -> Credentials:
        """Files as ``Credentials`` reads them, with all authorities of the deployment beside."""
        chain, signer, issuer = [], authority.key, self.issuer or authority.certificate.subject
        if self.through:
            signer = ec.generate_private_key(ec.SECP256R1())
            issuer = named(self.through)
            middle = self._builder(issuer, authority.certificate.subject, signer.public_key())
            middle = middle.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            chain.append(middle.sign(authority.key, hashes.SHA256()))
        key = ec.generate_private_key(ec.SECP256R1())
        leaf = self._builder(x509.Name([]), issuer, key.public_key())
        names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(uri) for uri in self.uris]
        names += [x509.IPAddress(ip_address(host)) for host in self.hosts]
        if names:
            leaf = leaf.add_extension(x509.SubjectAlternativeName(names), critical=True)
        chain.insert(0, leaf.sign(signer, hashes.SHA256()))
        folder.mkdir(parents=True, exist_ok=True)
        pem = serialization.Encoding.PEM
        (folder / "cert.pem").write_bytes(b"".join(certificate.public_bytes(pem) for certificate in chain))
        (folder / "key.pem").write_bytes(
            key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        )
        return Credentials(folder / "cert.pem", folder / "key.pem", folder)

    def _builder(
        self, subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey
    ) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(self.begins)
            .not_valid_after(self.ends)
        )
