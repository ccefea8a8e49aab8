"""Re-sealing a subject's rows under its newest keys: in its home cell, in memory, fenced like any write.

Rows are held while they are re-sealed, and one that somebody else holds is let be and looked at again, so that no
update is lost and nobody is waited for. Versions and times stay, since the values do.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final
from uuid import UUID

from domicile.model.errors import Unavailable
from domicile.sdk.codec import Codec
from domicile.sdk.home import Vault
from domicile.sdk.store import Fence, Work
from domicile.sdk.store.port import principal_of
from domicile.sdk.store.statements import reseal, sealed
from domicile.sdk.tables import PRINCIPAL, Table

BATCH: Final = 100
"""Rows in one transaction, which holds them and the fence until it ends."""
PASSES: Final = 20


async def turn_rows(vault: Vault, fence: Fence, table: Table, generation: int, *, wholly: bool) -> int:
    """Re-seal the subject's rows in a table under the keys of ``generation``; how many rows there are.

    ``wholly``: until all of them lie so, which is when nobody writes with others any more. Raises FenceRefused,
    Conflict where the keys were turned again, OutdatedKeys where that was long ago, DomicileError for a value that
    opens under neither key, Unavailable where rows are held again and again.
    """
    if not any(column.sealed for column in table.columns):
        return 0
    codec = Codec(vault.keys, vault.cell, vault.jurisdiction, fence.internal_id)
    for _ in range(PASSES):
        rows, stale = await _pass(vault, fence, codec, table, generation)
        if not stale or not wholly:
            return rows
    raise Unavailable("rows are being written again and again", where=table.name, retry_after=1)


async def _pass(vault: Vault, fence: Fence, codec: Codec, table: Table, generation: int) -> tuple[int, int]:
    """How many rows there were, and how many of them lay under other keys when they were looked at."""
    rows, stale, after = 0, 0, UUID(int=0)
    while True:
        async with vault.rows.work(fence.subject_key, fence.epoch) as work:
            found = await work.query(sealed(table), (after, BATCH))
            await codec.prepare(principal_of(row[PRINCIPAL]) for row in found)
            old = [row["id"] for row in found if await _turned(codec, table, row, generation)]
            if old:
                await _reseal(work, fence, codec, table, generation, old)
        rows, stale = rows + len(found), stale + len(old)
        if len(found) < BATCH:
            return rows, stale
        after = found[-1]["id"]


async def _turned(codec: Codec, table: Table, row: Mapping[str, Any], generation: int) -> dict[str, Any]:
    """What changes in a row, by the key of whom it is about."""
    return await codec.resealed(table, row["id"], row, principal_of(row[PRINCIPAL]), generation)


async def _reseal(work: Work, fence: Fence, codec: Codec, table: Table, generation: int, ids: list[Any]) -> None:
    """Of these rows, those that nobody else holds."""
    fresh: dict[Any, dict[str, Any]] = {}
    for row in await work.query(sealed(table, held=True), (ids,)):
        if values := await _turned(codec, table, row, generation):
            fresh[row["id"]] = values
    if fresh:
        names = tuple(table.derived)
        columns = [[values.get(name) for values in fresh.values()] for name in names]
        await work.query(reseal(table, names), (fence.epoch, list(fresh), str(generation), *columns))
