"""The key-encryption keys that this service holds itself: one file for each version, and nowhere else.

Neither the key store's database nor its backups open anything without them. The database records a check value of
each version, so that a service with a lost or another key refuses to start, or to use it. No code of ours ever
deletes such a file.

A version's number is one key's for good, also where the database was restored to before that version and forgot it:
the next one has a number that nobody can have had, on whichever host it is begun.
"""

from __future__ import annotations

import asyncio
import hmac
import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, Protocol

from domicile.cells.keys.holders import Plain, Wrapped
from domicile.identity import sync_folder, write_private
from domicile.identity.wrapping import KEY_BYTES, KeyEncryptionKey
from domicile.model import InvalidInput

STRIDE: Final = 1_000_000
"""How far at most from one version to the next: some four thousand of them fit the database's integer."""


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
            version = self._next(await self.version())
            await self._begin(version)
        return version

    def _next(self, now: int) -> int:
        """A file's that lies there: laid out for all hosts, or of a rotation that the database has forgotten."""
        there = [int(path.stem) for path in self._folder.glob("*.key") if path.stem.isdecimal()]
        later = [version for version in there if version > now]
        return min(later) if later else now + 1 + secrets.randbelow(STRIDE)

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
            sync_folder(self._folder)  # before anything is wrapped with it

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
