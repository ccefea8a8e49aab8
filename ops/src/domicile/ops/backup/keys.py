"""Where the keys of backups come from: the jurisdiction's key service, or its key-encryption keys by hand.

A backup names the wrapped key that opens it, so that no store of keys is needed beside it. The service unwraps it for
a backup certificate of its own jurisdiction alone. Who has lost that service, and restores its store first, opens it
with the key files; the directory, which has no key service, has a file of its own.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from pathlib import Path
from typing import Final, Protocol

from domicile.client import BackupKeyClient
from domicile.identity import write_private
from domicile.identity.wrapping import KEY_BYTES, KeyEncryptionKey, backup_key_context, check_value
from domicile.model.errors import InvalidInput, Unavailable, WrongJurisdiction
from domicile.model.key_domains import DEFAULT_DOMAIN
from domicile.model.key_wire import BackupKey, WrappedKey
from domicile.ops.backup.sealed import Head


class BackupKeys(Protocol):
    """Keys of one jurisdiction. Each method raises Unavailable where there is none to be had."""

    async def make(self, database: str) -> BackupKey: ...

    async def open(self, database: str, wrapped: WrappedKey) -> BackupKey: ...


class FileKeys:
    """By the files of the key-encryption key: ``<version>.key`` in ``folder``. ``own``: the first is made if needed."""

    def __init__(self, folder: Path, jurisdiction: str, *, own: bool = False) -> None:
        self._folder = folder
        self._jurisdiction = jurisdiction
        self._own = own

    async def make(self, database: str) -> BackupKey:
        return await asyncio.to_thread(self._make, database)

    async def open(self, database: str, wrapped: WrappedKey) -> BackupKey:
        return await asyncio.to_thread(self._open, database, wrapped)

    def _make(self, database: str) -> BackupKey:
        versions = [int(path.stem) for path in self._folder.glob("*.key") if path.stem.isdecimal()]
        if not versions:
            if not self._own:
                raise InvalidInput("holds no key-encryption key", where=str(self._folder), remedy="restore its files")
            self._found()
            versions = [1]
        version, key = max(versions), secrets.token_bytes(KEY_BYTES)
        context = self._context(database)
        value = self._kek(version).wrap(key, context)
        return BackupKey(key=key, wrapped=WrappedKey(value=value, version=version, check=check_value(key, context)))

    def _found(self) -> None:
        """The first version, once, whoever else makes it at this moment: what was sealed under it must open."""
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        fresh = self._folder / f"{secrets.token_hex(8)}.fresh"
        write_private(fresh, secrets.token_bytes(KEY_BYTES))
        try:
            os.link(fresh, self._folder / "1.key")
        except FileExistsError:
            pass
        finally:
            fresh.unlink()

    def _open(self, database: str, wrapped: WrappedKey) -> BackupKey:
        try:
            key = self._kek(wrapped.version).unwrap(wrapped.value, self._context(database))
        except Unavailable:
            raise Unavailable(
                f"the backup's key does not open under version {wrapped.version} of this key-encryption key",
                where=str(self._folder),
                remedy="it is another jurisdiction's, another database's, or was altered",
            ) from None
        return BackupKey(key=key, wrapped=wrapped)

    def _context(self, database: str) -> bytes:
        return backup_key_context(self._jurisdiction, DEFAULT_DOMAIN, database)

    def _kek(self, version: int) -> KeyEncryptionKey:
        path = self._folder / f"{version}.key"
        try:
            return KeyEncryptionKey(path.read_bytes(), self._jurisdiction, DEFAULT_DOMAIN)
        except OSError:
            raise InvalidInput(
                "the key-encryption key is missing", where=str(path), remedy="restore the file from where it is kept"
            ) from None


class FirstOf:
    """The service where it answers, else the files by hand."""

    def __init__(self, service: BackupKeyClient, files: FileKeys) -> None:
        self._service = service
        self._files = files

    async def make(self, database: str) -> BackupKey:
        return await self._service.make(database)

    async def open(self, database: str, wrapped: WrappedKey) -> BackupKey:
        try:
            return await self._service.open(database, wrapped)
        except Unavailable:
            return await self._files.open(database, wrapped)


class Keyring:
    """What has been opened is kept in memory, so that a log of many objects costs one question for each key."""

    def __init__(self, keys: BackupKeys, deployment: str, jurisdiction: str) -> None:
        self._keys = keys
        self._deployment = deployment
        self._jurisdiction = jurisdiction
        self._opened: dict[tuple[str, bytes], bytes] = {}

    async def make(self, database: str) -> BackupKey:
        made = await self._keys.make(database)
        self._opened[database, made.wrapped.value] = made.key
        return made

    async def open(self, head: Head, where: str) -> bytes:
        """The key of an object. Raises WrongJurisdiction for another's, before anybody is asked for a key."""
        if (head.deployment, head.jurisdiction) != (self._deployment, self._jurisdiction):
            raise WrongJurisdiction(
                f"a backup of {head.jurisdiction} of {head.deployment} is not opened in {self._jurisdiction}",
                where=where,
                remedy="restore it in its own jurisdiction",
            )
        name = head.database, head.key.value
        if name not in self._opened:
            self._opened[name] = (await self._keys.open(head.database, head.key)).key
        return self._opened[name]


KEYS_AT: Final = Path("kek") / DEFAULT_DOMAIN
"""Below a key service's state folder."""
