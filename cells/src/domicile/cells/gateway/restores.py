"""After a restore of this cell's database: what each of its closed fences is by now, as the directory says.

A restored database knows nothing of what happened since. It therefore comes back with every fence closed, and here
each is opened on a grant for the new incarnation, or retired with its rows where its subject is at home elsewhere or
was erased. What the directory cannot say stays closed, and is counted: nobody is let in on a guess.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from enum import StrEnum
from typing import Final, Protocol
from uuid import UUID

from domicile.cells.gateway.grants import Grants
from domicile.model import FenceRefused, Identity, Misdirected, Pin, PinState, SubjectKey, UnknownSubject
from domicile.model.wire import MAX_BATCH, ResolveResponse
from domicile.service import repeated
from domicile.telemetry import log, warn

BEAT_SECONDS: Final = 5.0
AT_ONCE: Final = 16
_ERASED_STEP: Final = 1
"""How far an erasure's tombstone is above its pin; one that stands for another name is further."""


class Verdict(StrEnum):
    """What a fence that a restore closed is. ``wait``: its subject is moving just now."""

    REOPENED = "reopened"
    BEHIND = "behind"
    MOVED = "moved"
    ERASED = "erased"
    UNKNOWN = "unknown"
    CONTRADICTED = "contradicted"
    RENAMED = "renamed"
    WAIT = "wait"


_UNCLEAR: Final = frozenset({Verdict.UNKNOWN, Verdict.CONTRADICTED, Verdict.RENAMED})


def judge(epoch: int, pin: Pin | None, cell: Identity) -> Verdict:
    """What a fence at ``epoch`` is, by the directory's pin of its subject. Pure."""
    if pin is None:
        return Verdict.UNKNOWN
    if pin.state is PinState.MOVING:
        return Verdict.WAIT
    if pin.epoch < epoch:
        return Verdict.CONTRADICTED
    here = (pin.jurisdiction, pin.cell) == (cell.jurisdiction, cell.cell)
    if pin.state is PinState.ERASED:
        # of another name there is a fence elsewhere, or nowhere if this cell was restored to before it
        return Verdict.RENAMED if here and pin.epoch != epoch + _ERASED_STEP else Verdict.ERASED
    if here:
        return Verdict.REOPENED if pin.epoch == epoch else Verdict.BEHIND
    return Verdict.MOVED if pin.epoch > epoch else Verdict.CONTRADICTED


class Fences(Protocol):
    async def incarnation(self) -> UUID: ...

    async def is_settling(self) -> bool: ...

    async def unsettled(self, after: SubjectKey | None, limit: int) -> list[tuple[SubjectKey, int]]: ...

    async def settle(self, key: SubjectKey, incarnation: UUID, epoch: int, verdict: str) -> int: ...

    async def end_restored(self) -> int: ...


class Directory(Protocol):
    async def resolve(self, keys: Sequence[SubjectKey]) -> ResolveResponse: ...


class Settler:
    """``run`` never ends by itself."""

    def __init__(
        self, cell: Identity, fences: Fences, directory: Directory, grants: Grants, *, beat: float = BEAT_SECONDS
    ) -> None:
        self._cell = cell
        self._fences = fences
        self._directory = directory
        self._grants = grants
        self._beat = beat

    async def run(self) -> None:
        await repeated(self.settle_all, self._beat, "restore-not-settled")

    async def settle_all(self) -> None:
        """Once through all that is left; what is done stays done. Raises DomicileError where nobody can say."""
        if not await self._fences.is_settling():
            return
        incarnation = await self._fences.incarnation()
        after: SubjectKey | None = None
        unclear = 0
        while page := await self._fences.unsettled(after, MAX_BATCH):
            after = page[-1][0]
            found = await self._directory.resolve([key for key, _ in page])
            pins = {pin.subject_key: pin for pin in found.pins}
            limit = asyncio.Semaphore(AT_ONCE)

            async def one(key: SubjectKey, epoch: int, pin: Pin | None, limit: asyncio.Semaphore = limit) -> Verdict:
                async with limit:
                    return await self._settle(key, epoch, pin, incarnation)

            verdicts = await asyncio.gather(*(one(key, epoch, pins.get(key)) for key, epoch in page))
            unclear += sum(verdict in _UNCLEAR for verdict in verdicts)
        remaining = await self._fences.end_restored()
        if unclear:
            warn("restore-unclear", count=unclear)
        elif not remaining:
            log("restore-settled")

    async def _settle(self, key: SubjectKey, epoch: int, pin: Pin | None, incarnation: UUID) -> Verdict:
        verdict = judge(epoch, pin, self._cell)
        if verdict is Verdict.WAIT:
            return verdict
        at = epoch
        if verdict in (Verdict.REOPENED, Verdict.BEHIND):
            try:
                at = (await self._grants.fetch(key, incarnation)).epoch
            except (FenceRefused, Misdirected, UnknownSubject):
                return Verdict.WAIT  # it changed since the look: the next round sees it
            verdict = Verdict.REOPENED if at == epoch else Verdict.BEHIND
        try:
            await self._fences.settle(key, incarnation, at, verdict)
        except FenceRefused:
            return Verdict.WAIT
        return verdict
