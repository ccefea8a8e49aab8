"""What crossed a border, or was refused, as a line of the ledger; and the narrow port that such lines are written by.

A line names places, programs, codes, counts and digests. It has no field for a subject, not even for a subject key,
and none for free text: whatever somebody else could fill in is held to the shape of a code. A line's text is fixed
when it is made, and it is that text, byte for byte, that the ledger's tree is built over.

Whoever lets something cross appends first, and lets it cross when ``append`` has returned.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Final, Protocol, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from domicile.model.errors import InvalidInput
from domicile.model.ids import JurisdictionName

MAX_LINE_BYTES: Final = 4096
MAX_ENTRIES: Final = 16
PURPOSE_HEADER: Final = "Domicile-Purpose"
"""What an application reads from abroad for, as a code; anything else is left out of the ledger."""
_CODE: Final = r"^[A-Za-z0-9][A-Za-z0-9._:/+-]{0,127}$"
Code = Annotated[str, StringConstraints(pattern=_CODE)]
"""A name, a number, a digest: nothing with a blank or an at sign, and nothing longer than a digest."""
Word = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,62}$")]


class CrossingKind(StrEnum):
    """What it was that crossed."""

    ABROAD_READ = "abroad-read"
    ABROAD_WRITE = "abroad-write"  # always refused
    RELEASE = "release"
    HAIRPIN = "hairpin"
    REFERENCE_PULL = "reference-pull"
    FEDERATED_ANSWER = "federated-answer"
    HEAD = "tree-head"  # another ledger's head that does not go with the one before it: always refused


class Outcome(StrEnum):
    PASSED = "passed"
    REFUSED = "refused"


def _in_utc(moment: datetime) -> datetime:
    if moment.tzinfo is None:
        raise ValueError("a time without its zone")
    moment = moment.astimezone(UTC)
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)


class Crossing(BaseModel):
    """One thing that crossed, or was refused, or a number of like things within an interval.

    ``source`` is where the bytes come from, ``destination`` where they go. ``caller``: the program that asked, as
    ``role/name`` of its certificate. ``counts``: how many of what (``rows``, ``requests``). ``bytes``: of the body
    that crossed, 0 where it was refused. ``purpose`` and ``decision_id`` may be empty: ``decision_id`` ties the line to
    a manifest, an interval or an answer, and to the other side's line. ``at``: by this process's clock, to a
    millisecond. ``detail``: further names and codes, such as ``table``, ``code`` or ``digest``.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    kind: CrossingKind
    source: JurisdictionName
    destination: JurisdictionName
    outcome: Outcome
    at: Annotated[datetime, AfterValidator(_in_utc)]
    caller: Code
    counts: dict[Word, Annotated[int, Field(ge=0, lt=2**63)]] = Field(default={}, max_length=MAX_ENTRIES)
    bytes: int = Field(default=0, ge=0, lt=2**63)
    purpose: Code | Annotated[str, StringConstraints(max_length=0)] = ""
    decision_id: Code | Annotated[str, StringConstraints(max_length=0)] = ""
    detail: dict[Word, Code] = Field(default={}, max_length=MAX_ENTRIES)

    def line(self) -> str:
        """The text that is kept and hashed: one line of JSON. Raises InvalidInput for one that is too long."""
        text = self.model_dump_json()
        if len(text) > MAX_LINE_BYTES:  # ASCII by the patterns above
            raise InvalidInput(f"a ledger line has at most {MAX_LINE_BYTES} bytes", remedy="put a digest in its place")
        return text

    @classmethod
    def parse(cls, text: str) -> Self:
        """What ``line`` made; raises InvalidInput, which quotes nothing of it."""
        try:
            return cls.model_validate_json(text)
        except ValidationError:
            raise InvalidInput("not a line of a ledger") from None


def as_code(text: str) -> str:
    """Text from elsewhere, where it is a code; else nothing, since it could be anything."""
    return text if re.fullmatch(_CODE, text) else ""


@dataclass(frozen=True, slots=True)
class LedgerLine:
    """A line that is durable. ``index``: its place in the ledger, from 0. ``leaf``: its hash (RFC 9162, 2.1.1)."""

    index: int
    leaf: bytes
    crossing: Crossing


class CrossingLog(Protocol):
    """The port. ``append`` returns when the line is durable; it raises Unavailable where it can't be, or may not be:
    then nothing may cross. A line that was written after all is of a crossing that did not happen, never the reverse.
    """

    async def append(self, crossing: Crossing) -> LedgerLine: ...

    async def append_once(self, crossing: Crossing) -> LedgerLine:
        """As ``append``, of a release: the line of its decision, where it has one already."""
        ...
