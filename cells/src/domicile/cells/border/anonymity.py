"""Which rows may leave: k-anonymity, l-diversity and the least group, and against what has left before.

The unit is the subject. All of its rows leave or none does, so that what is missing tells nothing of what is there.
A *class* is the subjects that share a combination of quasi-identifiers; a subject's *signature* is the set of classes
that its rows lie in. For what is kept:

- each class, and each signature, is of k subjects at least, and each class holds l different sensitive values;
- over all releases of a lineage, what tells two subjects apart (the tuple of their signatures, "not in it" being one)
  does so for k at least at a time, the greatest k that one of them was declared with: whoever joins releases,
  intersects their classes or takes their difference finds nobody, and no few, whom a release alone would have hidden.

A pseudonym is one subject's own name. One that several share tells them from all others, as a quasi-identifier does:
it is held to k with those.

What falls short is left out, and everything is looked at again, until nothing does: each round leaves out a unit at
least, so it ends. A row that is a group already (an aggregate) is of k subjects by itself, however coarse its class is:
it may have been grouped by more than leaves.

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
    """``quasi``, ``sensitive`` and ``pseudonyms`` are places in a row's values; ``grouped``: rows are aggregates.

    ``together``: how many are told apart at least over all releases of the lineage; k where that is more.
    """

    quasi: tuple[int, ...]
    k: int
    max_suppressed: float
    sensitive: int | None = None
    l: int = 1  # noqa: E741 - its name in the literature
    grouped: bool = False
    pseudonyms: tuple[int, ...] = ()
    together: int = 0


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
    """What is left out as one: a subject with its rows, or an aggregate. ``sensitive``: what it has in each class."""

    rows: list[Row] = field(default_factory=list)
    people: set[Person] = field(default_factory=set)
    labels: set[Label] = field(default_factory=set)
    sensitive: dict[Label, set[Any]] = field(default_factory=lambda: defaultdict(set))


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
    diverse = _diversity(units)
    return Kept(
        rows=left,
        suppressed=len(rows) - len(left),
        k=min(len(each) for each in sizes.values()),
        l=min((len(each) for each in diverse.values()), default=0),
        signatures=_signatures(units),
    )


def _units(rows: Sequence[Row], policy: Policy) -> dict[Hashable, _Unit]:
    units: dict[Hashable, _Unit] = defaultdict(_Unit)
    shared = set() if policy.grouped else _shared(rows, policy.pseudonyms)
    for number, row in enumerate(rows):
        names = [row.values[place] if (place, row.values[place]) in shared else "" for place in policy.pseudonyms]
        of = (*label(row.values, policy.quasi), *names)
        unit = units[number if policy.grouped else row.people]
        unit.rows.append(row)
        unit.people.update(row.people)
        unit.labels.add(of)
        if policy.sensitive is not None:
            unit.sensitive[of].add(row.values[policy.sensitive])
    return dict(units)


def _shared(rows: Sequence[Row], places: Sequence[int]) -> set[tuple[int, Any]]:
    """Pseudonyms that are of more than one subject, and the want of one: by place and value."""
    found: set[tuple[int, Any]] = {(place, None) for place in places}
    for place in places:
        first: dict[Any, tuple[Person, ...]] = {}
        for row in rows:
            if first.setdefault(row.values[place], row.people) != row.people:
                found.add((place, row.values[place]))
    return found


def _sizes(units: Mapping[Hashable, _Unit]) -> dict[Label, set[Person]]:
    found: dict[Label, set[Person]] = defaultdict(set)
    for unit in units.values():
        for of in unit.labels:
            found[of] |= unit.people
    return found


def _diversity(units: Mapping[Hashable, _Unit]) -> dict[Label, set[Any]]:
    found: dict[Label, set[Any]] = defaultdict(set)
    for unit in units.values():
        for of, values in unit.sensitive.items():
            found[of] |= values
    return found


def _signatures(units: Mapping[Hashable, _Unit]) -> dict[Person, frozenset[Label]]:
    found: dict[Person, set[Label]] = defaultdict(set)
    for unit in units.values():
        for person in unit.people:
            found[person] |= unit.labels
    shared: dict[frozenset[Label], frozenset[Label]] = {}
    return {person: shared.setdefault(each := frozenset(labels), each) for person, labels in found.items()}


def _short(units: Mapping[Hashable, _Unit], policy: Policy) -> set[Hashable]:
    """Units of a group, a class or a signature that is too small by itself, or a class that is too uniform."""
    if small := {key for key, unit in units.items() if policy.grouped and len(unit.people) < policy.k}:
        return small
    sizes, diverse = _sizes(units), _diversity(units)
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
    """Units to leave out since with the earlier releases they, or who would be missing, are too few."""
    if not before:
        return set()
    now, least = _signatures(units), max(policy.k, policy.together)
    together: dict[tuple[bytes | None, ...], dict[frozenset[Label] | None, list[Person]]] = {}
    for person, past in before.items():
        together.setdefault(past, {}).setdefault(now.get(person), []).append(person)
    few: set[Person] = set()
    for past, parts in together.items():
        present = {each: people for each, people in parts.items() if each is not None}
        small = [people for people in present.values() if len(people) < least]
        few.update(*small)
        gone = parts.get(None, [])
        known = any(each is not None for each in past)
        if known and gone and not small and present and len(gone) < least:
            few.update(sorted(present.values(), key=len)[0])
    return _touching(units, few)
