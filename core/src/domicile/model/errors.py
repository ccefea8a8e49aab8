"""One error tree for every part, so that a caller handles a refusal and not a transport.

    DomicileError
    ├── InvalidInput            what was given cannot be accepted as it is           422
    │   ├── IdentitiesDisagree  two proofs in one request name different subjects    400
    │   ├── ManifestError       a manifest that does not load
    │   ├── ModelError          a record class that is not fully classified
    │   ├── TooLarge            over a limit of ours                                 413
    │   └── UnsupportedQuery    a condition that sealing makes impossible
    ├── Unauthenticated         nobody proved who asks                               401
    │   └── TokenInvalid        a signed statement that cannot be believed
    ├── Forbidden               proved, and not allowed                              403
    │   └── WrongJurisdiction   a row, a cell and a subject that do not agree
    ├── UnknownSubject          no pin                                               404
    ├── NotFound                no such thing, and it is not a subject               404
    │   └── KeyDestroyed        the key was shredded: what it sealed opens no more   410
    ├── Conflict                contradicts what is recorded                         409
    ├── Misdirected             not served here                                      421 / 307
    │   ├── WrongCell           a sibling cell of the same jurisdiction is the home
    │   └── CrossBorderAccess   the home lies in another jurisdiction                451 / 307
    ├── FenceRefused            the cell's database does not hold the subject open   421
    └── Unavailable             try again later; carries ``retry_after`` seconds     503
        ├── KeyWithheld         who holds the key-encryption key does not answer
        └── TooMany             more than this caller is given at a time            429

Errors carry fields, not sentences: ``what`` happened, ``where``, and the ``remedy``. None of them may
hold a personal value; field names, table names, codes and subject keys are what they may name.
"""

from __future__ import annotations

from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, ClassVar


class DomicileError(Exception):
    """Base of all refusals. ``code`` is stable and machine-readable; ``status`` is its HTTP status."""

    code: ClassVar[str] = "domicile-error"
    status: ClassVar[int] = HTTPStatus.INTERNAL_SERVER_ERROR

    def __init__(self, what: str, *, where: str = "", remedy: str = "") -> None:
        self.what = what
        self.where = where
        self.remedy = remedy
        super().__init__(what)

    def __str__(self) -> str:
        place = f"{self.where}: " if self.where else ""
        cure = f" ({self.remedy})" if self.remedy else ""
        return f"{place}{self.what}{cure}"

    def extensions(self) -> dict[str, Any]:
        """Members beside the standard ones in the problem document (RFC 9457, section 3.2)."""
        return {}


class InvalidInput(DomicileError):
    code = "invalid-input"
    status = HTTPStatus.UNPROCESSABLE_ENTITY


class IdentitiesDisagree(InvalidInput):
    """Two proofs in one request name different subjects; neither can be believed."""

    code = "identities-disagree"
    status = HTTPStatus.BAD_REQUEST


class TooLarge(InvalidInput):
    code = "too-large"
    status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE


@dataclass(frozen=True, slots=True)
class ManifestProblem:
    """One reason why a manifest does not load: the YAML path, what is wrong there, and what to do."""

    path: str
    reason: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}" + (f" ({self.remedy})" if self.remedy else "")


class ManifestError(InvalidInput):
    code = "manifest-invalid"

    def __init__(self, problems: list[ManifestProblem], *, source: str = "manifest") -> None:
        self.problems = problems
        super().__init__("; ".join(map(str, problems)), where=source)


class ModelError(InvalidInput):
    code = "model-invalid"


class Unauthenticated(DomicileError):
    code = "unauthenticated"
    status = HTTPStatus.UNAUTHORIZED


class TokenInvalid(Unauthenticated):
    code = "token-invalid"


class Forbidden(DomicileError):
    code = "forbidden"
    status = HTTPStatus.FORBIDDEN


class WrongJurisdiction(Forbidden):
    """The label on a row, the cell and the subject's home do not name one jurisdiction."""

    code = "wrong-jurisdiction"


class UnknownSubject(DomicileError):
    code = "unknown-subject"
    status = HTTPStatus.NOT_FOUND


class NotFound(DomicileError):
    code = "not-found"
    status = HTTPStatus.NOT_FOUND


class KeyDestroyed(NotFound):
    """A data key was destroyed on purpose. What it sealed opens no more, and it is not made anew."""

    code = "key-destroyed"
    status = HTTPStatus.GONE


class Conflict(DomicileError):
    code = "conflict"
    status = HTTPStatus.CONFLICT


class Misdirected(DomicileError):
    """Asked in the wrong place; names the right one. ``public_host`` is where a client goes instead."""

    code = "misdirected"
    status = HTTPStatus.MISDIRECTED_REQUEST

    def __init__(
        self, what: str, *, jurisdiction: str, cell: str, subject_key: str, public_host: str | None = None
    ) -> None:
        self.jurisdiction = jurisdiction
        self.cell = cell
        self.subject_key = subject_key
        self.public_host = public_host
        super().__init__(what)

    def extensions(self) -> dict[str, Any]:
        return {"jurisdiction": self.jurisdiction, "public_host": self.public_host}


class WrongCell(Misdirected):
    code = "wrong-cell"


class CrossBorderAccess(Misdirected):
    code = "cross-border-access"
    status = HTTPStatus.UNAVAILABLE_FOR_LEGAL_REASONS


class FenceRefused(DomicileError):
    """The cell's own database does not hold this subject open at this epoch."""

    code = "fence-refused"
    status = HTTPStatus.MISDIRECTED_REQUEST


class UnsupportedQuery(InvalidInput):
    code = "unsupported-query"


class Unavailable(DomicileError):
    """Nothing is acknowledged; the same call may be made again after ``retry_after`` seconds."""

    code = "unavailable"
    status = HTTPStatus.SERVICE_UNAVAILABLE

    def __init__(self, what: str, *, where: str = "", remedy: str = "", retry_after: int = 2) -> None:
        self.retry_after = retry_after
        super().__init__(what, where=where, remedy=remedy)


class KeyWithheld(Unavailable):
    """The holder of a key-encryption key has cut the connection, or cannot be reached: its data stays sealed."""

    code = "key-withheld"


class TooMany(Unavailable):
    """This caller has asked more often than it may; others are served."""

    code = "too-many"
    status = HTTPStatus.TOO_MANY_REQUESTS


def _tree(root: type[DomicileError]) -> dict[str, type[DomicileError]]:
    found = {root.code: root}
    for child in root.__subclasses__():
        # a class that inherits its code does not take its parent's place
        found = _tree(child) | found
    return found


def by_code(code: str) -> type[DomicileError] | None:
    """The class that a problem document's ``code`` names, or None where this version knows none."""
    return _tree(DomicileError).get(code)
