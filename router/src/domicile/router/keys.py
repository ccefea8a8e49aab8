"""The public keys that residency tokens are checked with: this router's own, and the others' by the directory.

The set is kept on disk, so that a router identifies people while the directory is gone. It is read anew when a
token names an unknown key, at a bounded rate, since anybody can make such tokens up, and when it is old: a key
that was withdrawn counts for ``REREAD_SECONDS`` more while the directory answers.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from domicile.client import DirectoryClient
from domicile.identity import Keyring, Verifier, write_private
from domicile.identity.tokens import in_time
from domicile.model import DomicileError, ResidencyToken
from domicile.model.wire import JWKS, SigningKey
from domicile.router.verified import Verified
from domicile.telemetry import warn

REFETCH_SECONDS: Final = 1.0
REREAD_SECONDS: Final = 300.0
RETRY_SECONDS: Final = 10.0
Clock = Callable[[], float]


class ResidencyKeys:
    """Verifies residency tokens of every router, and publishes the keys of this one."""

    def __init__(
        self,
        directory: DirectoryClient,
        keyring: Keyring,
        deployment: str,
        cache: Path,
        *,
        clock: Clock = time.monotonic,
        wall: Clock = time.time,
    ) -> None:
        self._directory = directory
        self._keyring = keyring
        self._cache = cache
        self._clock = clock
        self._wall = wall
        self._verifier = Verifier(deployment, clock=wall)
        self._published: list[SigningKey] | None = None
        self._verified: Verified[ResidencyToken] = Verified()
        self._next_fetch = self._reread_at = clock()
        self._flight: asyncio.Task[None] | None = None
        self._take(self._cached())

    async def close(self) -> None:
        if self._flight is not None:
            self._flight.cancel()
            await asyncio.wait([self._flight])

    def _cached(self) -> list[SigningKey]:
        try:
            return JWKS.model_validate_json(self._cache.read_bytes()).keys
        except (FileNotFoundError, ValidationError):
            return []

    def _take(self, keys: list[SigningKey]) -> None:
        own = [key for key in self._keyring.public() if key not in keys]
        if [*keys, *own] == self._published:
            return
        self._published = [*keys, *own]
        self._verifier.replace(self._published)

    async def keep(self, period: float) -> None:
        """Without end: publish this router's keys, and turn them every ``period`` seconds."""
        await self._keyring.keep(self._directory, period, changed=self._fetch)

    def remembered(self, token: bytes) -> ResidencyToken | None:
        """What ``verify`` would say of one that it has verified, where it would wait for nothing."""
        if self._clock() >= self._reread_at:
            return None
        known = self._verified.find(token, self._published)
        return known if known is not None and in_time(known, self._wall()) else None

    async def verify(self, token: str) -> ResidencyToken:
        """Raises TokenInvalid."""
        now = self._clock()
        if now >= self._reread_at:
            self._begin(now)
        digest = self._verified.digest(token)
        known = self._verified.get(digest, self._published)
        if known is not None:
            if in_time(known, self._wall()):
                return known
            self._verified.drop(digest)
        if not self._verifier.knows(token, "residency"):
            self._begin(now)
            if self._flight is not None:
                await asyncio.shield(self._flight)
        keys = self._published
        claims = self._verifier.residency(token)
        self._verified.put(digest, keys, claims)
        return claims

    def _begin(self, now: float) -> None:
        """A read, unless one is under way or the last one began just now."""
        if self._flight is None and now >= self._next_fetch:
            self._next_fetch = now + REFETCH_SECONDS
            self._flight = asyncio.create_task(self._fetch())
            self._flight.add_done_callback(self._landed)

    def _landed(self, _: asyncio.Task[None]) -> None:
        self._flight = None

    async def _fetch(self) -> None:
        try:
            keys = await self._directory.keys()
            self._take(keys)
            self._reread_at = self._clock() + REREAD_SECONDS
        except DomicileError as error:
            warn("signing-keys-not-read", code=error.code)
            self._reread_at = self._clock() + RETRY_SECONDS
            return
        try:
            write_private(self._cache, JWKS(keys=keys).model_dump_json().encode())
        except OSError as error:
            warn("signing-keys-not-kept", error=type(error).__name__)
