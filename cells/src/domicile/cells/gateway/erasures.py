"""The end of a subject in its home cell, step by step, so that it can be interrupted at each and gone on with.

1. In this cell's database, at once: the fence is retired, the rows and alias keys are deleted, and it is written down
   that an erasure is under way. From here on nobody writes, and nobody reads.
2. In the directory: the pin becomes a tombstone above its epoch, and the aliases are anybody's.
3. In the key service: every wrapped key is destroyed, and what was destroyed is signed.
4. Here again: the receipt is kept. Only now it is done, and only now anybody is told so.

Of a principal the fence stays: its rows go, of the subject's own its aliases too, and then its key.

Each step may be repeated. What was begun is gone on with by this process's beat, whoever began it. Nothing is begun
while directory or key service is away.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final, Protocol
from uuid import UUID

from domicile.cells.gateway.grants import Grants
from domicile.model import (
    Conflict,
    DomicileError,
    Identity,
    Pin,
    PinState,
    SubjectKey,
    Unavailable,
    UnknownSubject,
    WrongCell,
)
from domicile.model.key_wire import Deleted, ShredResponse
from domicile.model.wire import ErasureResponse
from domicile.sdk.store import Erasure, ErasureStore, FenceStore
from domicile.service import repeated
from domicile.telemetry import log

BEAT_SECONDS: Final = 5.0
BATCH: Final = 100


class Directory(Protocol):
    """The directory, as far as it is needed. Each method raises DomicileError."""

    async def pin(self, key: SubjectKey, *, fresh: bool = False) -> Pin: ...

    async def erase(self, key: SubjectKey, epoch: int) -> Pin: ...

    async def release_aliases(self, key: SubjectKey) -> None: ...


class Keys(Protocol):
    """The key service, as far as it is needed. Each method raises DomicileError."""

    async def receipt_key(self) -> str: ...

    async def shred(
        self, subject: UUID, principal: UUID | None = None, deleted: Deleted | None = None
    ) -> ShredResponse: ...


class Eraser:
    """Erasures of one cell. ``keys`` connects to the key service, the first time that it is asked for."""

    def __init__(
        self,
        cell: Identity,
        store: ErasureStore,
        fences: FenceStore,
        grants: Grants,
        directory: Directory,
        keys: Callable[[], Awaitable[Keys]],
    ) -> None:
        self._cell = cell
        self._store = store
        self._fences = fences
        self._grants = grants
        self._directory = directory
        self._keys = keys

    async def run(self) -> None:
        """Never ends by itself."""
        await repeated(self.resume, BEAT_SECONDS, "erasures-not-resumed")

    async def resume(self) -> int:
        """Go on with what was interrupted; how many are done by it. Raises what the last one failed with."""
        done = 0
        failed: DomicileError | None = None
        for erasure in await self._store.under_way(BATCH):
            try:
                await self._finish(erasure)
                done += 1
            except DomicileError as error:  # the others may have more luck
                failed = error
        if done:
            log("erasures-resumed", count=done)
        if failed is not None:
            raise failed
        return done

    async def erase(self, key: SubjectKey, at: int = 0) -> ErasureResponse:
        """Erase a subject at home here. Who asks again, at once or later, gets the same receipt.

        ``at``: the epoch of the pin that is meant, or of its tombstone; whoever came back above it is left alone, and
        the receipt of then is the answer. 0: whoever is here now. Raises UnknownSubject, WrongCell, Conflict for one
        that is being moved or at another epoch, and Unavailable: with nothing done where ``where`` is not ``erasure``,
        and else under way, to be done by itself.
        """
        last = await self._store.last(key)
        if last is not None and is_meant(last, at):
            return await self._answered(last)
        if last is None or last.receipt is not None:
            pin = await self._directory.pin(key, fresh=True)
            self._check_home(pin)
            if pin.state is PinState.ERASED:
                if last is None:
                    raise UnknownSubject("no such subject, or not any more")
            else:
                _check_epoch(pin.epoch, at)
                last = await self._begin(pin, last, at)
        if at:
            _check_meant(last, at)
        return await self._answered(last)

    async def shred(self, key: SubjectKey, principal: UUID) -> ErasureResponse:
        """Shred one principal of a subject that is open here: its rows, then its key; and of its own, its aliases.

        Raises UnknownSubject, FenceRefused and Unavailable, as ``erase``.
        """
        fence = await self._fences.fence(key)
        if fence is None:
            raise UnknownSubject("this cell does not hold such a subject")
        await (await self._keys()).receipt_key()
        return await self._answered(await self._store.shred(fence.subject_key, fence.epoch, principal))

    def _check_home(self, pin: Pin) -> None:
        if (pin.jurisdiction, pin.cell) != (self._cell.jurisdiction, self._cell.cell):
            raise WrongCell(
                "the subject's home is another cell",
                jurisdiction=pin.jurisdiction,
                cell=pin.cell,
                subject_key=str(pin.subject_key),
            )

    async def _begin(self, pin: Pin, last: Erasure | None, at: int) -> Erasure:
        if pin.state is not PinState.ACTIVE:
            raise Conflict(f"the subject's pin is {pin.state}, not active")
        await (await self._keys()).receipt_key()  # away: nothing is begun
        try:
            fence = await self._fences.fence(pin.subject_key)
            if fence is None or fence.state != "open" or fence.epoch < pin.epoch:
                grant = await self._grants.fetch(pin.subject_key, await self._fences.incarnation())
                fence = await self._fences.open(grant, {})
            _check_epoch(fence.epoch, at)
            return await self._store.erase(fence.subject_key, fence.epoch)
        except DomicileError:
            # somebody else may have been first
            begun = await self._store.last(pin.subject_key)
            if begun is None or (last is not None and begun.id == last.id):
                raise
            return begun

    async def _answered(self, erasure: Erasure) -> ErasureResponse:
        if erasure.receipt is None:
            try:
                erasure = await self._finish(erasure)
            except DomicileError as error:
                raise Unavailable(
                    f"begun, and not done yet ({error.code})",
                    where="erasure",
                    remedy="it goes on by itself; ask again for its receipt",
                ) from None
        assert erasure.receipt is not None
        assert erasure.receipt_key is not None
        return ErasureResponse(
            subject_key=erasure.subject_key,
            epoch=erasure.epoch if erasure.principal is not None else tombstone_of(erasure),
            receipt=erasure.receipt,
            key=erasure.receipt_key,
        )

    async def _finish(self, erasure: Erasure) -> Erasure:
        deleted = Deleted(subject_key=erasure.subject_key, rows=erasure.rows, aliases=erasure.aliases)
        if erasure.principal is None:
            await self._bury(erasure)
            deleted = deleted.model_copy(update={"tombstone": tombstone_of(erasure)})
        elif erasure.principal == erasure.subject:
            await self._unname(erasure)
        signed = await (await self._keys()).shred(erasure.subject, erasure.principal, deleted)
        done = await self._store.keep_receipt(erasure, signed.receipt, signed.key)
        log("subject-erased" if erasure.principal is None else "principal-shredded")
        return done

    async def _unname(self, erasure: Erasure) -> None:
        """Whose own key was shredded is found by no alias; it may have got another subject key since."""
        fence = await self._fences.fence(erasure.subject_key)
        key = erasure.subject_key if fence is None else fence.subject_key
        with suppress(UnknownSubject):  # it was erased meanwhile, aliases and all
            await self._directory.release_aliases(key)

    async def _bury(self, erasure: Erasure) -> None:
        """The pin's tombstone; it is there also where the subject has come back above it since."""
        try:
            await self._directory.erase(erasure.subject_key, erasure.epoch)
        except (Conflict, WrongCell):
            pin = await self._directory.pin(erasure.subject_key, fresh=True)
            if pin.epoch <= erasure.epoch:
                raise


def tombstone_of(erasure: Erasure) -> int:
    """The epoch that the directory leaves at the end of a subject: one above the last."""
    return erasure.epoch + 1


def is_meant(erasure: Erasure, at: int) -> bool:
    """Whether it is the end of the pin that had this epoch, or whose tombstone is at it; nobody comes back there."""
    return at in (erasure.epoch, tombstone_of(erasure))


def _check_meant(erasure: Erasure, at: int) -> None:
    if not is_meant(erasure, at):
        raise Conflict(f"the subject's last erasure is of epoch {erasure.epoch}, not {at}")


def _check_epoch(epoch: int, at: int) -> None:
    if at and epoch != at:
        raise Conflict(f"the subject is at epoch {epoch}, not {at}", remedy="look again whom you mean")
