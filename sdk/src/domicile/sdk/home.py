"""A subject's home: the only place where its records can be put, and where their personal values open.

What a record says of itself is checked before anything is connected to: the first of the three locks on a
write. The guard and the database ask again, each on its own.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from inspect import iscoroutinefunction
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar, overload
from uuid import UUID, uuid4

from domicile.model.errors import InvalidInput, UnsupportedQuery
from domicile.model.ids import SubjectKey
from domicile.model.wire import MAX_BATCH
from domicile.sdk import finding
from domicile.sdk.admission import admitted
from domicile.sdk.codec import Codec, Keys
from domicile.sdk.cursors import Cursors, another_question
from domicile.sdk.finding import Page
from domicile.sdk.records import Record
from domicile.sdk.references import Ref, Reference
from domicile.sdk.store import Condition, Fence, Lookups, Operator, Rows, Selection, Store, Work
from domicile.sdk.store.port import OutdatedKeys
from domicile.sdk.tickets import ticket_of

if TYPE_CHECKING:
    from sqlalchemy.sql import ClauseElement

R = TypeVar("R", bound=Record)
T = TypeVar("T")
LEAST_STALE, MOST_STALE = 0.2, 3600
"""Seconds: less than two clocks can be told apart by, and more than anybody should read without knowing."""


@dataclass(frozen=True, slots=True)
class Vault:
    """What one cell's application stores with: its rows, its keys, and what it is."""

    rows: Store
    keys: Keys
    cell: str
    jurisdiction: str


class Reads(ABC):
    """What can be read of one subject. Each method raises FenceRefused where the cell no longer holds the subject, and
    Unavailable."""

    def __init__(self, vault: Vault, fence: Fence) -> None:
        self._vault = vault
        self._fence = fence
        self._codec = Codec(vault.keys, vault.cell, vault.jurisdiction, fence.internal_id)

    @property
    @abstractmethod
    def _rows(self) -> Rows: ...

    async def get(self, kind: type[R], id: UUID) -> R | None:  # noqa: A002 - the field's name
        """The record with this id, or None. Raises NotFound where the subject's key was destroyed.

        Where the key of somebody else was whom the record is about, its sealed fields are ``Destroyed``.
        """
        finding.check_id(kind, id)
        found = await self._select(kind, Selection((Condition("id", Operator.EQUAL, id),)))
        return found[0] if found else None

    async def all(self, kind: type[R]) -> list[R]:
        """Every record of a class, in the order of creation."""
        return await self._select(kind, Selection())

    async def find(self, kind: type[R], **conditions: Any) -> list[R]:
        """Records that meet every condition, in the order of creation.

        A condition is a value to equal, on fields that are shareable, clear (``sealed=False``) or have ``find=``,
        or a ``Range``, on shareable and clear ones. Raises UnsupportedQuery for any other, for None, and for no
        condition at all.
        """
        if not conditions:
            raise UnsupportedQuery("no condition", where=kind.__name__, remedy="use all()")

        async def find() -> list[R]:
            wanted = await finding.conditions_on(self._codec, kind, conditions)
            return [] if wanted is None else await self._select(kind, Selection(wanted))

        return await self._knowing(find)

    async def page(
        self,
        kind: type[R],
        conditions: Mapping[str, Any] | None = None,
        *,
        size: int = 50,
        order_by: str | None = None,
        after: str | None = None,
    ) -> Page[R]:
        """Some of the records that meet conditions as those of ``find``, and a cursor that leads to the next ones.

        ``order_by``: a shareable or clear field, or ``created_at``, with ``-`` before it for the last first; equal
        ones come by their ids, None last. ``after``: ``next`` of the page before; it goes on from where that one ended,
        whatever became of its last record. Raises UnsupportedQuery, and InvalidInput for a cursor of another question.
        """
        finding.check_size(size)
        order, descending = finding.parse_order(kind, order_by)

        async def page() -> Page[R]:
            return await self._page(kind, conditions or {}, size, order, descending, after)

        return await self._knowing(page)

    async def _page(
        self, kind: type[R], conditions: Mapping[str, Any], size: int, order: str, descending: bool, after: str | None
    ) -> Page[R]:
        wanted = await finding.conditions_on(self._codec, kind, conditions)
        if wanted is None:
            if after is not None:
                raise another_question()
            return Page([], None)
        table, subject = kind.domicile_table, self._fence.internal_id
        selection = Selection(wanted, order, descending, limit=size + 1)
        ordered = table.by_name.get(order)
        secrets = await self._codec.cursor_secrets(personal=ordered is not None and ordered.personal)
        cursors = Cursors.at_home(secrets, subject, table, selection)
        begin = None if after is None else cursors.place(after)
        found = await self._rows.select(table, replace(selection, after=begin))
        records = [await self._codec.record(kind, row) for row in found[:size]]
        last = found[size - 1] if len(found) > size else None
        return Page(records, None if last is None else cursors.after(last.id, last.place))

    async def _knowing(self, read: Callable[[], Awaitable[T]]) -> T:
        """Again where rows may lie under newer keys than those that were known."""
        try:
            return await read()
        except OutdatedKeys:
            self._codec.forget()
        return await read()

    async def _select(self, kind: type[R], selection: Selection) -> list[R]:
        rows = await self._rows.select(kind.domicile_table, selection)
        if len(rows) > 1:
            await self._codec.prepare(row.principal for row in rows)
        return [await self._codec.record(kind, row) for row in rows]


class Records(Reads):
    """What can be done with one subject's records, in a transaction each or in one for all; it raises as ``Reads``."""

    @property
    def subject_key(self) -> SubjectKey:
        return self._fence.subject_key

    @property
    def jurisdiction(self) -> str:
        return self._vault.jurisdiction

    @property
    def cell(self) -> str:
        return self._vault.cell

    @property
    def epoch(self) -> int:
        return self._fence.epoch

    @property
    def internal_id(self) -> UUID:
        """The subject's random id in this cell: what names it to the key service."""
        return self._fence.internal_id

    @property
    @abstractmethod
    def _lookups(self) -> Lookups: ...

    def new(self, kind: type[R], *, idempotency_key: str | None = None, **fields: Any) -> R:
        """A record labelled with this home's jurisdiction, with a random ``id`` unless one is given.

        ``idempotency_key``: the one that it will be put under; the ``id`` is then the same for each record of the class
        that the subject makes under it, so that a repeated request is the same one. It is not stored yet: ``put`` it.
        Raises InvalidInput for fields that don't fit, and for a key that is empty or too long.
        """
        table = kind.domicile_table
        made = uuid4() if idempotency_key is None else self._codec.new_id(table, idempotency_key)
        return kind(**{"jurisdiction": self.jurisdiction, "id": made, **fields})

    async def put(self, record: Record, *, version: int | None = None, idempotency_key: str | None = None) -> int:
        """Store a record, or replace the one with its id; answers the row's version, which starts at 1.

        Raises Forbidden for a record that replaces one about somebody else, KeyDestroyed where the key of whom it is
        about was destroyed.

        ``version``: the one that must be there, 0 for none; Conflict otherwise. ``idempotency_key``: a call that is
        repeated under it for the same record and ``version`` writes nothing and answers what was answered first; any
        other raises Conflict (``new`` under the same key makes the same record again). Raises WrongJurisdiction, before
        any connection is used, for a record that isn't labelled with the home's jurisdiction.
        """
        self._codec.require_home(record)
        finding.check_id(type(record), record.id)
        finding.check_version(version)

        async def put() -> int:
            codec = self._codec
            once = None if idempotency_key is None else await codec.once("put", [record], idempotency_key, version)
            return await self._rows.put(record.domicile_table, await codec.row(record), version, once)

        return await self._sealing(put)

    async def put_many(self, records: Iterable[Record], *, idempotency_key: str | None = None) -> list[int]:
        """Store up to 1,000 records of one class, all of them or none; their versions, in the same order.

        Otherwise as ``put``. Raises InvalidInput for more, for two classes, and for an id that is given twice.
        """
        records = list(islice(records, MAX_BATCH + 1))
        if len(records) > MAX_BATCH:
            raise InvalidInput(f"at most {MAX_BATCH} records at a time", remedy="load() takes any number")
        if len({record.domicile_table for record in records}) > 1:
            raise InvalidInput("records of two classes", remedy="a transaction, and put_many for each")
        for record in records:
            self._codec.require_home(record)
            finding.check_id(type(record), record.id)
        if not records:
            return []

        async def put() -> list[int]:
            once = None if idempotency_key is None else await self._codec.once("put_many", records, idempotency_key)
            rows = [await self._codec.row(record) for record in records]
            return await self._rows.put_many(records[0].domicile_table, rows, once)

        return await self._sealing(put)

    async def update(
        self, record: R, *, version: int | None = None, idempotency_key: str | None = None, **changes: Any
    ) -> R:
        """Write some fields of a record that was read, and answer it as it is then.

        ``version``: what the row must have, where that is not the record's. ``idempotency_key``: as for ``put``; the
        request is what is changed, at which version.

        Fields that the record's ``model_copy``, or its class, changed since it was read are written with them.
        Raises Conflict where the row has another version than the record, InvalidInput for a record that was not
        read, for ``id``, ``jurisdiction`` and a principal, and for values that don't fit; KeyDestroyed where a field
        of it was destroyed.
        """
        self._codec.require_home(record)
        finding.check_version(version)
        kind, table = type(record), record.domicile_table
        self._codec.require_whole(record)
        if record.version == 0:
            raise InvalidInput("a record that was not read has no version", where=kind.__name__, remedy="put() it")
        if not changes or not changes.keys() <= table.by_name.keys():
            raise InvalidInput("changes are fields of the record, at least one", where=kind.__name__)
        checked = kind(**{**dict(record), **changes})
        written = record._changed.union(changes)
        values = {column: getattr(checked, column.name) for column in table.columns}
        columns = {
            column: value
            for column, value in values.items()
            if column.name in written or value != getattr(record, column.name)
        }
        principal, at, codec = self._codec.principal(record), version or record.version, self._codec

        async def write() -> int:
            row, once = await codec.encode(table, record.id, columns, principal), None
            if idempotency_key is not None:
                once = await codec.once_changed(record, columns, idempotency_key, at)
            return await self._rows.update(table, row, at, once)

        checked._version = await self._sealing(write)
        return checked

    async def delete(self, kind: type[Record], id: UUID, *, version: int | None = None) -> bool:  # noqa: A002
        """Delete the record with this id; whether there was one. ``version``: what it must have, else Conflict."""
        finding.check_id(kind, id)
        finding.check_version(version)
        return await self._rows.delete(kind.domicile_table, id, version)

    async def _sealing(self, write: Callable[[], Awaitable[T]]) -> T:
        """Raises OutdatedKeys where keys were turned since they were asked for; the next call asks again."""
        try:
            return await write()
        except OutdatedKeys:
            self._codec.forget()
            raise

    async def look_up(self, kind: type[Ref], **conditions: Any) -> list[Ref]:
        """Rows of a table that belongs to no subject and that meet every condition, in the order of their key.

        A condition is a value to equal, or a ``Range``; none is all rows. Raises UnsupportedQuery, InvalidInput.
        """
        return await look_up(self._lookups, kind, conditions)


async def look_up(lookups: Lookups, kind: type[Ref], conditions: Mapping[str, Any]) -> list[Ref]:
    wanted = finding.look_up_by(kind, conditions)
    return [kind.of_row(row) for row in await lookups.look_up(kind.domicile_reference, wanted)]


class Transaction(Records):
    """One transaction of one subject; what it wrote holds when its block ends without an error."""

    def __init__(self, vault: Vault, fence: Fence, work: Work) -> None:
        super().__init__(vault, fence)
        self._work = work

    @property
    def _rows(self) -> Rows:
        return self._work

    @property
    def _lookups(self) -> Lookups:
        return self._work

    @overload
    async def sql(self, statement: str | ClauseElement, *arguments: Any) -> list[dict[str, Any]]: ...

    @overload
    async def sql(self, statement: str | ClauseElement, *arguments: Any, into: type[R]) -> list[R]: ...

    @overload
    async def sql(self, statement: str | ClauseElement, *arguments: Any, into: type[Ref]) -> list[Ref]: ...

    async def sql(
        self, statement: str | ClauseElement, *arguments: Any, into: type[Record] | type[Reference] | None = None
    ) -> Sequence[Any]:
        """One SELECT over the subject's own rows and references, or one DELETE of its rows.

        The statement is text with ``$1``, ``$2``..., or SQLAlchemy Core.

        Rows come as dicts, in which sealed values stay sealed, or as records of ``into``, whose every column must be
        selected. Raises UnsupportedQuery for any other statement or function, and for a question about a sealed
        column, which nothing could answer.
        """
        text, values = admitted(statement, arguments)
        rows = await self._work.query(text, values)
        if into is None:
            return rows
        if issubclass(into, Reference):
            return [into.of_row(row) for row in rows]
        return [await self._codec.record_of(into, row) for row in rows]


class Stale(Reads):
    """A home's records as they were some seconds ago at most (``Home.stale``)."""

    def __init__(self, vault: Vault, fence: Fence, seconds: float) -> None:
        super().__init__(vault, fence)
        self._seconds = seconds

    @property
    def _rows(self) -> Rows:
        return self._vault.rows.alone(self._fence.subject_key, self._fence.epoch, self._seconds)


class Home(Records):
    """A subject that is at home in this cell, at the epoch at which it was asked for.

    Each call is a transaction of its own. All of them raise FenceRefused when the subject has moved on.
    """

    @property
    def _rows(self) -> Rows:
        return self._vault.rows.alone(self.subject_key, self.epoch)

    async def _sealing(self, write: Callable[[], Awaitable[T]]) -> T:
        """Again where keys were turned since they were asked for: nothing was written."""
        return await self._knowing(write)

    @property
    def _lookups(self) -> Lookups:
        return self._vault.rows

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Transaction]:
        """One subject, one cell, fenced at BEGIN: nobody moves the subject away before it ends.

        It commits at the end of the block, or is rolled back by an error in it. A task that is cancelled
        while it commits leaves the outcome to the database.
        """
        async with self._vault.rows.work(self.subject_key, self.epoch) as work:
            yield Transaction(self._vault, self._fence, work)

    async def load(
        self,
        records: Iterable[Record],
        *,
        batch: int = MAX_BATCH,
        progress: Callable[[int], None] = lambda done: None,
    ) -> int:
        """Put any number of records of one class, ``batch`` at a time, each of them committed; how many there were.

        ``progress`` is told after each batch how many are stored by now. What was stored stays when a later batch
        fails: putting a record again changes nothing but its version, so that a load can be repeated.
        """
        if not 1 <= batch <= MAX_BATCH:
            raise InvalidInput(f"a batch has 1 to {MAX_BATCH} records, not {batch}")
        told: Any = progress
        if iscoroutinefunction(told) or iscoroutinefunction(told.__call__):
            raise InvalidInput("progress is told by a plain call, which nobody awaits", remedy="a plain function")
        left, done = iter(records), 0
        while some := list(islice(left, batch)):
            await self.put_many(some)
            done += len(some)
            progress(done)
        return done

    def stale(self, seconds: float) -> Stale:
        """The same records to be read at the cell's standby, as of ``seconds`` ago at most; at the leader where no
        standby can answer so.

        For lists and reports that cost the leader much. It keeps no other promise than the seconds: what this process
        has just written may be missing, two reads may come in the wrong order, and a subject that moved away or was
        erased since may still be there. A read that decides what is written belongs into a transaction. Raises
        InvalidInput for less than 0.2 seconds or more than an hour.
        """
        if not LEAST_STALE <= seconds <= MOST_STALE:
            raise InvalidInput(f"stale for {LEAST_STALE} to {MOST_STALE} seconds, not {seconds:g}", where="stale")
        return Stale(self._vault, self._fence, seconds)

    def ticket(self) -> str:
        """A name of this home for a background job: without the subject's id, and no permission of any kind.

        ``residency.redeem`` gives the home again, wherever the subject is by then.
        """
        return ticket_of(self.subject_key, self.jurisdiction, self.cell)
