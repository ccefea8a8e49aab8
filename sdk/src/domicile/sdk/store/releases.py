"""What a cell's border keeps, as ``domicile_border``: releases that it makes, and those that arrived from elsewhere.

That role reads across subjects as ``domicile_cell`` does, each time with a purpose that is kept, and writes no row of
anybody. What is made lies here, signed, before any of it leaves, so that what is sent again is the same to the byte.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from domicile.model.errors import Conflict
from domicile.sdk.store.failures import untold
from domicile.sdk.store.fences import RecordedColumn
from domicile.sdk.store.port import StoredRow, principal_of
from domicile.sdk.store.queries import query
from domicile.sdk.store.statements import who
from domicile.service.commits import transaction

COMMIT_SECONDS: Final = 15.0
WORK_SECONDS: Final = 600.0
"""For what writes or reads a whole release in one transaction."""
READ_ROWS: Final = 1_000


@dataclass(frozen=True, slots=True)
class KeptDeclaration:
    id: int
    name: str
    text: str


@dataclass(frozen=True, slots=True)
class KeptRelease:
    """``manifest``, ``certificate``, ``signature``: None until it is made; ``text``: of its declaration."""

    name: str
    revision: int
    lineage: str
    state: str
    reason: str
    manifest: str | None
    certificate: str | None
    signature: str | None
    receipt: str | None
    pages_sent: int
    text: str
    asked_by: str


@dataclass(frozen=True, slots=True)
class KeptArrival:
    id: str
    source: str
    cell: str
    name: str
    revision: int
    state: str
    manifest: str
    certificate: str
    signature: str
    receipt: str | None


@dataclass(frozen=True, slots=True)
class BorderRow:
    """A row of records and its subject's internal id."""

    subject: UUID
    row: StoredRow


def select_records(table: str, names: Sequence[str]) -> str:
    """Rows of subjects that are open here: subject, id, version, principal, then the columns, by recorded names."""
    columns = "".join(f', t."{name}"' for name in names)
    return (
        "SELECT f.internal_id, t.id, t.version, "  # noqa: S608 - recorded names
        f"{who()}{columns} "
        f'FROM public."{table}" AS t CROSS JOIN LATERAL domicile.read_fence(t.subject_key) AS f '
        "WHERE f.state = 'open'"
    )


class ReleaseStore:
    """The home's side. Each method raises Unavailable where the storage can't be reached."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def classes(self) -> dict[str, tuple[RecordedColumn, ...]]:
        """Of every table of records, as the last ``domicile schema apply`` recorded them."""
        found: dict[str, tuple[RecordedColumn, ...]] = {}
        for table, *column in await untold(self._pool.fetch(query("recorded_classes"))):
            found[table] = (*found.get(table, ()), RecordedColumn(*column))
        return found

    async def declare(self, name: str, digest: str, text: str, by: str) -> None:
        await untold(self._pool.execute(query("declare_release"), name, digest, text, by))

    async def declarations(self) -> list[KeptDeclaration]:
        return [KeptDeclaration(*row) for row in await untold(self._pool.fetch(query("declarations")))]

    async def declaration(self, name: str) -> KeptDeclaration | None:
        row = await untold(self._pool.fetchrow(query("declaration"), name))
        return None if row is None else KeptDeclaration(*row)

    async def begin(self, declaration: KeptDeclaration, revision: int, lineage: str, by: str) -> None:
        """Nothing happens where there is one of this name and revision that was not refused."""
        await untold(
            self._pool.execute(query("begin_release"), declaration.name, revision, lineage, by, declaration.id)
        )

    async def last_revision(self, name: str) -> int:
        """0 where there is none."""
        last: int | None = await untold(self._pool.fetchval(query("next_revision"), name))
        return last or 0

    async def release(self, name: str, revision: int) -> KeptRelease | None:
        row = await untold(self._pool.fetchrow(query("release"), name, revision))
        return None if row is None else KeptRelease(*row)

    async def releases(self) -> list[KeptRelease]:
        return [KeptRelease(*row) for row in await untold(self._pool.fetch(query("releases")))]

    async def under_way(self) -> list[tuple[str, int]]:
        return [tuple(row) for row in await untold(self._pool.fetch(query("releases_under_way")))]

    @asynccontextmanager
    async def reading(self, purpose: str) -> AsyncIterator[Reading]:
        """Reads across subjects in one snapshot, after it was kept that somebody does, and why."""
        await untold(self._pool.execute(query("note_session"), purpose))
        async with self._pool.acquire() as connection:
            await untold(connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"))
            try:
                yield Reading(connection)
            finally:
                await untold(connection.execute("ROLLBACK"))

    async def earlier(self, lineage: str) -> dict[tuple[str, int], dict[bytes, bytes]]:
        """The class of each subject in each release of a lineage that was made."""
        found = {}
        for name, revision in await untold(self._pool.fetch(query("earlier_releases"), lineage)):
            rows = await untold(
                self._pool.fetch(query("release_members"), name, revision, timeout=WORK_SECONDS), seconds=WORK_SECONDS
            )
            found[name, revision] = {row[0]: row[1] for row in rows}
        return found

    async def declared_k(self, lineage: str) -> int:
        """The greatest k that a release of a lineage was declared with; 0 for none."""
        return int(await untold(self._pool.fetchval(query("lineage_k"), lineage)))

    async def other_lineage(self, name: str, lineage: str) -> str | None:
        """One that releases of a name were made in, other than ``lineage``."""
        found: str | None = await untold(self._pool.fetchval(query("other_lineage"), name, lineage))
        return found

    async def make(
        self,
        release: KeptRelease,
        seen: Sequence[tuple[str, int]],
        signed: tuple[str, str, str],
        pages: Sequence[str],
        members: dict[bytes, bytes],
    ) -> bool:
        """Keep a release that may leave: ``signed`` is its manifest, certificate and signature.

        False where somebody else was first. Raises Conflict where the lineage has other releases than those ``seen``.
        """
        name, revision = release.name, release.revision
        async with self._alone() as connection:
            await untold(connection.execute(query("lock_lineage"), release.lineage))
            there = [tuple(row) for row in await untold(connection.fetch(query("earlier_releases"), release.lineage))]
            if (name, revision) in there:
                return False
            if there != list(seen):
                raise Conflict("the lineage has a new release", where=name)
            if await untold(connection.execute(query("make_release"), name, revision, *signed)) != "UPDATE 1":
                return False
            await untold(
                connection.copy_records_to_table(
                    "release_pages",
                    schema_name="domicile",
                    records=[(name, revision, number, body) for number, body in enumerate(pages)],
                    timeout=WORK_SECONDS,
                ),
                seconds=WORK_SECONDS,
            )
            await untold(
                connection.copy_records_to_table(
                    "release_members",
                    schema_name="domicile",
                    records=[(name, revision, person, of) for person, of in members.items()],
                    timeout=WORK_SECONDS,
                ),
                seconds=WORK_SECONDS,
            )
        return True

    async def change(self, release: KeptRelease, state: str, reason: str = "") -> None:
        """From the state that it was read in."""
        await untold(
            self._pool.execute(query("change_release"), release.name, release.revision, release.state, state, reason)
        )

    async def page(self, release: KeptRelease, number: int) -> str | None:
        body: str | None = await untold(
            self._pool.fetchval(query("release_page"), release.name, release.revision, number)
        )
        return body

    async def sent(self, release: KeptRelease, pages: int) -> None:
        await untold(self._pool.execute(query("sent_pages"), release.name, release.revision, pages))

    async def accepted(self, release: KeptRelease, receipt: str) -> None:
        """It arrived, by a signed receipt; its pages are not kept any longer."""
        async with self._alone() as connection:
            await untold(connection.execute(query("accept_release"), release.name, release.revision, receipt))
            await untold(connection.execute(query("forget_pages"), release.name, release.revision))

    @asynccontextmanager
    async def _alone(self) -> AsyncIterator[PoolConnectionProxy]:
        async with self._pool.acquire() as connection, transaction(connection, COMMIT_SECONDS):
            yield connection


class Reading:
    """One snapshot of the cell's rows."""

    def __init__(self, connection: PoolConnectionProxy) -> None:
        self._connection = connection

    async def records(self, table: str, names: Sequence[str]) -> AsyncIterator[list[BorderRow]]:
        """Rows of records in pages; names as they are recorded."""
        async for rows in self._pages(select_records(table, names)):
            yield [
                BorderRow(
                    UUID(int=row[0].int),
                    StoredRow(
                        UUID(int=row[1].int),
                        row[2],
                        dict(zip(names, row[4:], strict=True)),
                        principal=principal_of(row[3]),
                    ),
                )
                for row in rows
            ]

    async def rows(self, sql: str) -> AsyncIterator[list[Any]]:
        """Of a statement that was followed (``domicile.cells.border.lineage``), in pages."""
        async for rows in self._pages(sql):
            yield rows

    async def _pages(self, sql: str) -> AsyncIterator[list[Any]]:
        cursor = await untold(self._connection.cursor(sql, timeout=WORK_SECONDS), seconds=WORK_SECONDS)
        while rows := await untold(cursor.fetch(READ_ROWS, timeout=WORK_SECONDS), seconds=WORK_SECONDS):
            yield rows


class ArrivalStore:
    """The receiver's side: pages wait apart, and become rows all at once or not at all."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def offer(self, arrival: KeptArrival) -> KeptArrival:
        """Raises Conflict where another release of this name and revision is here."""
        await untold(
            self._pool.execute(
                query("offer"),
                arrival.id,
                arrival.source,
                arrival.cell,
                arrival.name,
                arrival.revision,
                arrival.manifest,
                arrival.certificate,
                arrival.signature,
            )
        )
        found = await self.arrival(arrival.id)
        if found is None:
            raise Conflict("another release of this name and revision is here", where="releases")
        return found

    async def arrival(self, id: str) -> KeptArrival | None:  # noqa: A002 - the column's name
        row = await untold(self._pool.fetchrow(query("arrival"), id))
        return None if row is None else KeptArrival(*row)

    async def arrivals(self) -> list[KeptArrival]:
        return [KeptArrival(*row) for row in await untold(self._pool.fetch(query("arrivals")))]

    async def pages(self, id: str) -> set[int]:  # noqa: A002
        return {row[0] for row in await untold(self._pool.fetch(query("page_numbers"), id))}

    async def put_page(self, id: str, number: int, body: str) -> None:  # noqa: A002
        await untold(self._pool.execute(query("put_page"), id, number, body))

    async def bodies(self, id: str) -> list[str]:  # noqa: A002
        return [row[0] for row in await untold(self._pool.fetch(query("arrived_pages"), id), seconds=WORK_SECONDS)]

    async def accept(self, id: str, receipt: str, rows: Sequence[str]) -> str:  # noqa: A002
        """All rows, as JSON, at once; the receipt that is kept: of whoever was first."""
        async with self._pool.acquire() as connection, transaction(connection, COMMIT_SECONDS):
            held = await untold(connection.fetchrow(query("lock_arrival"), id))
            if held is None:
                raise Conflict("the release was withdrawn", where="releases")
            if held["state"] == "accepted":
                return str(held["receipt"])
            await untold(
                connection.executemany(
                    query("put_row"), [(id, number, row) for number, row in enumerate(rows)], timeout=WORK_SECONDS
                ),
                seconds=WORK_SECONDS,
            )
            await untold(connection.execute(query("drop_arrived_pages"), id))
            await untold(connection.execute(query("accept_arrival"), id, receipt))
        return receipt

    async def refuse(self, id: str) -> None:  # noqa: A002
        """Nothing of a release that was refused stays."""
        await untold(self._pool.execute(query("refuse_arrival"), id))

    async def rows(self, id: str, after: int, limit: int) -> list[tuple[int, str]]:  # noqa: A002
        return [tuple(row) for row in await untold(self._pool.fetch(query("released_rows"), id, after, limit))]
