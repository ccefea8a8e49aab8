"""What a cell forgets of a subject or of a principal, and the memory that it did: as ``domicile_eraser``.

That role has the functions named here and nothing else. An erasure is begun in one transaction, which retires the
fence and deletes the rows; it is done when its receipt is kept. One without a receipt was interrupted, and is gone on
with by whoever finds it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

import asyncpg

from domicile.model.errors import FenceRefused
from domicile.model.ids import SubjectKey
from domicile.sdk.store.failures import untold
from domicile.sdk.store.queries import query
from domicile.service.commits import transaction

WAIT_SECONDS: Final = 3.0
"""For writers that hold the fence; whoever asks for an erasure waits five."""


@dataclass(frozen=True, slots=True)
class Erasure:
    """``subject``: the internal id of the keys; ``principal``: None for the whole subject; ``epoch``: the fence's.

    ``rows``: how many were deleted of each table; ``receipt`` and ``receipt_key``: None until it is done.
    """

    id: int
    subject: UUID
    principal: UUID | None
    subject_key: SubjectKey
    epoch: int
    rows: dict[str, int]
    aliases: int
    receipt: str | None
    receipt_key: str | None


def _erasure(row: Any) -> Erasure:
    return Erasure(
        id=row["id"],
        subject=UUID(int=row["subject"].int),
        principal=None if row["principal"] is None else UUID(int=row["principal"].int),
        subject_key=SubjectKey(row["subject_key"]),
        epoch=row["epoch"],
        rows=json.loads(row["rows"]),
        aliases=row["aliases"],
        receipt=row["receipt"],
        receipt_key=row["receipt_key"],
    )


class ErasureStore:
    """Each method raises Unavailable where the storage can't be reached."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def last(self, key: SubjectKey) -> Erasure | None:
        """The last erasure of a whole subject, done or not."""
        row = await untold(self._pool.fetchrow(query("last_erasure"), key))
        return None if row is None else _erasure(row)

    async def under_way(self, most: int) -> list[Erasure]:
        """Those that have no receipt yet, the oldest first."""
        return [_erasure(row) for row in await untold(self._pool.fetch(query("erasures_under_way"), most))]

    async def erase(self, key: SubjectKey, epoch: int) -> Erasure:
        """Retire the fence of a subject that is open at ``epoch``, and delete all that is stored for it.

        Writers are refused at once; those under way are waited for. Raises FenceRefused for a fence that isn't open at
        it, and Unavailable where a writer does not end in time: then nothing was done, and writers are let in again.
        """
        return await self._alone(key, epoch, "erase_subject", (key, epoch))

    async def shred(self, key: SubjectKey, epoch: int, principal: UUID) -> Erasure:
        """Delete the rows that are about one principal. Raises as ``erase``."""
        return await self._alone(key, epoch, "shred_principal", (key, epoch, principal))

    async def keep_receipt(self, erasure: Erasure, receipt: str, key: str) -> Erasure:
        """The erasure, done: with this receipt, or the one that somebody else was first to keep."""
        return _erasure(await untold(self._pool.fetchrow(query("keep_receipt"), erasure.id, receipt, key)))

    async def _alone(self, key: SubjectKey, epoch: int, name: str, arguments: Sequence[Any]) -> Erasure:
        """What a function answers that wants the fence for itself, as the writers are told by an intent."""
        if not await untold(self._pool.fetchval(query("intend"), key, epoch, 2 * WAIT_SECONDS)):
            raise FenceRefused("the fence is not open at this epoch", where="storage")
        try:
            return _erasure(await untold(self._locked(name, arguments)))
        except BaseException:
            await untold(self._pool.execute(query("give_up"), key))
            raise

    async def _locked(self, name: str, arguments: Sequence[Any]) -> Any:
        async with self._pool.acquire() as connection, transaction(connection, WAIT_SECONDS):
            await connection.execute(query("lock_for"), f"{WAIT_SECONDS * 1000:.0f}ms")
            return await connection.fetchrow(query(name), *arguments)
