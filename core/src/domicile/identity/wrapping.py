"""Keys under a key-encryption key, as the key service wraps them, and as who restores one opens them without it.

AES-256-GCM (NIST SP 800-38D) with a random nonce, bound to a context that names whose key it is.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from domicile.model.errors import InvalidInput, Unavailable

KEY_BYTES: Final = 32
CHECK_BYTES: Final = 16
_NONCE_BYTES: Final = 12


def joined(*parts: bytes) -> bytes:
    """Parts with their lengths, so that no two lists of parts give the same bytes."""
    return b"".join(len(part).to_bytes(2, "big") + part for part in parts)


def check_value(key: bytes, context: bytes) -> bytes:
    """What tells the right key from any other, and nothing of it: HMAC-SHA256 under the key, cut to 16 bytes."""
    return hmac.digest(key, b"domicile/key-check" + context, hashlib.sha256)[:CHECK_BYTES]


def backup_key_context(jurisdiction: str, domain: str, database: str) -> bytes:
    return joined(b"backup", jurisdiction.encode(), domain.encode(), database.encode())


class KeyEncryptionKey:
    """One version of the key of one (jurisdiction, domain)."""

    def __init__(self, secret: bytes, jurisdiction: str, domain: str) -> None:
        if len(secret) != KEY_BYTES:
            raise InvalidInput(f"a key-encryption key has {KEY_BYTES} bytes, not {len(secret)}")
        scope = joined(b"check", jurisdiction.encode(), domain.encode())
        self._cipher = AESGCM(secret)
        self.check_value = hmac.digest(secret, scope, hashlib.sha256)
        """32 bytes that only this key gives for this jurisdiction and domain; they tell nothing about it."""

    def wrap(self, plain: bytes, context: bytes) -> bytes:
        nonce = os.urandom(_NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, plain, context)

    def unwrap(self, wrapped: bytes, context: bytes) -> bytes:
        """Raises Unavailable for a value that this key did not wrap for this context."""
        try:
            return self._cipher.decrypt(wrapped[:_NONCE_BYTES], wrapped[_NONCE_BYTES:], context)
        except (InvalidTag, ValueError):  # altered, or cut short
            raise Unavailable(
                "a wrapped key does not open under this key-encryption key",
                where="key store",
                remedy="restore the key store and the key-encryption keys from the same time",
            ) from None
