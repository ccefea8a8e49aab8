"""The key-encryption key of a jurisdiction's key domain: what makes the wrapped keys in the database useless.

It lies in a file of the service and nowhere else, so that neither the key store's database nor its backups open
anything. Wrapping is AES-256-GCM (NIST SP 800-38D) with a random nonce; the additional data name whose key it
is, so that a wrapped key put into another row does not open.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from pathlib import Path
from typing import Final
from uuid import UUID

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from domicile.identity import write_private
from domicile.model import InvalidInput, Unavailable

KEY_BYTES: Final = 32
_NONCE_BYTES: Final = 12


def _joined(*parts: bytes) -> bytes:
    """Parts with their lengths, so that no two lists of parts give the same bytes."""
    return b"".join(len(part).to_bytes(2, "big") + part for part in parts)


class KeyEncryptionKey:
    """Wraps and unwraps for one (jurisdiction, domain)."""

    def __init__(self, secret: bytes, jurisdiction: str, domain: str) -> None:
        if len(secret) != KEY_BYTES:
            raise InvalidInput(f"a key-encryption key has {KEY_BYTES} bytes, not {len(secret)}")
        self._secret = secret
        self._cipher = AESGCM(secret)
        self._scope = (jurisdiction.encode(), domain.encode())
        self.domain = domain

    @property
    def check_value(self) -> bytes:
        """32 bytes that only this key gives for this jurisdiction and domain; they tell nothing about it."""
        return hmac.digest(self._secret, _joined(b"check", *self._scope), hashlib.sha256)

    def wrap_data_key(self, subject: UUID, principal: UUID, keys: bytes) -> bytes:
        return self._wrap(keys, _joined(b"data", *self._scope, subject.bytes, principal.bytes))

    def unwrap_data_key(self, subject: UUID, principal: UUID, wrapped: bytes) -> bytes:
        """Raises Unavailable for a value that this key did not wrap for these two."""
        return self._unwrap(wrapped, _joined(b"data", *self._scope, subject.bytes, principal.bytes))

    def wrap_index_key(self, cell: str, key: bytes) -> bytes:
        return self._wrap(key, _joined(b"index", *self._scope, cell.encode()))

    def unwrap_index_key(self, cell: str, wrapped: bytes) -> bytes:
        """Raises Unavailable for a value that this key did not wrap for this cell."""
        return self._unwrap(wrapped, _joined(b"index", *self._scope, cell.encode()))

    def _wrap(self, plain: bytes, context: bytes) -> bytes:
        nonce = os.urandom(_NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, plain, context)

    def _unwrap(self, wrapped: bytes, context: bytes) -> bytes:
        try:
            return self._cipher.decrypt(wrapped[:_NONCE_BYTES], wrapped[_NONCE_BYTES:], context)
        except (InvalidTag, ValueError):  # altered, or cut short
            raise Unavailable(
                "a wrapped key does not open under this key-encryption key",
                where="key store",
                remedy="restore the key store and kek.key from the same time",
            ) from None


def settle(path: Path, jurisdiction: str, domain: str, recorded: bytes | None) -> KeyEncryptionKey:
    """The domain's key-encryption key, held against what the database ``recorded`` of it.

    Only a domain that the database does not know gets a new one. Raises InvalidInput where the file is missing
    or holds another key although the database has keys to be unwrapped with it.
    """
    try:
        secret = path.read_bytes()
    except FileNotFoundError:
        if recorded is not None:
            raise InvalidInput(
                "the key-encryption key is missing, and the key store holds keys wrapped with it",
                where=str(path),
                remedy="restore the file from its backup; no other key opens them",
            ) from None
        secret = secrets.token_bytes(KEY_BYTES)
        write_private(path, secret)
    try:
        kek = KeyEncryptionKey(secret, jurisdiction, domain)
    except InvalidInput as error:
        raise InvalidInput(error.what, where=str(path), remedy="restore the file from its backup") from None
    if recorded is not None and not hmac.compare_digest(recorded, kek.check_value):
        raise InvalidInput(
            "not the key-encryption key that the key store's keys are wrapped with",
            where=str(path),
            remedy="restore the file from its backup; no other key opens them",
        )
    return kek
