"""The end of the audit: entries past the jurisdiction's ``audit_days`` are forgotten, in steps that hold nobody up."""

from __future__ import annotations

from typing import Final

from domicile.cells.keys.storage import KeyStore
from domicile.telemetry import log

STEP: Final = 5000
"""Entries of one transaction: some 20 ms."""
BEAT_SECONDS: Final = 3600.0


async def prune(store: KeyStore, days: int) -> None:
    """Until none is older. May run in several processes at once, and end anywhere."""
    total = 0
    while gone := await store.prune_audit(days, STEP):
        total += gone
    if total:
        log("key-audit-pruned", count=total)
