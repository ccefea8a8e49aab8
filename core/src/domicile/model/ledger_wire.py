"""What gateways tell each other, their routers and their operators of a cell's ledger: hashes, heads and lines."""

from __future__ import annotations

from typing import Annotated, Final
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from domicile.model.ids import CellName, JurisdictionName, ZoneName

MAX_LINES: Final = 1000
"""Of one answer."""
MAX_WAYS: Final = 256
Hash = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class TreeHead(BaseModel):
    """What a gateway states of its cell's ledger: its first ``size`` lines have this ``root``.

    ``log``: which ledger, since a cell may begin one anew. ``by``: the gateway's URI. ``iat``: by its clock. It holds
    for good: no ``exp``.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    iss: str
    jur: JurisdictionName
    cell: CellName
    log: UUID
    size: int = Field(ge=0, lt=2**63)
    root: Hash
    iat: int
    by: str

    @property
    def hash(self) -> bytes:
        return bytes.fromhex(self.root)


class SignedHead(BaseModel):
    """``signed``: the statement (JWS); ``key``: the key that signs (PEM) with the certificate that stands behind it."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    signed: str = Field(max_length=4096)
    key: str = Field(max_length=8192)


class HeadAnswer(BaseModel):
    """``proof``: that the ledger grew from what the asker holds (RFC 9162, 2.1.4); none where it holds nothing."""

    head: SignedHead
    proof: list[Hash] = Field(default=[], max_length=128)


class LinesAnswer(BaseModel):
    """Lines from ``first`` on. ``frontier``: the hashes of the whole subtrees before them, from left to right."""

    log: UUID
    first: int
    frontier: list[Hash] = Field(max_length=64)
    lines: list[str] = Field(max_length=MAX_LINES)


class HeldHead(BaseModel):
    """Another cell's head as it was held last, and what was found when it was compared: ``grown``, ``rewound``..."""

    cell: CellName
    jurisdiction: JurisdictionName
    verdict: str
    seen: float | None = None
    head: SignedHead | None = None


class LedgerAlarm(BaseModel):
    """What was found once: the head that was ``held``, and the one that was ``told`` and does not go with it."""

    cell: CellName
    verdict: str
    at: float
    held: SignedHead
    told: SignedHead


class HeldAnswer(BaseModel):
    heads: list[HeldHead]
    alarms: list[LedgerAlarm]


class Carried(BaseModel):
    """Bytes that a router carried one way in an interval."""

    source: JurisdictionName
    destination: JurisdictionName
    kind: str = Field(pattern="^(request|answer|splice)$")
    bytes: int = Field(ge=0, lt=2**63)


class CarriedReport(BaseModel):
    """What a router carried between two moments (seconds since 1970).

    ``run``: since when it counts from nothing; ``number``: of the interval in it, from 0, so that who repeats a report
    is told from who carried as much again, and a missing one is seen.
    """

    zone: ZoneName
    run: UUID
    number: int = Field(ge=0, lt=2**31)
    since: float
    until: float
    ways: list[Carried] = Field(max_length=MAX_WAYS)


class ReportTaken(BaseModel):
    lines: int
