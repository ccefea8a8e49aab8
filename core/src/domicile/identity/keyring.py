"""The keys that one process signs with, and how they change without anybody's noticing.

Two are published at any time: the one in force, and the one that follows. A reader has had a key for as long as a
period when the first statement by it comes; what the last one signed is good until it has expired, and only then is
its key taken out of the set. Of several processes over one folder one turns and publishes, and the others take up
what they find; when it dies, another does.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Final, Protocol

from domicile.identity.authority import write_private
from domicile.identity.tokens import LEEWAY_SECONDS, Clock, Signer
from domicile.model.errors import Conflict, DomicileError, NotFound
from domicile.model.pins import PIN_GRANT_SECONDS, RESIDENCY_TOKEN_SECONDS, KeyUse
from domicile.model.wire import SigningKey
from domicile.telemetry import log, warn

LIVES: Final[dict[KeyUse, int]] = {"pin-grant": PIN_GRANT_SECONDS, "residency": RESIDENCY_TOKEN_SECONDS}
"""Seconds that a statement signed for a use may be good."""
CHECK_SECONDS: Final = 60.0
RETRY_SECONDS: Final = 1.0
"""After a set that was out of reach, then twice as long each time, up to ``CHECK_SECONDS``."""


def retirement_seconds(use: KeyUse) -> int:
    """From the last statement by a key until nobody needs the key. Pure."""
    return LIVES[use] + 2 * LEEWAY_SECONDS


class KeySet(Protocol):
    """Where keys are published. Each method raises DomicileError; Conflict for a key that was retired, NotFound for
    one that is to be retired and is not there.
    """

    async def publish_key(self, key: SigningKey) -> None: ...

    async def retire_key(self, kid: str) -> None: ...


class Keyring:
    """``path``: the key in force (PEM, mode 0600); the one that follows and what is to be retired lie beside it."""

    def __init__(self, path: Path, use: KeyUse, *, clock: Clock = time.time) -> None:
        self._path = path
        self._following_path = path.with_name(f"{path.stem}-following{path.suffix}")
        self._retired_path = path.with_name(f"{path.stem}-retired")
        self._lock_path = path.with_name(f"{path.stem}-lock")
        self._lock: int | None = None
        self._use: KeyUse = use
        self._clock = clock
        self.load()

    def load(self) -> None:
        """Take up what is on disk, where another process may have turned."""
        self.current = Signer.load_or_create(self._path)
        self.following = Signer.load_or_create(self._following_path)

    def _leads(self) -> bool:
        """Whether this is the process that turns, until it ends or lets go."""
        if self._lock is None:
            lock = os.open(self._lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(lock)
                return False
            self._lock = lock
        return True

    def public(self) -> list[SigningKey]:
        """Both keys as they are published."""
        return [self.current.public(self._use), self.following.public(self._use)]

    def seconds_in_force(self) -> float:
        return self._clock() - self._path.stat().st_mtime

    def _retired(self) -> list[str]:
        try:
            return self._retired_path.read_text().split()
        except FileNotFoundError:
            return []

    def turn(self) -> None:
        """What follows is in force from now on, and another one follows. A crash at any point leaves two good keys."""
        write_private(self._retired_path, "\n".join([*self._retired(), self.current.kid]).encode())
        now = self._clock()
        os.utime(self._following_path, (now, now))
        self._following_path.replace(self._path)
        self.current = self.following
        self.following = Signer.load_or_create(self._following_path)
        log("signing-key-turned")

    async def publish(self, keys: KeySet) -> None:
        """Have both published, and what was in force before taken out in time. Raises DomicileError.

        A key that an operator has retired is not used any more: the next one takes its place.
        """
        for _ in range(2):
            try:
                await keys.publish_key(self.current.public(self._use))
                break
            except Conflict:
                warn("signing-key-retired")
                self.turn()
        await keys.publish_key(self.following.public(self._use))
        for kid in self._retired():
            # a crash in turn() may have left the key in force on the list
            if kid not in (self.current.kid, self.following.kid):
                with suppress(NotFound):  # published to a database of before, which was put back or replaced
                    await keys.retire_key(kid)
        self._retired_path.unlink(missing_ok=True)

    async def keep(
        self,
        keys: KeySet,
        period: float,
        *,
        changed: Callable[[], Awaitable[object]] | None = None,
        check: float = CHECK_SECONDS,
    ) -> None:
        """Without end: publish, and turn every ``period`` seconds, unless that is 0.

        ``changed``: told when other keys than before are published.
        """
        published: list[SigningKey] = []
        wait = RETRY_SECONDS
        try:
            while True:
                leads = self._leads()
                try:
                    # what was not published must not come into force
                    if leads and published == self.public() and period and self.seconds_in_force() >= period:
                        self.turn()
                    elif not leads or not published:
                        self.load()
                    if leads:
                        await self.publish(keys)
                    if published != self.public():
                        published = self.public()
                        if changed is not None:
                            await changed()
                    wait = RETRY_SECONDS
                    await asyncio.sleep(min(check, period or check))
                except DomicileError as error:
                    published = []
                    warn("signing-key-not-published", code=error.code)
                    await asyncio.sleep(min(wait, check))
                    wait *= 2
        finally:
            if self._lock is not None:
                os.close(self._lock)
                self._lock = None
