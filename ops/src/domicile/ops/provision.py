"""What a local world needs before its first process: authorities, certificates, pepper, users' keys.

Everything is made once and kept; a second ``up`` finds the same identities. Certificates are issued anew at
each start, because addresses change and leaves are short-lived.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from domicile.identity import Authority, Credentials, Signer, write_private
from domicile.model.access import GLOBAL, Identity, Role
from domicile.model.ids import MIN_PEPPER_BYTES
from domicile.model.manifest import Address, Manifest
from domicile.ops.layout import Layout

OPERATOR: Final = "root"


class Provision:
    """Issues what processes of one world need."""

    def __init__(self, layout: Layout, manifest: Manifest) -> None:
        self._layout = layout
        self._deployment = manifest.deployment
        self._authorities: dict[str, Authority] = {}
        for jurisdiction in (GLOBAL, *manifest.jurisdictions):
            self._authorities[jurisdiction] = self._authority(jurisdiction)

    def _authority(self, jurisdiction: str) -> Authority:
        folder = self._layout.authority(jurisdiction)
        if (folder / "authority.pem").exists():
            authority = Authority.load(folder, self._deployment, jurisdiction)
        else:
            authority = Authority.create(self._deployment, jurisdiction)
            authority.save(folder)
        write_private(self._layout.authorities / f"{jurisdiction}.pem", authority.pem())
        return authority

    def process(self, jurisdiction: str, role: Role, name: str, address: str, *, beside: bool = False) -> Credentials:
        """A certificate for one process, in its own folder."""
        identity = Identity(self._deployment, jurisdiction, role, name)
        certificate, key = self._authorities[jurisdiction].issue(identity, [Address(address).host])
        return self._write(self._layout.home_of(identity, beside=beside), certificate, key)

    def cluster_secrets(self, folder: Path, names: Sequence[str]) -> dict[str, str]:
        """A secret for each name, made once for all nodes of a cluster and kept in ``folder``."""
        path = folder / "cluster.json"
        if not path.exists():
            write_private(path, json.dumps({name: secrets.token_hex(32) for name in names}).encode())
        kept: dict[str, str] = json.loads(path.read_bytes())
        return kept

    def settings(self, path: Path, document: dict[str, Any]) -> Path:
        """A file of settings that holds secrets, as JSON."""
        write_private(path, json.dumps(document, indent=1).encode())
        return path

    def public(self, jurisdiction: str, folder: Path, hosts: list[str]) -> tuple[Path, Path]:
        """A certificate for a public listener: (certificate, key)."""
        certificate, key = self._authorities[jurisdiction].issue_public(hosts)
        write_private(folder / "public.pem", certificate)
        write_private(folder / "public.key", key)
        return folder / "public.pem", folder / "public.key"

    def _write(self, folder: Path, certificate: bytes, key: bytes) -> Credentials:
        write_private(folder / "key.pem", key)
        write_private(folder / "cert.pem", certificate)
        return Credentials(folder / "cert.pem", folder / "key.pem", self._layout.authorities)

    def operators(self) -> None:
        """An operator in each jurisdiction, and the global one whose signature a topology needs."""
        for jurisdiction in self._authorities:
            self.process(jurisdiction, Role.OPERATOR, OPERATOR, "127.0.0.1:1")
        signer = Signer.load_or_create(self._layout.operator(GLOBAL) / "signing.key")
        write_private(self._layout.operator_keys / f"{OPERATOR}.pem", signer.public_pem())

    def pepper(self) -> None:
        if not self._layout.pepper.exists():
            write_private(self._layout.pepper, f"1:{secrets.token_hex(MIN_PEPPER_BYTES)}\n".encode())

    def sessions(self, manifest: Manifest, jwks: Path) -> None:
        """A session key for each cell of the sample application, and the key set that routers verify by."""
        keys: list[dict[str, Any]] = []
        for cell, place in manifest.cells.items():
            zone = next(iter(place.zones))
            signer = Signer.load_or_create(self._layout.cell(cell, zone) / Role.APP / "session.key")
            public = signer.public("residency")
            keys.append(
                {"kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "use": "sig", "kid": public.kid, "x": public.x}
            )
        write_private(jwks, json.dumps({"keys": keys}, indent=1).encode())
