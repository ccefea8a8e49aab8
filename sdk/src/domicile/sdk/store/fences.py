"""Fences: whether this cell may write for a subject, as its own database says.

The application reads its subjects' fences (``FenceReader``); only the gateway's role can open one
(``FenceStore``), and only on a grant. The rule of opening holds under the row's lock, in ``open_fence`` of
``sql/system.sql``: no fence yet, or a strictly higher epoch; an open one at the same epoch is answered as it
is, a closed one stays closed.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import asyncpg

from domicile.model.errors import FenceRefused, Unavailable
from domicile.model.ids import AliasKey, SubjectKey
from domicile.model.pins import PinGrant
from domicile.model.wire import FenceReport, FenceState
from domicile.sdk.store.failures import untold
from domicile.sdk.store.queries import query


@dataclass(frozen=True, slots=True)
class Fence:
    """``internal_id`` is random and stays with the subject in this cell, whatever becomes of its key."""

    subject_key: SubjectKey
    internal_id: UUID
    epoch: int
    state: FenceState


def _fence(key: SubjectKey, row: Any) -> Fence:
    return Fence(key, UUID(int=row["internal_id"].int), row["epoch"], row["state"])


class FenceReader:
    """Reads fences as ``domicile_app``. Raises Unavailable where the storage can't be reached."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def fence(self, key: SubjectKey) -> Fence | None:
        """Whatever state it is in; None where this cell never held the subject."""
        row = await untold(self._pool.fetchrow(query("read_fence"), key))
        return None if row is None else _fence(key, row)


class FenceStore:
    """Fences as ``domicile_gateway`` sees and opens them; also the record of what crossed the border."""

    def __init__(self, pool: asyncpg.Pool, *, clock: Callable[[], float] = time.time) -> None:
        self._pool = pool
        self._clock = clock

    async def incarnation(self) -> UUID:
        """Raises Unavailable where no schema was applied yet."""
        found = await untold(self._pool.fetchval(query("incarnation")))
        if found is None:
            raise Unavailable("this database is no cell yet", where="storage", remedy="run `domicile schema apply`")
        return UUID(int=found.int)

    async def fence(self, key: SubjectKey) -> Fence | None:
        """Whatever state it is in; None where this cell never held the subject."""
        row = await untold(self._pool.fetchrow(query("fence"), key))
        return None if row is None else _fence(key, row)

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
        return _fence(grant.sub, row)

    async def page(self, after: SubjectKey | None, limit: int) -> list[FenceReport]:
        """The next fences after a key, in the order of their keys, whatever state they are in."""
        rows = await untold(self._pool.fetch(query("fences_after"), after or b"", limit))
        return [
            FenceReport(
                subject_key=SubjectKey(row["subject_key"]),
                epoch=row["epoch"],
                state=row["state"],
                alias_keys=json.loads(row["alias_keys"]),
            )
            for row in rows
        ]

    async def record_border(self, *, from_jurisdiction: str, role: str, kind: str, verdict: str) -> None:
        """Keep that something crossed, or tried to; committed when this returns."""
        await untold(self._pool.execute(query("record_border"), from_jurisdiction, role, kind, verdict))
