"""Reference tables between cells, as ``domicile_gateway``: pages of what this cell writes, and the taking of others'.

No role that a service logs in as writes such a table; functions of ``sql/system.sql`` do, for the cell that the
manifest names and no other. Pages wait where nobody reads until a version is whole; it then takes the place of the one
before in one transaction, if what lies in the table is what lay in the writer's. Which columns there are is what both
cells' applied classes say; a table of records is never served, nor taken.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import asyncpg

from domicile.detect import Detector, Rule
from domicile.model.errors import InvalidInput, NotFound
from domicile.model.wire import ReferencePage, ReferenceState
from domicile.sdk.store.failures import untold
from domicile.sdk.store.queries import query
from domicile.service.commits import transaction

MAX_ROWS: Final = 200_000
"""Of a reference table."""
PAGE_ROWS: Final = 5_000
PAGE_BYTES: Final = 2 << 20
"""A page may be as much larger as one row is, which is loaded with a megabyte at most."""
TAKE_SECONDS: Final = 60.0
"""For the rows of a whole table, compared and put in place."""
_STATE: Final = tuple(name for name in ReferenceState.model_fields if name != "table")
PERSONAL: Final = Detector(without=frozenset(Rule) - {Rule.EMAIL, Rule.IBAN, Rule.SEALED})
"""What no article's number is taken for; a catalogue is full of digits that others of the rules would find."""


class Take(NamedTuple):
    """How many rows of a version are here, of how many; None where it is taken, or not newer."""

    here: int | None
    total: int


def require_impersonal(table: str, page: ReferencePage) -> None:
    """Raise InvalidInput, which quotes nothing, for a value that looks personal: whatever its class says."""
    names = [str(field[0]) for field in page.fields]
    for row in page.rows:
        if len(row) != len(names):
            raise InvalidInput("a row of another shape than its fields", where=table)
        for name, value in zip(names, row, strict=True):
            if value is not None and (found := PERSONAL.findings(value, name)):
                raise InvalidInput(
                    f"a row holds what looks personal ({found[0].rule})",
                    where=f"{table}.{name}",
                    remedy=f"load {table} without it in {page.cell}",
                )


class ReferenceStore:
    """Methods raise Unavailable where the storage can't be reached."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def name_sources(self, sources: Mapping[str, str]) -> None:
        """Say which cell writes each table. What is named nowhere is loaded in each cell by itself."""
        await untold(self._pool.execute(query("name_sources"), json.dumps(dict(sources))))

    async def page(self, cell: str, table: str, known: int | None, after: int) -> ReferencePage:
        """Raises NotFound for a table that ``cell``, which is this one, does not write."""
        found = await untold(self._pool.fetchrow(query("reference_page"), table, known, after, PAGE_ROWS, PAGE_BYTES))
        if found is None:
            raise NotFound("no reference table that this cell writes")
        return ReferencePage(
            cell=cell,
            version=found["version"],
            digest=found["digest"],
            content=found["content"],
            total=found["total"],
            fields=json.loads(found["fields"]),
            rows=json.loads(found["page"]),
        )

    async def states(self) -> list[ReferenceState]:
        found = await untold(self._pool.fetch(query("reference_states")))
        return [ReferenceState(table=row["table_name"], **{name: row[name] for name in _STATE}) for row in found]

    async def heard(self, table: str, page: ReferencePage) -> None:
        await untold(self._pool.execute(query("hear_reference"), table, page.cell, page.version))

    async def begin(self, table: str, page: ReferencePage) -> Take:
        """Go on with the version that a page is of, or begin it.

        Raises Conflict where ``page.cell`` does not write the table, or where the classes of the two cells differ,
        and InvalidInput for too many rows.
        """
        if page.total > MAX_ROWS:
            raise InvalidInput(f"at most {MAX_ROWS:,} rows", where=table)
        said = (page.version, page.digest, page.content, page.total, json.dumps(page.fields))
        here = await untold(self._pool.fetchval(query("begin_pull"), table, page.cell, *said))
        return Take(here, page.total)

    async def keep(self, table: str, page: ReferencePage, at: int) -> Take:
        """Keep the rows behind ``at``, unless others of this cell's gateways have. Raises InvalidInput."""
        require_impersonal(table, page)
        rows = json.dumps(page.rows)
        return Take(await untold(self._pool.fetchval(query("keep_page"), table, page.version, at, rows)), page.total)

    async def take(self, table: str, version: int) -> bool:
        """Whether it was this call that put the version in place.

        Raises Conflict where the rows are not the writer's; what has come is to be given up then.
        """
        return bool(await untold(self._take(table, version), seconds=2 * TAKE_SECONDS))

    async def _take(self, table: str, version: int) -> Any:
        async with self._pool.acquire() as connection, transaction(connection, TAKE_SECONDS):
            return await connection.fetchval(query("take_reference"), table, version, timeout=TAKE_SECONDS)

    async def give_up(self, table: str) -> None:
        await untold(self._pool.execute(query("drop_pull"), table))
