"""The directory's database: the only module that speaks to it, and where a driver's errors end.

Everything that changes is one transaction, committed before its method returns. Callers see errors of our own
tree: a database that is gone, restarting, read-only or silent is Unavailable, with nothing done.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Final, TypeAlias

import asyncpg

from domicile.directory.history import Mark, Standing, has_lost, wait_seconds
from domicile.directory.placement import Round
from domicile.directory.topology import Version
from domicile.identity import Credentials
from domicile.model import (
    GLOBAL,
    Address,
    AliasKey,
    Conflict,
    DomicileError,
    NotFound,
    Pin,
    PinState,
    Position,
    Role,
    SubjectKey,
    Unavailable,
    UnknownSubject,
)
from domicile.model.snapshot import MAX_RECORDS, Block
from domicile.model.wire import CellReport, FencesReport, ReconciliationDocument, SigningKey, TopologyDocument
from domicile.telemetry import warn

DATABASE: Final = "domicile"
USER: Final = "domicile_directory"
POOL_SIZE: Final = 8
"""Opened before the first request and kept: a burst that had to open them would wait for 8 TLS handshakes."""
CLAIMS_AT_ONCE: Final = POOL_SIZE // 2
"""Those of one jurisdiction are made one after the other: more would only hold connections that look-ups need."""
WAIT_SECONDS: Final = 2.0
"""On each statement, connection and place in the pool; below the three seconds that callers wait."""
_START_LOCK: Final = 0x646F6D64  # one number for all directory processes, as is the next
_TOPOLOGY_LOCK: Final = 0x646F6D74
_LOSS: Final = "DM007"  # log_changes of sql/schema.sql
SQL: Final = {path.stem: path.read_text() for path in (Path(__file__).parent / "sql").glob("*.sql")}

Connection: TypeAlias = "asyncpg.pool.PoolConnectionProxy[asyncpg.Record]"


@asynccontextmanager
async def translated() -> AsyncIterator[None]:
    """No error of the driver passes: "try again later" is Unavailable, any other is a fault of ours, without text."""
    try:
        yield
    except (
        OSError,  # TimeoutError and the errors of TLS are among them
        asyncpg.PostgresConnectionError,
        asyncpg.OperatorInterventionError,
        asyncpg.InsufficientResourcesError,
        asyncpg.InvalidAuthorizationSpecificationError,
        asyncpg.TransactionRollbackError,
        asyncpg.ReadOnlySQLTransactionError,
        asyncpg.InterfaceError,
        asyncpg.InternalClientError,
    ) as error:
        warn("storage-unavailable", error=type(error).__name__)
        raise Unavailable("the directory's database cannot be used now") from error
    except asyncpg.PostgresError as error:
        if error.sqlstate == _LOSS:
            raise _unsettled() from None
        warn("storage-refused", error=type(error).__name__)
        raise DomicileError("the directory's database refused a statement") from error


def _unsettled() -> Unavailable:
    return Unavailable(
        "the directory's database may have lost pins, and asks the cells", remedy="see `domicile pin reconcile`"
    )


async def _check_settled(connection: Connection) -> None:
    """Raise Unavailable where nobody may say what is not in the database."""
    if not await connection.fetchval(SQL["find_settled"]):
        raise _unsettled()


def _pin(row: asyncpg.Record) -> Pin:
    return Pin.trusted(
        SubjectKey(row["subject_key"]), row["jurisdiction"], row["cell"], row["epoch"], PinState(row["state"])
    )


class ClaimTransaction:
    """What a claim reads and writes, under the locks that make its answer the only one."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def topology_version(self) -> Version | None:
        return await _find_version(self._connection)

    async def topology(self) -> TopologyDocument | None:
        return await _find_topology(self._connection)

    async def pin(self, key: SubjectKey) -> Pin | None:
        row = await self._connection.fetchrow(SQL["find_pins"], [key])
        return _pin(row) if row is not None else None

    async def lock_round(self, jurisdiction: str) -> Round:
        """The counts of a jurisdiction; nobody else places there until this transaction ends."""
        await self._connection.execute(SQL["begin_round"], jurisdiction)
        return Round.model_validate_json(await self._connection.fetchval(SQL["lock_round"], jurisdiction))

    async def add_pin(self, pin: Pin) -> bool:
        """False where the subject has a pin already, of a transaction that has ended."""
        values = (pin.subject_key, pin.jurisdiction, pin.cell, pin.epoch, pin.state.value)
        return await self._connection.fetchval(SQL["add_pin"], *values) is not None

    async def keep_round(self, jurisdiction: str, after: Round) -> None:
        await self._connection.execute(SQL["keep_round"], jurisdiction, after.model_dump_json())


async def _find_version(connection: Connection) -> Version | None:
    row = await connection.fetchrow(SQL["find_topology_version"])
    return Version(row["revision"], row["published"]) if row is not None else None


async def _find_topology(connection: Connection) -> TopologyDocument | None:
    row = await connection.fetchrow(SQL["find_topology"])
    return TopologyDocument(revision=row["revision"], signed=row["signed"]) if row is not None else None


async def _stand(connection: Connection, mark: Mark | None) -> Standing:
    position = None if mark is None else mark.position
    row = await connection.fetchrow(
        SQL["find_position"], position and position.generation, position.sequence if position else 0
    )
    assert row is not None
    return Standing(
        Position(generation=row["generation"], sequence=row["sequence"]),
        row["trimmed"],
        current=row["current"],
        reconciling=row["reconciling"],
        revision=row["revision"],
        succeeded=row["succeeded"],
    )


class ReportTransaction:
    """What a reconciliation reads and writes."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def topology_version(self) -> Version | None:
        return await _find_version(self._connection)

    async def topology(self) -> TopologyDocument | None:
        return await _find_topology(self._connection)

    async def state(self) -> ReconciliationDocument:
        row = await self._connection.fetchrow(SQL["find_reconciliation"])
        assert row is not None
        if row["age"] is None:
            return ReconciliationDocument(generation=row["generation"], reconciling=False)
        return ReconciliationDocument(
            generation=row["generation"],
            reconciling=True,
            wait_seconds=wait_seconds(row["age"]),
            revision=row["revision"],
            wanted_revision=row["wanted_revision"],
            cells=[_report(row) for row in await self._connection.fetch(SQL["find_reports"])],
        )

    async def report(self, jurisdiction: str, cell: str) -> CellReport | None:
        """Kept for this transaction alone: pages of one cell come one after the other."""
        await self._connection.execute(SQL["lock_clock"])
        found = [_report(row) for row in await self._connection.fetch(SQL["find_reports"])]
        return next((each for each in found if (each.jurisdiction, each.cell) == (jurisdiction, cell)), None)

    async def merge(self, before: CellReport, report: FencesReport) -> CellReport:
        """Bring back what the page of a cell holds; how far the cell has come then."""
        place = (before.jurisdiction, before.cell)
        fences = [
            [fence.subject_key for fence in report.fences],
            [fence.epoch for fence in report.fences],
            [fence.state for fence in report.fences],
        ]
        await self._connection.execute(SQL["merge_fences"], *fences, *place)
        contradictions = await self._connection.fetchval(SQL["count_contradictions"], *fences, *place)
        aliases = [
            (kind, alias, fence.subject_key) for fence in report.fences for kind, alias in fence.alias_keys.items()
        ]
        columns = [list(column) for column in zip(*aliases, strict=True)] or [[], [], []]
        await self._connection.execute(SQL["merge_aliases"], *columns, *place)
        after = before.model_copy(
            update={
                "last_key": report.fences[-1].subject_key if report.fences else before.last_key,
                "fences": before.fences + len(report.fences),
                "contradictions": before.contradictions + contradictions,
                "done": report.last,
            }
        )
        kept = (after.last_key or b"", after.fences, after.contradictions, after.done)
        await self._connection.execute(SQL["keep_report"], *place, *kept)
        return after

    async def end(self) -> None:
        await self._connection.execute(SQL["end_reconciliation"])


def _report(row: asyncpg.Record) -> CellReport:
    return CellReport(**(dict(row) | {"last_key": row["last_key"] or None}))


class Storage:
    """Every method raises Unavailable where the database cannot be used."""

    def __init__(self, pool: asyncpg.Pool[asyncpg.Record]) -> None:
        self._pool = pool
        self._claiming = asyncio.Semaphore(CLAIMS_AT_ONCE)

    @classmethod
    @asynccontextmanager
    async def connect(cls, credentials: Credentials, address: Address) -> AsyncIterator[Storage]:
        """Opened by mutual TLS, as the only user that may; the schema is applied. Closed on leaving."""
        async with translated():
            pool = await asyncpg.create_pool(
                host=address.host,
                port=address.port,
                user=USER,
                database=DATABASE,
                ssl=credentials.client(GLOBAL, [Role.STORAGE]),
                min_size=POOL_SIZE,
                max_size=POOL_SIZE,
                max_inactive_connection_lifetime=0,
                timeout=WAIT_SECONDS,
                command_timeout=WAIT_SECONDS,
            )
        try:
            storage = cls(pool)
            async with storage._transaction() as connection:
                await connection.execute(SQL["lock_start"], _START_LOCK)
                await connection.execute(SQL["schema"])
            yield storage
        finally:
            try:
                async with asyncio.timeout(WAIT_SECONDS):
                    await pool.close()
            except TimeoutError:
                pool.terminate()

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[Connection]:
        async with (
            translated(),
            self._pool.acquire(timeout=WAIT_SECONDS) as connection,
            connection.transaction(),
        ):
            yield connection

    @asynccontextmanager
    async def claiming(self) -> AsyncIterator[ClaimTransaction]:
        """A transaction that no publication of a topology overtakes; committed on leaving, undone by an error."""
        async with self._turn(), self._transaction() as connection:
            await connection.execute(SQL["share_topology"], _TOPOLOGY_LOCK)
            await _check_settled(connection)
            yield ClaimTransaction(connection)

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        """A claim's place among those under way, first come first served. Raises Unavailable where it takes too long."""
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                await self._claiming.acquire()
        except TimeoutError:
            raise Unavailable("more claims than can be made at once", retry_after=1) from None
        try:
            yield
        finally:
            self._claiming.release()

    async def probe(self) -> None:
        async with self._transaction() as connection:
            await connection.fetchval(SQL["probe"])

    async def resolved(self, keys: Sequence[SubjectKey]) -> str:
        """A ResolveResponse, as JSON."""
        async with self._transaction() as connection:
            row = await connection.fetchrow(SQL["find_resolved"], list(keys))
            assert row is not None
            if not row["complete"]:
                await _check_settled(connection)
            body: str = row["body"]
            return body

    async def pin(self, key: SubjectKey) -> Pin:
        """Raises UnknownSubject."""
        async with self._transaction() as connection:
            row = await connection.fetchrow(SQL["find_pins"], [key])
            if row is None:
                await _check_settled(connection)
                raise UnknownSubject("the subject has no pin")
        return _pin(row)

    async def granting(self, key: SubjectKey) -> Pin:
        """The pin for a grant. Raises UnknownSubject; Unavailable where it may be an old one."""
        await self.check_settled()
        return await self.pin(key)

    async def check_settled(self) -> None:
        """Raises Unavailable where the database may have lost something."""
        async with self._transaction() as connection:
            await _check_settled(connection)

    async def standing(self, mark: Mark | None) -> Standing:
        """Where the database stands, after a generation was begun if it is another history, or has lost something.

        ``mark``: the furthest that this process has seen.
        """
        async with self._transaction() as connection:
            found = await _stand(connection, mark)
            if not found.current or (has_lost(mark, found)):
                await connection.execute(SQL["lock_clock"])
                found = await _stand(connection, mark)
                lost = has_lost(mark, found)
                if (
                    lost
                    and found.reconciling
                    and mark is not None
                    and mark.position.generation != found.position.generation
                ):
                    await connection.execute(SQL["add_loss"], mark.position.generation, mark.revision)
                elif lost or not found.current:
                    seen = None if mark is None else mark.position.generation
                    await connection.execute(SQL["begin_generation"], seen, lost, 0 if mark is None else mark.revision)
                    warn("generation-begun", verdict="lost" if lost else "whole")
                found = await _stand(connection, mark)
        return found

    @asynccontextmanager
    async def reporting(self) -> AsyncIterator[ReportTransaction]:
        """What cells tell, one page at a time; committed on leaving, undone by an error."""
        async with self._transaction() as connection:
            await connection.execute(SQL["allow_reconciling"])
            yield ReportTransaction(connection)

    async def changes(self, after: int, limit: int) -> list[tuple[int, Pin]]:
        """At most ``limit`` changes with the sequence numbers that follow ``after``, without a gap."""
        async with self._transaction() as connection:
            rows = await connection.fetch(SQL["find_changes"], after, limit)
        return [(row["sequence"], _pin(row)) for row in rows]

    async def block(self, after: bytes) -> Block | None:
        """The next pins of a snapshot, those that follow a key; None where there are none.

        Each block is read for itself: a transaction that lasts as long as a slow reader would keep the
        database from cleaning up.
        """
        async with self._transaction() as connection:
            row = await connection.fetchrow(SQL["find_block"], after, MAX_RECORDS)
        return Block(tuple(row["homes"]), row["records"]) if row is not None and row["homes"] else None

    async def trim_changes(self, keep: timedelta) -> None:
        """Forget the changes that are older than ``keep``."""
        async with self._transaction() as connection:
            await connection.execute(SQL["trim_changes"], keep)

    async def put_alias(self, kind: str, alias: AliasKey, key: SubjectKey) -> bool:
        """Whether it is new, for a subject that has a pin. Raises Conflict for another's alias."""
        async with self._transaction() as connection:
            await _check_settled(connection)
            row = await connection.fetchrow(SQL["put_alias"], kind, alias, key)
            assert row is not None
            if row["subject_key"] != key:
                raise Conflict("the alias belongs to another subject")
            made: bool = row["made"]
            return made

    async def alias(self, kind: str, alias: AliasKey) -> SubjectKey:
        """Whose alias it is. Raises NotFound."""
        async with self._transaction() as connection:
            holder: bytes | None = await connection.fetchval(SQL["find_alias"], kind, alias)
            if holder is None:
                await _check_settled(connection)
                raise NotFound("nobody's alias")
        return SubjectKey(holder)

    async def delete_alias(self, kind: str, alias: AliasKey, key: SubjectKey) -> None:
        """Afterwards the alias is not this subject's, whether or not it was."""
        async with self._transaction() as connection:
            await _check_settled(connection)
            await connection.execute(SQL["delete_alias"], kind, alias, key)

    async def topology(self) -> TopologyDocument:
        """The current revision. Raises NotFound before the first."""
        async with self._transaction() as connection:
            document = await _find_topology(connection)
        if document is None:
            raise NotFound("no topology is published yet", remedy="publish one with `domicile apply`")
        return document

    async def publish_topology(self, document: TopologyDocument) -> None:
        """From its return on, every claim goes by this one. Raises Conflict unless it is the next revision."""
        async with self._transaction() as connection:
            await connection.execute(SQL["own_topology"], _TOPOLOGY_LOCK)
            if await connection.fetchval(SQL["publish_topology"], document.revision, document.signed) is None:
                row = await connection.fetchrow(SQL["find_topology_version"])
                following = row["revision"] + 1 if row is not None else 1
                raise Conflict(f"the next topology revision is {following}, not {document.revision}")

    async def publish_key(self, key: SigningKey) -> None:
        """Raises Conflict for a key that is published for another use."""
        async with self._transaction() as connection:
            if await connection.fetchval(SQL["publish_signing_key"], key.kid, key.domicile_use, key.x) is None:
                raise Conflict("the key is published for another use", remedy="make a key for each use")

    async def keys(self) -> list[SigningKey]:
        """The published set, ordered by kid."""
        async with self._transaction() as connection:
            rows = await connection.fetch(SQL["find_signing_keys"])
        return [SigningKey(kid=row["kid"], domicile_use=row["use"], x=row["x"]) for row in rows]
