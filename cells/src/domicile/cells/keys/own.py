"""The key-encryption keys that this service holds itself: one file for each version, and nowhere else.

Neither the key store's database nor its backups open anything without them. Wrapping is AES-256-GCM (NIST SP 800-38D)
with a random nonce. The database records a check value of each version, so that a service with a lost or another
key refuses to start, or to use it. No code of ours ever deletes such a file.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from domicile.cells.keys.holders import Plain, Wrapped, joined
from domicile.identity import write_private
from domicile.model import InvalidInput, Unavailable

KEY_BYTES: Final = 32
_NONCE_BYTES: Final = 12


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


class Register(Protocol):
    """Which versions of a domain's key there are, with their check values; shared by all processes of a service."""

    async def keks(self, domain: str) -> Mapping[int, bytes]: ...

    async def add_kek(self, domain: str, version: int, check_value: bytes) -> None:
        """Unless the version is there already, with whatever check value."""


class OwnHolder:
    """A domain's versions in ``folder``, one file ``<version>.key`` of 32 bytes each."""

    def __init__(self, folder: Path, jurisdiction: str, domain: str, register: Register) -> None:
        self._folder = folder
        self._jurisdiction = jurisdiction
        self._domain = domain
        self._register = register
        self._held: dict[int, KeyEncryptionKey] = {}
        self._rotating = asyncio.Lock()

    async def start(self) -> None:
        """Hold every recorded version, or make the first one.

        Raises InvalidInput where a file is missing, or holds another key than the one recorded.
        """
        recorded = await self._register.keks(self._domain)
        for version in recorded:
            self._hold(version, recorded)
        if not recorded:
            await self._begin(1)

    async def version(self) -> int:
        recorded = await self._register.keks(self._domain)
        version = max(recorded)
        self._hold(version, recorded)  # another process may have begun it
        return version

    async def wrap(self, keys: Sequence[Plain]) -> list[Wrapped]:
        version = await self.version()
        kek = self._held[version]
        return [Wrapped(key.context, version, kek.wrap(key.value, key.context)) for key in keys]

    async def unwrap(self, keys: Sequence[Wrapped]) -> list[bytes]:
        if unknown := {key.version for key in keys} - self._held.keys():
            recorded = await self._register.keks(self._domain)
            for version in unknown:
                self._hold(version, recorded)
        return [self._held[key.version].unwrap(key.value, key.context) for key in keys]

    async def rotate(self) -> int:
        async with self._rotating:
            version = await self.version() + 1
            await self._begin(version)
        return version

    async def _begin(self, version: int) -> None:
        path = self._path(version)
        self._make(path)
        await self._register.add_kek(self._domain, version, self._read(path).check_value)
        self._hold(version, await self._register.keks(self._domain))

    def _path(self, version: int) -> Path:
        return self._folder / f"{version}.key"

    def _make(self, path: Path) -> None:
        """A new key, unless the file is there: laid out beforehand for all hosts, or by another process just now."""
        if path.exists():
            return
        fresh = path.with_name(f"{path.name}.{os.getpid()}.fresh")
        write_private(fresh, secrets.token_bytes(KEY_BYTES))
        try:
            os.link(fresh, path)
        except FileExistsError:
            pass
        finally:
            fresh.unlink()

    def _read(self, path: Path) -> KeyEncryptionKey:
        remedy = "restore the file from its backup, or from the host that made it"
        try:
            return KeyEncryptionKey(path.read_bytes(), self._jurisdiction, self._domain)
        except FileNotFoundError:
            raise InvalidInput("the key-encryption key is missing", where=str(path), remedy=remedy) from None
        except InvalidInput as error:
            raise InvalidInput(error.what, where=str(path), remedy=remedy) from None

    def _hold(self, version: int, recorded: Mapping[int, bytes]) -> None:
        if version in self._held:
            return
        path = self._path(version)
        kek = self._read(path)
        if version not in recorded or not hmac.compare_digest(recorded[version], kek.check_value):
            raise InvalidInput(
                "not the key-encryption key that the key store's keys are wrapped with",
                where=str(path),
                remedy="restore the file from its backup, or from the host that made it",
            )
        self._held[version] = kek
