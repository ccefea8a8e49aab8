"""Sealing: a personal value as AES-256-GCM bytes that open only in the place for which they were made.

The additional data names cell, jurisdiction, table, column, row, subject and principal (their internal ids),
each with its length before it (SP 800-38D; no two places share a spelling). A blind index is HMAC-SHA256
(RFC 2104) of table, column and value, cut to 16 bytes.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import struct
from dataclasses import dataclass
from functools import lru_cache
from typing import Final
from uuid import UUID

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from domicile.model.errors import DomicileError
from domicile.model.sealed import NONCE_BYTES, TAG_BYTES, Sealed, frame, parse, prefix

INDEX_BYTES: Final = 16
_SEALED: Final = b"domicile/sealed/1"
_INDEX: Final = b"domicile/index/1"
_IDS: Final = struct.Struct(">I16sI16sI16s")


def _spell(*parts: bytes) -> bytes:
    return b"".join(struct.pack(">I", len(part)) + part for part in parts)


@lru_cache(maxsize=4096)
def _names(*names: str) -> bytes:
    return _spell(_SEALED, *(name.encode() for name in names))


@dataclass(frozen=True, slots=True)
class Sealer:
    """Seals and opens the values of one (subject, principal) in one cell.

    ``other``: of another generation, under which a value may lie while the keys are turned.
    """

    cell: str
    jurisdiction: str
    subject: UUID
    principal: UUID
    key: AESGCM
    other: AESGCM | None = None

    def _place(self, table: str, column: str, row: UUID) -> bytes:
        names = _names(self.cell, self.jurisdiction, table, column)
        return names + _IDS.pack(16, row.bytes, 16, self.subject.bytes, 16, self.principal.bytes)

    def seal(self, table: str, column: str, row: UUID, value: bytes) -> bytes:
        """The value as it lies at rest, under a nonce of its own."""
        nonce = os.urandom(NONCE_BYTES)
        return frame(Sealed(self.jurisdiction, nonce, self.key.encrypt(nonce, value, self._place(table, column, row))))

    def open(self, table: str, column: str, row: UUID, raw: bytes) -> bytes:
        """What ``seal`` took; raises DomicileError for bytes that were not sealed for this place by these keys."""
        head = prefix(self.jurisdiction)
        begin = len(head) + NONCE_BYTES
        if raw[: len(head)] == head and len(raw) >= begin + TAG_BYTES:  # the head is not under the tag
            nonce, ciphertext, place = raw[len(head) : begin], raw[begin:], self._place(table, column, row)
            for key in (self.key, self.other):
                if key is None:
                    continue
                try:
                    return key.decrypt(nonce, ciphertext, place)
                except InvalidTag:
                    pass
        else:
            parse(raw)  # says what is wrong with bytes that nobody sealed
        raise DomicileError("a sealed value that does not belong in its place", where=f"{table}.{column}")

    def opens(self, table: str, column: str, row: UUID, raw: bytes) -> bool:
        """Whether ``open`` would answer."""
        try:
            self.open(table, column, row, raw)
        except DomicileError:
            return False
        return True


def blind_index(secret: bytes, table: str, column: str, value: bytes) -> bytes:
    """What tells equal values of one column under one secret, and nothing else of them."""
    message = _spell(_INDEX, table.encode(), column.encode(), value)
    return hmac.digest(secret, message, hashlib.sha256)[:INDEX_BYTES]
