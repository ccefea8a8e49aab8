"""Where a subject's home shall be: a decision on plain data, so that every case of it can be tried.

The jurisdiction comes first, by law and not by load: the residence declared, else the jurisdiction asked for,
else the country observed; there is no default. Then one of its open cells, by weighted consistent hashing with
bounded loads (Mirrokni, Thorup, Zadimoghaddam, "Consistent Hashing with Bounded Loads", 2016): a key takes the
first cell on the ring after it that holds less than ``LOAD_BOUND`` times its fair share of the round.

Pins are stored, never computed again, so a cell that is added or closed moves nobody.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from functools import lru_cache
from math import ceil
from typing import Final

from pydantic import RootModel
from uhashring import HashRing

from domicile.model import CellState, Conflict, InvalidInput, Manifest, Pin, SubjectKey, Unavailable
from domicile.model.pins import Frozen
from domicile.model.wire import ClaimRequest

LOAD_BOUND: Final = Fraction(5, 4)
POINTS: Final = 160
"""On the ring for a cell of average weight: shares by hash alone then differ by some 8 %, the bound does the rest."""


class Share(Frozen):
    """``weight`` of an open cell, and how many pins it was given in this round."""

    weight: int
    placed: int = 0


class Round(RootModel[dict[str, Share]]):
    """What a jurisdiction's cells were given since the set of open ones, weights included, last changed.

    A new weight begins a new round too: by the old counts the cell that gained weight would be given
    every newcomer until it had caught up.
    """

    @property
    def weights(self) -> dict[str, int]:
        return {cell: share.weight for cell, share in self.root.items()}

    @property
    def placed(self) -> int:
        return sum(share.placed for share in self.root.values())


def declared_jurisdiction(manifest: Manifest, claim: ClaimRequest) -> str | None:
    """The jurisdiction that a claim insists on, or None where it only carries an observation.

    Raises InvalidInput for a residence that no jurisdiction covers, or an unknown jurisdiction.
    """
    if claim.residence is not None:
        jurisdiction = manifest.jurisdiction_of(claim.residence)
        if jurisdiction is None:
            raise InvalidInput("the declared residence lies in no jurisdiction of this deployment")
        return jurisdiction
    if claim.jurisdiction is not None and claim.jurisdiction not in manifest.jurisdictions:
        raise InvalidInput(
            "no such jurisdiction in this deployment", remedy=f"one of {', '.join(manifest.jurisdictions)}"
        )
    return claim.jurisdiction


def jurisdiction_for(manifest: Manifest, claim: ClaimRequest) -> str:
    """The jurisdiction of a subject that has no pin yet. Raises InvalidInput where nothing decides it."""
    jurisdiction = declared_jurisdiction(manifest, claim)
    if jurisdiction is None and claim.observed_country is not None:
        jurisdiction = manifest.jurisdiction_of(claim.observed_country)
    if jurisdiction is None:
        raise InvalidInput(
            "nothing says in which jurisdiction the subject belongs", remedy="declare a country of residence"
        )
    return jurisdiction


def check_agrees(manifest: Manifest, claim: ClaimRequest, pin: Pin) -> None:
    """Raise Conflict where a claim insists on another jurisdiction than the pin's. An observation never does:
    a traveller who signs up again is still at home where the pin says."""
    jurisdiction = declared_jurisdiction(manifest, claim)
    if jurisdiction not in (None, pin.jurisdiction):
        raise Conflict(
            f"the subject is pinned in {pin.jurisdiction}, the claim asks for {jurisdiction}",
            remedy="a home changes by a move, never by a claim",
        )


def open_cells(manifest: Manifest, jurisdiction: str) -> dict[str, int]:
    """Weights of the cells that take new pins. Raises Unavailable where a jurisdiction has none."""
    cells = manifest.cells_of(jurisdiction).items()
    weights = {name: cell.weight for name, cell in cells if cell.state is CellState.OPEN}
    if not weights:
        raise Unavailable(
            f"no cell of {jurisdiction} takes new subjects", remedy="open one, or add one", retry_after=30
        )
    return weights


@lru_cache(maxsize=64)
def _ring(weights: frozenset[tuple[str, int]]) -> HashRing:
    total = sum(weight for _, weight in weights)
    return HashRing({cell: {"vnodes": max(1, POINTS * len(weights) * w // total)} for cell, w in weights})


def bound(share: Share, weights: Mapping[str, int], placed: int) -> int:
    """The most pins that a cell may hold of ``placed`` ones."""
    return ceil(LOAD_BOUND * placed * Fraction(share.weight, sum(weights.values())))


def place(held: Round, weights: dict[str, int], key: SubjectKey) -> tuple[str, Round]:
    """The cell for ``key`` among open cells with ``weights`` (not empty), and the round after it.

    ``held`` is begun anew where it is about other cells or weights. No cell ever holds more than its
    ``bound``; the bounds add up to more than the pins, so that one cell has always room.
    """
    shares = held.root if held.weights == weights else {cell: Share(weight=w) for cell, w in weights.items()}
    placed = sum(share.placed for share in shares.values()) + 1
    for node in _ring(frozenset(weights.items())).range(str(key)):
        cell: str = node["nodename"]
        share = shares[cell]
        if share.placed < bound(share, weights, placed):
            taken = share.model_copy(update={"placed": share.placed + 1})
            return cell, Round(shares | {cell: taken})
    raise AssertionError("bounds that add up to less than the pins")
