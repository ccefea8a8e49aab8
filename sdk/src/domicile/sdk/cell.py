"""Looking across the subjects of this cell: for support desks and reports, with a purpose that is kept."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar
from uuid import UUID

from domicile.detect import Detector, Rule
from domicile.model.errors import InvalidInput, UnsupportedQuery
from domicile.sdk.codec import Codec
from domicile.sdk.finding import check_size, conditions_on
from domicile.sdk.home import Home, Vault
from domicile.sdk.records import Record
from domicile.sdk.store import AcrossStore
from domicile.sdk.store.across import FoundRow
from domicile.sdk.store.port import OutdatedKeys
from domicile.telemetry import log

R = TypeVar("R", bound=Record)
_NOBODY: Final = UUID(int=0)
_PURPOSE: Final = re.compile(r"[A-Za-z0-9][\w:.#/-]{0,99}", re.ASCII)
_PERSONAL: Final = Detector(without=frozenset(Rule) - {Rule.EMAIL, Rule.IBAN, Rule.CARD, Rule.SEALED})
"""Not the rules that take a ticket's number, too."""


@dataclass(frozen=True)
class Found(Generic[R]):
    """A record and the home of its subject, where it can be written."""

    home: Home
    record: R


def check_purpose(purpose: str) -> None:
    """Raises InvalidInput for anything but a code such as ``support:T-1042``, since it is kept and logged.

    A card's number or an IBAN has the form of a code, and is refused as what it is.
    """
    if not _PURPOSE.fullmatch(purpose):
        raise InvalidInput(
            "a purpose is a code of at most 100 letters, digits and :.#/_-", remedy="such as support:T-1042"
        )
    if found := _PERSONAL.findings(purpose):
        raise InvalidInput(f"a purpose that looks personal ({found[0].rule})", remedy="such as support:T-1042")


class CellSession:
    """See ``Residency.cell``. It reads; ``found.home`` writes, one subject at a time."""

    def __init__(self, vault: Vault, across: AcrossStore) -> None:
        self._vault = vault
        self._across = across

    @classmethod
    async def begin(cls, vault: Vault, across: AcrossStore, purpose: str) -> CellSession:
        check_purpose(purpose)
        await across.begin(purpose)
        log("cell-session", cell=vault.cell, reason=purpose)
        return cls(vault, across)

    async def find(self, kind: type[R], *, limit: int = 100, **conditions: Any) -> list[Found[R]]:
        """Records of any subject of this cell that meet every condition, at most ``limit`` (1,000), the oldest first.

        Conditions as in ``home.find``, but on sealed fields only where they say ``find="cell"``: an index of one
        subject finds nobody else. Sealed fields of a subject whose key was destroyed are ``Destroyed``, as those of a
        principal. Raises UnsupportedQuery, Unavailable.
        """
        check_size(limit)
        table = kind.domicile_table
        for name in conditions:
            if name in table.by_name and table.by_name[name].find == "subject":
                raise UnsupportedQuery(
                    "a blind index of one subject", where=f"{kind.__name__}.{name}", remedy='declare find="cell"'
                )
        try:
            rows = await self._rows(kind, conditions, limit)
        except OutdatedKeys:
            self._vault.keys.forget_index()
            rows = await self._rows(kind, conditions, limit)
        found = []
        for each in rows:
            home = Home(self._vault, each.fence)
            found.append(Found(home, await self._codec(home.internal_id).record(kind, each.row)))
        return found

    async def _rows(self, kind: type[Record], conditions: Mapping[str, Any], limit: int) -> list[FoundRow]:
        # the codec of nobody: only the cell's own secret is asked for
        wanted = await conditions_on(self._codec(_NOBODY), kind, conditions)
        return [] if wanted is None else await self._across.rows(kind.domicile_table, wanted, limit)

    def _codec(self, internal_id: UUID) -> Codec:
        return Codec(self._vault.keys, self._vault.cell, self._vault.jurisdiction, internal_id, across=True)
