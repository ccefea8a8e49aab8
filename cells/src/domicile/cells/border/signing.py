"""Manifests and receipts, signed by a gateway's certificate and believed by its jurisdiction's authority alone."""

from __future__ import annotations

import base64
import binascii
from pathlib import Path
from typing import Final, TypeVar

from pydantic import BaseModel, ValidationError

from domicile.cells.border.wire import SignedManifest
from domicile.identity import Credentials, signed, signer
from domicile.model.access import Identity, Role
from domicile.model.errors import TokenInvalid

_MANIFEST: Final = b"domicile release manifest\0"
_RECEIPT: Final = b"domicile release receipt\0"
Said = TypeVar("Said", bound=BaseModel)


def sign(text: str, credentials: Credentials, *, receipt: bool = False) -> SignedManifest:
    """Raises InvalidInput and Unavailable, as ``signed``."""
    context = _RECEIPT if receipt else _MANIFEST
    certificate, signature = signed(context + text.encode(), credentials)
    return SignedManifest(text=text, certificate=certificate.decode(), signature=base64.b64encode(signature).decode())


def verify(
    given: SignedManifest,
    kind: type[Said],
    authorities: Path,
    jurisdiction: str,
    *,
    at: float,
    receipt: bool = False,
) -> tuple[Said, Identity]:
    """What was signed, and by which gateway of ``jurisdiction``.

    Raises TokenInvalid for what no gateway of that jurisdiction signed by a certificate that holds at ``at``.
    """
    try:
        said = kind.model_validate_json(given.text)
        signature = base64.b64decode(given.signature, validate=True)
        authority = (authorities / f"{jurisdiction}.pem").read_bytes()
    except (ValidationError, binascii.Error, ValueError):
        raise TokenInvalid("a signed text of another shape", where="release") from None
    except OSError:
        raise TokenInvalid(f"no authority for {jurisdiction}", where="release") from None
    context = _RECEIPT if receipt else _MANIFEST
    message, certificate = context + given.text.encode(), given.certificate.encode()
    identity = signer(message, certificate, signature, authority, at=at, what="a release")
    if identity.role is not Role.GATEWAY or identity.jurisdiction != jurisdiction:
        raise TokenInvalid("a release that no gateway of its jurisdiction signed", where="release")
    return said, identity
