"""What another jurisdiction may read of a subject: shareable columns, by a role that can select nothing else."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import asyncpg

from domicile.model.errors import FenceRefused, NotFound, UnsupportedQuery
from domicile.model.ids import SubjectKey
from domicile.sdk.store.failures import untold
from domicile.sdk.store.queries import query

_KEY: Final = "id"


class ShareableRows(NamedTuple):
    """``rows`` hold ``id`` and the shareable columns; ``withheld`` names each personal field's category."""

    rows: list[dict[str, Any]]
    withheld: dict[str, str]


def select(table: str, types: dict[str, str], conditions: dict[str, str], limit: int) -> str:
    """The statement for one table: $1 is the subject, then the conditions' values as text. Pure.

    It reads the fence and the rows in one snapshot, and answers one row without a key where no row matches.
    """
    columns = ", ".join(f'r."{name}"' for name in types)
    wheres = "".join(
        f' AND r."{name}" = ${number}::text::{types[name]}' for number, name in enumerate(conditions, start=2)
    )
    return (
        f"SELECT f.subject_key AS fence_key, f.state AS fence_state, {columns} FROM domicile.read_fence($1) f "  # noqa: S608 - recorded names
        f'LEFT JOIN public."{table}" r ON r.subject_key = $1{wheres} ORDER BY r."{_KEY}" LIMIT {limit}'
    )


class AbroadStore:
    """Reads as ``domicile_abroad``, which has no right on personal columns."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def rows(self, table: str, key: SubjectKey, conditions: dict[str, str], limit: int = 100) -> ShareableRows:
        """A subject's rows in the order of their keys, at most ``limit``, filtered by equality.

        Raises NotFound for a table that no schema recorded, UnsupportedQuery for a condition on anything but a
        shareable column or ``id``, InvalidInput for a value that its column's type doesn't take, and
        FenceRefused for a subject that isn't open here.
        """
        known = await untold(self._pool.fetch(query("shareable_columns"), table))
        if not known:
            raise NotFound("no such table of records")
        types = {_KEY: "uuid"} | {row["column_name"]: row["sql_type"] for row in known if row["class"] == "shareable"}
        withheld = {row["column_name"]: row["category"] for row in known if row["class"] != "shareable"}
        if not conditions.keys() <= types.keys():
            raise UnsupportedQuery(
                "a condition on a column that may not be asked from abroad", remedy="shareable columns only"
            )
        statement = select(table, types, conditions, limit)
        found = await untold(self._select(key, statement, list(conditions.values())))
        if not found or found[0]["fence_state"] != "open":
            raise FenceRefused("the subject is not open in this cell")
        return ShareableRows([{name: row[name] for name in types} for row in found if row[_KEY] is not None], withheld)

    async def _select(self, key: SubjectKey, statement: str, values: list[str]) -> list[asyncpg.Record]:
        async with self._pool.acquire() as connection, connection.transaction(readonly=True):
            await connection.execute(query("limit_to_subject"), str(key))
            rows = await connection.fetch(statement, key, *values)
            while rows and (now := SubjectKey(rows[0]["fence_key"])) != key:
                key = now  # the rows are named by it too; they were looked for by the one before
                await connection.execute(query("limit_to_subject"), str(key))
                rows = await connection.fetch(statement, key, *values)
            return rows
