"""The ledger in a cell's own database, as ``domicile_ledger``: a role that can add lines and change none.

What it may call is in the SDK's ``ledger.sql``: the database numbers and hashes the lines, so that no process of ours
can give a line another's place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

import asyncpg

from domicile.cells.ledger.tree import Node, covering, node_hash
from domicile.model import Unavailable
from domicile.model.ledger_wire import SignedHead
from domicile.sdk.store.failures import untold
from domicile.service.commits import NEVER, uncut

USER: Final = "domicile_ledger"
POOL_SIZE: Final = 4
COMMIT_SECONDS: Final = 4.0
"""Below the five that a caller waits."""
TILE_LEVELS: Final = 8
_APPEND: Final = "SELECT ledger.append($1::text[])"
_APPEND_ONCE: Final = "SELECT place, kept, added FROM ledger.append_once($1)"
_SIZE: Final = "SELECT l.id, (SELECT coalesce(max(index) + 1, 0) FROM ledger.lines) AS size FROM ledger.log l"
_LEAVES: Final = """
    SELECT l.index, l.leaf FROM unnest($1::bigint[], $2::bigint[]) AS part (first, last)
    JOIN ledger.lines l ON l.index >= part.first AND l.index < part.last
"""
_TILES: Final = """
    SELECT t.level, t.index, t.hash FROM unnest($1::integer[], $2::bigint[], $3::bigint[]) AS part (level, first, last)
    JOIN ledger.tiles t ON t.level = part.level AND t.index >= part.first AND t.index < part.last
"""
_LINES: Final = "SELECT line FROM ledger.lines WHERE index >= $1 AND index < $1 + $2 ORDER BY index"
_FIRST_SINCE: Final = "SELECT min(index) FROM ledger.lines WHERE at >= to_timestamp($1)"
_HELD: Final = "SELECT size, signed, key FROM ledger.heads WHERE cell = $1 AND log = $2"
_LAST_HELD: Final = """
    SELECT DISTINCT ON (cell) cell, log, size, signed, key, extract(epoch FROM seen)::float8 AS seen
    FROM ledger.heads ORDER BY cell, seen DESC
"""
_HOLD: Final = "SELECT ledger.hold($1, $2, $3, $4, $5)"
_ALARM: Final = "SELECT ledger.alarm($1, $2, $3, $4, $5, $6)"
_ALARMS: Final = """
    SELECT cell, verdict, extract(epoch FROM at)::float8 AS at, held, held_key, told, told_key
    FROM ledger.alarms ORDER BY id DESC LIMIT 100
"""


@dataclass(frozen=True, slots=True)
class Held:
    cell: str
    log: UUID
    size: int
    head: SignedHead
    seen: float


@dataclass(frozen=True, slots=True)
class Alarm:
    """``at``: seconds since 1970."""

    cell: str
    verdict: str
    at: float
    held: SignedHead
    told: SignedHead


def _tiled(node: Node) -> tuple[int, int, int]:
    """By which kept hashes a subtree's is made: (tile level, first, last)."""
    level, index = node
    tiles, rest = divmod(level, TILE_LEVELS)
    return tiles, index << rest, (index + 1) << rest


class LedgerStore:
    """Every method raises DomicileError; Unavailable for no database, or one without room."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def append(self, lines: Sequence[str]) -> int:
        """The place of the first, when all are durable. Never cancelled in the middle: the connection is given up."""
        return await untold(self._append(lines))

    async def _append(self, lines: Sequence[str]) -> int:
        async with self._pool.acquire() as connection:
            statement = connection.fetchval(_APPEND, lines, timeout=NEVER)
            first: int = await uncut(connection, statement, COMMIT_SECONDS)
            return first

    async def append_once(self, line: str) -> tuple[int, str, bool]:
        """The place and the text of the line of a release's decision, and whether it is new; as ``append``."""
        return await untold(self._append_once(line))

    async def _append_once(self, line: str) -> tuple[int, str, bool]:
        async with self._pool.acquire() as connection:
            statement = connection.fetchrow(_APPEND_ONCE, line, timeout=NEVER)
            row = await uncut(connection, statement, COMMIT_SECONDS)
            assert row is not None
            return row["place"], row["kept"], row["added"]

    async def size(self) -> tuple[UUID, int]:
        """Which ledger this is, and how many lines it has."""
        row = await untold(self._pool.fetchrow(_SIZE))
        if row is None:
            raise Unavailable("this database has no ledger yet", where="storage", remedy="run `domicile schema apply`")
        return UUID(int=row["id"].int), row["size"]

    async def hashes(self, parts: Sequence[tuple[int, int]]) -> Mapping[Node, bytes]:
        """Of the whole subtrees that these ranges of lines are made of. Raises Unavailable where lines are missing."""
        return await untold(self._hashes([node for start, end in parts for node in covering(start, end)]))

    async def _hashes(self, nodes: Sequence[Node]) -> dict[Node, bytes]:
        wanted = {node: _tiled(node) for node in nodes}
        leaves = [(first, last) for tiles, first, last in wanted.values() if tiles == 0]
        tiles = [each for each in wanted.values() if each[0]]
        kept: dict[tuple[int, int], bytes] = {}
        if leaves:
            rows = await self._pool.fetch(_LEAVES, *zip(*leaves, strict=True))
            kept |= {(0, row["index"]): row["leaf"] for row in rows}
        if tiles:
            rows = await self._pool.fetch(_TILES, *zip(*tiles, strict=True))
            kept |= {(row["level"], row["index"]): row["hash"] for row in rows}
        try:
            return {
                node: _combined([kept[level, place] for place in range(first, last)])
                for node, (level, first, last) in wanted.items()
            }
        except KeyError:
            raise Unavailable("lines of the ledger are missing", where="storage", remedy="audit it") from None

    async def lines(self, first: int, limit: int) -> list[str]:
        return [row["line"] for row in await untold(self._pool.fetch(_LINES, first, limit))]

    async def first_since(self, moment: float) -> int | None:
        """The first line of this moment (seconds since 1970) or later; None for none. Lines before it in the ledger
        may be later, where a clock was set back."""
        found: int | None = await untold(self._pool.fetchval(_FIRST_SINCE, moment))
        return found

    async def held(self, cell: str, log: UUID) -> SignedHead | None:
        """The head of another cell's ledger that was held last."""
        row = await untold(self._pool.fetchrow(_HELD, cell, log))
        return None if row is None else SignedHead(signed=row["signed"], key=row["key"])

    async def last_held(self) -> dict[str, Held]:
        rows = await untold(self._pool.fetch(_LAST_HELD))
        return {
            row["cell"]: Held(
                row["cell"],
                UUID(int=row["log"].int),
                row["size"],
                SignedHead(signed=row["signed"], key=row["key"]),
                row["seen"],
            )
            for row in rows
        }

    async def hold(self, cell: str, log: UUID, size: int, head: SignedHead) -> None:
        await untold(self._pool.execute(_HOLD, cell, log, size, head.signed, head.key))

    async def alarm(self, cell: str, verdict: str, held: SignedHead, told: SignedHead) -> bool:
        """Keep both heads; whether that is new."""
        arguments = (cell, verdict, held.signed, held.key, told.signed, told.key)
        return bool(await untold(self._pool.fetchval(_ALARM, *arguments)))

    async def alarms(self) -> list[Alarm]:
        """The last hundred."""
        return [
            Alarm(
                row["cell"],
                row["verdict"],
                row["at"],
                SignedHead(signed=row["held"], key=row["held_key"]),
                SignedHead(signed=row["told"], key=row["told_key"]),
            )
            for row in await untold(self._pool.fetch(_ALARMS))
        ]


def _combined(hashes: list[bytes]) -> bytes:
    while len(hashes) > 1:
        hashes = [node_hash(*hashes[at : at + 2]) for at in range(0, len(hashes), 2)]
    return hashes[0]
