"""The port to whoever holds a key-encryption key: this service, a Vault, or the customer himself.

A holder sees data keys and what each is bound to (``context``), and never a row. The key-encryption key stays with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol
from uuid import UUID

from domicile.identity.wrapping import joined


class Plain(NamedTuple):
    """A key, and the bytes that name whose it is: unwrapping needs the same."""

    context: bytes
    value: bytes


class Wrapped(NamedTuple):
    """What a holder made of a key. ``version``: of the key-encryption key, from 1 upwards."""

    context: bytes
    version: int
    value: bytes


class KeyHolder(Protocol):
    """Whole batches, in their order. Each raises KeyWithheld where the holder doesn't serve it."""

    async def version(self) -> int:
        """Of the key-encryption key that wraps at present."""

    async def wrap(self, keys: Sequence[Plain]) -> list[Wrapped]: ...

    async def unwrap(self, keys: Sequence[Wrapped]) -> list[bytes]: ...

    async def rotate(self) -> int:
        """Begin a new version and answer it; Conflict where only the holder's owner can."""


def data_key_context(jurisdiction: str, domain: str, subject: UUID, principal: UUID) -> bytes:
    return joined(b"data", jurisdiction.encode(), domain.encode(), subject.bytes, principal.bytes)


def index_key_context(jurisdiction: str, domain: str, cell: str) -> bytes:
    return joined(b"index", jurisdiction.encode(), domain.encode(), cell.encode())
