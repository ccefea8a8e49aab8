"""Reads across the subjects of a cell, as ``domicile_cell``, which may select and no more; each session is kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from uuid import UUID

import asyncpg

from domicile.model.ids import SubjectKey
from domicile.sdk.store import settings
from domicile.sdk.store.failures import untold
from domicile.sdk.store.fences import Fence
from domicile.sdk.store.port import Condition, Operator, OutdatedKeys, StoredRow, oldest, principal_of
from domicile.sdk.store.queries import query
from domicile.sdk.store.rows import COMMIT_SECONDS
from domicile.sdk.store.statements import compare, who
from domicile.sdk.tables import Table
from domicile.service.commits import transaction


@dataclass(frozen=True, slots=True)
class FoundRow:
    """A row and whose it is."""

    fence: Fence
    row: StoredRow


@lru_cache(maxsize=128)
def select(table: Table, compared: tuple[tuple[str, Operator], ...]) -> str:
    """Rows of subjects that are open here, in the order of creation: what is compared with, then the limit.

    The fence, then the row's id, version and principal, then the table's columns: read by their places, as in
    ``statements``. First, under how new a secret of the cell they may lie, in a row of its own where none is found.
    """
    columns = "".join(f', t."{column.name}"' for column in table.columns)
    wheres = "".join(f" AND {compare(name, operator, n)}" for n, (name, operator) in enumerate(compared, start=1))
    return (
        "SELECT domicile.newest_index(), r.* FROM (SELECT) one LEFT JOIN ("  # noqa: S608 - checked names
        f"SELECT f.subject_key, f.internal_id, f.epoch, f.state, t.id, t.version, {who()}{columns} "
        f'FROM public."{table.name}" AS t CROSS JOIN LATERAL domicile.read_fence(t.subject_key) f '
        f"WHERE f.state = 'open'{wheres} ORDER BY t.created_at, t.id LIMIT ${len(compared) + 1}) r ON true"
    )


class AcrossStore:
    """All methods raise Unavailable where the storage can't be reached. ``pooler``: as for ``RowStore``."""

    def __init__(self, pool: asyncpg.Pool, *, pooler: bool = False) -> None:
        self._pool = pool
        self._pooler = pooler

    async def begin(self, purpose: str) -> None:
        """Keep that somebody reads across subjects, and why; committed when this returns."""
        await untold(self._pool.execute(query("note_session"), purpose))

    async def rows(self, table: Table, conditions: Sequence[Condition], limit: int) -> list[FoundRow]:
        """Raises OutdatedKeys where rows may lie under a newer secret of the cell than a condition knows."""
        statement = select(table, tuple((condition.column, condition.operator) for condition in conditions))
        values = [condition.value for condition in conditions]
        names = [column.name for column in table.columns]
        found = await untold(self._fetch(statement, *values, limit))
        known = oldest(condition.newest_index for condition in conditions)
        if known and found[0][0] > known:
            raise OutdatedKeys
        return [
            FoundRow(
                Fence(SubjectKey(row[0]), UUID(int=row[1].int), row[2], row[3]),
                StoredRow(
                    UUID(int=row[4].int),
                    row[5],
                    dict(zip(names, row[7:], strict=True)),
                    principal=principal_of(row[6]),
                ),
            )
            for row in (each[1:] for each in found if each[1] is not None)
        ]

    async def _fetch(self, statement: str, *arguments: Any) -> list[asyncpg.Record]:
        if not self._pooler:
            return await self._pool.fetch(statement, *arguments)
        async with (
            self._pool.acquire() as connection,
            transaction(connection, COMMIT_SECONDS, begin=settings.OPENING),
        ):
            return await connection.fetch(statement, *arguments)
