"""What the parts say to each other over HTTP. Readers ignore unknown members; identifiers are bounded."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal
from uuid import UUID

from pydantic import Field, StringConstraints

from domicile.model.ids import MAX_PEPPERS, AliasKey, CellName, Country, JurisdictionName, SubjectKey
from domicile.model.pins import Epoch, Frozen, KeyUse, Pin

MAX_BATCH: Final = 1_000
MAX_FIELDS: Final = 256
MAX_CONDITIONS: Final = 16
MAX_HEAD_BYTES: Final = 32 * 1024
UNKNOWN_SECONDS: Final = 5
"""How long "no such pin" may be cached: also how long a part may not know of a subject that just signed up."""
PROBLEM_TYPE: Final = "application/problem+json"

SUBJECT_KEY_HEADER: Final = "Domicile-Subject-Key"
CELL_HEADER: Final = "Domicile-Cell"
EPOCH_HEADER: Final = "Domicile-Epoch"
IDEMPOTENCY_HEADER: Final = "Idempotency-Key"
COUNTRY_HEADER: Final = "Domicile-Observed-Country"
GUARD_HEADER: Final = "Domicile-Guard"
TOKEN_HEADER: Final = "Domicile-Token"
DECISION_HEADER: Final = "Domicile-Decision"
STATUS_HEADER: Final = "Domicile-Status"
TOKEN_COOKIE: Final = "__Host-domicile"
HEADER_PREFIX: Final = "domicile-"
DECIDE_ROUTE_PATH: Final = "/v1/decide/route"
DECIDE_ANSWER_PATH: Final = "/v1/decide/answer"
RESIDENCY_KEYS_PATH: Final = "/v1/jwks/residency"
"""Of the directory: the keys of residency tokens alone. By the whole set, a verifier that does not look at ``typ``
would take a pin grant for a token."""

FenceState = Literal["open", "closed", "retired"]
Bound = Literal["at_least", "above", "at_most", "below"]


class Problem(Frozen):
    """An error as a problem document (RFC 9457). ``code`` names a class of the error tree."""

    type: str = "about:blank"
    title: str
    status: int
    code: str
    detail: str | None = None
    remedy: str | None = None
    jurisdiction: str | None = None
    public_host: str | None = None


class ClaimRequest(Frozen):
    """Claim a home: residence decides, else the jurisdiction asked for, else the country observed.

    ``other_keys``: the subject's keys by the other peppers; a pin under any of them is the subject's.
    """

    residence: Country | None = None
    jurisdiction: JurisdictionName | None = None
    observed_country: Country | None = None
    other_keys: list[SubjectKey] = Field(default_factory=list, max_length=MAX_PEPPERS - 1)


class ResolveRequest(Frozen):
    subject_keys: list[SubjectKey] = Field(min_length=1, max_length=MAX_BATCH)


class ResolveResponse(Frozen):
    pins: list[Pin]
    unknown: list[SubjectKey]


class GrantRequest(Frozen):
    incarnation: UUID


class GrantResponse(Frozen):
    """``grant`` is a signed PinGrant (JWS, typ ``pin-grant``)."""

    grant: str


class AliasRequest(Frozen):
    """Give an alias to a subject. ``other_keys``: the alias's by the other peppers; who holds one holds it."""

    subject_key: SubjectKey
    other_keys: list[AliasKey] = Field(default_factory=list, max_length=MAX_PEPPERS - 1)


class AliasDocument(Frozen):
    alias_key: AliasKey
    subject_key: SubjectKey


class TopologyDocument(Frozen):
    """``signed``: a JWS by an operator's key, typ ``topology``, over the topology and its revision."""

    revision: int = Field(ge=1)
    signed: str


class SigningKey(Frozen):
    """A public Ed25519 key (RFC 8037) that a part signs with; ``use`` says what its signature can mean."""

    kid: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]
    domicile_use: KeyUse
    x: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{43}$")]
    kty: str = "OKP"
    crv: str = "Ed25519"
    alg: str = "EdDSA"


class JWKS(Frozen):
    keys: list[SigningKey]


class FenceRequest(Frozen):
    """An application asks its cell's gateway to open a fence; the gateway fetches the grant itself.

    ``alias_keys`` are kept beside the fence, so that a lost directory can be rebuilt from the cells.
    """

    alias_keys: dict[str, AliasKey] = Field(default_factory=dict, max_length=16)


class AliasRekey(Frozen):
    """An alias of a subject that is rekeyed, by the pepper before and the one in force."""

    kind: Literal["email", "phone", "username"]
    alias_key: AliasKey
    successor: AliasKey


class RekeyRequest(Frozen):
    """A subject's key by the pepper in force, and those of its aliases that are known.

    The gateway is told by whoever knows the subject's id; it tells the directory in the same words.
    """

    successor: SubjectKey
    aliases: list[AliasRekey] = Field(default_factory=list, max_length=16)


class PepperCount(Frozen):
    """How many live pins, tombstones and aliases one pepper's keys name. ``forgotten``: none may be any more."""

    version: int
    pins: int
    tombstones: int
    aliases: int
    forgotten: bool


class PeppersDocument(Frozen):
    """The peppers whose keys the directory holds. A claim names a subject by each of them."""

    versions: list[PepperCount]


class FenceResponse(Frozen):
    """``subject_key``: the subject's key in this cell, which is another than the one asked for once rekeyed."""

    subject_key: SubjectKey
    epoch: int
    internal_id: UUID


class PrincipalRequest(Frozen):
    """A principal of a subject, by the id that the key service knows it by."""

    principal: UUID


class ErasureResponse(Frozen):
    """A subject was erased, or a principal shredded. ``epoch``: the tombstone's, or the fence's.

    ``key``: the public key that the receipt was signed by, and what proves whose it is (PEM). Keep both.
    """

    subject_key: SubjectKey
    epoch: Epoch
    receipt: str
    key: str


class FenceReport(Frozen):
    """A fence as its cell holds it, and the alias keys beside it. ``previous_key``: before it was rekeyed."""

    subject_key: SubjectKey
    previous_key: SubjectKey | None = None
    epoch: Epoch
    state: FenceState
    alias_keys: dict[str, AliasKey] = Field(default_factory=dict, max_length=16)


class FencesReport(Frozen):
    """One page of a cell's fences, in the order of their keys, for the reconciliation of a ``generation``.

    ``after``: the last key of the page before; none for the first. ``last``: there are no more.
    """

    generation: UUID
    after: SubjectKey | None = None
    fences: list[FenceReport] = Field(max_length=MAX_BATCH)
    last: bool


class CellReport(Frozen):
    """How far a cell has come in telling its fences. ``contradictions``: fences that another cell has a pin for.

    ``superseded``: fences that another cell held, too, of which the one at the higher epoch counts.
    """

    jurisdiction: JurisdictionName
    cell: CellName
    last_key: SubjectKey | None = None
    fences: int = 0
    contradictions: int = 0
    superseded: int = 0
    done: bool = False


class ReconciliationDocument(Frozen):
    """Whether the directory's database has lost something, and what it waits for until claims are taken again.

    ``wait_seconds``: until reports are taken. ``revision`` of the topology that is published, and below which
    one it is not over. ``announced``: peppers by whose keys subjects may be named, lost or not; ``forgotten``: those by
    whose keys cells find nobody any more.
    """

    generation: UUID
    reconciling: bool
    wait_seconds: int = 0
    revision: int = 0
    wanted_revision: int = 0
    announced: list[int] = Field(default_factory=list)
    forgotten: list[int] = Field(default_factory=list)
    cells: list[CellReport] = Field(default_factory=list)
    waiting_for: list[CellName] = Field(default_factory=list)


class ReplicaReport(Frozen):
    """A read replica as one directory process sees it.

    ``state``: used, or why the primary is asked instead. ``lag_seconds``: how old its answers may be; none where
    that is not known. ``behind``: changes that it has not heard of yet.
    """

    address: str
    state: Literal["used", "late", "gone", "another history"]
    lag_seconds: float | None = None
    behind: int | None = None


class ReplicasDocument(Frozen):
    """The read replicas of the directory process that was asked, and how late one may be to be used."""

    max_lag_seconds: float
    replicas: list[ReplicaReport] = Field(default_factory=list)


class RecordWrite(Frozen):
    """A record as it is put. ``jurisdiction`` has no default: whoever writes says where it belongs.

    ``version``: the one that the row must have, 0 for a row that must not be there; none for whatever is there.
    """

    jurisdiction: JurisdictionName
    fields: dict[str, Any] = Field(repr=False, max_length=MAX_FIELDS)
    version: int | None = Field(default=None, ge=0, lt=2**63)


class RecordVersion(Frozen):
    id: UUID
    version: int


class RecordChange(Frozen):
    """Some fields of a record as they are to be; ``version``: the one that the row must have."""

    jurisdiction: JurisdictionName
    fields: dict[str, Any] = Field(repr=False, min_length=1, max_length=MAX_FIELDS)
    version: int = Field(ge=1, lt=2**63)


class RecordFields(Frozen):
    id: UUID
    fields: dict[str, Any] = Field(repr=False, max_length=MAX_FIELDS)


class RecordsWrite(Frozen):
    """Records as they are put, all of them or none, whatever is there."""

    jurisdiction: JurisdictionName
    records: list[RecordFields] = Field(min_length=1, max_length=MAX_BATCH)


class RecordVersions(Frozen):
    """In the order in which the records were given."""

    records: list[RecordVersion]


class RecordDocument(Frozen):
    """A record of a subject at home, with its personal fields.

    ``destroyed``: fields that are not among them, since the key of the person whom they are about was destroyed.
    """

    jurisdiction: JurisdictionName
    id: UUID
    version: int
    fields: dict[str, Any] = Field(repr=False)
    destroyed: list[str] | None = None


class RecordQuery(Frozen):
    """Fields to equal, which are in a body since a personal value has no place in a path or a query string.

    ``ranges``: bounds of shareable or clear fields.

    ``order_by``: a shareable or clear field, or ``created_at``, with ``-`` before it for the last first.
    ``after``: ``next`` of the page before.
    """

    conditions: dict[str, Any] = Field(default_factory=dict, repr=False, max_length=MAX_CONDITIONS)
    ranges: dict[str, Annotated[dict[Bound, Any], Field(min_length=1)]] = Field(
        default_factory=dict, repr=False, max_length=MAX_CONDITIONS
    )
    size: int = Field(default=50, ge=1, le=MAX_BATCH)
    order_by: str | None = Field(default=None, max_length=64)
    after: str | None = Field(default=None, max_length=512)


class RecordPage(Frozen):
    records: list[RecordDocument]
    next: str | None = None


class ReferencePage(Frozen):
    """Rows of a reference table of one ``version``, as texts in the order of its fields' names.

    ``fields``: what its class says of each. ``content`` is a hash of all ``total`` rows; no ``rows`` where the caller
    said that it has this version.
    """

    cell: CellName
    version: int = Field(ge=1, lt=2**63)
    digest: str = Field(pattern="^[0-9a-f]{64}$")
    content: str = Field(pattern="^[0-9a-f]{64}$")
    total: int = Field(ge=0, lt=2**31)
    fields: list[list[str | int | bool | None]] = Field(max_length=MAX_FIELDS)
    rows: list[list[str | None]]


class ReferenceState(Frozen):
    """A reference table in one cell. ``source``: the cell that writes it, None where each cell is loaded by itself;
    ``origin``: the one that the rows here were pulled from, None where they were loaded here.
    ``version``: of the rows that are read here, None before the first; ``seen``: the source's, when it was last heard
    of, ``age`` seconds ago. Whoever reads may have rows as old as that, where both versions are one.
    """

    table: str
    source: CellName | None = None
    origin: CellName | None = None
    version: int | None = None
    seen: int | None = None
    digest: str | None = None
    rows: int | None = None
    age: float | None = None


class ReferenceStates(Frozen):
    cell: CellName
    tables: list[ReferenceState]


class AbroadRows(Frozen):
    """Shareable columns only; ``withheld`` names each personal field and its category."""

    jurisdiction: JurisdictionName
    cell: str
    rows: list[dict[str, Any]]
    withheld: dict[str, str]
