"""What an operator's command is told by its environment: who one is, and the topology that operators have signed.

Not part of the facade: only commands use it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from pydantic import TypeAdapter, ValidationError

from domicile.client import DirectoryClient
from domicile.identity import Credentials, verify_topology
from domicile.model import Address, InvalidInput, Manifest, Role, parse_manifest
from domicile.model.manifest import AddressField
from domicile.service.settings import operator_keys_in

_ADDRESS: Final[TypeAdapter[str]] = TypeAdapter(AddressField)


def setting(name: str) -> str:
    """The environment's DOMICILE_<name>. Raises InvalidInput where it is not set."""
    value = os.environ.get(f"DOMICILE_{name}")
    if not value:
        raise InvalidInput("is not set", where=f"DOMICILE_{name}", remedy="set it, or run it beside a local world")
    return value


async def operator_and_topology() -> tuple[Credentials, Manifest]:
    """By the environment. Raises InvalidInput, Unavailable, TokenInvalid."""
    own = Credentials(Path(setting("CERTIFICATE")), Path(setting("KEY")), Path(setting("AUTHORITIES")))
    if own.identity.role is not Role.OPERATOR:
        raise InvalidInput(f"is a certificate for {own.identity.role}, not {Role.OPERATOR}", where=str(own.certificate))
    try:
        places = [Address(_ADDRESS.validate_python(each.strip())) for each in setting("DIRECTORY").split(",")]
    except ValidationError:
        raise InvalidInput("is not host:port", where="DOMICILE_DIRECTORY", remedy="such as 10.0.0.1:7000") from None
    directory = DirectoryClient(own, places)
    try:
        document = await directory.topology()
    finally:
        await directory.close()
    signed = verify_topology(document, own.identity.deployment, operator_keys_in(Path(setting("OPERATORS"))))
    return own, parse_manifest(signed, source=f"topology revision {document.revision}")
