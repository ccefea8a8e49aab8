"""What is said to and by a key service, and by who holds key-encryption keys for it: as JSON, over mutual TLS."""

from __future__ import annotations

from typing import Literal
from uuid import UUID

from pydantic import AwareDatetime, Field

from domicile.model.ids import JurisdictionName, Name, SubjectKey
from domicile.model.pins import Epoch, Frozen
from domicile.model.wire import MAX_BATCH


class DataKeyRef(Frozen):
    """Whose data key: one for each (subject, principal), by their internal ids, which no pepper changes."""

    subject: UUID
    principal: UUID


class DataKeysRequest(Frozen):
    """Unwrap the data keys named, making those that do not exist when ``create`` is set."""

    cell: str
    keys: list[DataKeyRef] = Field(min_length=1, max_length=MAX_BATCH)
    create: bool = False


class OtherKey(Frozen):
    """The keys of another generation, while a rotation is under way: what was written may lie under either."""

    generation: int
    key: bytes = Field(repr=False, min_length=32, max_length=32)
    index_key: bytes = Field(repr=False, min_length=32, max_length=32)


class DataKey(Frozen):
    """32 bytes of AES-256 key and 32 of index secret for one (subject, principal): the ones to write with.

    ``generation``: all of a subject's keys are turned together, from 1 on. ``other``: to read with, too.
    """

    subject: UUID
    principal: UUID
    key: bytes = Field(repr=False, min_length=32, max_length=32)
    index_key: bytes = Field(repr=False, min_length=32, max_length=32)
    generation: int = 1
    other: OtherKey | None = None

    @property
    def newest(self) -> int:
        """The highest generation that is known."""
        return self.generation if self.other is None else max(self.generation, self.other.generation)


class DataKeysResponse(Frozen):
    """``withheld``: there, but the holder of their key-encryption key doesn't open them now; ``destroyed``: for
    good. What is in none of the lists was never made. ``cache_seconds``: how long the keys may be held."""

    keys: list[DataKey]
    withheld: list[DataKeyRef] = Field(default_factory=list)
    destroyed: list[DataKeyRef] = Field(default_factory=list)
    cache_seconds: int | None = None


class KeyDomainRequest(Frozen):
    """Put a subject, before its first data key, into a key domain."""

    cell: str
    subject: UUID
    domain: Name


class Deleted(Frozen):
    """What a cell says that it deleted before it asks for keys to be destroyed: rows of each table, and aliases.

    ``tombstone``: the epoch of the pin's, where the subject was erased whole. Counts and names of tables; no value.
    """

    subject_key: SubjectKey
    rows: dict[str, int] = Field(max_length=1_000)
    aliases: int = 0
    tombstone: Epoch | None = None


class ShredRequest(Frozen):
    """Destroy the data key of a principal; of the subject with all of its principals, where none is named."""

    cell: str
    subject: UUID
    principal: UUID | None = None
    deleted: Deleted | None = None


class ShredResponse(Frozen):
    """``receipt``: what the key service signed (``ShredReceipt``); ``key``: its public key, endorsed (PEM)."""

    receipt: str
    key: str


class ReceiptKey(Frozen):
    """The public key (PEM, Ed25519) by which this process signs receipts."""

    pem: str


class ShredReceipt(Frozen):
    """What was destroyed, where, and until when a copy may live. Times are seconds since 1970.

    ``principals``: whose wrapped keys are destroyed, by this call or one before. ``deleted``: what the cell says
    that it deleted. ``caches_until``: no process holds one of the keys after that.
    ``backups_until``: when the last backup of ``store`` that still has one must have expired. ``iss``: deployment.
    """

    iss: str
    jur: JurisdictionName
    store: str
    cell: str
    subject: UUID
    principals: list[UUID]
    whole_subject: bool
    iat: int
    caches_until: int
    backups_until: int
    deleted: Deleted | None = None


class KekProgress(Frozen):
    """A key domain: the version of its key-encryption key in force, and how many keys are still under another.

    ``unverified``: by a backend that no server of its kind was ever asked by.
    """

    domain: Name
    version: int
    left: int
    unverified: bool = False


class KekProgresses(Frozen):
    domains: list[KekProgress]


class HeldKey(Frozen):
    """A key on its way to or from whoever holds the key-encryption key, with what it is bound to.

    ``version``: of the key-encryption key that wrapped it; 0 for one that isn't wrapped.
    """

    context: bytes
    value: bytes = Field(repr=False, max_length=4096)
    version: int = Field(default=0, ge=0, lt=2**31)


class HeldKeysRequest(Frozen):
    keys: list[HeldKey] = Field(min_length=1, max_length=MAX_BATCH)


class HeldKeysResponse(Frozen):
    """In the order of the request."""

    keys: list[HeldKey] = Field(max_length=MAX_BATCH)


class HeldVersion(Frozen):
    version: int = Field(ge=1)


class KeyRotationRequest(Frozen):
    """What to do with the rotation of a cell's data keys. ``go``: begin one, or let the one that was paused go on."""

    cell: str
    action: Literal["status", "go", "pause"]


class KeyRotation(Frozen):
    """Subjects by how far their keys are: ``due`` are under old keys alone, ``turning`` under both.

    ``running``: whether subjects are to be turned; a rotation that is paused keeps its beginning. ``index``: the
    generation that the cell's index secret is to have; None where that is done. ``unindexed``: subjects whose
    ``find="cell"`` indexes may lie under the secret of before, which only the cell can tell.
    """

    running: bool
    started: AwareDatetime | None = None
    due: int
    turning: int
    index: int | None = None
    unindexed: int = 0

    @property
    def done(self) -> bool:
        return not (self.due or self.turning or self.index)


class KeyTurnsRequest(Frozen):
    """Some subjects of a running rotation, after one, in the order of their internal ids."""

    cell: str
    after: UUID | None = None
    limit: int = Field(default=200, ge=1, le=MAX_BATCH)


class KeyTurn(Frozen):
    """A subject and the generation that its keys are to have, or are turning to."""

    subject: UUID
    generation: int


class KeyTurns(Frozen):
    turns: list[KeyTurn]


class KeyTurnRequest(Frozen):
    """One step of one subject: make its next keys, write with them, or destroy the ones before."""

    cell: str
    subject: UUID
    generation: int = Field(ge=2, lt=2**31)
    step: Literal["make", "turn", "retire"]


class IndexTurnRequest(Frozen):
    """One step of the cell's index secret: make the next one, write with it, or destroy the one before."""

    cell: str
    generation: int = Field(ge=2, lt=2**31)
    step: Literal["make", "turn", "retire"]


class IndexKeyRequest(Frozen):
    """The secret of a cell's blind index (``find="cell"``)."""

    cell: str


class IndexKey(Frozen):
    """A secret of a cell's blind indexes."""

    generation: int = Field(default=1, ge=1, lt=2**31)
    key: bytes = Field(repr=False, min_length=32, max_length=32)


class CellIndexKey(IndexKey):
    """The one to write with. ``other``: of another generation, under which rows may lie while they are turned."""

    other: IndexKey | None = None

    @property
    def newest(self) -> int:
        """The highest generation that is known."""
        return self.generation if self.other is None else max(self.generation, self.other.generation)


class IndexKeyResponse(CellIndexKey):
    """``cache_seconds``: how long who asked may hold it; None from a service of before."""

    cache_seconds: int | None = None


class WrappedKey(Frozen):
    """As a version of the jurisdiction's key-encryption key wrapped it; ``check``: what only the right key gives."""

    value: bytes = Field(max_length=4096)
    version: int = Field(ge=1, lt=2**31)
    check: bytes = Field(max_length=64)


class BackupKeyRequest(Frozen):
    """A new key for backups of a database; with ``wrapped``, the one that a backup names."""

    database: Name
    wrapped: WrappedKey | None = None


class BackupKey(Frozen):
    """32 bytes of AES-256 key, and the same wrapped."""

    key: bytes = Field(repr=False, min_length=32, max_length=32)
    wrapped: WrappedKey
