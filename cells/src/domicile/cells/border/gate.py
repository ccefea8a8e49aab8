"""The gate, as one pure function: what was read goes in, what may leave comes out, or a refusal.

Treatments first, so that nothing behind them holds a personal value; then anonymity, the detector, and pages.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from domicile.cells.border import pages
from domicile.cells.border.anonymity import Earlier, Kept, Label, Row, anonymise, label
from domicile.cells.border.inspection import Inspector
from domicile.cells.border.plan import Plan
from domicile.cells.border.treatments import secret_of, treat
from domicile.cells.border.wire import ReleaseManifest, whole
from domicile.model.errors import Forbidden


@dataclass(frozen=True, slots=True)
class Passed:
    """``members``: the class of each subject, by its name within the lineage: kept at home for releases to come."""

    kept: Kept
    pages: list[str]
    members: dict[bytes, bytes]


class Treating:
    """The columns of a plan: what each row becomes. ``secret``: the home cell's own."""

    def __init__(self, plan: Plan, secret: bytes) -> None:
        said = plan.declaration
        own = secret_of(secret, f"{said.to.jurisdiction}/{said.to.cell}", said.family)
        self._treats = [
            treat(said.columns[column.name], own, column.name, given=column.type) for column in plan.columns
        ]
        # by no secret: one that is turned would make strangers of those whom earlier releases were about
        self._people = hashlib.sha256(b"domicile/border/people\0" + said.family.encode()).digest()
        self._names: dict[bytes, bytes] = {}

    def row(self, values: Sequence[Any], people: Iterable[bytes]) -> Row:
        """``people``: internal ids, which stay as what is keyed here."""
        treated = tuple(change(value) for change, value in zip(self._treats, values, strict=True))
        return Row(treated, tuple(self._name(person) for person in people))

    def _name(self, person: bytes) -> bytes:
        found = self._names.get(person)
        if found is None:
            found = self._names[person] = hmac.digest(self._people, person, hashlib.sha256)[:16]
        return found


def passed(
    plan: Plan, rows: Sequence[Row], earlier: Sequence[Earlier], countries: Sequence[str], *, together: int = 0
) -> Passed:
    """Raises Forbidden for what may not leave, and names column and rule; InvalidInput for what has no bytes.

    ``together``: the greatest k that an earlier release of the lineage was declared with.
    """
    kept = anonymise(rows, replace(plan.policy, together=together), earlier)
    inspector = Inspector(
        [column.name for column in plan.columns],
        [column.name for column in plan.columns if column.pseudonym],
        countries,
    )
    for row in kept.rows:
        inspector.look(row.values)
    digests: dict[frozenset[Label], bytes] = {}
    members = {
        person: digests.get(each) or digests.setdefault(each, _digest(each)) for person, each in kept.signatures.items()
    }
    return Passed(kept, pages.paged(row.values for row in kept.rows), members)


def _digest(signature: frozenset[Label]) -> bytes:
    text = json.dumps(sorted(json.dumps(each) for each in signature))
    return hashlib.sha256(text.encode()).digest()[:16]


def check_shape(manifest: ReleaseManifest) -> None:
    """What a manifest says must hold together. Raises Forbidden."""
    names = [column.name for column in manifest.columns]
    parts = [*manifest.quasi, *([manifest.sensitive] if manifest.sensitive is not None else [])]
    if len(set(names)) != len(names) or not set(parts) <= set(names):
        raise Forbidden("a manifest whose columns do not hold together", where="manifest")
    if manifest.k < manifest.least or manifest.l < manifest.l_declared:
        raise Forbidden("a manifest that does not reach what it declares", where="manifest")
    if whole(manifest.pages) != manifest.digest:
        raise Forbidden("a manifest whose digests do not agree", where="manifest")


class Examination:
    """The receiver's own look at every page, in any order; ``finish`` is over all of them.

    It sees rows where the home cell saw subjects: a class of fewer than k rows is of fewer than k subjects.
    """

    def __init__(self, manifest: ReleaseManifest, countries: Sequence[str]) -> None:
        self._manifest = manifest
        self._inspector = Inspector(
            [column.name for column in manifest.columns],
            [column.name for column in manifest.columns if column.pseudonym],
            countries,
        )

    def page(self, number: int, body: str) -> list[list[Any]]:
        """The page's rows. Raises Forbidden for another page than was signed, InvalidInput for another shape."""
        if not 0 <= number < len(self._manifest.pages) or pages.digest(body) != self._manifest.pages[number]:
            raise Forbidden("a page that was not signed", where=f"page {number}")
        rows = pages.read(body, self._manifest.columns)
        for row in rows:
            self._inspector.look(row)
        return rows

    def finish(self, rows: Sequence[Sequence[Any]]) -> None:
        """Raises Forbidden where counts, k or l are not as they were signed."""
        said, names = self._manifest, [column.name for column in self._manifest.columns]
        if len(rows) != said.rows:
            raise Forbidden("another number of rows than was signed", where="manifest")
        quasi = [names.index(name) for name in said.quasi]
        sizes: dict[Label, int] = {}
        values: dict[Label, set[Any]] = {}
        for row in rows:
            of = label(row, quasi)
            sizes[of] = sizes.get(of, 0) + 1
            if said.sensitive is not None:
                values.setdefault(of, set()).add(row[names.index(said.sensitive)])
        if not said.grouped and min(sizes.values()) < said.least:
            raise Forbidden("a class of fewer than k", where="k")
        if any(len(each) < said.l_declared for each in values.values()):
            raise Forbidden("a class of fewer than l values", where="sensitive")
