"""Fences: whether this cell may write for a subject, as its own database says.

The application reads its subjects' fences (``FenceReader``); only the gateway's role can open one
(``FenceStore``), and only on a grant. The rule of opening holds under the row's lock, in ``open_fence`` of
``sql/system.sql``: no fence yet, or a strictly higher epoch; an open one at the same epoch is answered as it
is, a closed one stays closed.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, NamedTuple
from uuid import UUID

import asyncpg

from domicile.model.errors import FenceRefused, Unavailable, UnknownSubject
from domicile.model.ids import AliasKey, SubjectKey
from domicile.model.pins import PinGrant
from domicile.model.wire import FenceReport, FenceState
from domicile.sdk.store import settings
from domicile.sdk.store.failures import untold
from domicile.sdk.store.port import refused
from domicile.sdk.store.queries import query
from domicile.service import ended
from domicile.service.commits import transaction
from domicile.telemetry import warn

COMMIT_SECONDS: Final = 15.0
CLOSE_SECONDS: Final = 5.0
"""How long writers that hold a fence may go on before they are ended."""
END_SECONDS: Final = 3.0
"""How long they are being ended before closing it is given up."""
_BEAT_SECONDS: Final = 0.05


@dataclass(frozen=True, slots=True)
class Fence:
    """``internal_id`` is random and stays with the subject in this cell, whatever becomes of its key."""

    subject_key: SubjectKey
    internal_id: UUID
    epoch: int
    state: FenceState


class RecordedColumn(NamedTuple):
    """A field of a class of records. ``kind``: its Python type; None where an older program applied it.

    ``given``: what a record has that is made without the field, as JSON; None where it has no such default.
    ``rules``: what it may hold (``domicile.sdk.rules``).
    """

    name: str
    field_class: str
    category: str
    sealed: bool
    find: str | None
    nullable: bool
    kind: str | None
    given: str | None
    rules: str | None = None


def _fence(row: Any) -> Fence:
    return Fence(SubjectKey(row["subject_key"]), UUID(int=row["internal_id"].int), row["epoch"], row["state"])


class FenceReader:
    """Reads fences as ``domicile_app``. Raises Unavailable where the storage can't be reached."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def fence(self, key: SubjectKey) -> Fence | None:
        """Whatever state it is in; None where this cell never held the subject."""
        row = await untold(self._pool.fetchrow(query("read_fence"), key))
        return None if row is None else _fence(row)


class FenceStore:
    """Fences as ``domicile_gateway`` sees and opens them."""

    def __init__(self, pool: asyncpg.Pool, *, clock: Callable[[], float] = time.time) -> None:
        self._pool = pool
        self._clock = clock

    async def incarnation(self) -> UUID:
        """Raises Unavailable where no schema was applied yet."""
        found = await untold(self._pool.fetchval(query("incarnation")))
        if found is None:
            raise Unavailable("this database is no cell yet", where="storage", remedy="run `domicile schema apply`")
        return UUID(int=found.int)

    async def role_settings(self) -> list[str]:
        """What the roles of this database have set for themselves against what their sessions must have."""
        found = settings.strange(await untold(self._pool.fetch(query("role_settings"))))
        return [f"{row['role']} sets {row['name']}" for row in found]

    async def fence(self, key: SubjectKey) -> Fence | None:
        """Whatever state it is in; None where this cell never held the subject."""
        row = await untold(self._pool.fetchrow(query("fence"), key))
        return None if row is None else _fence(row)

    async def open(self, grant: PinGrant, alias_keys: dict[str, AliasKey]) -> Fence:
        """Open the fence that a verified grant names, and keep the alias keys beside it.

        Raises FenceRefused for a grant that expired, is for another cell or incarnation, or is not above the
        fence's epoch.
        """
        if grant.exp <= self._clock():
            raise FenceRefused("the grant has expired", remedy="ask the directory for a new one")
        aliases = json.dumps({kind: str(alias) for kind, alias in alias_keys.items()})
        arguments = (grant.sub, grant.cell, grant.jur, grant.incarnation, grant.epoch, aliases)
        row = await untold(self._pool.fetchrow(query("open_fence"), *arguments))
        return _fence(row)

    async def close(self, key: SubjectKey, epoch: int, *, seconds: float = CLOSE_SECONDS) -> Fence:
        """Close a fence that is open at ``epoch``: writers are refused at once, and those under way are waited for.

        Those that are not done within ``seconds`` are ended: their connections break, and what they wrote is undone.
        Raises FenceRefused for a fence that isn't open at it. Raises Unavailable where somebody holds it who can't be
        ended (a COMMIT that waits for a standby, an operator); then it stays open, and writers are let in again.
        """
        if not await untold(self._pool.fetchval(query("intend"), key, epoch, 2 * (seconds + END_SECONDS))):
            raise FenceRefused("the fence is not open at this epoch", where="storage")
        try:
            row = await untold(self._close(key, epoch, seconds))
        except BaseException:
            await untold(self._pool.execute(query("give_up"), key))
            raise
        if row is None:
            raise FenceRefused("the fence is not open at this epoch", where="storage")
        return _fence(row)

    async def _close(self, key: SubjectKey, epoch: int, seconds: float) -> Any:
        async with self._pool.acquire() as connection, transaction(connection, seconds):
            process = await connection.fetchval(query("lock_for"), f"{(seconds + END_SECONDS) * 1000:.0f}ms")
            closing = asyncio.create_task(connection.fetchrow(query("close_fence"), key, epoch))
            try:
                await asyncio.wait({closing}, timeout=seconds)
                if not closing.done():
                    await self._end_writers(key, process, closing)
                return await closing
            finally:
                await ended(closing)

    async def _end_writers(self, key: SubjectKey, process: int, closing: asyncio.Task[Any]) -> None:
        """Until ``closing`` is done, which ``process`` of the database carries out."""
        count = 0
        while not closing.done():
            count += await self._pool.fetchval(query("end_writers"), key, process, END_SECONDS / 2)
            await asyncio.wait({closing}, timeout=_BEAT_SECONDS)
        warn("writers-ended", count=count)

    async def rekey(self, key: SubjectKey, successor: SubjectKey, alias_keys: dict[AliasKey, AliasKey]) -> Fence:
        """Name a subject by its key under another pepper, its rows too; harmless to repeat.

        ``alias_keys``: new ones by those before; what is not kept beside the fence is let be.

        Raises UnknownSubject where this cell has no fence by either key, Conflict where another subject's is named
        so, Unavailable where the subject is being written for and does not come to rest.
        """
        aliases = json.dumps({str(old): str(new) for old, new in alias_keys.items()})
        row = await untold(self._pool.fetchrow(query("rekey_fence"), key, successor, aliases))
        if row is None:
            raise UnknownSubject("this cell does not hold such a subject")
        return _fence(row)

    async def forget_previous(self, version: int) -> int:
        """No subject is found by a key of this pepper's any more that was its key before; how many were."""
        forgotten: int = await untold(self._pool.fetchval(query("forget_previous"), version))
        return forgotten

    async def fence_of(self, internal_id: UUID) -> Fence | None:
        """By the subject's random id, as ``fence``."""
        row = await untold(self._pool.fetchrow(query("fence_of"), internal_id))
        return None if row is None else _fence(row)

    async def announce_keys(self, fence: Fence, generation: int) -> None:
        """Rows may lie under keys of this generation from now on. Raises FenceRefused where the subject isn't open."""
        if not await untold(self._pool.fetchval(query("announce_keys"), fence.internal_id, generation)):
            raise refused()

    async def withdraw_keys(self, fence: Fence, generation: int, *, seconds: float = CLOSE_SECONDS) -> None:
        """Nobody writes with keys from before this generation any more, once who does has ended.

        Raises FenceRefused where the subject isn't open, Unavailable where a writer does not end within ``seconds``.
        """
        if not await untold(self._with_fence("withdraw_keys", fence, generation, seconds)):
            raise refused()

    async def _with_fence(self, name: str, fence: Fence, generation: int, seconds: float) -> Any:
        async with self._pool.acquire() as connection, transaction(connection, COMMIT_SECONDS):
            await connection.execute(query("lock_for"), f"{seconds * 1000:.0f}ms")
            return await connection.fetchval(query(name), fence.internal_id, generation)

    async def announce_index(self, generation: int) -> None:
        """Rows may lie under an index secret of the cell of this generation from now on."""
        await untold(self._pool.execute(query("announce_index"), generation))

    async def withdraw_index(self, generation: int) -> None:
        """Nobody who begins from now on writes with an index secret from before this generation."""
        await untold(self._pool.execute(query("withdraw_index"), generation))

    async def settle_index(self, fence: Fence, generation: int, *, seconds: float = CLOSE_SECONDS) -> None:
        """Nor does who had begun to write for this subject, once he has ended. Raises as ``withdraw_keys``."""
        if not await untold(self._with_fence("settle_index", fence, generation, seconds)):
            raise refused()

    async def index_turned(self, fence: Fence, generation: int) -> None:
        """All rows of the subject are under the index secret of this generation, and stay so."""
        await untold(self._pool.execute(query("index_turned"), fence.internal_id, generation))

    async def index_due(self, generation: int, after: SubjectKey | None, limit: int) -> list[Fence]:
        """The next subjects after a key of whom that was not said, whatever state they are in but retired."""
        rows = await untold(self._pool.fetch(query("index_due"), generation, after or b"", limit))
        return [_fence(row) for row in rows]

    async def count_index_due(self, generation: int) -> int:
        count: int = await untold(self._pool.fetchval(query("count_index_due"), generation))
        return count

    async def tables(self) -> list[str]:
        """Every table of a class of records."""
        return [row["table_name"] for row in await untold(self._pool.fetch(query("record_tables")))]

    async def columns(self, table: str) -> tuple[RecordedColumn, ...]:
        """What ``domicile schema apply`` recorded of a table's fields; none for a table of no class."""
        rows = await untold(self._pool.fetch(query("recorded_columns"), table))
        return tuple(RecordedColumn(*row) for row in rows)

    async def sweep(self, most: int) -> int:
        """Delete rows whose time is over (``keep`` of their class), ``most`` of each table; how many those were."""
        swept: int = await untold(self._pool.fetchval(query("sweep"), most))
        return swept

    async def forget_answers(self, most: int) -> int:
        """Forget what was answered under idempotency keys that nobody has used in a week; ``most``, how many."""
        forgotten: int = await untold(self._pool.fetchval(query("forget_answers"), most))
        return forgotten

    async def page(self, after: SubjectKey | None, limit: int) -> list[FenceReport]:
        """The next fences after a key, in the order of their keys, whatever state they are in."""
        rows = await untold(self._pool.fetch(query("fences_after"), after or b"", limit))
        return [
            FenceReport(
                subject_key=SubjectKey(row["subject_key"]),
                previous_key=None if row["previous_key"] is None else SubjectKey(row["previous_key"]),
                epoch=row["epoch"],
                state=row["state"],
                alias_keys=json.loads(row["alias_keys"]),
            )
            for row in rows
        ]

    async def is_settling(self) -> bool:
        """Whether fences that a restore closed are still to be settled."""
        row = await untold(self._pool.fetchrow(query("last_restore")))
        return row is not None and row["ended"] is None

    async def unsettled(self, after: SubjectKey | None, limit: int) -> list[tuple[SubjectKey, int]]:
        """The next of them after a key, in the order of their keys, with their epochs."""
        rows = await untold(self._pool.fetch(query("unsettled"), after or b"", limit))
        return [(SubjectKey(row["subject_key"]), row["epoch"]) for row in rows]

    async def settle(self, key: SubjectKey, incarnation: UUID, epoch: int, verdict: str) -> int:
        """Open one at an epoch that was granted, or retire it with its rows, or say why it stays closed; rows deleted.

        Raises FenceRefused where the database was restored again, or where the fence is above that epoch.
        """
        gone: int = await untold(self._pool.fetchval(query("settle"), key, incarnation, epoch, verdict))
        return gone

    async def end_restored(self) -> int:
        """How many are left; with none, the restore is over."""
        left: int = await untold(self._pool.fetchval(query("end_restored")))
        return left
