"""The public keys that identities are checked with: the routers' own, and the application's.

Both sets are files as far as a restart is concerned, so that a router identifies people while the directory
is gone. A token that names an unknown key may be by a new one: the set is then read anew, at a bounded
rate, since anybody can make such tokens up.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm
from pydantic import ValidationError

from domicile.client import DirectoryClient
from domicile.identity import Signer, Verifier, write_private
from domicile.model import DomicileError, InvalidInput, ResidencyToken
from domicile.model.wire import JWKS, SigningKey
from domicile.telemetry import log, warn

REFETCH_SECONDS: Final = 1.0
REREAD_SECONDS: Final = 1.0
PUBLISH_RETRY_SECONDS: Final = 1.0
MIN_RSA_BITS: Final = 2048
MAX_JWKS_BYTES: Final = 1 << 20
Clock = Callable[[], float]


class ResidencyKeys:
    """Verifies residency tokens of every router, and publishes the key of this one."""

    def __init__(
        self,
        directory: DirectoryClient,
        signer: Signer,
        deployment: str,
        cache: Path,
        *,
        clock: Clock = time.monotonic,
    ) -> None:
        self._directory = directory
        self._own = signer.public("residency")
        self._cache = cache
        self._clock = clock
        self._verifier = Verifier(deployment)
        self._next_fetch = clock()
        self._flight: asyncio.Task[None] | None = None
        self._take(self._cached())

    def _cached(self) -> list[SigningKey]:
        try:
            return JWKS.model_validate_json(self._cache.read_bytes()).keys
        except (FileNotFoundError, ValidationError):
            return []

    def _take(self, keys: list[SigningKey]) -> None:
        own = [] if any(key.kid == self._own.kid for key in keys) else [self._own]
        self._verifier.replace([*keys, *own])

    async def publish(self) -> None:
        """Publish this router's key, then read all; asks again until the directory answers."""
        while True:
            try:
                await self._directory.publish_key(self._own)
                break
            except DomicileError as error:
                warn("signing-key-not-published", code=error.code)
                await asyncio.sleep(PUBLISH_RETRY_SECONDS)
        log("signing-key-published")
        await self._fetch()

    async def verify(self, token: str) -> ResidencyToken:
        """Raises TokenInvalid."""
        if not self._verifier.knows(token, "residency"):
            await self._refetch()
        return self._verifier.residency(token)

    async def _refetch(self) -> None:
        """Join the read that is under way; else begin one, unless the last one began just now."""
        if self._flight is None:
            if self._clock() < self._next_fetch:
                return
            self._next_fetch = self._clock() + REFETCH_SECONDS
            self._flight = asyncio.create_task(self._fetch())
            self._flight.add_done_callback(self._landed)
        await asyncio.shield(self._flight)

    def _landed(self, _: asyncio.Task[None]) -> None:
        self._flight = None

    async def _fetch(self) -> None:
        try:
            keys = await self._directory.keys()
            self._take(keys)
        except DomicileError as error:
            warn("signing-keys-not-read", code=error.code)
            return
        write_private(self._cache, JWKS(keys=keys).model_dump_json().encode())


@dataclass(frozen=True, slots=True)
class ApplicationKey:
    """A key and the one algorithm that it may be used with (RFC 8725, 3.1)."""

    algorithm: str
    key: Any


def _application_key(jwk: dict[str, Any]) -> ApplicationKey | None:
    """A public signing key of a kind that is accepted; None for any other (symmetric ones above all)."""
    kind = (jwk.get("kty"), jwk.get("crv"))
    text = json.dumps(jwk)
    key: Any
    if kind == ("OKP", "Ed25519"):
        algorithm, key = "EdDSA", OKPAlgorithm.from_jwk(text)
    elif kind == ("EC", "P-256"):
        algorithm, key = "ES256", ECAlgorithm.from_jwk(text)
    elif kind[0] == "RSA":
        algorithm, key = "RS256", RSAAlgorithm.from_jwk(text)
        if key.key_size < MIN_RSA_BITS:
            return None
    else:
        return None
    if jwk.get("alg", algorithm) != algorithm or jwk.get("use", "sig") != "sig" or "d" in jwk:
        return None
    return ApplicationKey(algorithm, key)


def read_jwks(raw: bytes, *, where: str) -> dict[str, ApplicationKey]:
    """The usable keys of a JWK set (RFC 7517) by kid. Raises InvalidInput for what is no key set."""
    try:
        entries = json.loads(raw)["keys"] if len(raw) <= MAX_JWKS_BYTES else None
    except (ValueError, KeyError, TypeError, RecursionError):
        entries = None
    if not isinstance(entries, list):
        raise InvalidInput("not a JWK set", where=where, remedy='a file such as {"keys": [...]}')
    found: dict[str, ApplicationKey] = {}
    for jwk in entries:
        if not isinstance(jwk, dict) or not isinstance(jwk.get("kid"), str):
            continue
        try:
            key = _application_key(cast("dict[str, Any]", jwk))
        except (jwt.PyJWTError, ValueError, TypeError, KeyError, UnsupportedAlgorithm):
            key = None
        if key is None:
            warn("application-key-ignored", reason="unsupported")
        else:
            found[jwk["kid"]] = key
    return found


class ApplicationKeys:
    """The application's key set from its file, which the application may replace at any time."""

    def __init__(self, path: Path, *, clock: Clock = time.monotonic) -> None:
        self._path = path
        self._clock = clock
        self._read_at = clock()
        self._version = self._stamp()
        if self._version is None:
            raise InvalidInput("no key set of the application", where=str(path), remedy="see identity.jwks")
        self._keys = read_jwks(path.read_bytes(), where=str(path))

    def _stamp(self) -> tuple[int, int] | None:
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size

    def get(self, kid: str) -> ApplicationKey | None:
        if kid not in self._keys and self._clock() >= self._read_at + REREAD_SECONDS:
            self._reread()
        return self._keys.get(kid)

    def _reread(self) -> None:
        self._read_at = self._clock()
        version = self._stamp()
        if version is None or version == self._version:
            return
        try:
            self._keys = read_jwks(self._path.read_bytes(), where=str(self._path))
        except (InvalidInput, OSError) as error:
            warn("application-keys-not-read", error=type(error).__name__)
            return
        self._version = version
