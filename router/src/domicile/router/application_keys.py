"""Where the application's keys come from, and for how long they are believed after their provider stops naming them.

A file is looked at every second. An address is read again after half of ``refresh_seconds``, beside the requests;
nobody is believed by a set older than ``refresh_seconds`` as long as the address answers. While it does not, the
last set counts until ``outage_seconds`` after it was read, over restarts too: it is kept on disk with its time.
A token that names an unknown key may be by a new one: the set is then read early, at a bounded rate, since
anybody can make such tokens up.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final, Protocol

import aiohttp

from domicile.client import JailedResolver
from domicile.identity import write_private
from domicile.model import InvalidInput, Unavailable
from domicile.model.manifest import ApplicationIdentity
from domicile.router.jwks import MAX_JWKS_BYTES, KeySet, read_jwks
from domicile.telemetry import log, warn

LOOK_SECONDS: Final = 1.0
FETCH_SECONDS: Final = 3.0
EARLY_SECONDS: Final = 5.0
"""Between two reads of an address, whatever asks for them."""
Clock = Callable[[], float]
Fetch = Callable[[str], Awaitable[bytes]]


class KeySource(Protocol):
    """``current`` and ``renewed`` raise Unavailable where no set may be believed any more."""

    def at_once(self) -> KeySet | None:
        """The set to believe now, where there is nothing that ``current`` would have to do first."""
        ...

    async def current(self) -> KeySet:
        """The set to believe now; the same object for as long as it is the same set."""
        ...

    async def renewed(self, kid: str) -> KeySet:
        """The same, read early where that is not too soon: ``kid`` is not in the current one."""
        ...


def _unavailable() -> Unavailable:
    return Unavailable("the application's key set cannot be read, and the last one is too old", retry_after=5)


class KeyFile:
    """A file that the application may replace at any time. Raises InvalidInput where there is none at the start."""

    def __init__(self, path: Path, outage_seconds: float, *, clock: Clock = time.monotonic) -> None:
        self._path = path
        self._outage = outage_seconds
        self._clock = clock
        self._looked_at = self._seen_at = clock()
        self._version = self._stamp()
        if self._version is None:
            raise InvalidInput("no key set of the application", where=str(path), remedy="see identity.jwks")
        self._keys = read_jwks(path.read_bytes(), where=str(path))

    def _stamp(self) -> tuple[int, int, int] | None:
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino

    def at_once(self) -> KeySet | None:
        now = self._clock()
        return self._keys if now < self._looked_at + LOOK_SECONDS and now < self._seen_at + self._outage else None

    async def current(self) -> KeySet:
        now = self._clock()
        if now >= self._looked_at + LOOK_SECONDS:
            self._looked_at = now
            self._look(now)
        if now >= self._seen_at + self._outage:
            raise _unavailable()
        return self._keys

    async def renewed(self, kid: str) -> KeySet:
        return await self.current()

    def _look(self, now: float) -> None:
        version = self._stamp()
        if version is None:
            return
        if version != self._version:
            try:
                self._keys = read_jwks(self._path.read_bytes(), where=str(self._path))
            except (InvalidInput, OSError) as error:
                warn("application-keys-not-read", error=type(error).__name__)
                return
            self._version = version
        self._seen_at = now


class KeyAddress:
    """An https address, and what it last answered."""

    def __init__(
        self,
        identity: ApplicationIdentity,
        cache: Path,
        fetch: Fetch,
        *,
        clock: Clock = time.monotonic,
        wall: Clock = time.time,
    ) -> None:
        self._identity = identity
        self._cache = cache
        self._fetch = fetch
        self._clock = clock
        self._wall = wall
        self._keys: KeySet | None = None
        self._raw = b""
        self._read_at = self._not_before = clock()
        self._failing = False
        self._flight: asyncio.Task[None] | None = None
        self._load()

    def start(self) -> None:
        """Begin to read, so that the first request need not wait for it."""
        self._begin(self._clock())

    async def close(self) -> None:
        if self._flight is not None:
            self._flight.cancel()
            await asyncio.wait([self._flight])

    def _load(self) -> None:
        """What an earlier run read, as old as it is; nothing where that belongs to another address."""
        try:
            kept = json.loads(self._cache.read_bytes())
            if kept["address"] != self._identity.jwks:
                return
            age = self._wall() - float(kept["read"])
            self._keys = read_jwks(kept["set"].encode(), where=str(self._cache))
            self._raw = kept["set"].encode()
        except (OSError, ValueError, KeyError, TypeError, AttributeError, InvalidInput):
            return
        # from the future: the clock was put back, and how old it is nobody knows
        self._read_at -= age if age >= 0 else self._identity.outage_seconds

    def at_once(self) -> KeySet | None:
        age = self._clock() - self._read_at
        return self._keys if age < self._identity.refresh_seconds / 2 and age < self._identity.outage_seconds else None

    async def current(self) -> KeySet:
        now = self._clock()
        age = now - self._read_at
        refresh = self._identity.refresh_seconds
        if self._keys is None or age >= refresh / 2:
            self._begin(now)
            # once it has failed nobody waits for it: the outage's own bound is in force
            if self._flight is not None and not self._failing and (self._keys is None or age >= refresh):
                await asyncio.shield(self._flight)
        if self._keys is None or self._clock() - self._read_at >= self._identity.outage_seconds:
            raise _unavailable()
        return self._keys

    async def renewed(self, kid: str) -> KeySet:
        if self._keys is None or kid not in self._keys:
            self._begin(self._clock())
            if self._flight is not None and not self._failing:
                await asyncio.shield(self._flight)
        return await self.current()

    def _begin(self, now: float) -> None:
        if self._flight is None and now >= self._not_before:
            self._not_before = now + EARLY_SECONDS
            self._flight = asyncio.create_task(self._read(now))
            self._flight.add_done_callback(self._landed)

    def _landed(self, _: asyncio.Task[None]) -> None:
        self._flight = None

    async def _read(self, began: float) -> None:
        try:
            raw = await self._fetch(self._identity.jwks)
            keys = read_jwks(raw, where="identity.jwks")
            kept = {"address": self._identity.jwks, "read": self._wall(), "set": raw.decode()}
        except (InvalidInput, Unavailable, UnicodeDecodeError) as error:
            self._failing = True
            warn("application-keys-not-read", error=type(error).__name__)
            return
        self._failing = False
        self._read_at = began  # the answer may be as old as the question
        if self._keys is None or raw != self._raw:
            self._keys, self._raw = keys, raw
            log("application-keys-read", count=len(keys))
        try:
            await asyncio.to_thread(write_private, self._cache, json.dumps(kept).encode())
        except OSError as error:
            warn("application-keys-not-kept", error=type(error).__name__)


async def fetch_over_https(address: str, context: ssl.SSLContext) -> bytes:
    """One bounded GET: no redirect, no proxy, no link-local address. Raises Unavailable."""
    connector = aiohttp.TCPConnector(ssl=context, resolver=JailedResolver(None), force_close=True)
    timeout = aiohttp.ClientTimeout(total=FETCH_SECONDS)
    try:
        async with (
            aiohttp.ClientSession(connector=connector, timeout=timeout, trust_env=False) as session,
            session.get(address, allow_redirects=False, headers={"Accept": "application/json"}) as answer,
        ):
            if answer.status != 200:
                raise Unavailable(f"the identity provider answered {answer.status}")
            raw = b""
            async for chunk in answer.content.iter_any():
                raw += chunk
                if len(raw) > MAX_JWKS_BYTES:
                    raise Unavailable(f"a key set over {MAX_JWKS_BYTES} bytes")
            return raw
    except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
        raise Unavailable(f"the identity provider cannot be asked: {type(error).__name__}") from None
