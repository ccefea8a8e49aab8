"""Signed statements that were verified before, so that a signature costs its 100 µs once and not per request.

Only what verified is held, by a keyed digest of its text, in memory alone. The digest covers the whole text, so
that an entry answers for exactly what was verified. Whoever asks checks the time, and says which set of keys is
in force: under another one nothing that was verified before counts.
"""

from __future__ import annotations

import secrets
from hashlib import blake2b
from typing import Final, Generic, TypeVar

MAX_HELD: Final = 20_000
"""Some 10 MB of claims at most."""
_DIGEST_BYTES: Final = 32
Claims = TypeVar("Claims")


class Verified(Generic[Claims]):
    """Bounded; the oldest goes first."""

    def __init__(self, limit: int = MAX_HELD) -> None:
        self._limit = limit
        self._secret = secrets.token_bytes(32)
        self._keys: object = None
        self._held: dict[bytes, Claims] = {}

    def __len__(self) -> int:
        return len(self._held)

    def __repr__(self) -> str:
        return f"Verified({len(self._held)} held)"

    def digest(self, token: str) -> bytes:
        """What ``get``, ``put`` and ``drop`` go by; made once a request."""
        return blake2b(token.encode("utf-8", "surrogatepass"), digest_size=_DIGEST_BYTES, key=self._secret).digest()

    def find(self, token: bytes, keys: object) -> Claims | None:
        """What ``get`` says of a token."""
        if keys is not self._keys:
            return None
        return self._held.get(blake2b(token, digest_size=_DIGEST_BYTES, key=self._secret).digest())

    def get(self, digest: bytes, keys: object) -> Claims | None:
        """What was put under this digest by the same ``keys``, compared by identity."""
        if keys is not self._keys:
            self._held.clear()
            self._keys = keys
            return None
        return self._held.get(digest)

    def put(self, digest: bytes, keys: object, claims: Claims) -> None:
        """Nothing is held for a set of keys that has been replaced since."""
        if keys is not self._keys:
            return
        if len(self._held) >= self._limit:
            del self._held[next(iter(self._held))]
        self._held[digest] = claims

    def drop(self, digest: bytes) -> None:
        self._held.pop(digest, None)
