"""What a caller's certificate alone decides about a subject: only the home cell's own may change what is said of it."""

from __future__ import annotations

from typing import Final

from domicile.model import Conflict, Identity, Pin, PinState, SubjectKey, WrongCell

ERASED_STEP: Final = 1
RENAMED_STEP: Final = 2
"""How far a tombstone is above the pin that it took the place of: who repeats an erasure must not take the key that a
subject had before for its end."""


def check_home(pin: Pin, peer: Identity) -> None:
    """Raise WrongCell unless ``peer``, by its certificate, is of the cell that the pin names. Pure."""
    if (peer.jurisdiction, peer.cell) != (pin.jurisdiction, pin.cell):
        raise WrongCell(
            "the subject's home is another cell",
            jurisdiction=pin.jurisdiction,
            cell=pin.cell,
            subject_key=str(pin.subject_key),
        )


def check_active(pin: Pin, peer: Identity) -> None:
    """As ``check_home``, and Conflict for a subject that is being moved, or erased. Pure."""
    check_home(pin, peer)
    if pin.state is not PinState.ACTIVE:
        raise Conflict(f"the subject's pin is {pin.state}, not active")


def live(pins: dict[SubjectKey, Pin]) -> Pin | None:
    """The one pin of a subject that is not a tombstone. Pure."""
    return next((pin for pin in pins.values() if pin.state is not PinState.ERASED), None)


def next_epoch(pins: dict[SubjectKey, Pin]) -> int:
    """Above that of every tombstone of a subject: an epoch survives erasure, and another pepper. Pure."""
    return max((pin.epoch for pin in pins.values()), default=0) + 1
