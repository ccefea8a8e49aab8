"""The support desk's proof: a secret of one cell, which its staff's tool sends. No user has it.

The scheme is ``Support`` and not ``Bearer``, because a bearer token is a user's session to the router.
"""

from __future__ import annotations

import hmac
import secrets
from pathlib import Path
from typing import Self

from domicile.identity import write_private
from domicile.model import InvalidInput, Unauthenticated


class SupportDesk:
    """Checks ``Authorization: Support <secret>``."""

    def __init__(self, secret: str) -> None:
        self._secret = secret.encode()

    @classmethod
    def load_or_create(cls, path: Path) -> Self:
        """The secret at ``path``, made there once. Raises InvalidInput for a file that is too short to be one."""
        if not path.exists():
            write_private(path, secrets.token_hex(32).encode())
        secret = path.read_text().strip()
        if len(secret) < 32:
            raise InvalidInput("holds no secret of 32 characters or more", where=str(path), remedy="delete it")
        return cls(secret)

    def require(self, authorization: str | None) -> None:
        """Raises Unauthenticated for anything but the secret."""
        scheme, _, secret = (authorization or "").partition(" ")
        sent = secret.encode(errors="surrogateescape")
        if scheme.lower() != "support" or not hmac.compare_digest(sent, self._secret):
            raise Unauthenticated("not the support desk", remedy="Authorization: Support <the cell's support.key>")
