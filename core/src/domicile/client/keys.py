"""The key service of a jurisdiction, as its cells and its operators see it.

A cell's application holds data keys in memory for a bounded time and number, locked where the platform allows. The
time is the shorter of the manifest's bound and the service's own, counted from before the question was asked, on a
clock that goes on while the machine sleeps and that nobody sets: so a receipt's word about caches holds. What is over
is wiped within a second, also where nobody asks for anything any more.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Container, Sequence
from typing import Any, Final, Literal, NamedTuple, Protocol
from uuid import UUID
from weakref import WeakSet, ref

from domicile.client.http import Peer
from domicile.client.memory import LockedSlots
from domicile.identity import Credentials
from domicile.model.access import Role
from domicile.model.addresses import Network
from domicile.model.errors import DomicileError, KeyDestroyed, KeyWithheld, NotFound
from domicile.model.key_wire import (
    BackupKey,
    BackupKeyRequest,
    CellIndexKey,
    DataKey,
    DataKeyRef,
    DataKeysRequest,
    DataKeysResponse,
    Deleted,
    IndexKey,
    IndexKeyRequest,
    IndexKeyResponse,
    IndexTurnRequest,
    KekProgress,
    KekProgresses,
    KeyDomainRequest,
    KeyRotation,
    KeyRotationRequest,
    KeyTurn,
    KeyTurnRequest,
    KeyTurns,
    KeyTurnsRequest,
    OtherKey,
    ReceiptKey,
    ShredRequest,
    ShredResponse,
    WrappedKey,
)
from domicile.model.manifest import Manifest
from domicile.model.wire import MAX_BATCH
from domicile.telemetry import warn

MAX_CACHED: Final = 10_000
LOOK_SECONDS: Final = 1.0
"""Between two looks at what is over. A timer stands still while the machine sleeps, so that none is set for longer."""
KEY_BYTES: Final = 32


def since_boot() -> float:
    """Seconds on a clock that also counts what the machine slept through, where there is one (Linux)."""
    clock = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if clock is None else time.clock_gettime(clock)


def _nothing() -> None:
    return None


class _Held(NamedTuple):
    """Where a key lies, and until when it may. ``other``: the generation of the one beside it, 0 for none.

    ``made``: what was handed out last, for as long as whoever has it keeps it: it holds nothing by itself.
    """

    until: float
    slot: int
    generation: int
    other: int
    made: Callable[[], DataKey | None] = _nothing


class Borrower(Protocol):
    """Who keeps what was made of a key, such as a cipher, for as long as that is held."""

    def hold_only(self, held: Container[tuple[UUID, UUID]]) -> None:
        """Let go of what was made of any other key than those of these (subject, principal)."""
        ...


class _Flight(NamedTuple):
    """A question under way, and its answer for each name. ``creates``: whoever it may have a key made for."""

    creates: bool
    task: asyncio.Task[dict[tuple[UUID, UUID], DataKey | DomicileError]]


class KeyClient:
    """Data keys by (subject, principal). ``cache_seconds`` is the manifest's bound on an old key's life.

    The cache is in order of arrival; each call first forgets what is too old. Who asks for a key that is being asked
    for waits for that answer: one unwrapping, however many want it.
    """

    def __init__(
        self,
        credentials: Credentials,
        addresses: Sequence[str],
        *,
        jurisdiction: str,
        cell: str,
        cache_seconds: float,
        networks: Collection[Network] | None = None,
        clock: Callable[[], float] = since_boot,
    ) -> None:
        self._peer = Peer(credentials, addresses, jurisdiction=jurisdiction, role=Role.KEYS, networks=networks)
        self._cell = cell
        self._seconds = cache_seconds
        self._clock = clock
        self._cache: OrderedDict[tuple[UUID, UUID], _Held] = OrderedDict()
        self._slots = LockedSlots(MAX_CACHED, 4 * KEY_BYTES)
        self._index_slots = LockedSlots(1, 2 * KEY_BYTES)
        self._index: _Held | None = None
        self._index_flight: asyncio.Task[CellIndexKey] | None = None
        self._flights: dict[tuple[UUID, UUID], _Flight] = {}
        self._borrowers: WeakSet[Borrower] = WeakSet()
        self._next_look: asyncio.TimerHandle | None = None
        if not (self._slots.locked and self._index_slots.locked):
            warn("key-memory-not-locked")

    @classmethod
    def of_cell(cls, credentials: Credentials, manifest: Manifest, cell: str) -> KeyClient:
        """For a process of ``cell``: the key service of its jurisdiction, within the manifest's bound."""
        jurisdiction = manifest.cells[cell].jurisdiction
        section = manifest.jurisdictions[jurisdiction].keys
        return cls(
            credentials, section.service, jurisdiction=jurisdiction, cell=cell, cache_seconds=section.cache_seconds
        )

    async def close(self) -> None:
        flights: set[asyncio.Task[Any]] = {flight.task for flight in self._flights.values()}
        if self._index_flight is not None:
            flights.add(self._index_flight)
        for task in flights:
            task.cancel()
        await asyncio.gather(*flights, return_exceptions=True)
        while self._cache:
            self._drop(next(iter(self._cache)))
        self.forget_index()
        self._look()
        await self._peer.close()

    def lend_to(self, borrower: Borrower) -> None:
        """Tell it, for as long as somebody else keeps it, which keys are held no more."""
        self._borrowers.add(borrower)

    def _look(self) -> None:
        """Wipe what is over, whoever still asks; again in a while, where anything is left."""
        if self._next_look is not None:
            self._next_look.cancel()
            self._next_look = None
        now = self._forget()
        # the bound may have been shortened, so that who came later is over earlier
        for name in [name for name, held in self._cache.items() if held.until <= now]:
            self._drop(name)
        for borrower in self._borrowers:
            borrower.hold_only(self._cache)
        if self._cache or self._index is not None:
            self._look_soon()

    def _look_soon(self) -> None:
        if self._next_look is None:
            self._next_look = asyncio.get_running_loop().call_later(LOOK_SECONDS, self._look)

    async def data_key(self, subject: UUID, principal: UUID, *, create: bool = False) -> DataKey:
        """Raises NotFound where no such key was made, KeyDestroyed where it was shredded, KeyWithheld where the
        holder of its key-encryption key does not open it, Unavailable for no service.
        """
        name = (subject, principal)
        held = self._held(name, self._forget())
        return (await self.data_keys([name], create=create))[0] if held is None else held

    async def data_keys(self, names: Sequence[tuple[UUID, UUID]], *, create: bool = False) -> list[DataKey]:
        """The keys of (subject, principal) in their order; what isn't held is unwrapped in one call for each
        1,000. Raises as ``data_key``, for the first that isn't to be had.
        """
        now = self._forget()
        found = {name: key for name in names if (key := self._held(name, now)) is not None}
        missing = [name for name in dict.fromkeys(names) if name not in found]
        for start in range(0, len(missing), MAX_BATCH):
            found |= await self._answers(missing[start : start + MAX_BATCH], create=create)
        return [found[name] for name in names]

    def _held(self, name: tuple[UUID, UUID], now: float) -> DataKey | None:
        held = self._cache.get(name)
        if held is None or held.until <= now:
            return None
        made = held.made()
        if made is not None:
            return made
        key, index_key, *others = _parts(self._slots.get(held.slot))
        other = None
        if held.other:
            other = OtherKey.model_construct(generation=held.other, key=others[0], index_key=others[1])
        made = DataKey.model_construct(
            subject=name[0], principal=name[1], key=key, index_key=index_key, generation=held.generation, other=other
        )
        self._cache[name] = held._replace(made=ref(made))
        return made

    async def _answers(self, names: Sequence[tuple[UUID, UUID]], *, create: bool) -> dict[tuple[UUID, UUID], DataKey]:
        """Of the flights under way, and of one for the rest; one that makes no key is none for who wants it made."""
        flying = {name: self._flights[name].task for name in names if name in self._flights}
        flying = {name: task for name, task in flying.items() if self._flights[name].creates or not create}
        if rest := [name for name in names if name not in flying]:
            task = asyncio.create_task(self._ask(rest, create=create))
            task.add_done_callback(self._landed)
            self._flights |= dict.fromkeys(rest, _Flight(create, task))
            flying |= dict.fromkeys(rest, task)
        found = {}
        for name in names:
            answer = (await asyncio.shield(flying[name]))[name]
            if isinstance(answer, DomicileError):
                raise answer
            found[name] = answer
        return found

    def _landed(self, task: asyncio.Task[dict[tuple[UUID, UUID], DataKey | DomicileError]]) -> None:
        for name in [name for name, flight in self._flights.items() if flight.task is task]:
            del self._flights[name]
        if not task.cancelled():
            task.exception()  # nobody may be left to be told

    async def _ask(
        self, names: Sequence[tuple[UUID, UUID]], *, create: bool
    ) -> dict[tuple[UUID, UUID], DataKey | DomicileError]:
        asked = self._clock()
        references = [DataKeyRef(subject=subject, principal=principal) for subject, principal in names]
        body = DataKeysRequest(cell=self._cell, keys=references, create=create)
        answer = await self._peer.ask(DataKeysResponse, "POST", "/v1/data-keys", body=body)
        seconds = self._bound(answer.cache_seconds)
        self._look_soon()
        given = {(key.subject, key.principal): key for key in answer.keys}
        found: dict[tuple[UUID, UUID], DataKey | DomicileError] = {}
        for name, reference in zip(names, references, strict=True):
            if name in given:
                found[name] = given[name]
                flight = self._flights.get(name)
                if flight is not None and flight.task is asyncio.current_task():  # else it was to be held no more
                    self._keep(name, given[name], asked + seconds)
            elif reference in answer.destroyed:
                found[name] = KeyDestroyed("the data key was destroyed: what it sealed opens no more")
            elif reference in answer.withheld:
                found[name] = KeyWithheld(
                    "the holder of its key-encryption key does not open this data key", where="keys"
                )
            else:
                found[name] = NotFound("no data key was made")
        return found

    def _keep(self, name: tuple[UUID, UUID], key: DataKey, until: float) -> None:
        self._drop(name)
        while len(self._cache) >= MAX_CACHED:
            self._drop(next(iter(self._cache)))
        beside = bytes(2 * KEY_BYTES) if key.other is None else key.other.key + key.other.index_key
        slot = self._slots.put(key.key + key.index_key + beside)
        self._cache[name] = _Held(until, slot, key.generation, 0 if key.other is None else key.other.generation)

    def _drop(self, name: tuple[UUID, UUID]) -> None:
        self._flights.pop(name, None)  # an answer to a question of before is not held either
        held = self._cache.pop(name, None)
        if held is not None:
            self._slots.wipe(held.slot)

    def forget(self, subject: UUID) -> None:
        """Hold no key of this subject and its principals any longer: all of them were turned at once."""
        for name in {*self._cache, *self._flights}:
            if name[0] == subject:
                self._drop(name)

    def _forget(self) -> float:
        """What is too old; the time by which that was told."""
        now = self._clock()
        while self._cache and next(iter(self._cache.values())).until <= now:
            self._drop(next(iter(self._cache)))
        if self._index is not None and self._index.until <= now:
            self._drop_index()
        return now

    async def cell_index_key(self) -> CellIndexKey:
        """The secret of this cell's blind indexes across subjects, held like a data key. Raises Unavailable."""
        self._forget()
        if (held := self._index) is not None:
            key, beside = _parts(self._index_slots.get(held.slot))
            other = IndexKey.model_construct(generation=held.other, key=beside) if held.other else None
            return CellIndexKey.model_construct(generation=held.generation, key=key, other=other)
        if self._index_flight is None:
            self._index_flight = asyncio.create_task(self._ask_index())
            self._index_flight.add_done_callback(self._index_landed)
        return await asyncio.shield(self._index_flight)

    async def _ask_index(self) -> CellIndexKey:
        asked, body = self._clock(), IndexKeyRequest(cell=self._cell)
        answer = await self._peer.ask(IndexKeyResponse, "POST", "/v1/index-keys", body=body)
        self._look_soon()
        if self._index_flight is asyncio.current_task():  # else it was to be held no more
            self._drop_index()
            other = 0 if answer.other is None else answer.other.generation
            slot = self._index_slots.put(answer.key + (bytes(KEY_BYTES) if answer.other is None else answer.other.key))
            self._index = _Held(asked + self._bound(answer.cache_seconds), slot, answer.generation, other)
        return answer

    def _index_landed(self, task: asyncio.Task[CellIndexKey]) -> None:
        if self._index_flight is task:
            self._index_flight = None
        if not task.cancelled():
            task.exception()  # nobody may be left to be told

    def _drop_index(self) -> None:
        if self._index is not None:
            self._index_slots.wipe(self._index.slot)
            self._index = None

    def forget_index(self) -> None:
        """Hold the cell's index secret no longer: it was turned."""
        self._index_flight = None  # an answer to a question of before is not held either
        self._drop_index()

    def _bound(self, told: int | None) -> float:
        """How long what was answered may be held: the manifest's bound, and the service's."""
        return self._seconds if told is None else min(self._seconds, told)

    async def assign(self, subject: UUID, domain: str) -> None:
        """Put a subject into a key domain, before its first record; harmless to repeat.

        Raises Conflict where it has keys in another domain, InvalidInput for a domain that isn't configured.
        """
        body = KeyDomainRequest(cell=self._cell, subject=subject, domain=domain)
        await self._peer.call("POST", "/v1/key-domains", body=body)

    async def shred(
        self, subject: UUID, principal: UUID | None = None, deleted: Deleted | None = None
    ) -> ShredResponse:
        """Destroy the data key of a principal, or of a subject with all of its principals; the signed receipt.

        ``deleted``: what the receipt is to say, too. Harmless to repeat. Other processes may hold the key until the
        receipt's ``caches_until``.
        """
        body = ShredRequest(cell=self._cell, subject=subject, principal=principal, deleted=deleted)
        answer = await self._peer.ask(ShredResponse, "POST", "/v1/shreds", body=body)
        for name in self._cache.keys() | self._flights.keys():
            if name[0] == subject and principal in (None, name[1]):
                self._drop(name)
        return answer

    async def receipt_key(self) -> str:
        """The public key (PEM) by which the service that answers signs receipts: keep it beside them."""
        return (await self._peer.ask(ReceiptKey, "GET", "/v1/receipt-key")).pem


def _parts(secret: bytes) -> list[bytes]:
    return [secret[start : start + KEY_BYTES] for start in range(0, len(secret), KEY_BYTES)]


class KeyTurnClient:
    """Rotation of data keys, as a gateway of the cell whose they are. It is handed no key here."""

    def __init__(self, credentials: Credentials, addresses: Sequence[str], *, jurisdiction: str, cell: str) -> None:
        self._peer = Peer(credentials, addresses, jurisdiction=jurisdiction, role=Role.KEYS)
        self._cell = cell

    async def close(self) -> None:
        await self._peer.close()

    async def rotation(self, action: Literal["status", "go", "pause"]) -> KeyRotation:
        """Begin a rotation or let it go on, pause it, or only ask how far it is."""
        body = KeyRotationRequest(cell=self._cell, action=action)
        return await self._peer.ask(KeyRotation, "POST", "/v1/key-rotations", body=body)

    async def turns(self, after: UUID | None, limit: int = 200) -> list[KeyTurn]:
        """Subjects that are not done, after one; none where no rotation is running."""
        body = KeyTurnsRequest(cell=self._cell, after=after, limit=limit)
        return (await self._peer.ask(KeyTurns, "POST", "/v1/key-rotations/subjects", body=body)).turns

    async def step(self, turn: KeyTurn, step: Literal["make", "turn", "retire"]) -> None:
        """One step of one subject; harmless to repeat. Raises Conflict for one that is out of turn, KeyWithheld."""
        body = KeyTurnRequest(cell=self._cell, subject=turn.subject, generation=turn.generation, step=step)
        await self._peer.call("POST", "/v1/key-rotations/turns", body=body)

    async def index_step(self, generation: int, step: Literal["make", "turn", "retire"]) -> None:
        """One step of the cell's index secret; harmless to repeat. Raises as ``step``."""
        body = IndexTurnRequest(cell=self._cell, generation=generation, step=step)
        await self._peer.call("POST", "/v1/key-rotations/index", body=body)


class KeyOperatorClient:
    """Rotation of key-encryption keys, as an operator of the jurisdiction."""

    def __init__(self, credentials: Credentials, addresses: Sequence[str], *, jurisdiction: str) -> None:
        self._peer = Peer(credentials, addresses, jurisdiction=jurisdiction, role=Role.KEYS, deadline=30.0)

    async def close(self) -> None:
        await self._peer.close()

    async def keks(self) -> list[KekProgress]:
        """Every key domain's version in force, and how many keys are still under another."""
        return (await self._peer.ask(KekProgresses, "GET", "/v1/keks")).domains

    async def rotate(self, domain: str) -> KekProgress:
        """Begin a new version, unless a rotation is under way. Raises Conflict where only its holder can."""
        return await self._peer.ask(KekProgress, "POST", f"/v1/keks/{domain}/rotate", repeatable=False)

    async def rewrap(self, domain: str) -> KekProgress:
        """Re-wrap a batch under the version in force; harmless to repeat and to run twice at once."""
        return await self._peer.ask(KekProgress, "POST", f"/v1/keks/{domain}/rewrap")


class BackupKeyClient:
    """Keys for backups, as who takes and restores them in the jurisdiction."""

    def __init__(self, credentials: Credentials, addresses: Sequence[str], *, jurisdiction: str) -> None:
        self._peer = Peer(credentials, addresses, jurisdiction=jurisdiction, role=Role.KEYS)

    async def close(self) -> None:
        await self._peer.close()

    async def make(self, database: str) -> BackupKey:
        """Raises Unavailable for no service."""
        return await self._ask(BackupKeyRequest(database=database))

    async def open(self, database: str, wrapped: WrappedKey) -> BackupKey:
        """Raises Unavailable also for a key that this service did not wrap for this database."""
        return await self._ask(BackupKeyRequest(database=database, wrapped=wrapped))

    async def _ask(self, body: BackupKeyRequest) -> BackupKey:
        return await self._peer.ask(BackupKey, "POST", "/v1/backup-keys", body=body)
