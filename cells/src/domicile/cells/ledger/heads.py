"""What may be concluded when another cell tells the head of its ledger: pure, and exhaustive."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Final

from domicile.cells.ledger.tree import consistent
from domicile.model.ledger_wire import TreeHead


class Verdict(StrEnum):
    """Of a head against the one that is held of the same cell."""

    FIRST = "first"  # nothing is held: it is believed, once
    SAME = "same"
    GROWN = "grown"  # proved to begin with what is held
    REWOUND = "rewound"  # lines that were there are gone
    FORKED = "forked"  # as many lines, and other ones: two histories were signed
    REWRITTEN = "rewritten"  # more lines, and not proved to begin with what is held
    REPLACED = "replaced"  # another ledger, begun anew, where one was held


GOOD: Final = frozenset({Verdict.FIRST, Verdict.SAME, Verdict.GROWN})


def judge(held: TreeHead | None, told: TreeHead, proof: Sequence[bytes]) -> Verdict:
    """Both have been verified to be of one cell. ``proof``: that ``told`` grew from ``held``, as the cell gave it."""
    if held is None:
        return Verdict.FIRST
    if held.log != told.log:
        return Verdict.REPLACED
    if told.size < held.size:
        return Verdict.REWOUND
    if told.size == held.size:
        return Verdict.SAME if told.root == held.root else Verdict.FORKED
    return Verdict.GROWN if consistent(held.size, told.size, held.hash, told.hash, proof) else Verdict.REWRITTEN
