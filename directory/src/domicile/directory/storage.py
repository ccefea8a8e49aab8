"""The directory's database: the only module that speaks to it, and where a driver's errors end.

Everything that changes is one transaction, committed before its method returns, in a second zone too where one is
required. Callers see errors of our own tree: a database that is gone, restarting, read-only or silent is Unavailable,
with nothing acknowledged.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Final, cast
from uuid import UUID

import asyncpg
from asyncpg.connect_utils import SessionAttribute

from domicile.directory.history import GRACE_SECONDS, Mark, Standing, furthest, has_lost
from domicile.directory.second_zone import Replication, SecondZone, SecondZoneCheck
from domicile.directory.transactions import (
    SQL,
    Connection,
    ReportTransaction,
    SubjectTransaction,
    check_settled,
    find_topology,
    pin_of,
    unsettled,
)
from domicile.identity import Credentials, retirement_seconds
from domicile.model import (
    GLOBAL,
    Address,
    AliasKey,
    Conflict,
    DomicileError,
    NotFound,
    Pin,
    Position,
    Role,
    SubjectKey,
    Unavailable,
    UnknownSubject,
)
from domicile.model.pins import KeyUse
from domicile.model.snapshot import MAX_RECORDS, Block
from domicile.model.wire import PepperCount, PeppersDocument, SigningKey, TopologyDocument
from domicile.service.commits import transaction
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
_SUBJECTS: Final = 0x646F6D73  # what is locked by key
_LEVEL: Final = "DM004"  # log_changes of sql/schema.sql, as is the next
_LOSS: Final = "DM007"
_FORGOTTEN: Final = "DM008"
_IN_USE: Final = "DM009"  # forget_pepper of sql/schema.sql
TRIMMED: Final = 10_000
"""Changes that one transaction forgets at most: a tenth of a second of the clock's lock."""
FORGOTTEN: Final = 5_000
"""Tombstones that one transaction deletes at most."""
SCAN_SECONDS: Final = 300.0
"""On a statement that goes through every pin, for an operator who waits for it, or for an upgrade."""
UPGRADE_TRIES: Final = 3
SCHEMA: Final = int(SQL["schema"].rpartition("IS 'schema ")[2].partition("'")[0])
"""The number of this program's schema, which its text gives itself."""


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
        asyncpg.ObjectNotInPrerequisiteStateError,  # of a server that still recovers, also where it can be read
        asyncpg.InterfaceError,
        asyncpg.InternalClientError,
    ) as error:
        warn("storage-unavailable", error=type(error).__name__)
        raise Unavailable("the directory's database cannot be used now") from error
    except asyncpg.PostgresError as error:
        if error.sqlstate == _LOSS:
            raise unsettled() from None
        if error.sqlstate == _LEVEL:
            raise Unavailable("synchronous_commit is below on", remedy="leave it as the database has it") from None
        if error.sqlstate == _FORGOTTEN:
            raise Conflict(
                "a key by a pepper that was forgotten", remedy="give this process the one in force"
            ) from None
        if error.sqlstate == _IN_USE:
            raise Conflict("the pepper still names somebody", remedy="see `domicile pin rekey`") from None
        warn("storage-refused", error=type(error).__name__)
        raise DomicileError("the directory's database refused a statement") from error


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


class Storage:
    """Every method raises Unavailable where the database cannot be used."""

    def __init__(self, pool: asyncpg.Pool[asyncpg.Record], second_zone: SecondZone) -> None:
        self._pool = pool
        self._second_zone = SecondZoneCheck(second_zone)
        self._claiming = asyncio.Semaphore(CLAIMS_AT_ONCE)
        self._seen: Mark | None = None
        self._unbegun: tuple[UUID, float] | None = None

    @classmethod
    @asynccontextmanager
    async def connect(
        cls, credentials: Credentials, addresses: Sequence[Address], second_zone: SecondZone
    ) -> AsyncIterator[Storage]:
        """Opened by mutual TLS at whichever address leads; the schema is applied. Closed on leaving."""
        storage: Storage

        async def admit(connection: asyncpg.Connection[asyncpg.Record]) -> None:
            await storage._admit(cast("Connection", connection))

        pool = asyncpg.create_pool(
            host=[address.host for address in addresses],
            port=[address.port for address in addresses],
            target_session_attrs=SessionAttribute.primary,
            user=USER,
            database=DATABASE,
            ssl=credentials.client(GLOBAL, [Role.STORAGE]),
            min_size=POOL_SIZE,
            max_size=POOL_SIZE,
            max_inactive_connection_lifetime=0,
            timeout=WAIT_SECONDS,
            command_timeout=WAIT_SECONDS,
            init=admit,
        )
        storage = cls(pool, second_zone)
        async with translated():
            await pool
        try:
            await storage._bring_up_to_date()
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
            transaction(connection, WAIT_SECONDS, self._second_zone.doubt),
        ):
            yield connection

    async def _bring_up_to_date(self) -> None:
        """Apply the schema where the database has an older one.

        A start beside other processes takes no lock of theirs, and one of an older program brings nothing back. An
        upgrade has the tables to itself: claims wait for it, for as long as one lock may take, and go on over it.
        """
        for _ in range(UPGRADE_TRIES):
            try:
                async with self._transaction() as connection:
                    await connection.execute(SQL["commit_here"])
                    await connection.execute(SQL["lock_start"], _START_LOCK)
                    if await connection.fetchval(SQL["find_schema"]) < SCHEMA:
                        await connection.execute(SQL["bound_locks"])
                        await connection.execute(SQL["own_topology"], _TOPOLOGY_LOCK)
                        await connection.execute(SQL["schema"], timeout=SCAN_SECONDS)
                return
            except DomicileError as error:
                if not isinstance(error.__cause__, asyncpg.LockNotAvailableError):
                    raise
        raise Unavailable(
            "something holds the database's tables for too long to bring them up to date",
            remedy="start again when it has ended: a backup, or a long query",
        )

    @asynccontextmanager
    async def _acknowledging(self) -> AsyncIterator[Connection]:
        """A transaction that may be told of: where a second zone is required, what it read is there too."""
        if not self._second_zone.required:
            async with self._transaction() as connection:
                yield connection
            return
        async with translated(), self._pool.acquire(timeout=WAIT_SECONDS) as connection:
            async with transaction(connection, WAIT_SECONDS, self._second_zone.doubt):
                await self._check_second_zone(connection)
                yield connection
                await connection.execute(SQL["confirm"])
            self._second_zone.take_after(await self._replication(connection))

    async def _replication(self, connection: Connection) -> Replication:
        row = await connection.fetchrow(SQL["find_second_zone"], self._second_zone.asked)
        assert row is not None
        return Replication(**row)

    async def _check_second_zone(self, connection: Connection) -> None:
        """Raise Unavailable where a second zone is required, and what is committed now would not be there."""
        if self._second_zone.required:
            self._second_zone.take(await self._replication(connection))

    @asynccontextmanager
    async def about(self, keys: Sequence[SubjectKey]) -> AsyncIterator[SubjectTransaction]:
        """A transaction about one subject, by every key that it may have: alone in that, and overtaken by no new
        topology. Committed on leaving, undone by an error.
        """
        async with self._turn(), self._acknowledging() as connection:
            await connection.execute(SQL["share_topology"], _TOPOLOGY_LOCK)
            await connection.execute(SQL["lock_names"], _SUBJECTS, list(keys))
            await check_settled(connection)
            subject = SubjectTransaction(connection, keys)
            yield subject
            clock = await connection.fetchrow(SQL["find_clock"]) if subject.changed else None
        if clock is not None and self._seen is not None:
            # what this process has acknowledged it knows of before its next beat
            told = Position(generation=clock["generation"], sequence=clock["sequence"])
            self._seen = furthest(self._seen, Mark(position=told, revision=self._seen.revision))

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        """A claim's place among those under way, first come first served. Raises Unavailable after too long."""
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
        """Raises Unavailable also where a second zone is required and nothing is acknowledged for want of it."""
        async with self._transaction() as connection:
            await connection.fetchval(SQL["probe"])
            await self._check_second_zone(connection)

    async def resolved(self, keys: Sequence[SubjectKey]) -> str:
        """A ResolveResponse, as JSON."""
        async with self._transaction() as connection:
            row = await connection.fetchrow(SQL["find_resolved"], list(keys))
            assert row is not None
            if not row["complete"]:
                await check_settled(connection)
            body: str = row["body"]
            return body

    async def pin(self, key: SubjectKey) -> Pin:
        """Raises UnknownSubject."""
        async with self._transaction() as connection:
            row = await connection.fetchrow(SQL["find_pins"], [key])
            if row is None:
                await check_settled(connection)
                raise UnknownSubject("the subject has no pin")
        return pin_of(row)

    async def granting(self, key: SubjectKey) -> Pin:
        """The pin for a grant. Raises UnknownSubject; Unavailable where it may be an old one."""
        async with self._acknowledging() as connection:
            await check_settled(connection)
            row = await connection.fetchrow(SQL["find_pins"], [key])
            if row is None:
                raise UnknownSubject("the subject has no pin")
        return pin_of(row)

    async def standing(self, mark: Mark | None) -> Standing:
        """Where the database stands, after a generation was begun if it is another history, or has lost something.

        ``mark``: the furthest that this process has seen. From now on, each new connection is asked first whether
        it leads to a database that has all of that: one that was restored is never behind a connection of before.
        """
        known = self._seen if mark is None or self._seen is None else furthest(mark, self._seen)
        async with self._transaction() as connection:
            found = await self._settle(connection, known or mark)
        self._seen = furthest(self._seen, found.mark)
        return found

    async def _admit(self, connection: Connection) -> None:
        if self._seen is not None:
            async with transaction(connection, WAIT_SECONDS, self._second_zone.doubt):
                await self._settle(connection, self._seen)

    async def _settle(self, connection: Connection, mark: Mark | None) -> Standing:
        found = await _stand(connection, mark)
        if not found.current or has_lost(mark, found):
            await self._check_second_zone(connection)
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
            elif lost or (not found.current and self._is_believed(found)):
                seen = None if mark is None else mark.position.generation
                await connection.execute(SQL["begin_generation"], seen, lost, 0 if mark is None else mark.revision)
                warn("generation-begun", verdict="lost" if lost else "whole")
            found = await _stand(connection, mark)
        return found

    def _is_believed(self, found: Standing) -> bool:
        """Whether a history that nobody has begun was there for long enough for others to miss something in it."""
        now = asyncio.get_running_loop().time()
        generation = found.position.generation
        if self._unbegun is None or self._unbegun[0] != generation:
            self._unbegun = (generation, now)
        return now - self._unbegun[1] >= GRACE_SECONDS

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
        return [(row["sequence"], pin_of(row)) for row in rows]

    async def block(self, after: bytes) -> Block | None:
        """The next pins of a snapshot, those that follow a key; None where there are none.

        Each block is read for itself: a transaction that lasts as long as a slow reader would keep the
        database from cleaning up.
        """
        async with self._transaction() as connection:
            row = await connection.fetchrow(SQL["find_block"], after, MAX_RECORDS)
        return Block(tuple(row["homes"]), row["records"]) if row is not None and row["homes"] else None

    async def trim_changes(self, keep: timedelta) -> None:
        """Forget the changes that are older than ``keep``, in transactions that each take little time: an import may
        have made millions in a moment.
        """
        gone = TRIMMED
        while gone >= TRIMMED:
            async with self._transaction() as connection:
                gone = await connection.fetchval(SQL["trim_changes"], keep, TRIMMED)

    async def alias(self, kind: str, alias: AliasKey) -> SubjectKey:
        """Whose alias it is. Raises NotFound."""
        async with self._transaction() as connection:
            holder: bytes | None = await connection.fetchval(SQL["find_alias"], kind, alias)
            if holder is None:
                await check_settled(connection)
                raise NotFound("nobody's alias")
        return SubjectKey(holder)

    async def peppers(self) -> PeppersDocument:
        """What is named by each pepper's keys, counted: minutes, where there are many pins."""
        async with self._transaction() as connection:
            rows = await connection.fetch(SQL["count_peppers"], timeout=SCAN_SECONDS)
        return PeppersDocument(versions=[PepperCount(**dict(row)) for row in rows])

    async def announce_pepper(self, version: int) -> None:
        """From its return on, every claim names its subject by this pepper too. Raises Conflict for a forgotten one."""
        async with self._acknowledging() as connection:
            await connection.execute(SQL["own_topology"], _TOPOLOGY_LOCK)
            await check_settled(connection)
            if await connection.fetchval(SQL["announce_pepper"], version) is None:
                raise Conflict("the pepper was forgotten", remedy="a new pepper has a new version")

    async def forget_pepper(self, version: int) -> None:
        """In steps, between which claims are made. Harmless to repeat, and goes on where it was cut off.

        Raises Conflict where it still names somebody.
        """
        done = False
        while not done:
            async with self._acknowledging() as connection:
                # an alias that is being given by one of its keys would be seen by nobody, neither here nor afterwards
                await connection.execute(SQL["own_topology"], _TOPOLOGY_LOCK)
                await check_settled(connection)
                values = (version, FORGOTTEN)
                done = await connection.fetchval(SQL["forget_pepper"], *values, timeout=SCAN_SECONDS)

    async def topology(self) -> TopologyDocument:
        """The current revision. Raises NotFound before the first."""
        async with self._transaction() as connection:
            document = await find_topology(connection)
        if document is None:
            raise NotFound("no topology is published yet", remedy="publish one with `domicile apply`")
        return document

    async def publish_topology(self, document: TopologyDocument) -> None:
        """From its return on, every claim goes by this one. Raises Conflict unless it is the next revision."""
        async with self._acknowledging() as connection:
            await connection.execute(SQL["own_topology"], _TOPOLOGY_LOCK)
            if await connection.fetchval(SQL["publish_topology"], document.revision, document.signed) is None:
                row = await connection.fetchrow(SQL["find_topology_version"])
                following = row["revision"] + 1 if row is not None else 1
                raise Conflict(f"the next topology revision is {following}, not {document.revision}")

    async def publish_key(self, key: SigningKey, publisher: str) -> None:
        """Raises Conflict for a key that is published for another use, or was retired."""
        async with self._acknowledging() as connection:
            values = (key.kid, key.domicile_use, key.x, publisher)
            if await connection.fetchval(SQL["publish_signing_key"], *values) is None:
                raise Conflict("the key is published for another use, or retired", remedy="make another key")

    async def retire_key(self, kid: str, publisher: str | None) -> None:
        """Take a key out of the set: at once, or, for its publisher, when nothing it has signed is good any more.

        Harmless to repeat. Raises NotFound for no such key of the publisher's.
        """
        async with self._acknowledging() as connection:
            use: KeyUse | None = await connection.fetchval(SQL["find_key_use"], kid)
            seconds = 0.0 if publisher is None or use is None else float(retirement_seconds(use))
            if await connection.fetchval(SQL["retire_signing_key"], kid, publisher, seconds) is None:
                raise NotFound("no such signing key of this publisher's")

    async def keys(self) -> list[SigningKey]:
        """The published set, ordered by kid."""
        async with self._transaction() as connection:
            rows = await connection.fetch(SQL["find_signing_keys"])
        return [SigningKey(kid=row["kid"], domicile_use=row["use"], x=row["x"]) for row in rows]
