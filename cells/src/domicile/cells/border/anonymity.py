"""Which rows may leave: k-anonymity, l-diversity and the least group, and against what has left before.

The unit is the subject. All of its rows leave or none does, so that what is missing tells nothing of what is there.
A *class* is the subjects that share a combination of quasi-identifiers; a subject's *signature* is the set of classes
that its rows lie in. For what is kept:

- each class, and each signature, is of k subjects at least, and each class holds l different sensitive values;
- over all releases of a lineage, what tells two subjects apart (the tuple of their signatures, "not in it" being one)
  does so for k at least at a time: whoever joins releases, intersects their classes or takes their difference finds
  nobody, and no few, whom a release alone would have hidden.

What falls short is left out, and everything is looked at again, until nothing does: each round leaves out a unit at
least, so it ends. Rows that are groups already (aggregates) are left out as whole classes.

No library does this: pycanon and anjana work on rows of one table, in pandas, and know neither subjects nor releases
that came before.
"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from domicile.model.errors import Forbidden

ROUNDS: Final = 200
"""More than any real table takes: it bounds the time that a made-up one can cost."""
Person = bytes
Label = tuple[Any, ...]
Earlier = Mapping[Person, bytes]
"""Of one release that was made: the class of each subject in it, as a digest."""


@dataclass(frozen=True, slots=True)
class Row:
    """``values``: what would leave; ``people``: whom it is about, one subject but for an aggregate."""

    values: tuple[Any, ...]
    people: tuple[Person, ...]


@dataclass(frozen=True, slots=True)
class Policy:
    """``quasi`` and ``sensitive`` are places in a row's values; ``grouped``: whether rows are aggregates."""

    quasi: tuple[int, ...]
    k: int
    max_suppressed: float
    sensitive: int | None = None
    l: int = 1  # noqa: E741 - its name in the literature
    grouped: bool = False


@dataclass(frozen=True, slots=True)
class Kept:
    """``signatures``: of each subject that is in it, for the releases to come; ``k``, ``l``: the least reached."""

    rows: list[Row]
    suppressed: int
    k: int
    l: int  # noqa: E741 - its name in the literature
    signatures: dict[Person, frozenset[Label]]


@dataclass(slots=True)
class _Unit:
    """What is left out as one: a subject with its rows, or a class of aggregates."""

    rows: list[Row] = field(default_factory=list)
    people: set[Person] = field(default_factory=set)
    labels: set[Label] = field(default_factory=set)


def label(values: Sequence[Any], quasi: Sequence[int]) -> Label:
    """Types count: ``1``, ``"1"`` and ``True`` are three classes."""
    return tuple((type(values[place]).__name__, values[place]) for place in quasi)


def anonymise(rows: Sequence[Row], policy: Policy, earlier: Sequence[Earlier] = ()) -> Kept:
    """Raises Forbidden where more would have to be left out than the policy allows, or nothing would leave."""
    units = _units(rows, policy)
    allowed = int(len(rows) * policy.max_suppressed)
    people = set().union(*(unit.people for unit in units.values()), *earlier)
    before = {person: tuple(release.get(person) for release in earlier) for person in people} if earlier else {}
    for rounds in itertools.count():
        short = _short(units, policy) or _told_apart(units, policy, before)
        if not short:
            break
        for key in short:
            del units[key]
        kept = sum(len(unit.rows) for unit in units.values())
        if len(rows) - kept > allowed or rounds >= ROUNDS:
            alone = not before or bool(_short(_units(rows, policy), policy))
            why = "k and l" if alone else "earlier releases of the lineage"
            raise Forbidden(
                f"more than {allowed} of {len(rows)} rows would have to be left out for {why}",
                where="max_suppressed",
                remedy="coarsen the quasi-identifiers, or allow more",
            )
    if not units:
        raise Forbidden("no row is left to release", where="source")
    left = [row for unit in units.values() for row in unit.rows]
    sizes = _sizes(units)
    diverse = _diversity(units, policy)
    return Kept(
        rows=left,
        suppressed=len(rows) - len(left),
        k=min(len(each) for each in sizes.values()),
        l=min((len(each) for each in diverse.values()), default=0),
        signatures=_signatures(units),
    )


def _units(rows: Sequence[Row], policy: Policy) -> dict[Hashable, _Unit]:
    units: dict[Hashable, _Unit] = defaultdict(_Unit)
    for row in rows:
        of = label(row.values, policy.quasi)
        unit = units[of if policy.grouped else row.people]
        unit.rows.append(row)
        unit.people.update(row.people)
        unit.labels.add(of)
    return dict(units)


def _sizes(units: Mapping[Hashable, _Unit]) -> dict[Label, set[Person]]:
    found: dict[Label, set[Person]] = defaultdict(set)
    for unit in units.values():
        for of in unit.labels:
            found[of] |= unit.people
    return found


def _diversity(units: Mapping[Hashable, _Unit], policy: Policy) -> dict[Label, set[Any]]:
    found: dict[Label, set[Any]] = defaultdict(set)
    if policy.sensitive is not None:
        for unit in units.values():
            for row in unit.rows:
                found[label(row.values, policy.quasi)].add(row.values[policy.sensitive])
    return found


def _signatures(units: Mapping[Hashable, _Unit]) -> dict[Person, frozenset[Label]]:
    found: dict[Person, set[Label]] = defaultdict(set)
    for unit in units.values():
        for person in unit.people:
            found[person] |= unit.labels
    shared: dict[frozenset[Label], frozenset[Label]] = {}
    return {person: shared.setdefault(each := frozenset(labels), each) for person, labels in found.items()}


def _short(units: Mapping[Hashable, _Unit], policy: Policy) -> set[Hashable]:
    """Units of a class, or a signature, that is too small or too uniform by itself."""
    sizes, diverse = _sizes(units), _diversity(units, policy)
    bad = {of for of, people in sizes.items() if len(people) < policy.k}
    bad |= {of for of, values in diverse.items() if len(values) < policy.l}
    if bad:
        return {key for key, unit in units.items() if unit.labels & bad}
    signatures = _signatures(units)
    count = Counter(signatures.values())
    return _touching(units, (person for person, each in signatures.items() if count[each] < policy.k))


def _touching(units: Mapping[Hashable, _Unit], people: Iterable[Person]) -> set[Hashable]:
    few = set(people)
    return {key for key, unit in units.items() if not few.isdisjoint(unit.people)} if few else set()


def _told_apart(
    units: Mapping[Hashable, _Unit], policy: Policy, before: Mapping[Person, tuple[bytes | None, ...]]
) -> set[Hashable]:
    """Units to leave out since with the earlier releases they, or who would be missing, are fewer than k."""
    if not before:
        return set()
    now = _signatures(units)
    together: dict[tuple[bytes | None, ...], dict[frozenset[Label] | None, list[Person]]] = {}
    for person, past in before.items():
        together.setdefault(past, {}).setdefault(now.get(person), []).append(person)
    few: set[Person] = set()
    for past, parts in together.items():
        present = {each: people for each, people in parts.items() if each is not None}
        small = [people for people in present.values() if len(people) < policy.k]
        few.update(*small)
        gone = parts.get(None, [])
        known = any(each is not None for each in past)
        if known and gone and not small and present and len(gone) < policy.k:
            few.update(sorted(present.values(), key=len)[0])
    return _touching(units, few)
