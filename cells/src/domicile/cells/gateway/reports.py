"""Tells the directory which fences this cell holds, when the directory's database has lost pins, and forgets with it.

Only this process can: its certificate names the cell, and its role alone reads the fences. It asks at a steady
beat whether it is needed, whatever happens, so that a restored directory needs nobody to remember anything.
"""

from __future__ import annotations

from typing import Final, Protocol

from domicile.model import Conflict, Identity, SubjectKey
from domicile.model.wire import MAX_BATCH, FenceReport, FencesReport, ReconciliationDocument
from domicile.service import repeated
from domicile.telemetry import log

BEAT_SECONDS: Final = 5.0


class Directory(Protocol):
    """The directory, as far as it is told of fences. Each method raises DomicileError."""

    async def reconciliation(self) -> ReconciliationDocument: ...

    async def report_fences(self, report: FencesReport) -> None: ...


class Fences(Protocol):
    async def page(self, after: SubjectKey | None, limit: int) -> list[FenceReport]: ...

    async def forget_previous(self, version: int) -> int: ...


class Reporter:
    """``run`` never ends by itself. ``beat``: seconds between two questions."""

    def __init__(self, cell: Identity, fences: Fences, directory: Directory, *, beat: float = BEAT_SECONDS) -> None:
        self._cell = cell
        self._fences = fences
        self._directory = directory
        self._beat = beat
        self._forgotten: set[int] = set()

    async def run(self) -> None:
        await repeated(self.report_if_asked, self._beat, "fences-not-reported")

    async def report_if_asked(self) -> None:
        """Raises DomicileError where it could not be told whole; the next time begins with the first fence."""
        asked = await self._directory.reconciliation()
        await self._forget(asked.forgotten)
        if not asked.reconciling or asked.wait_seconds or self._has_told(asked):
            return
        after: SubjectKey | None = None
        count = 0
        while True:
            page = await self._fences.page(after, MAX_BATCH)
            last = len(page) < MAX_BATCH
            report = FencesReport(generation=asked.generation, after=after, fences=page, last=last)
            try:
                await self._directory.report_fences(report)
            except Conflict:
                return  # another gateway of this cell tells it, or it is over
            count += len(page)
            if last:
                log("fences-reported", count=count)
                return
            after = page[-1].subject_key

    async def _forget(self, peppers: list[int]) -> None:
        """Find nobody any more by the keys of peppers that the directory has forgotten."""
        for version in set(peppers) - self._forgotten:
            log("pepper-forgotten", count=await self._fences.forget_previous(version))
            self._forgotten.add(version)

    def _has_told(self, asked: ReconciliationDocument) -> bool:
        """Contradictions are told again: an operator may have settled them meanwhile."""
        return any(
            report.done and not report.contradictions
            for report in asked.cells
            if (report.jurisdiction, report.cell) == (self._cell.jurisdiction, self._cell.cell)
        )
