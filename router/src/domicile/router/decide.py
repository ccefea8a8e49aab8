"""The decision: what happens to a request, from plain data alone. No I/O, no clock, no request object.

Rules, in order:

1. A pin that does not fit the topology is refused: there is no default cell.
2. A pinned request without a live pin is refused; one whose home lies elsewhere follows the traveller policy
   of the home's jurisdiction; on the internal listener it is refused, so that routers never pass it in a ring.
3. A subject in the middle of a move may read and not write.
4. An unpinned request goes to the subject's home cell where that lies here, else to an open cell of this
   jurisdiction. It never leaves the jurisdiction that it arrived in.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from domicile.model import (
    Cell,
    CellState,
    CrossBorderAccess,
    DomicileError,
    Identity,
    Manifest,
    Misdirected,
    Pin,
    PinState,
    Role,
    Travellers,
    Unavailable,
    UnknownSubject,
    WrongJurisdiction,
)
from domicile.router.endpoints import HomeEndpoints, PeerRouters

GATEWAY_PATHS: Final = "/.domicile/"
SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
MOVE_RETRY_SECONDS: Final = 2
OUTAGE_RETRY_SECONDS: Final = 5


class Listener(StrEnum):
    PUBLIC = "public"
    INTERNAL = "internal"


@dataclass(frozen=True, slots=True)
class Question:
    """A request, reduced to what the decision depends on.

    ``pinned``: whether its path belongs to a subject. ``turn``: any growing number, to spread what belongs
    to nobody. ``down``: addresses that lately could not be reached.
    """

    path: str
    method: str
    pinned: bool
    listener: Listener
    pin: Pin | None
    turn: int = 0
    down: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Forward:
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
    """``jurisdiction``: the home's where one is known, for the metrics."""

    error: DomicileError
    jurisdiction: str | None = None


Decision = Forward | Redirect | Hairpin | Refuse


def decide(question: Question, manifest: Manifest, vantage: Identity) -> Decision:
    """What to do with a request that arrived at ``vantage``. Total: it raises nothing."""
    pin = question.pin
    if pin is not None and pin.state is PinState.ERASED:
        pin = None
    if pin is None:
        if question.pinned:
            return Refuse(UnknownSubject("no such subject"))
        return _unpinned(question, manifest, vantage)
    if (misfit := _misfit(pin, manifest)) is not None:
        return Refuse(misfit, pin.jurisdiction)
    if pin.jurisdiction == vantage.jurisdiction:
        return _home(question, pin, manifest, vantage)
    if not question.pinned:
        return _unpinned(question, manifest, vantage)
    if question.listener is Listener.INTERNAL:
        return Refuse(_elsewhere(pin), pin.jurisdiction)
    return _traveller(question, pin, manifest, vantage)


def _misfit(pin: Pin, manifest: Manifest) -> DomicileError | None:
    cell = manifest.cells.get(pin.cell)
    if cell is None:
        return Unavailable(
            "the subject's home cell is not in this topology",
            remedy="the router may run an older revision",
            retry_after=OUTAGE_RETRY_SECONDS,
        )
    if cell.jurisdiction != pin.jurisdiction:
        return WrongJurisdiction(f"a pin and the topology place {pin.cell} in different jurisdictions")
    return None


def _elsewhere(pin: Pin) -> Misdirected:
    return Misdirected(
        f"the subject's home is not in the jurisdiction of this router but in {pin.jurisdiction}",
        jurisdiction=pin.jurisdiction,
        cell=pin.cell,
        subject_key=str(pin.subject_key),
    )


def _role(path: str) -> Role:
    return Role.GATEWAY if path.startswith(GATEWAY_PATHS) else Role.APP


def _home(question: Question, pin: Pin, manifest: Manifest, vantage: Identity) -> Decision:
    if manifest.cells[pin.cell].state is CellState.CLOSED:
        return Refuse(Unavailable(f"cell {pin.cell} is closed", retry_after=OUTAGE_RETRY_SECONDS), pin.jurisdiction)
    if question.pinned and pin.state is PinState.MOVING and question.method not in SAFE_METHODS:
        return Refuse(
            Unavailable("the subject is being moved; reads are served", retry_after=MOVE_RETRY_SECONDS),
            pin.jurisdiction,
        )
    home = HomeEndpoints.of(manifest, pin.cell, _role(question.path), zone=vantage.zone, down=question.down)
    return Forward(home, pin)


def _traveller(question: Question, pin: Pin, manifest: Manifest, vantage: Identity) -> Decision:
    home = manifest.jurisdictions[pin.jurisdiction]
    match home.travellers:
        case Travellers.REDIRECT:
            return Redirect(pin.jurisdiction, home.public_host, pin)
        case Travellers.HAIRPIN:
            routers = PeerRouters.of(manifest, pin.jurisdiction, zone=vantage.zone, down=question.down)
            if not routers.upstreams:
                return Refuse(
                    Unavailable(f"{pin.jurisdiction} has no router", retry_after=OUTAGE_RETRY_SECONDS),
                    pin.jurisdiction,
                )
            return Hairpin(routers, pin)
        case Travellers.REFUSE:
            refusal = CrossBorderAccess(
                f"{pin.jurisdiction} does not let its subjects be served from {vantage.jurisdiction}",
                jurisdiction=pin.jurisdiction,
                cell=pin.cell,
                subject_key=str(pin.subject_key),
            )
            return Refuse(refusal, pin.jurisdiction)


def _unpinned(question: Question, manifest: Manifest, vantage: Identity) -> Decision:
    role = _role(question.path)
    open_cells = [
        HomeEndpoints.of(manifest, name, role, zone=vantage.zone, down=question.down)
        for name, cell in manifest.cells_of(vantage.jurisdiction).items()
        if _takes_anybody(cell)
    ]
    reachable = [home for home in open_cells if home.upstreams[0].address not in question.down]
    candidates = reachable or open_cells
    if not candidates:
        return Refuse(
            Unavailable(f"no cell of {vantage.jurisdiction} is open", retry_after=OUTAGE_RETRY_SECONDS),
            vantage.jurisdiction,
        )
    return Forward(candidates[question.turn % len(candidates)], None)


def _takes_anybody(cell: Cell) -> bool:
    return cell.state is CellState.OPEN
