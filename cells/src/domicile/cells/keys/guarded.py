"""What keeps one customer's dead, slow or lying key holder from hurting anybody else.

Each domain has a deadline, a bound on calls at a time, and a breaker: after some failures in a row nobody is kept
waiting for it any more, but for one trial at a time. What a holder unwraps is held against the key's own check value,
so that a wrong key seals nothing.
"""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeVar

from domicile.cells.keys.holders import KeyHolder, Plain, Wrapped
from domicile.identity.wrapping import check_value
from domicile.model import Conflict, DomicileError, KeyWithheld
from domicile.telemetry import HOLDER_DURATION, HOLDER_FAILURES, warn

DEADLINE_SECONDS: Final = 2.0
"""For one batch; below the five seconds that an application waits."""
AT_ONCE: Final = 32
FAILURES: Final = 5
OPEN_SECONDS: Final = 5.0
MAX_WRAPPED_BYTES: Final = 4096
Result = TypeVar("Result")


class Breaker:
    """Closed; open after ``FAILURES`` in a row; then one trial each ``OPEN_SECONDS`` until one succeeds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failures = 0
        self._until = 0.0

    def admits(self) -> bool:
        if self._failures < FAILURES:
            return True
        if self._clock() < self._until:
            return False
        self._until = self._clock() + OPEN_SECONDS  # this one is the trial
        return True

    def succeeded(self) -> None:
        self._failures = 0

    def failed(self) -> None:
        self._failures += 1
        self._until = self._clock() + OPEN_SECONDS


class GuardedHolder:
    """A holder behind its guard. Every failure is KeyWithheld, counted by its reason; no text of a holder's is kept.

    ``remote``: elsewhere, and so with a deadline and a breaker. This service's own keys need neither, and what
    they raise is told: a damaged row must not close the domain. ``unverified``: its kind was tried against a double.
    """

    def __init__(
        self,
        domain: str,
        inner: KeyHolder,
        *,
        remote: bool = True,
        unverified: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.domain = domain
        self.unverified = unverified
        self._inner = inner
        self._remote = remote
        self._breaker = Breaker(clock)
        self._running = 0

    async def version(self) -> int:
        return await self._call("version", self._inner.version)

    async def wrap(self, keys: Sequence[Plain]) -> list[Wrapped]:
        """What it answers opens again: nothing is sealed with a key that its holder can't give back."""
        wrapped = await self._call("wrap", lambda: self._inner.wrap(keys))
        sound = len(wrapped) == len(keys) and all(
            new.context == key.context and new.version > 0 and len(key.value) < len(new.value) <= MAX_WRAPPED_BYTES
            for new, key in zip(wrapped, keys, strict=True)
        )
        if not sound:
            raise self._refused("garbage")
        await self.unwrap(wrapped, [check_value(key.value, key.context) for key in keys])
        return wrapped

    async def unwrap(self, keys: Sequence[Wrapped], checks: Sequence[bytes]) -> list[bytes]:
        """``checks``: each key's ``check_value``. A key that doesn't give it is never handed on."""
        plain = await self._call("unwrap", lambda: self._inner.unwrap(keys))
        right = len(plain) == len(keys) and all(
            hmac.compare_digest(check_value(found, key.context), check)
            for found, key, check in zip(plain, keys, checks, strict=True)
        )
        if not right:
            raise self._refused("wrong-key")
        return plain

    async def rotate(self) -> int:
        return await self._call("rotate", self._inner.rotate)

    async def _call(self, name: str, call: Callable[[], Awaitable[Result]]) -> Result:
        if not self._remote:
            with HOLDER_DURATION.labels(self.domain, name).time():
                try:
                    return await call()
                except DomicileError:
                    HOLDER_FAILURES.labels(self.domain, "unavailable").inc()
                    raise
        if self._running >= AT_ONCE:
            raise self._withheld("full")  # no fault of the holder's that would not be counted by those in flight
        if not self._breaker.admits():
            raise self._withheld("broken")
        self._running += 1
        try:
            with HOLDER_DURATION.labels(self.domain, name).time():
                async with asyncio.timeout(DEADLINE_SECONDS):
                    answer = await call()
        except TimeoutError:
            raise self._refused("slow") from None
        except Conflict:
            raise  # what only its owner can do
        except KeyWithheld:
            raise self._refused("withheld") from None
        except DomicileError:
            raise self._refused("unavailable") from None
        finally:
            self._running -= 1
        self._breaker.succeeded()
        return answer

    def _refused(self, reason: str) -> KeyWithheld:
        self._breaker.failed()
        return self._withheld(reason)

    def _withheld(self, reason: str) -> KeyWithheld:
        HOLDER_FAILURES.labels(self.domain, reason).inc()
        warn("key-withheld", reason=reason)
        return KeyWithheld(
            f"the holder of the key-encryption key does not serve it ({reason})",
            where=f"key domain {self.domain}",
            remedy="ask its holder; nothing is lost",
        )
