"""Ledgers of a few lines, with heads that a real gateway's certificate stands behind."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

from domicile.cells.ledger.export import Export, KeptHead, Place
from domicile.cells.ledger.tree import Frontier, leaf_hash
from domicile.identity import HeadSigner, verify_head
from domicile.model import Role
from domicile.model.crossings import Crossing, CrossingKind, Outcome
from domicile.model.ledger_wire import SignedHead, TreeHead
from domicile_testing.certificates import DEPLOYMENT, Trust

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def crossing(number: int = 0, **more: Any) -> Crossing:
    """An abroad read, a minute after the one before it."""
    given: dict[str, Any] = {
        "kind": CrossingKind.ABROAD_READ,
        "source": "eu",
        "destination": "us",
        "outcome": Outcome.PASSED,
        "at": NOON + timedelta(minutes=number),
        "caller": "app/us-1.iad",
        "counts": {"rows": 2},
        "bytes": 100 + number,
        "detail": {"table": "profiles"},
    }
    return Crossing(**given | more)


def lines(count: int) -> list[bytes]:
    return [crossing(number).line().encode() for number in range(count)]


def root_of(texts: Sequence[bytes]) -> bytes:
    tree = Frontier()
    for text in texts:
        tree.add(leaf_hash(text))
    return tree.root


class Cell:
    """A cell whose gateway signs whatever it is told to."""

    def __init__(self, trust: Trust, folder: Path, cell: str = "eu-1", jurisdiction: str = "eu") -> None:
        credentials = trust.credentials(jurisdiction, Role.GATEWAY, f"{cell}.fra")
        self.cell, self.jurisdiction = cell, jurisdiction
        self.log: UUID = uuid4()
        self.now = datetime.now(UTC).timestamp()
        self._signer = HeadSigner(credentials, folder / f"{cell}.key", lambda: self.now)
        self._authority = trust.authorities[jurisdiction].pem()

    def head(self, texts: Sequence[bytes], *, log: UUID | None = None) -> SignedHead:
        return self._signer.sign(log or self.log, len(texts), root_of(texts))

    def kept(self, texts: Sequence[bytes], by: str | None = None, **more: Any) -> KeptHead:
        return KeptHead(by=by or self.cell, head=self.head(texts, **more))

    def verify(self, head: SignedHead) -> TreeHead:
        return verify_head(head, DEPLOYMENT, self._authority)

    def export(self, texts: Sequence[bytes], heads: Sequence[KeptHead], first: int = 0) -> Export:
        """Of the lines from ``first`` on."""
        edge = Frontier()
        for text in texts[:first]:
            edge.add(leaf_hash(text))
        place = Place(
            deployment=DEPLOYMENT,
            jurisdiction=self.jurisdiction,
            cell=self.cell,
            log=self.log,
            first=first,
            frontier=[each.hex() for each in edge.hashes],
        )
        return Export(place, list(heads), iter(texts[first:]))
