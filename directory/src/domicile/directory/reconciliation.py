"""How a database that has lost pins gets them back: from the fences of the cells, which are the truth of a home.

Each cell's gateway tells all its fences, in the order of their keys. A fence without a pin at its epoch or a
higher one gets that pin. It is over when every cell of the topology has told everything and no two cells hold one
subject at one epoch. Nothing is asked for before the grants that were out have expired: a fence that one of them
opens behind a report's back would be missed.
"""

from __future__ import annotations

from domicile.directory.storage import Storage
from domicile.directory.topology import PublishedTopology
from domicile.directory.transactions import ReportTransaction
from domicile.model import Conflict, Identity, Unavailable
from domicile.model.wire import CellReport, FencesReport, ReconciliationDocument
from domicile.telemetry import log, warn


async def take(storage: Storage, topology: PublishedTopology, cell: Identity, report: FencesReport) -> None:
    """One page of a cell's fences; ``cell`` is who its certificate says.

    Raises Conflict for a page that is not the next one of this reconciliation, Unavailable before its time.
    """
    assert cell.cell is not None
    async with storage.reporting() as transaction:
        state = await transaction.state()
        if not state.reconciling or state.generation != report.generation:
            raise Conflict("no reconciliation of this generation is under way", remedy="ask which one is")
        if state.wait_seconds:
            raise Unavailable("grants from before are still good", retry_after=state.wait_seconds)
        before = await transaction.report(cell.jurisdiction, cell.cell)
        if report.after is None:
            before = CellReport(jurisdiction=cell.jurisdiction, cell=cell.cell)
        elif before is None or before.done or before.last_key != report.after:
            raise Conflict("not the page that follows the last one", remedy="begin with the first fence")
        after = await transaction.merge(before, report)
        if after.contradictions:
            warn("fences-contradict", cell=after.cell, count=after.contradictions)
        if after.superseded > before.superseded:
            warn("fences-superseded", cell=after.cell, count=after.superseded)
        if report.last:
            await _end(transaction, topology)


async def _end(transaction: ReportTransaction, topology: PublishedTopology) -> None:
    manifest = await topology.current(transaction)
    state = await transaction.state()
    told = {report.cell for report in state.cells if report.done}
    agreed = not any(report.contradictions for report in state.cells)
    if agreed and told >= set(manifest.cells) and state.revision >= state.wanted_revision:
        await transaction.end()
        log("reconciled", count=sum(report.fences for report in state.cells))


async def standing(storage: Storage, topology: PublishedTopology) -> ReconciliationDocument:
    """What is under way, and for which cells it waits."""
    async with storage.reporting() as transaction:
        state = await transaction.state()
        if not state.reconciling:
            return state
        manifest = await topology.current(transaction)
    done = {report.cell for report in state.cells if report.done}
    return state.model_copy(update={"waiting_for": sorted(set(manifest.cells) - done)})
