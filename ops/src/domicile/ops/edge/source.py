"""Where a command about an edge takes its topology and its identity from: the environment, else a local world.

The topology is the directory's, and believed only as an operator signed it.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydantic import TypeAdapter, ValidationError

from domicile.client import DirectoryClient
from domicile.identity import Credentials, verify_topology
from domicile.model.access import Identity, Role
from domicile.model.errors import InvalidInput
from domicile.model.manifest import Address, AddressField, Manifest, parse_manifest
from domicile.model.wire import JWKS, RESIDENCY_KEYS_PATH, TopologyDocument
from domicile.ops.edge.equipment import Pair
from domicile.ops.edge.view import View, view_of
from domicile.ops.layout import Layout
from domicile.ops.manifests import load_file
from domicile.service import operator_keys_in

_ADDRESS: Final[TypeAdapter[str]] = TypeAdapter(AddressField)
_TAKE: Final = f"take the answer of the directory's {RESIDENCY_KEYS_PATH}"
_VARIABLES: Final = ("CERTIFICATE", "KEY", "AUTHORITIES", "DIRECTORY", "OPERATORS")


def read_address(text: str, where: str) -> Address:
    """Raises InvalidInput for what is not host:port."""
    try:
        return Address(_ADDRESS.validate_python(text.strip()))
    except ValidationError:
        raise InvalidInput("is not host:port", where=where, remedy="such as 10.0.0.1:8443") from None


def residency_keys(file: Path) -> Path:
    """The absolute path of a file of public keys that sign residency tokens and nothing else.

    Envoy looks at no ``typ``: by the directory's whole set a pin grant would pass for a token. Raises InvalidInput.
    """
    try:
        keys = JWKS.model_validate_json(file.read_bytes()).keys
    except OSError as error:
        raise InvalidInput(f"cannot be read: {error.strerror}", where=str(file)) from None
    except ValidationError:
        raise InvalidInput("is no set of the directory's keys", where=str(file), remedy=_TAKE) from None
    if others := [key.kid for key in keys if key.domicile_use != "residency"]:
        raise InvalidInput(f"holds keys that sign other things: {', '.join(others)}", where=str(file), remedy=_TAKE)
    if not keys:
        raise InvalidInput("holds no key", where=str(file), remedy=_TAKE)
    return file.absolute()


@dataclass(frozen=True, slots=True)
class Source:
    """An edge's certificate, the directory's addresses, and the folder of the operators' public keys (``*.pem``).

    ``public``: what a local world's edge shows to clients.
    """

    own: Credentials
    directory: list[Address]
    operators: Path
    public: Pair | None = None

    @classmethod
    def found(cls, layout: Layout, zone: str | None) -> Source:
        """DOMICILE_CERTIFICATE, _KEY, _AUTHORITIES, _DIRECTORY and _OPERATORS, all of them, or none and a local world's
        edge in ``zone``. Raises InvalidInput."""
        given = {name: os.environ.get(f"DOMICILE_{name}") for name in _VARIABLES}
        if any(given.values()):
            return cls._given(given)
        manifest = load_file(layout.manifest)
        router = manifest.routers.get(zone or "")
        home = manifest.jurisdiction_of(router.country) if router is not None else None
        if zone is None or home is None:
            zones = ", ".join(manifest.routers) or "none"
            raise InvalidInput(f"no edge in zone {zone!r}", where="--zone", remedy=f"one of {zones}")
        place = layout.home_of(Identity(manifest.deployment, home, Role.EDGE, zone))
        own = Credentials(place / "cert.pem", place / "key.pem", layout.authorities)
        addresses = [Address(site.address) for site in manifest.directory.sites]
        return cls(own, addresses, layout.operator_keys, Pair(place / "public.pem", place / "public.key"))

    @classmethod
    def _given(cls, given: dict[str, str | None]) -> Source:
        certificate, key, authorities, directory, operators = (given[name] or "" for name in _VARIABLES)
        if missing := [name for name in _VARIABLES if not given[name]]:
            raise InvalidInput("is not set", where=f"DOMICILE_{missing[0]}", remedy="set it, or none of them")
        own = Credentials(Path(certificate).absolute(), Path(key).absolute(), Path(authorities).absolute())
        addresses = [read_address(each, "DOMICILE_DIRECTORY") for each in directory.split(",")]
        return cls(own, addresses, Path(operators))

    @property
    def vantage(self) -> Identity:
        """Whom the certificate names. Raises InvalidInput."""
        return self.own.identity

    @asynccontextmanager
    async def asking(self) -> AsyncIterator[DirectoryClient]:
        directory = DirectoryClient(self.own, self.directory)
        try:
            yield directory
        finally:
            await directory.close()

    def operator_keys(self) -> list[bytes]:
        """Raises InvalidInput for a folder without one."""
        return operator_keys_in(self.operators)

    def read(self, document: TopologyDocument) -> Manifest:
        """A topology that one of the operators signed. Raises TokenInvalid, InvalidInput, ManifestError."""
        topology = verify_topology(document, self.vantage.deployment, self.operator_keys())
        return parse_manifest(topology, source=f"topology revision {document.revision}")

    async def view(self) -> View:
        """As the published topology has it for this edge. Raises as ``manifest`` and ``view_of``."""
        return view_of(await self.manifest(), self.vantage)

    async def manifest(self) -> Manifest:
        """As it is published now. Raises Unavailable, NotFound, TokenInvalid."""
        async with self.asking() as directory:
            return self.read(await directory.topology())
