"""What a release says of itself, signed, and what the two gateways say to each other and to operators."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from domicile.model.ids import CellName, JurisdictionName, Name

MAX_PAGES: Final = 5_000
MAX_REVISION: Final = 2**31
Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Revision = Annotated[int, Field(ge=1, le=MAX_REVISION)]
State = Literal["building", "ready", "sending", "accepted", "refused"]


class _Read(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class ReleasedColumn(_Read):
    """``type``: one of text, integer, number and boolean, as JSON has them."""

    name: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,54}$")]
    type: Literal["text", "integer", "number", "boolean"]
    pseudonym: bool = False


class ReleaseManifest(_Read):
    """``k`` and ``l`` are the least that were reached, ``least`` and ``l_declared`` what was declared; 0 for no l.

    ``quasi`` and ``sensitive`` name columns. ``pages``: the digest of each; ``digest``: of all of them. ``grouped``:
    each row is of a group of ``least`` subjects or more, so that rows alone do not show k.
    """

    version: Literal[1] = 1
    deployment: Name
    source: JurisdictionName
    cell: CellName
    destination: JurisdictionName
    to_cell: CellName
    name: Name
    lineage: Name
    revision: Revision
    declaration: Digest
    purpose: Annotated[str, StringConstraints(max_length=100)]
    columns: Annotated[list[ReleasedColumn], Field(min_length=1, max_length=64)]
    quasi: list[str]
    sensitive: str | None = None
    grouped: bool
    least: Annotated[int, Field(ge=2)]
    k: Annotated[int, Field(ge=2)]
    l_declared: Annotated[int, Field(ge=0)]
    l: Annotated[int, Field(ge=0)]  # noqa: E741 - its name in the literature
    rows: Annotated[int, Field(ge=1)]
    suppressed: Annotated[int, Field(ge=0)]
    pages: Annotated[list[Digest], Field(min_length=1, max_length=MAX_PAGES)]
    digest: Digest
    made_at: int


class SignedManifest(_Read):
    """``text``: the manifest as bytes, which are what is signed; ``certificate``: of the gateway that signed them."""

    text: Annotated[str, StringConstraints(max_length=600_000)]
    certificate: Annotated[str, StringConstraints(max_length=10_000)]
    signature: Annotated[str, StringConstraints(max_length=400)]

    @property
    def id(self) -> str:
        """The release's own name, on both ledgers."""
        return hashlib.sha256(self.text.encode()).hexdigest()


class Page(_Read):
    """Rows, one JSON array a line."""

    body: str


class Arrival(_Read):
    """What of a release has arrived: ``missing`` pages by number. ``receipt``: signed, where it was accepted."""

    id: Digest
    state: Literal["offered", "accepted"]
    missing: list[int] = []
    receipt: SignedManifest | None = None


class Receipt(_Read):
    """The text of a receipt, which the receiving gateway signs."""

    accepted: Digest
    digest: Digest
    rows: int
    deployment: Name
    jurisdiction: JurisdictionName
    cell: CellName


class DeclareRequest(_Read):
    text: Annotated[str, StringConstraints(max_length=500_000)]


class CheckedDeclaration(_Read):
    """``columns``: what leaves; ``digest``: the declaration's."""

    name: str
    digest: str
    to: str
    grouped: bool
    columns: list[ReleasedColumn]
    dropped: list[str]


class RunRequest(_Read):
    revision: Revision | None = None


class ReleaseStatus(_Read):
    """``done`` of ``of``: rows read while it is built, then pages sent. ``reason``: why it was refused."""

    name: str
    revision: int
    state: State
    to: str = ""
    id: str = ""
    done: int = 0
    of: int = 0
    rows: int = 0
    suppressed: int = 0
    k: int = 0
    reason: str = ""


class ArrivedRelease(_Read):
    id: str
    source: str
    cell: str
    name: str
    revision: int
    rows: int
    k: int
    state: str


class Releases(_Read):
    declared: list[CheckedDeclaration]
    made: list[ReleaseStatus]
    arrived: list[ArrivedRelease]


class ReleasedRows(_Read):
    columns: list[str]
    rows: list[list[str | int | float | bool | None]]
    after: int


def whole(pages: Sequence[str]) -> str:
    """The digest of the data, by those of its pages."""
    return hashlib.sha256("".join(pages).encode()).hexdigest()
