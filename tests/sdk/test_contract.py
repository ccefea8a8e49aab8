"""Homes in memory and on PostgreSQL keep the same promises, and the same broken ones are found out on both."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import Any, cast
from uuid import UUID

import pytest
from domicile_testing.contract import CHECKS

from domicile.model import SubjectKey
from domicile.ops.testing import Cell
from domicile.sdk import Conflict, FenceRefused, Forbidden, Home
from domicile.sdk.store import Condition, NewRow, Once, Rows, Selection, Store, StoredRow, Work, local
from domicile.sdk.store.pool import session_options
from domicile.sdk.tables import ReferenceTable, Table
from domicile.sdk.testing import memory


@pytest.fixture(params=["domicile_memory", "domicile_postgres"])
def cell(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Cell:
    def impatient(**options: Any) -> dict[str, Any]:
        given = session_options(**options)
        return {**given, "server_settings": {**given["server_settings"], "lock_timeout": "100ms"}}

    monkeypatch.setattr(local, "session_options", impatient)
    monkeypatch.setattr(memory, "LOCK_SECONDS", 0.1)
    found: Cell = request.getfixturevalue(request.param)
    return found


@pytest.mark.parametrize("name", CHECKS)
async def test_a_home(cell: Cell, name: str) -> None:
    await CHECKS[name](cell, lambda home: home)


class Broken:
    """Rows with one flaw; without any it passes everything on."""

    def __init__(self, rows: Rows) -> None:
        self.rows = rows

    async def put(self, table: Table, row: NewRow, version: int | None, once: Once | None = None) -> int:
        return await self.rows.put(table, row, version, once)

    async def put_many(self, table: Table, rows: Sequence[NewRow], once: Once | None = None) -> list[int]:
        return await self.rows.put_many(table, rows, once)

    async def update(self, table: Table, row: NewRow, version: int, once: Once | None = None) -> int:
        return await self.rows.update(table, row, version, once)

    async def delete(self, table: Table, id: UUID, version: int | None) -> bool:  # noqa: A002
        return await self.rows.delete(table, id, version)

    async def select(self, table: Table, selection: Selection) -> list[StoredRow]:
        return await self.rows.select(table, selection)


class ForgetsVersions(Broken):
    async def put(self, table: Table, row: NewRow, version: int | None, once: Once | None = None) -> int:
        return await self.rows.put(table, row, None, once)


class ForgetsRequests(Broken):
    async def put(self, table: Table, row: NewRow, version: int | None, once: Once | None = None) -> int:
        return await self.rows.put(table, row, version)


class ForgetsTheLast(Broken):
    async def put_many(self, table: Table, rows: Sequence[NewRow], once: Once | None = None) -> list[int]:
        return [*await self.rows.put_many(table, rows[:-1], once), 1] if len(rows) > 1 else [1]


class WritesOneByOne(Broken):
    async def put_many(self, table: Table, rows: Sequence[NewRow], once: Once | None = None) -> list[int]:
        return [await self.rows.put(table, row, None, once) for row in rows]


class UpdatesAnyVersion(Broken):
    async def update(self, table: Table, row: NewRow, version: int, once: Once | None = None) -> int:
        with suppress(Conflict):
            return await self.rows.update(table, row, version, once)
        return version + 1


class DeletesAnyVersion(Broken):
    async def delete(self, table: Table, id: UUID, version: int | None) -> bool:  # noqa: A002
        return await self.rows.delete(table, id, None)


class OnlySaysThatItDeletes(Broken):
    async def delete(self, table: Table, id: UUID, version: int | None) -> bool:  # noqa: A002
        found = await self.rows.select(table, Selection())
        return any(row.id == id for row in found)


class Selecting(Broken):
    def changed(self, selection: Selection) -> Selection:
        raise NotImplementedError

    async def select(self, table: Table, selection: Selection) -> list[StoredRow]:
        return await self.rows.select(table, self.changed(selection))


class ForgetsACondition(Selecting):
    def changed(self, selection: Selection) -> Selection:
        return replace(selection, conditions=selection.conditions[:-1])


class ForgetsTheDirection(Selecting):
    def changed(self, selection: Selection) -> Selection:
        return replace(selection, descending=False)


class ForgetsTheOrder(Selecting):
    def changed(self, selection: Selection) -> Selection:
        return replace(selection, order="created_at")


class ForgetsWhereItWas(Selecting):
    def changed(self, selection: Selection) -> Selection:
        return replace(selection, after=None)


class ForgetsWhomAPutIsAbout(Broken):
    async def put(self, table: Table, row: NewRow, version: int | None, once: Once | None = None) -> int:
        return await self.rows.put(table, row._replace(principal=None), version, once)


class ForgetsWhomRowsAreAbout(Broken):
    async def select(self, table: Table, selection: Selection) -> list[StoredRow]:
        return [replace(row, principal=None) for row in await self.rows.select(table, selection)]


class PutsInAnothersPlace(Broken):
    async def put(self, table: Table, row: NewRow, version: int | None, once: Once | None = None) -> int:
        try:
            return await self.rows.put(table, row, version, once)
        except Forbidden:
            await self.rows.delete(table, row.id, None)
            return await self.rows.put(table, row, version, once)


class ForgetsTheFence(Broken):
    async def select(self, table: Table, selection: Selection) -> list[StoredRow]:
        try:
            return await self.rows.select(table, selection)
        except FenceRefused:
            return []


class BrokenStore:
    def __init__(self, store: Store, flaw: Callable[[Rows], Rows]) -> None:
        self._store = store
        self._flaw = flaw

    async def look_up(self, table: ReferenceTable, conditions: Sequence[Condition]) -> list[dict[str, Any]]:
        return await self._store.look_up(table, conditions)

    def alone(self, key: SubjectKey, epoch: int, stale: float | None = None) -> Rows:
        return self._flaw(self._store.alone(key, epoch, stale))

    @asynccontextmanager
    async def work(self, key: SubjectKey, epoch: int) -> AsyncIterator[Work]:
        async with self._store.work(key, epoch) as work:
            yield work


class CommitsAtOnce(BrokenStore):
    @asynccontextmanager
    async def work(self, key: SubjectKey, epoch: int) -> AsyncIterator[Work]:
        async with self._store.work(key, epoch):
            pass
        yield cast("Work", self._store.alone(key, epoch))


class LooksUpAnything(BrokenStore):
    async def look_up(self, table: ReferenceTable, conditions: Sequence[Condition]) -> list[dict[str, Any]]:
        return await self._store.look_up(table, conditions[1:])


class LooksUpInAnyOrder(BrokenStore):
    async def look_up(self, table: ReferenceTable, conditions: Sequence[Condition]) -> list[dict[str, Any]]:
        return (await self._store.look_up(table, conditions))[::-1]


class OneForAll(BrokenStore):
    """Whoever asks gets the rows of the first who did."""

    first: tuple[SubjectKey, int] | None = None

    def alone(self, key: SubjectKey, epoch: int, stale: float | None = None) -> Rows:
        self.first = self.first or (key, epoch)
        return super().alone(*self.first, stale)


ROWS = [
    ForgetsVersions,
    ForgetsRequests,
    ForgetsTheLast,
    WritesOneByOne,
    UpdatesAnyVersion,
    DeletesAnyVersion,
    OnlySaysThatItDeletes,
    ForgetsACondition,
    ForgetsTheDirection,
    ForgetsTheOrder,
    ForgetsWhereItWas,
    ForgetsWhomAPutIsAbout,
    ForgetsWhomRowsAreAbout,
    PutsInAnothersPlace,
    ForgetsTheFence,
]
MUTANTS: dict[str, Callable[[Store], Store]] = {
    **{flaw.__name__: lambda store, flaw=flaw: BrokenStore(store, flaw) for flaw in ROWS},  # type: ignore[misc]
    "LooksUpAnything": lambda store: LooksUpAnything(store, lambda rows: rows),
    "LooksUpInAnyOrder": lambda store: LooksUpInAnyOrder(store, lambda rows: rows),
    "CommitsAtOnce": lambda store: CommitsAtOnce(store, lambda rows: rows),
    "OneForAll": lambda store: OneForAll(store, lambda rows: rows),
}


@pytest.mark.parametrize("name", MUTANTS)
async def test_a_home_that_breaks_a_promise_is_found_out(cell: Cell, name: str) -> None:
    shared: list[Store] = []

    def changed(home: Home) -> Home:
        if not shared:
            shared.append(MUTANTS[name](home._vault.rows))
        return Home(replace(home._vault, rows=shared[0]), home._fence)

    found: list[str] = []
    for promise, check in CHECKS.items():
        shared.clear()
        try:
            await check(cell, changed)
        except (Exception, pytest.fail.Exception):
            found.append(promise)
    assert found
    assert len(found) < len(CHECKS), "it is one flaw, and not a home that doesn't work at all"


async def test_a_store_that_passes_everything_on_breaks_nothing(cell: Cell) -> None:
    for check in CHECKS.values():
        await check(
            cell, lambda home: Home(replace(home._vault, rows=BrokenStore(home._vault.rows, Broken)), home._fence)
        )
