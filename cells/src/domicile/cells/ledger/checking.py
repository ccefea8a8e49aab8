"""Whether an export is the ledger that was signed, by certificates that anybody may have. Pure.

Every line is hashed into the tree, and at the size of each head the tree must have the head's root: so each line is in
each later head (inclusion), and each head goes on from the one before it (consistency). Heads that other jurisdictions
held count like the cell's own, since its gateway has signed them all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final

from domicile.cells.ledger.export import Export, KeptHead
from domicile.cells.ledger.tree import Frontier, leaf_hash
from domicile.model import DomicileError, InvalidInput
from domicile.model.crossings import Crossing
from domicile.model.ledger_wire import SignedHead, TreeHead

BACKWARD: Final = timedelta(minutes=5)
"""How much earlier than a line before it a line may say it is, before that is noted."""
Verify = Callable[[SignedHead], TreeHead]
"""Raises DomicileError for a head that a gateway of the ledger's jurisdiction has not signed."""


@dataclass
class Finding:
    """``problems``: why the export is not what was signed. ``notes``: what a reader should know besides."""

    first: int = 0
    size: int = 0
    heads: int = 0
    witnesses: set[str] = field(default_factory=set)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not self.problems


def _when(head: TreeHead) -> str:
    return datetime.fromtimestamp(head.iat, UTC).isoformat()


def _believed(export: Export, heads: Iterable[KeptHead], verify: Verify, found: Finding) -> dict[int, TreeHead]:
    """By their size, those that are signed and of this ledger."""
    place, believed = export.place, dict[int, TreeHead]()
    for kept in heads:
        try:
            head = verify(kept.head)
        except DomicileError as error:
            found.problems.append(f"a head that {kept.by} held is not to be believed: {error}")
            continue
        if head.cell != place.cell:
            continue  # a file of heads tells of every cell
        if (head.iss, head.jur) != (place.deployment, place.jurisdiction):
            found.problems.append(f"a head that {kept.by} held is of {head.jur}, not {place.jurisdiction}")
        elif head.log != place.log:
            found.problems.append(f"{kept.by} held a head of another ledger of {head.cell}, of {_when(head)}")
        elif (other := believed.get(head.size)) is not None and other.root != head.root:
            found.problems.append(
                f"two heads of {head.size:,} lines with different roots were signed, at {_when(other)} and "
                f"{_when(head)}"
            )
        else:
            believed[head.size] = head
            found.heads += 1
            if kept.by != place.cell:
                found.witnesses.add(kept.by)
    return believed


def check(
    export: Export,
    held: Iterable[KeptHead],
    verify: Verify,
    each: Callable[[int, Crossing], None] = lambda place, crossing: None,
) -> Finding:
    """Go through an export once. ``held``: heads from elsewhere. ``each`` is told every line. Raises InvalidInput."""
    found = Finding(first=export.place.first)
    believed = _believed(export, [*export.heads, *held], verify, found)
    try:
        tree = Frontier(export.place.first, [bytes.fromhex(each) for each in export.place.frontier])
    except ValueError:
        raise InvalidInput("the edge of the tree does not go with the first line", remedy="export it again") from None
    latest: datetime | None = None
    behind = 0
    _compare(tree, believed, found)
    for line in export.lines:
        place = tree.size
        tree.add(leaf_hash(line))
        _compare(tree, believed, found)
        try:
            crossing = Crossing.parse(line.decode())
        except (InvalidInput, UnicodeDecodeError):
            found.problems.append(f"line {place:,} is no crossing")
            continue
        behind += latest is not None and crossing.at < latest - BACKWARD
        latest = crossing.at if latest is None else max(latest, crossing.at)
        each(place, crossing)
    found.size = tree.size
    if behind:
        found.notes.append(f"{behind:,} lines say that they are earlier than one before them: a clock was set back")
    _ends(tree.size, believed, found)
    return found


def _compare(tree: Frontier, believed: dict[int, TreeHead], found: Finding) -> None:
    head = believed.get(tree.size)
    if head is not None and head.hash != tree.root:
        found.problems.append(
            f"the first {tree.size:,} lines are not those that were signed at {_when(head)}: "
            "a line was changed, taken out, put in or moved"
        )


def _ends(size: int, believed: dict[int, TreeHead], found: Finding) -> None:
    beyond = [head for head in believed.values() if head.size > size]
    if beyond:
        last = max(beyond, key=lambda head: head.size)
        found.problems.append(f"{last.size - size:,} lines are missing that were signed at {_when(last)}")
    elif size not in believed:
        found.problems.append("no signed head covers the last line")
    if early := [head for head in believed.values() if head.size < found.first]:
        found.notes.append(f"{len(early)} heads are of before the first line here: export the whole ledger for them")
