"""Keeps the pin replica at the directory's heels: loads the whole map once, then writes what the change log says.

Of a router's processes one follows; when it dies, another takes its place within ``ELECTION_SECONDS``. Without
a directory nothing happens but waiting: what is on disk is served as before, and its staleness is a metric.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, aclosing, suppress
from typing import Final, ParamSpec, Protocol

import lmdb

from domicile.client import Change
from domicile.model import DomicileError, Pin, Position, SubjectKey, Unavailable
from domicile.model.snapshot import SnapshotReader
from domicile.router.replica import Replica
from domicile.telemetry import REPLICA_LAG, REPLICA_PINS, REPLICA_STALENESS, log, warn

ELECTION_SECONDS: Final = 1.0
FIRST_WAIT_SECONDS: Final = 0.2
LAST_WAIT_SECONDS: Final = 10.0
LAG_SECONDS: Final = 30.0
"""A replica that is older than this, with a directory that talks, makes its router unready."""
TALKS_SECONDS: Final = 5.0
CHECK_EVERY: Final = 10_000
"""Changes between two looks at how much of the file is in use."""


Arguments = ParamSpec("Arguments")


class Source(Protocol):
    """The directory, as far as a replica is made from it. Each method raises DomicileError."""

    def snapshot(self, after: bytes = b"") -> AbstractAsyncContextManager[SnapshotReader]: ...

    def follow(self, after: Position) -> AsyncGenerator[list[Change], None]: ...

    def forget_unknown(self, key: SubjectKey) -> None: ...


def fit_to_serve(*, loaded: bool, staleness: float, silence: float) -> str | None:
    """Why a router with such a replica should get no traffic, in a few words; None where it should. Pure.

    A directory that is silent makes no router unready: all would be at once, and known subjects are served as
    before (static stability). A whole map that is loaded anew makes none unready either, while the old one serves:
    that, too, happens to all at once.
    """
    if not loaded:
        return "the pin replica was never loaded"
    if staleness > LAG_SECONDS and silence < TALKS_SECONDS:
        return "the pin replica falls behind a directory that can be heard"
    return None


def require_fit(replica: Replica) -> None:
    """Raises Unavailable where ``fit_to_serve`` has a reason."""
    reason = fit_to_serve(loaded=replica.position is not None, staleness=replica.staleness(), silence=replica.silence())
    if reason is not None:
        raise Unavailable(reason, remedy="other routers take over; see the replica's metrics and this one's log")


class Follower:
    """``run`` never ends by itself; cancelled, it leaves the replica whole, and a load to be resumed."""

    def __init__(self, replica: Replica, directory: Source) -> None:
        self._replica = replica
        self._directory = directory
        self._anew = False
        self._resume = True
        self._unchecked = 0
        REPLICA_STALENESS.set_function(replica.staleness)

    async def run(self) -> None:
        while True:
            with self._replica.following() as leads:
                if leads:
                    await self._lead()
            self._replica.renew()
            await asyncio.sleep(random.uniform(0.5, 1) * ELECTION_SECONDS)  # noqa: S311 - jitter

    async def _lead(self) -> None:
        """Until cancelled: a failure is waited out, longer each time, never all routers at once.

        A file that turns out to be damaged is a failure like any other: the map is loaded anew.
        """
        wait = FIRST_WAIT_SECONDS
        said = ""
        while True:
            try:
                self._replica.renew()  # what a full disk kept from being put in its place isn't what others read
                await self._compact()
                position = self._replica.position
                if position is None or self._anew:
                    position = await self._load()
                REPLICA_PINS.set(self._replica.count())
                async with aclosing(self._directory.follow(position)) as stream:
                    async for changes in stream:
                        wait, said = FIRST_WAIT_SECONDS, ""
                        await self._take(changes)
                        if self._anew or self._replica.position is None or self._unchecked >= CHECK_EVERY:
                            break
            except (DomicileError, lmdb.Error, OSError) as error:
                if isinstance(error, lmdb.Error):
                    self._replica.distrust()
                reason = error.code if isinstance(error, DomicileError) else type(error).__name__
                if said != reason:
                    warn("replica-not-following", code=reason)
                    said = reason
                await asyncio.sleep(random.uniform(wait / 2, wait))  # noqa: S311 - jitter
                wait = min(wait * 2, LAST_WAIT_SECONDS)

    async def _take(self, changes: list[Change]) -> None:
        self._replica.told()
        pins: list[Pin] = []
        position: Position | None = None
        for change in changes:
            if change.anew:
                self._anew = True
                break
            position = change.position
            if change.pin is not None:
                pins.append(change.pin)
        before = self._replica.position
        if before is not None and before.generation == changes[-1].position.generation:
            REPLICA_LAG.set(max(0, changes[-1].position.sequence - before.sequence))
        if position is not None and position != before:
            await _in_thread(self._replica.apply, pins, position)
            self._unchecked += len(pins)
            REPLICA_LAG.set(0)
            REPLICA_PINS.set(self._replica.count())
        for pin in pins:
            self._directory.forget_unknown(pin.subject_key)
        if changes[-1].pin is None and not self._anew:
            self._replica.heard()

    async def _load(self) -> Position:
        """The whole map into a new environment, from where the last attempt came to; where to follow from."""
        loading = self._replica.loading(resume=self._resume)
        self._resume = True
        begun = loading.position
        try:
            async with self._directory.snapshot(loading.last_key) as snapshot:
                position = await snapshot.head()
                if begun is not None and begun.generation != position.generation:
                    self._resume = False
                    raise Unavailable("the directory's database was replaced during a load")
                if begun is None:
                    loading.begin(position)
                else:
                    position = begun  # the blocks of the first attempt are as old as that
                while (block := await snapshot.block()) is not None:
                    await _in_thread(loading.add, block)
        except BaseException:
            loading.close()
            raise
        await _in_thread(self._replica.adopt, loading)
        self._anew = False
        log("replica-loaded", count=self._replica.count())
        return position

    async def _compact(self) -> None:
        self._unchecked = 0
        if self._replica.position is not None and not self._anew and self._replica.sparse():
            log("replica-compacting", count=self._replica.count())
            await _in_thread(self._replica.compact)


async def _in_thread(call: Callable[Arguments, None], *args: Arguments.args, **kwargs: Arguments.kwargs) -> None:
    """Whoever is cancelled meanwhile goes when the thread has ended: what it writes to may be closed then."""
    running = asyncio.ensure_future(asyncio.to_thread(call, *args, **kwargs))
    try:
        await asyncio.shield(running)
    except asyncio.CancelledError:
        while not running.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait([running])
        raise
