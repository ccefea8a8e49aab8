"""Several drills, one after the other, with a wait between them: none begins in a world that is not right again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from domicile.ops.drills.faults import Journal
from domicile.ops.drills.port import World
from domicile.ops.drills.reports import Reports, document_of
from domicile.ops.drills.runner import RECOVER_SECONDS, Conduct, Drill, until_right
from domicile.ops.drills.scenarios import Scenario, Target


async def game_day(
    world: World,
    journal: Journal,
    folder: Path,
    reports: Reports,
    scenarios: Sequence[Scenario],
    target: Target,
    conduct: Conduct,
    *,
    wait: float,
    tell: Callable[[str], None],
) -> tuple[list[dict[str, Any]], bool]:
    """The documents of the reports, and whether it was interrupted; each is saved as soon as its drill is over.

    A drill that left something broken is the last one. Raises InvalidInput for a target that is none.
    """
    documents: list[dict[str, Any]] = []
    for number, scenario in enumerate(scenarios):
        tell(f"{scenario.name}, {number + 1} of {len(scenarios)}")
        result = await Drill(world, journal, folder, scenario, target, conduct, tell).run()
        document = document_of(result)
        reports.save(document)
        documents.append(document)
        tell(f"{scenario.name}: {document['verdict']}: {document['reason']}")
        if result.interrupted:
            return documents, True
        if journal.faults():
            break
        if number + 1 < len(scenarios):
            try:
                await asyncio.sleep(wait)
                await until_right(world, RECOVER_SECONDS, tell)  # what is missing then, the next one refuses by
            except asyncio.CancelledError:
                return documents, True
    return documents, False
