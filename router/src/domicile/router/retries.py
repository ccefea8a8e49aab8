"""Which failed attempts are made once more: those that cannot take effect twice, and no more than a budget allows.

The budget keeps a failing cell from getting several times the load that it failed under.
"""

from __future__ import annotations

from typing import Final

from domicile.router.ejection import Failure
from domicile.router.methods import SAFE_METHODS

SHARE: Final = 0.2
RESERVE: Final = 20.0
"""Retries that a quiet router may make at once; also the most that it saves up."""


def may_repeat(method: str, failure: Failure, *, replayable: bool) -> bool:
    """``replayable``: the body can be sent from its beginning once more. Idempotent methods are not repeated after
    the request may have been received: a write that came twice would be acknowledged twice."""
    if not replayable:
        return False
    return failure is Failure.UNREACHED or method in SAFE_METHODS


class RetryBudget:
    """One retry for every five requests, and a reserve."""

    def __init__(self, share: float = SHARE, reserve: float = RESERVE) -> None:
        self._share = share
        self._reserve = self._left = reserve

    def request(self) -> None:
        """A first attempt begins."""
        if self._left < self._reserve:
            self._left = min(self._left + self._share, self._reserve)

    def spend(self) -> bool:
        """Whether one more retry may be made; it is counted."""
        if self._left < 1:
            return False
        self._left -= 1
        return True
