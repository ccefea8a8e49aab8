"""Passwords as scrypt hashes (RFC 7914), computed off the event loop; a comparison tells nothing by its time."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import os
from typing import Final

_COST: Final = 2**14
_BLOCK: Final = 8
_MEMORY: Final = 64 << 20
_SALT_BYTES: Final = 16
NOBODY: Final = "0" * 32 + ":" + "0" * 128
"""The hash that an unknown user's password is compared with, so that the answer takes as long."""


def _scrypt(password: str, salt: bytes) -> bytes:
    return hashlib.scrypt(password.encode(), salt=salt, n=_COST, r=_BLOCK, p=1, maxmem=_MEMORY)


async def hash_password(password: str) -> str:
    """``SALT:HASH`` in hexadecimal."""
    salt = os.urandom(_SALT_BYTES)
    return f"{salt.hex()}:{(await asyncio.to_thread(_scrypt, password, salt)).hex()}"


async def matches(password: str, hashed: str) -> bool:
    """Whether ``hashed`` was made from this password."""
    salt, _, digest = hashed.partition(":")
    computed = await asyncio.to_thread(_scrypt, password, bytes.fromhex(salt))
    return hmac.compare_digest(computed, bytes.fromhex(digest))
