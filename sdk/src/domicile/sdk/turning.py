"""Re-sealing a subject's rows under its newest keys: in its home cell, in memory, fenced like any write.

Blind indexes are made anew with them, those across subjects under the cell's newest secret.

Rows are held while they are re-sealed, and one that somebody else holds is let be and looked at again, so that no
update is lost and nobody is waited for. Versions and times stay, since the values do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import UUID

from domicile.model.errors import KeyDestroyed, Unavailable
from domicile.sdk.codec import Codec
from domicile.sdk.home import Vault
from domicile.sdk.store import Fence, Work
from domicile.sdk.store.port import NewRow, made_with, principal_of
from domicile.sdk.store.statements import reseal, sealed
from domicile.sdk.tables import PRINCIPAL, Table

BATCH: Final = 100
"""Rows in one transaction, which holds them and the fence until it ends."""
PASSES: Final = 20


@dataclass
class Turned:
    """``rows``: how many there are. ``lost``: principals with rows among them that nothing opens any more."""

    rows: int
    lost: set[UUID]


async def turn_rows(
    vault: Vault, fence: Fence, table: Table, generation: int | None, *, index: int | None = None, wholly: bool
) -> Turned:
    """Re-seal the subject's rows in a table under the keys of ``generation``.

    Blind indexes across subjects are made anew under the cell's secret of generation ``index``. None: whichever is
    written with. ``wholly``: until all of them lie so, which is when nobody writes with others any more. Raises
    FenceRefused, Conflict where the keys were turned again, OutdatedKeys where that was long ago, DomicileError for a
    value that opens under neither key, Unavailable where rows are held again and again.
    """
    if not any(column.sealed for column in table.columns):
        return Turned(0, set())
    codec = Codec(vault.keys, vault.cell, vault.jurisdiction, fence.internal_id)
    turner = _Turner(codec, table, generation, index, fence.internal_id)
    for _ in range(PASSES):
        rows, stale = await _pass(vault, fence, turner)
        if not stale or not wholly:
            return Turned(rows, turner.lost)
    raise Unavailable("rows are being written again and again", where=table.name, retry_after=1)


@dataclass(frozen=True)
class _Turner:
    """What rows of one table are turned to."""

    codec: Codec
    table: Table
    generation: int | None
    index: int | None
    subject: UUID
    lost: set[UUID] = field(default_factory=set)

    async def turned(self, row: Mapping[str, Any]) -> NewRow | None:
        """What changes in a row, by the key of whom it is about; nothing where that was destroyed."""
        principal = principal_of(row[PRINCIPAL])
        try:
            return await self.codec.resealed(self.table, row["id"], row, principal, self.generation, self.index)
        except KeyDestroyed:
            self.lost.add(principal or self.subject)
            return None


async def _pass(vault: Vault, fence: Fence, turner: _Turner) -> tuple[int, int]:
    """How many rows there were, and how many of them lay under other keys when they were looked at."""
    rows, stale, after = 0, 0, UUID(int=0)
    while True:
        async with vault.rows.work(fence.subject_key, fence.epoch) as work:
            found = await work.query(sealed(turner.table), (after, BATCH))
            await turner.codec.prepare(principal_of(row[PRINCIPAL]) for row in found)
            old = [row["id"] for row in found if await turner.turned(row) is not None]
            if old:
                await _reseal(work, fence, turner, old)
        rows, stale = rows + len(found), stale + len(old)
        if len(found) < BATCH:
            return rows, stale
        after = found[-1]["id"]


async def _reseal(work: Work, fence: Fence, turner: _Turner, ids: list[Any]) -> None:
    """Of these rows, those that nobody else holds."""
    held = await work.query(sealed(turner.table, held=True), (ids,))
    fresh = [new for row in held if (new := await turner.turned(row)) is not None]
    if fresh:
        names = tuple(turner.table.derived)
        columns = [[new.values.get(name) for new in fresh] for name in names]
        arguments = (fence.epoch, [new.id for new in fresh], made_with(fresh), *columns)
        await work.query(reseal(turner.table, names), arguments)
