"""The same for synchronous code: each call runs on a loop of a thread of its own, and waits for it.

    with Residency.connect() as residency:
        home = residency.claim("alice", residence="DE")
        home.put(home.new(Profile, email="a@example.eu", plan="free"))

Any number of threads may share a residency. Arguments, answers and errors are those of ``domicile.sdk``.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload
from uuid import UUID

from domicile.model.ids import SubjectKey
from domicile.model.wire import ErasureResponse
from domicile.sdk import abroad as asynchronous_abroad
from domicile.sdk import cell as asynchronous_cell
from domicile.sdk import home as asynchronous
from domicile.sdk.abroad import AbroadPage, AbroadRow
from domicile.sdk.finding import Page
from domicile.sdk.records import Record
from domicile.sdk.references import Ref, Reference
from domicile.sdk.residency import Residency as AsynchronousResidency
from domicile.service import ProcessSettings

if TYPE_CHECKING:
    from sqlalchemy.sql import ClauseElement

R = TypeVar("R", bound=Record)
Answer = TypeVar("Answer")


class Loop:
    """An event loop in a thread; ``run`` waits for a coroutine on it. Entered once."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="domicile", daemon=True)

    def __enter__(self) -> Loop:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.run(self._loop.shutdown_asyncgens())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @contextmanager
    def within(self, context: AbstractAsyncContextManager[Answer]) -> Iterator[Answer]:
        """An asynchronous context, entered and left on the loop; what is raised in the block goes through it."""
        entered = self.run(_awaited(context.__aenter__()))
        try:
            yield entered
        except BaseException as error:
            if not self.run(_awaited(context.__aexit__(type(error), error, error.__traceback__))):
                raise
        else:
            self.run(_awaited(context.__aexit__(None, None, None)))

    def run(self, coroutine: Coroutine[Any, Any, Answer]) -> Answer:
        """What interrupts the wait cancels the coroutine."""
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise


async def _awaited(step: Awaitable[Answer]) -> Answer:
    return await step


class Reads:
    """See ``domicile.sdk.home.Reads``, whose methods these are."""

    def __init__(self, loop: Loop, reads: asynchronous.Reads) -> None:
        self._loop = loop
        self._reads = reads

    def get(self, kind: type[R], id: UUID) -> R | None:  # noqa: A002 - the field's name
        return self._loop.run(self._reads.get(kind, id))

    def all(self, kind: type[R]) -> list[R]:
        return self._loop.run(self._reads.all(kind))

    def find(self, kind: type[R], **conditions: Any) -> list[R]:
        return self._loop.run(self._reads.find(kind, **conditions))

    def page(
        self,
        kind: type[R],
        conditions: Mapping[str, Any] | None = None,
        *,
        size: int = 50,
        order_by: str | None = None,
        after: str | None = None,
    ) -> Page[R]:
        return self._loop.run(self._reads.page(kind, conditions, size=size, order_by=order_by, after=after))


class Stale(Reads):
    """See ``domicile.sdk.home.Stale``."""


class Records(Reads):
    """See ``domicile.sdk.home.Records``, whose methods these are."""

    def __init__(self, loop: Loop, records: asynchronous.Records) -> None:
        super().__init__(loop, records)
        self._records = records

    @property
    def subject_key(self) -> SubjectKey:
        return self._records.subject_key

    @property
    def jurisdiction(self) -> str:
        return self._records.jurisdiction

    @property
    def cell(self) -> str:
        return self._records.cell

    @property
    def epoch(self) -> int:
        return self._records.epoch

    def new(self, kind: type[R], *, idempotency_key: str | None = None, **fields: Any) -> R:
        return self._records.new(kind, idempotency_key=idempotency_key, **fields)

    def put(self, record: Record, *, version: int | None = None, idempotency_key: str | None = None) -> int:
        return self._loop.run(self._records.put(record, version=version, idempotency_key=idempotency_key))

    def put_many(self, records: Iterable[Record], *, idempotency_key: str | None = None) -> list[int]:
        return self._loop.run(self._records.put_many(records, idempotency_key=idempotency_key))

    def update(self, record: R, *, version: int | None = None, idempotency_key: str | None = None, **changes: Any) -> R:
        changing = self._records.update(record, version=version, idempotency_key=idempotency_key, **changes)
        return self._loop.run(changing)

    def delete(self, kind: type[Record], id: UUID, *, version: int | None = None) -> bool:  # noqa: A002
        return self._loop.run(self._records.delete(kind, id, version=version))

    def look_up(self, kind: type[Ref], **conditions: Any) -> list[Ref]:
        return self._loop.run(self._records.look_up(kind, **conditions))


class Transaction(Records):
    """See ``domicile.sdk.home.Transaction``."""

    def __init__(self, loop: Loop, transaction: asynchronous.Transaction) -> None:
        super().__init__(loop, transaction)
        self._transaction = transaction

    @overload
    def sql(self, statement: str | ClauseElement, *arguments: Any) -> list[dict[str, Any]]: ...

    @overload
    def sql(self, statement: str | ClauseElement, *arguments: Any, into: type[R]) -> list[R]: ...

    @overload
    def sql(self, statement: str | ClauseElement, *arguments: Any, into: type[Ref]) -> list[Ref]: ...

    def sql(
        self, statement: str | ClauseElement, *arguments: Any, into: type[Record] | type[Reference] | None = None
    ) -> Sequence[Any]:
        if into is None:
            return self._loop.run(self._transaction.sql(statement, *arguments))
        if issubclass(into, Reference):
            return self._loop.run(self._transaction.sql(statement, *arguments, into=into))
        return self._loop.run(self._transaction.sql(statement, *arguments, into=into))


class Home(Records):
    """See ``domicile.sdk.home.Home``."""

    def __init__(self, loop: Loop, home: asynchronous.Home) -> None:
        super().__init__(loop, home)
        self._home = home

    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        with self._loop.within(self._home.transaction()) as transaction:
            yield Transaction(self._loop, transaction)

    def load(
        self, records: Iterable[Record], *, batch: int = 1_000, progress: Callable[[int], None] = lambda done: None
    ) -> int:
        return self._loop.run(self._home.load(records, batch=batch, progress=progress))

    def stale(self, seconds: float) -> Stale:
        return Stale(self._loop, self._home.stale(seconds))

    def ticket(self) -> str:
        return self._home.ticket()


class Abroad:
    """See ``domicile.sdk.abroad.Abroad``."""

    def __init__(self, loop: Loop, abroad: asynchronous_abroad.Abroad) -> None:
        self._loop = loop
        self._abroad = abroad
        self.jurisdiction = abroad.jurisdiction
        self.cell = abroad.cell

    def get(self, kind: type[R], id: UUID) -> AbroadRow[R] | None:  # noqa: A002 - the field's name
        return self._loop.run(self._abroad.get(kind, id))

    def all(self, kind: type[R]) -> list[AbroadRow[R]]:
        return self._loop.run(self._abroad.all(kind))

    def find(self, kind: type[R], **conditions: Any) -> list[AbroadRow[R]]:
        return self._loop.run(self._abroad.find(kind, **conditions))

    def page(
        self,
        kind: type[R],
        conditions: Mapping[str, Any] | None = None,
        *,
        size: int = 50,
        order_by: str | None = None,
        after: str | None = None,
    ) -> AbroadPage[R]:
        return self._loop.run(self._abroad.page(kind, conditions, size=size, order_by=order_by, after=after))


@dataclass(frozen=True)
class Found(Generic[R]):
    """See ``domicile.sdk.cell.Found``."""

    home: Home
    record: R


class CellSession:
    """See ``domicile.sdk.cell.CellSession``."""

    def __init__(self, loop: Loop, session: asynchronous_cell.CellSession) -> None:
        self._loop = loop
        self._session = session

    def find(self, kind: type[R], *, limit: int = 100, **conditions: Any) -> list[Found[R]]:
        found = self._loop.run(self._session.find(kind, limit=limit, **conditions))
        return [Found(Home(self._loop, each.home), each.record) for each in found]


class Residency:
    """See ``domicile.sdk.residency.Residency``."""

    def __init__(self, loop: Loop, residency: AsynchronousResidency) -> None:
        self._loop = loop
        self._residency = residency

    @classmethod
    @contextmanager
    def connect(cls, settings: ProcessSettings | None = None) -> Iterator[Residency]:
        with Loop() as loop, loop.within(AsynchronousResidency.connect(settings)) as residency:
            yield cls(loop, residency)

    @property
    def cell_name(self) -> str:
        return self._residency.cell_name

    @contextmanager
    def cell(self, *, purpose: str) -> Iterator[CellSession]:
        with self._loop.within(self._residency.cell(purpose=purpose)) as session:
            yield CellSession(self._loop, session)

    @property
    def jurisdiction(self) -> str:
        return self._residency.jurisdiction

    def claim(
        self,
        subject_id: str,
        *,
        residence: str | None = None,
        jurisdiction: str | None = None,
        observed_country: str | None = None,
        aliases: Mapping[str, str] | None = None,
    ) -> Home:
        claimed = self._residency.claim(
            subject_id,
            residence=residence,
            jurisdiction=jurisdiction,
            observed_country=observed_country,
            aliases=aliases,
        )
        return Home(self._loop, self._loop.run(claimed))

    def home(self, subject_id: str) -> Home:
        return Home(self._loop, self._loop.run(self._residency.home(subject_id)))

    def redeem(self, ticket: str) -> Home:
        return Home(self._loop, self._loop.run(self._residency.redeem(ticket)))

    def look_up(self, kind: type[Ref], **conditions: Any) -> list[Ref]:
        return self._loop.run(self._residency.look_up(kind, **conditions))

    def erase(self, subject_id: str, *, epoch: int | None = None) -> ErasureResponse:
        return self._loop.run(self._residency.erase(subject_id, epoch=epoch))

    def shred(self, subject_id: str, principal: UUID) -> ErasureResponse:
        return self._loop.run(self._residency.shred(subject_id, principal))

    def resolve_alias(self, kind: str, value: str) -> SubjectKey:
        return self._loop.run(self._residency.resolve_alias(kind, value))

    def abroad(self, subject_id: str, *, purpose: str = "") -> Abroad:
        return Abroad(self._loop, self._loop.run(self._residency.abroad(subject_id, purpose=purpose)))
