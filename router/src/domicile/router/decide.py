"""The decision: what happens to a request, from plain data alone. No I/O, no clock, no request object.

The topology comes as an ``Atlas``, in which every set of endpoints is made already: what is left is look-ups.

Rules, in order:

1. A pin that does not fit the topology is refused: there is no default cell.
2. A pinned request without a live pin is refused; one whose home lies elsewhere follows the traveller policy
   that the home's jurisdiction has for the path; on the internal listener it is refused, so that routers never
   pass it in a ring.
3. A subject in the middle of a move may read and not write.
4. An unpinned request goes to the subject's home cell where that lies here, else to an open cell of this
   jurisdiction. It never leaves the jurisdiction that it arrived in.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NamedTuple

from domicile.model import (
    CellState,
    CrossBorderAccess,
    DomicileError,
    Misdirected,
    Pin,
    PinState,
    Travellers,
    Unavailable,
    UnknownSubject,
    WrongJurisdiction,
)
from domicile.router.atlas import Abroad, Atlas, Home
from domicile.router.endpoints import HomeEndpoints, PeerRouters
from domicile.router.methods import SAFE_METHODS

MOVE_RETRY_SECONDS: Final = 2
OUTAGE_RETRY_SECONDS: Final = 5
# looked up once: an enumeration looks for its members anew each time
_ERASED: Final = PinState.ERASED
_MOVING: Final = PinState.MOVING
_CLOSED: Final = CellState.CLOSED


class Listener(StrEnum):
    PUBLIC = "public"
    INTERNAL = "internal"


class Question(NamedTuple):
    """A request, reduced to what the decision depends on.

    ``pinned``: whether its path belongs to a subject. ``turn``: any growing number, to spread what belongs
    to nobody. ``down``: addresses that are ejected for now.
    """

    path: str
    method: str
    pinned: bool
    listener: Listener
    pin: Pin | None
    turn: int = 0
    down: frozenset[str] = frozenset()


class Forward(NamedTuple):
    """To a cell of this jurisdiction; ``pin`` where the request is for its subject."""

    home: HomeEndpoints
    pin: Pin | None


@dataclass(frozen=True, slots=True)
class Redirect:
    """307 to the home's public host."""

    jurisdiction: str
    public_host: str
    pin: Pin


@dataclass(frozen=True, slots=True)
class Hairpin:
    """Through a router of the home jurisdiction."""

    routers: PeerRouters
    pin: Pin


@dataclass(frozen=True, slots=True)
class Refuse:
    """``jurisdiction``: the home's where one is known, for the metrics. ``waits``: it may be otherwise in a moment."""

    error: DomicileError
    jurisdiction: str | None = None
    waits: bool = False


Decision = Forward | Redirect | Hairpin | Refuse


def decide(question: Question, atlas: Atlas) -> Decision:
    """What to do with a request that arrived at the atlas's vantage. Total: it raises nothing."""
    pin = question.pin
    if pin is not None and pin.state is _ERASED:
        pin = None
    if pin is None:
        if question.pinned:
            return Refuse(UnknownSubject("no such subject"))
        return _unpinned(question, atlas)
    jurisdiction = pin.jurisdiction
    home = atlas.homes.get(pin.cell)
    if home is not None and home.jurisdiction == jurisdiction:
        if home.state is _CLOSED or (pin.state is _MOVING and question.pinned and question.method not in SAFE_METHODS):
            return _not_now(pin, home)
        return Forward(home.endpoints(question.path), pin)
    if (misfit := _misfit(pin, atlas)) is not None:
        return Refuse(misfit, jurisdiction)
    if not question.pinned:
        return _unpinned(question, atlas)
    if question.listener is Listener.INTERNAL:
        return Refuse(_elsewhere(pin), jurisdiction)
    return _traveller(question, pin, atlas.abroad[jurisdiction], atlas)


def _misfit(pin: Pin, atlas: Atlas) -> DomicileError | None:
    placed = atlas.placed.get(pin.cell)
    if placed is None:
        return Unavailable(
            "the subject's home cell is not in this topology",
            remedy="the router may run an older revision",
            retry_after=OUTAGE_RETRY_SECONDS,
        )
    if placed != pin.jurisdiction:
        return WrongJurisdiction(f"a pin and the topology place {pin.cell} in different jurisdictions")
    return None


def _elsewhere(pin: Pin) -> Misdirected:
    return Misdirected(
        f"the subject's home is not in the jurisdiction of this router but in {pin.jurisdiction}",
        jurisdiction=pin.jurisdiction,
        cell=pin.cell,
        subject_key=str(pin.subject_key),
    )


def _not_now(pin: Pin, home: Home) -> Refuse:
    if home.state is _CLOSED:
        return Refuse(Unavailable(f"cell {pin.cell} is closed", retry_after=OUTAGE_RETRY_SECONDS), pin.jurisdiction)
    return Refuse(
        Unavailable("the subject is being moved; reads are served", retry_after=MOVE_RETRY_SECONDS),
        pin.jurisdiction,
        waits=True,
    )


def _traveller(question: Question, pin: Pin, home: Abroad, atlas: Atlas) -> Decision:
    match home.policy.travellers_on(question.path):
        case Travellers.REDIRECT:
            return Redirect(pin.jurisdiction, home.policy.public_host, pin)
        case Travellers.HAIRPIN:
            if not home.routers.upstreams:
                return Refuse(
                    Unavailable(f"{pin.jurisdiction} has no router", retry_after=OUTAGE_RETRY_SECONDS),
                    pin.jurisdiction,
                )
            return Hairpin(home.routers, pin)
        case Travellers.REFUSE:
            refusal = CrossBorderAccess(
                f"{pin.jurisdiction} does not let its subjects be served from {atlas.vantage.jurisdiction}",
                jurisdiction=pin.jurisdiction,
                cell=pin.cell,
                subject_key=str(pin.subject_key),
            )
            return Refuse(refusal, pin.jurisdiction)


def _unpinned(question: Question, atlas: Atlas) -> Decision:
    candidates = atlas.open
    if question.down:
        candidates = tuple(home for home in candidates if _may_be_up(home, question)) or candidates
    if not candidates:
        jurisdiction = atlas.vantage.jurisdiction
        return Refuse(Unavailable(f"no cell of {jurisdiction} is open", retry_after=OUTAGE_RETRY_SECONDS), jurisdiction)
    return Forward(candidates[question.turn % len(candidates)].endpoints(question.path), None)


def _may_be_up(home: Home, question: Question) -> bool:
    return any(each.address not in question.down for each in home.endpoints(question.path).upstreams)
