"""Pin grants as the gateway takes them: signed by the directory, for this cell, this subject and this database.

A grant is asked for and checked here, and once more where the fence is opened. Whatever does not hold is
FenceRefused: it is no fault of the application that asked.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final
from uuid import UUID

from domicile.client import DirectoryClient
from domicile.identity import Verifier
from domicile.model import FenceRefused, Identity, InvalidInput, PinGrant, SubjectKey, TokenInvalid

_DIRECTORY = "directory"
KEYS_SECONDS: Final = 60.0
"""After which the set is read anew: how long a key that was taken out of it is still believed."""


def hold(grant: PinGrant, key: SubjectKey, cell: Identity, incarnation: UUID) -> None:
    """Raise FenceRefused unless the grant is for this subject, cell and incarnation. Pure.

    The epoch is held against the fence's own, under the database's lock.
    """
    if grant.sub != key:
        raise FenceRefused("the grant is for another subject", where=_DIRECTORY)
    if (grant.jur, grant.cell) != (cell.jurisdiction, cell.cell):
        raise FenceRefused(f"the grant is for cell {grant.cell} of {grant.jur}", where=_DIRECTORY)
    if grant.incarnation != incarnation:
        raise FenceRefused("the grant is for another incarnation of this cell", where=_DIRECTORY)


class Grants:
    """Fetches grants for one cell; the directory's keys are kept for a while."""

    def __init__(
        self, directory: DirectoryClient, cell: Identity, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._directory = directory
        self._cell = cell
        self._verifier = Verifier(cell.deployment)
        self._clock = clock
        self._read_at = -KEYS_SECONDS

    async def fetch(self, key: SubjectKey, incarnation: UUID) -> PinGrant:
        """Raises WrongCell or UnknownSubject as the directory says, FenceRefused for a grant that does not hold."""
        token = await self._directory.grant(key, incarnation)
        try:
            if self._clock() >= self._read_at + KEYS_SECONDS or not self._verifier.knows(token, "pin-grant"):
                self._verifier.replace(key for key in await self._directory.keys() if key.domicile_use == "pin-grant")
                self._read_at = self._clock()
            grant = self._verifier.pin_grant(token)
        except (TokenInvalid, InvalidInput) as error:
            raise FenceRefused(error.what, where=_DIRECTORY) from None
        hold(grant, key, self._cell, incarnation)
        return grant
