"""The router's own copy of the pins that it has met, so that a known subject costs no network.

LMDB, 17-byte key to ``pack_pin`` value; it outlives a restart, with or without a directory. Epochs in it
never go back: an older answer that arrives late changes nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from shutil import rmtree
from typing import Final, Protocol

import lmdb

from domicile.model import InvalidInput, Pin, SubjectKey, UnknownSubject, pack_pin, unpack_pin
from domicile.telemetry import warn

NEGATIVE_SECONDS: Final = 5.0
NEGATIVE_ENTRIES: Final = 10_000


class Replica:
    """Pins on disk. Reads are memory look-ups; a write is durable when ``put`` returns."""

    def __init__(self, folder: Path, size: int) -> None:
        self._env = self._open(folder, size)

    @staticmethod
    def _open(folder: Path, size: int) -> lmdb.Environment:
        try:
            return Replica._environment(folder, size)
        except (lmdb.InvalidError, lmdb.CorruptedError, lmdb.VersionMismatchError) as error:
            # a copy: what it held is asked for anew
            warn("replica-rebuilt", error=type(error).__name__)
            rmtree(folder)
            return Replica._environment(folder, size)

    @staticmethod
    def _environment(folder: Path, size: int) -> lmdb.Environment:
        # made here: LMDB would give the folder the files' mode, and nobody but root can enter one without x
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return lmdb.open(str(folder), map_size=size, mode=0o600, metasync=False)

    def get(self, key: SubjectKey) -> Pin | None:
        with self._env.begin(buffers=False) as transaction:
            value = transaction.get(bytes(key))
        return self._read(key, value)

    @staticmethod
    def _read(key: SubjectKey, value: bytes | None) -> Pin | None:
        if value is None:
            return None
        try:
            return unpack_pin(bytes(key), value)
        except InvalidInput:
            warn("replica-record-unreadable")
            return None

    def put(self, pin: Pin) -> Pin:
        """Store a pin unless one of the same or a later epoch is there; the one that now stands."""
        key = pin.subject_key
        try:
            with self._env.begin(write=True) as transaction:
                known = self._read(key, transaction.get(bytes(key)))
                if known is not None and known.epoch >= pin.epoch:
                    return known
                transaction.put(bytes(key), pack_pin(pin))
        except (lmdb.MapFullError, lmdb.DiskError) as error:
            warn("replica-full", error=type(error).__name__)
        return pin

    def close(self) -> None:
        self._env.close()


class PinSource(Protocol):
    """The directory, as far as a router resolves by it."""

    async def pin(self, key: SubjectKey) -> Pin:
        """Raises UnknownSubject, Unavailable. Look-ups of one subject at once share one request."""
        ...


class Pins:
    """Resolves subject keys: the replica, else the directory; misses are remembered for a while."""

    def __init__(self, replica: Replica, directory: PinSource, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._replica = replica
        self._directory = directory
        self._clock = clock
        self._unknown: dict[SubjectKey, float] = {}

    async def resolve(self, key: SubjectKey) -> Pin | None:
        """The pin, or None for a subject without one. Raises Unavailable where only the directory knows."""
        known = self._replica.get(key)
        if known is not None:
            return known
        if (until := self._unknown.get(key)) is not None:
            if self._clock() < until:
                return None
            del self._unknown[key]
        return await self.refresh(key)

    async def refresh(self, key: SubjectKey) -> Pin | None:
        """Ask the directory, whatever is known here. Raises Unavailable."""
        try:
            pin = await self._directory.pin(key)
        except UnknownSubject:
            self._remember_unknown(key)
            return None
        self._unknown.pop(key, None)
        return await asyncio.to_thread(self._replica.put, pin)

    def forget_unknown(self, key: SubjectKey) -> None:
        """The subject may have signed up just now."""
        self._unknown.pop(key, None)

    def _remember_unknown(self, key: SubjectKey) -> None:
        self._unknown.pop(key, None)
        while len(self._unknown) >= NEGATIVE_ENTRIES:
            del self._unknown[next(iter(self._unknown))]  # the oldest: entries expire in this order
        self._unknown[key] = self._clock() + NEGATIVE_SECONDS
