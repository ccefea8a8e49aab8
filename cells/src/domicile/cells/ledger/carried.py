"""What routers say that they carried over the border, as lines of the ledger. Pure.

The bytes have gone when they are told of, so nothing can be refused for want of the ledger: a router tells its totals
again until they are taken, interval by interval. A number that is missing in a run is an interval that nobody accounts
for; a run that begins later than the last one ended is a router that was killed in between. ``audit show`` counts both.
"""

from __future__ import annotations

from datetime import UTC, datetime

from domicile.model import Forbidden, Identity, InvalidInput
from domicile.model.crossings import Crossing, CrossingKind, Outcome
from domicile.model.ledger_wire import CarriedReport


def crossings_of(report: CarriedReport, peer: Identity, here: str) -> list[Crossing]:
    """One for each way, all with the interval's name. Raises Forbidden for another router's report, InvalidInput for
    an interval that is none and for a way that does not touch this jurisdiction (``here``)."""
    if report.zone != peer.zone:
        raise Forbidden("a router reports what it carried itself", where=peer.uri)
    try:
        since, until = (datetime.fromtimestamp(each, UTC) for each in (report.since, report.until))
    except (ValueError, OverflowError, OSError):
        raise InvalidInput("an interval of no time") from None
    if until < since:
        raise InvalidInput("an interval that ends before it begins")
    if any(here not in (way.source, way.destination) or way.source == way.destination for way in report.ways):
        raise InvalidInput("a way that does not cross this jurisdiction's border")
    return [
        Crossing(
            kind=CrossingKind.HAIRPIN,
            source=way.source,
            destination=way.destination,
            outcome=Outcome.PASSED,
            at=until,
            caller=f"router/{peer.name}",
            bytes=way.bytes,
            decision_id=f"{report.run}:{report.number}",
            detail={
                "carried": way.kind,
                "since": since.isoformat(timespec="milliseconds"),
                "until": until.isoformat(timespec="milliseconds"),
            },
        )
        for way in report.ways
        if way.bytes
    ]
