"""A deployment's authorities in a temporary folder, and certificates for whoever a test needs."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from domicile.identity import Authority, Credentials, write_private
from domicile.model import GLOBAL, Identity, Role
from domicile.service import ProcessSettings

DEPLOYMENT = "acme"
PEPPER = "1:" + "ab" * 32


@dataclass
class Trust:
    """Authorities of ``eu``, ``us`` and ``global``; ``credentials`` issues for any process."""

    folder: Path
    authorities: dict[str, Authority] = field(default_factory=dict)

    @classmethod
    def create(cls, folder: Path, jurisdictions: tuple[str, ...] = ("eu", "us", GLOBAL)) -> Trust:
        trust = cls(folder)
        for jurisdiction in jurisdictions:
            authority = Authority.create(DEPLOYMENT, jurisdiction)
            trust.authorities[jurisdiction] = authority
            write_private(folder / "authorities" / f"{jurisdiction}.pem", authority.pem())
        (folder / "pepper").write_text(PEPPER)
        return trust

    def credentials(
        self, jurisdiction: str, role: Role, name: str, hosts: tuple[str, ...] = ("127.0.0.1",)
    ) -> Credentials:
        identity = Identity(DEPLOYMENT, jurisdiction, role, name)
        certificate, key = self.authorities[jurisdiction].issue(identity, list(hosts))
        place = self.folder / "issued" / jurisdiction / f"{role}-{name}"
        write_private(place / "cert.pem", certificate)
        write_private(place / "key.pem", key)
        return Credentials(place / "cert.pem", place / "key.pem", self.folder / "authorities")

    def settings(
        self,
        jurisdiction: str,
        role: Role,
        name: str,
        bind: str,
        kind: type[ProcessSettings] = ProcessSettings,
        **more: Any,
    ) -> ProcessSettings:
        """Settings of a process that runs inside a test; ``more`` as in ProcessSettings."""
        credentials = self.credentials(jurisdiction, role, name, (bind.rpartition(":")[0],))
        state = self.folder / "state" / f"{jurisdiction}-{role}-{name}"
        state.mkdir(parents=True, exist_ok=True)
        values: dict[str, Any] = {
            "deployment": DEPLOYMENT,
            "process": f"{role}-{name}",
            "bind": bind,
            "certificate": credentials.certificate,
            "key": credentials.key,
            "authorities": credentials.authorities,
            "state": state,
            "drain_seconds": 0.2,
            **more,
        }
        return kind(**values)
