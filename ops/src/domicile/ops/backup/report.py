"""What a restore found different: fences settled one way or the other, pins that the restored database never knew."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, NamedTuple

from domicile.client import DirectoryClient
from domicile.model.access import GLOBAL, Role
from domicile.model.errors import InvalidInput, Unavailable
from domicile.model.pins import PinState
from domicile.model.snapshot import STATES
from domicile.model.wire import ReconciliationDocument
from domicile.ops.backup.place import Database, Place, doors
from domicile.ops.health import operator
from domicile.sdk.store.restoring import Restore, held_keys, last_restore, operating


class Report(NamedTuple):
    """``over``: nothing is left to be settled."""

    over: bool
    document: dict[str, Any]
    lines: list[str]


async def report(place: Place, database: Database) -> Report:
    """Of a cell or the directory. Raises Unavailable where the world doesn't run, InvalidInput for a key store."""
    record = place.record()
    if record is None:
        raise Unavailable("no world runs here", where=str(place.layout.root), remedy="start it with `domicile up`")
    addresses = [each.address for each in record.processes if each.role == Role.DIRECTORY]
    directory = DirectoryClient(operator(place.layout), addresses)
    try:
        if database.jurisdiction == GLOBAL:
            return _of_directory(await directory.reconciliation())
        if database.name not in place.manifest.cells:
            raise InvalidInput("a key store has nothing to settle", where=database.name, remedy="see docs/keys.md")
        own = operator(place.layout, database.jurisdiction)
        async with operating(own, doors(record, database.name), database.jurisdiction, database.name) as connection:
            last = await last_restore(connection)
            if last is None:
                raise InvalidInput("was never restored", where=database.name)
            held = await held_keys(connection)
        return _of_cell(database.name, last, await _lost(directory, database, held))
    finally:
        await directory.close()


async def _lost(directory: DirectoryClient, database: Database, held: Collection[bytes]) -> int | None:
    """Subjects at home in the cell that it holds nothing of; None while the directory can't tell."""
    lost = 0
    try:
        async with directory.snapshot() as snapshot:
            await snapshot.head()
            while (block := await snapshot.block()) is not None:
                homes = [home.partition("/")[2] == database.name for home in block.homes]
                lost += sum(
                    homes[home] and STATES[state] is PinState.ACTIVE and key not in held
                    for key, _, state, home in block
                )
    except Unavailable:
        return None
    return lost


def _of_cell(name: str, last: Restore, lost: int | None) -> Report:
    document = last._asdict() | {"subjects_lost": lost}
    for field in ("restored_at", "upto", "ended"):
        document[field] = None if document[field] is None else document[field].isoformat()
    lines = [
        f"{name}: restored at {document['restored_at']}, as of {document['upto']}",
        f"{last.fences - last.remaining:,} of {last.fences:,} fences settled, {last.remaining:,} left",
        f"{last.reopened:,} open as before, {last.behind:,} at a later epoch than their rows are from",
        f"{last.moved:,} at home elsewhere by now and {last.erased:,} erased since: {last.rows_gone:,} rows deleted",
    ]
    if last.unclear:
        lines.append(f"{last.unclear:,} stay closed: the directory does not say that they are at home here")
    told = "the directory cannot tell yet how many" if lost is None else f"{lost:,}"
    lines.append(f"{told} subjects came after that moment: they are at home here, without their rows")
    return Report(last.ended is not None, document, lines)


def _of_directory(found: ReconciliationDocument) -> Report:
    lines = ["nothing is to be reconciled"]
    if found.reconciling:
        lines = [f"cells are asked in {found.wait_seconds} s"] if found.wait_seconds else []
        lines += [
            f"{cell.cell}: {cell.fences:,} fences told ({'all' if cell.done else 'so far'}),"
            f" {cell.contradictions:,} contradict, {cell.superseded:,} superseded"
            for cell in found.cells
        ]
        lines += [f"waiting for {', '.join(found.waiting_for)}"] if found.waiting_for else []
    return Report(not found.reconciling, found.model_dump(mode="json"), lines)
