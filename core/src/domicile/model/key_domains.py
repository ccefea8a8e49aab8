"""Where a jurisdiction's keys lie: its key service, and who else holds key-encryption keys, by domain."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Annotated, Final
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field

from domicile.model.addresses import AddressField
from domicile.model.errors import ManifestProblem
from domicile.model.ids import Country, Name
from domicile.model.rules import Strict

DEFAULT_DOMAIN: Final = "default"
"""The key domain of whoever has no other; the key service holds its key-encryption key."""


def over_tls(text: str) -> str:
    if not text.startswith("https://") or not urlsplit(text).hostname:
        raise ValueError("is reached over https://, at a host")
    return text


class TransitKey(Strict):
    """A key of a Vault's or OpenBao's transit engine: ``address`` (https), where it is mounted, its name."""

    address: Annotated[str, AfterValidator(over_tls)]
    mount: Name = "transit"
    key: Name


class KeyDomain(Strict):
    """Who holds the key-encryption key of a domain, and where: a customer's ``holder``, or a ``transit`` key."""

    country: Country
    holder: list[AddressField] = Field(default_factory=list, max_length=8)
    transit: TransitKey | None = None


class KeySection(Strict):
    """``service``: addresses of the jurisdiction's key service; ``cache_seconds``: how long a data key may be
    held in memory, which is also how long a shredded key can outlive its destruction; ``backup_days``: how long
    the last backup of the key store that still holds a shredded key may live; ``audit_days``: how long it is kept
    who had which key unwrapped (more than a year, so that a yearly audit finds all of it); ``domains``:
    key-encryption keys that the service doesn't hold itself."""

    service: list[AddressField] = Field(min_length=1)
    domains: dict[Name, KeyDomain] = Field(default_factory=dict)
    cache_seconds: int = Field(default=300, ge=1, le=3600, strict=True)
    backup_days: int = Field(default=30, ge=0, le=3650, strict=True)
    audit_days: int = Field(default=400, ge=1, le=3650, strict=True)


def check_key_domains(path: str, section: KeySection, countries: Collection[str]) -> Iterator[ManifestProblem]:
    """A key-encryption key is held in the jurisdiction, by exactly one holder; ``default`` is the service's own."""
    for name, domain in section.domains.items():
        if name == DEFAULT_DOMAIN:
            yield ManifestProblem(f"{path}.{name}", "the service holds this one itself", "choose another name")
        if domain.country not in countries:
            yield ManifestProblem(
                f"{path}.{name}.country",
                f"{domain.country} lies outside the jurisdiction",
                "a key-encryption key stays where its data is",
            )
        if bool(domain.holder) == (domain.transit is not None):
            yield ManifestProblem(f"{path}.{name}", "has not one holder", "name holder, or transit")
