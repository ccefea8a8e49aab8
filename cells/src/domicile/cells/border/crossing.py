"""What a release leaves on a ledger: the same line on both sides, but for whose ledger it is."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime

from domicile.cells.border.wire import ReleaseManifest
from domicile.model.access import Identity
from domicile.model.crossings import Crossing, CrossingKind, Outcome, as_code
from domicile.model.errors import DomicileError


def passing(manifest: ReleaseManifest, identifier: str, size: int, who: Identity) -> Crossing:
    """A release that is let across; ``size``: the bytes of its pages."""
    return Crossing(
        kind=CrossingKind.RELEASE,
        source=manifest.source,
        destination=manifest.destination,
        outcome=Outcome.PASSED,
        at=datetime.now(UTC),
        caller=_caller(who),
        counts={"rows": manifest.rows, "suppressed": manifest.suppressed, "pages": len(manifest.pages)},
        bytes=size,
        purpose=as_code(manifest.purpose),
        decision_id=identifier,
        detail={
            "release": f"{manifest.cell}/{manifest.name}/{manifest.revision}",
            "declaration": manifest.declaration,
            "digest": manifest.digest,
            "k": str(manifest.k),
        },
    )


def refusal(
    source: str, destination: str, release: str, purpose: str, why: DomicileError, who: Identity, decision_id: str = ""
) -> Crossing:
    """One that is not: why, by code, and where, where that is a name of ours."""
    detail = {"release": as_code(release), "code": why.code, "where": as_code(why.where)}
    return Crossing(
        kind=CrossingKind.RELEASE,
        source=source,
        destination=destination,
        outcome=Outcome.REFUSED,
        at=datetime.now(UTC),
        caller=_caller(who),
        purpose=as_code(purpose),
        decision_id=decision_id,
        detail={name: value for name, value in detail.items() if value},
    )


def ended(release: str) -> str:
    """The decision by which a release ends at home: there is one at most of each."""
    return hashlib.sha256(f"refused at home: {release}".encode()).hexdigest()


def _caller(who: Identity) -> str:
    return f"{who.role}/{who.name}"
