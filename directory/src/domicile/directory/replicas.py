"""Read replicas of the directory's database: they answer what may be told a little late, and nothing else.

That is homes resolved in batches, where a replica has all of them, and snapshots of the whole map. What is not there
("no such pin"), claims, grants, aliases and the change stream are the primary's alone. A replica that is gone, of
another history, or later than the bound is not asked; whatever it cannot answer, the primary does. The position of a
snapshot is never ahead of its data: it is the replica's own from before the first block, or the primary's where a
replica has heard of changes that still wait for their second zone.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from math import isfinite
from typing import Final, Protocol

import asyncpg

from domicile.directory.lag import Progress, Seen
from domicile.directory.storage import DATABASE, USER, translated
from domicile.directory.transactions import SQL
from domicile.identity import Credentials
from domicile.model import GLOBAL, Address, DomicileError, Position, Role, SubjectKey, Unavailable
from domicile.model.snapshot import MAX_RECORDS, Block
from domicile.model.wire import ReplicaReport, ReplicasDocument
from domicile.service import ended
from domicile.telemetry import STORAGE_LAG, warn

LOOK_SECONDS: Final = 0.5
LOOK_WAIT_SECONDS: Final = 3.0
WAIT_SECONDS: Final = 1.0
"""On what a replica is asked for a caller, who still has time for the primary; nobody waits for a look."""
POOL_SIZE: Final = 8


class Blocks(Protocol):
    """Where a snapshot's blocks come from. Raises Unavailable."""

    async def block(self, after: bytes) -> Block | None: ...


class Replica:
    """One read replica. Every method raises DomicileError where it cannot be asked."""

    def __init__(self, address: Address, pool: asyncpg.Pool[asyncpg.Record]) -> None:
        self.address = address
        self._pool = pool
        self.position: Position | None = None
        """As of the last look; none where it was not answered, or the database may have lost something."""

    @classmethod
    @asynccontextmanager
    async def connect(cls, credentials: Credentials, address: Address) -> AsyncIterator[Replica]:
        """By mutual TLS; the first connection is opened when it is asked something."""
        pool = await asyncpg.create_pool(
            host=address.host,
            port=address.port,
            user=USER,
            database=DATABASE,
            ssl=credentials.client(GLOBAL, [Role.STORAGE]),
            min_size=0,
            max_size=POOL_SIZE,
            timeout=LOOK_WAIT_SECONDS,
        )
        try:
            yield cls(address, pool)
        finally:
            pool.terminate()  # it only reads: nothing is lost

    @asynccontextmanager
    async def _reading(
        self, seconds: float = WAIT_SECONDS
    ) -> AsyncIterator[asyncpg.pool.PoolConnectionProxy[asyncpg.Record]]:
        async with translated(), asyncio.timeout(seconds), self._pool.acquire() as connection:
            try:
                yield connection
            except BaseException:
                connection.terminate()  # or its place in the pool would wait for a server that hangs
                raise

    async def look(self) -> None:
        """Raises no error of ours: what is not answered leaves no position.

        Until then the position seen before holds, as old as it is: a look that is under way makes no replica late.
        """
        try:
            async with self._reading(LOOK_WAIT_SECONDS) as connection:
                row = await connection.fetchrow(SQL["find_clock"])
        except DomicileError as error:
            if self.position is not None:
                warn("replica-gone", address=str(self.address), code=error.code)
            self.position = None
            return
        if row is None or row["reconciling"]:
            self.position = None
        else:
            self.position = Position(generation=row["generation"], sequence=row["sequence"])

    async def resolved(self, keys: Sequence[SubjectKey]) -> str | None:
        """As the storage's; none where a pin is missing here."""
        async with self._reading() as connection:
            row = await connection.fetchrow(SQL["find_resolved"], list(keys))
        if row is None or not row["complete"]:
            return None
        body: str = row["body"]
        return body

    async def block(self, after: bytes, least: Position) -> Block | None:
        """As the storage's. Raises Unavailable where what answers now is older than ``least``, or another history."""
        async with self._reading() as connection:
            clock = await connection.fetchrow(SQL["find_clock"])
            if clock is None or clock["generation"] != least.generation or clock["sequence"] < least.sequence:
                raise Unavailable("the replica is another one than before", where=str(self.address))
            row = await connection.fetchrow(SQL["find_block"], after, MAX_RECORDS)
        return Block(tuple(row["homes"]), row["records"]) if row is not None and row["homes"] else None


class _ReplicaBlocks:
    """Blocks of a replica, and of the primary from the first one on that it does not give."""

    def __init__(self, replica: Replica, position: Position, primary: Blocks) -> None:
        self._replica: Replica | None = replica
        self._position = position
        self._primary = primary

    async def block(self, after: bytes) -> Block | None:
        if self._replica is not None:
            try:
                return await self._replica.block(after, self._position)
            except DomicileError as error:
                warn("replica-left", address=str(self._replica.address), code=error.code)
                self._replica = None
        return await self._primary.block(after)


class Replicas:
    """The replicas in the order in which they are asked. ``primary``: where the log was seen last, if it is known.

    ``max_lag``: seconds that an answer may be late.
    """

    def __init__(self, replicas: Sequence[Replica], primary: Callable[[], Seen | None], max_lag: float) -> None:
        self._replicas = replicas
        self._primary = primary
        self._max_lag = max_lag
        self._progress = Progress()

    @classmethod
    @asynccontextmanager
    async def running(
        cls, credentials: Credentials, addresses: Sequence[str], primary: Callable[[], Seen | None], max_lag: float
    ) -> AsyncIterator[Replicas]:
        """Looks at the replicas inside the context. Starts also where none of them is there."""
        async with AsyncExitStack() as stack:
            connected = [
                await stack.enter_async_context(Replica.connect(credentials, Address(each))) for each in addresses
            ]
            replicas = cls(connected, primary, max_lag)
            await replicas.look()
            looking = asyncio.create_task(replicas._follow())
            try:
                yield replicas
            finally:
                await ended(looking)

    async def _follow(self) -> None:
        while self._replicas:
            await asyncio.sleep(LOOK_SECONDS)
            await self.look()

    async def look(self) -> None:
        """At the primary first: a replica is not later than what was seen before."""
        if (seen := self._primary()) is not None:
            self._progress.saw(seen)
        await asyncio.gather(*(replica.look() for replica in self._replicas))
        for replica in self._replicas:
            STORAGE_LAG.labels(str(replica.address)).set(self._lag(replica))

    def _lag(self, replica: Replica) -> float:
        if replica.position is None:
            return float("inf")
        return self._progress.lag(replica.position, asyncio.get_running_loop().time())

    def _pick(self) -> Replica | None:
        return next((each for each in self._replicas if self._lag(each) <= self._max_lag), None)

    async def resolved(self, keys: Sequence[SubjectKey]) -> str | None:
        """A ResolveResponse, as JSON, of homes as they were at most ``max_lag`` ago; none: ask the primary."""
        replica = self._pick()
        if replica is None:
            return None
        try:
            return await replica.resolved(keys)
        except DomicileError as error:
            warn("replica-left", address=str(replica.address), code=error.code)
            replica.position = None
            return None

    def snapshot(self, settled: Position, primary: Blocks) -> tuple[Position, Blocks]:
        """The position for a snapshot and where its blocks come from. ``settled``: where the primary stands."""
        replica = self._pick()
        if replica is None or replica.position is None or replica.position.generation != settled.generation:
            return settled, primary
        position = min(replica.position, settled, key=lambda each: each.sequence)
        return position, _ReplicaBlocks(replica, position, primary)

    def document(self) -> ReplicasDocument:
        return ReplicasDocument(max_lag_seconds=self._max_lag, replicas=[self._report(each) for each in self._replicas])

    def _report(self, replica: Replica) -> ReplicaReport:
        if replica.position is None:
            return ReplicaReport(address=replica.address, state="gone")
        lag, primary = self._lag(replica), self._progress.position
        if primary is None or primary.generation != replica.position.generation:
            return ReplicaReport(address=replica.address, state="another history")
        return ReplicaReport(
            address=replica.address,
            state="used" if lag <= self._max_lag else "late",
            lag_seconds=round(lag, 3) if isfinite(lag) else None,
            behind=max(0, primary.sequence - replica.position.sequence),
        )
