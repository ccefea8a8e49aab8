"""What is read and written in one transaction that spans several steps: a claim, a rekeying, a reconciliation's page.

The decisions between the steps are made elsewhere, on plain data; here is what each step asks of the database.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final, TypeAlias

import asyncpg

from domicile.directory.history import wait_seconds
from domicile.directory.homes import RENAMED_STEP
from domicile.directory.placement import Round
from domicile.directory.topology import Version
from domicile.model import AliasKey, Conflict, InvalidInput, Pin, PinState, SubjectKey, Unavailable
from domicile.model.wire import CellReport, FencesReport, ReconciliationDocument, TopologyDocument

SQL: Final = {path.stem: path.read_text() for path in (Path(__file__).parent / "sql").glob("*.sql")}
_ALIASES: Final = 0x646F6D61  # a space of locks, beside that of subjects
_FIRST_LOCK: Final = 0x646F6D66

Connection: TypeAlias = "asyncpg.pool.PoolConnectionProxy[asyncpg.Record]"


def unsettled() -> Unavailable:
    return Unavailable(
        "the directory's database may have lost pins, and asks the cells", remedy="see `domicile pin reconcile`"
    )


def not_announced(version: int) -> Conflict:
    return Conflict(f"pepper {version} is not announced", remedy="see `domicile pin pepper announce`")


async def check_settled(connection: Connection) -> None:
    """Raise Unavailable where nobody may say what is not in the database."""
    if not await connection.fetchval(SQL["find_settled"]):
        raise unsettled()


def pin_of(row: asyncpg.Record) -> Pin:
    return Pin.trusted(
        SubjectKey(row["subject_key"]), row["jurisdiction"], row["cell"], row["epoch"], PinState(row["state"])
    )


async def find_version(connection: Connection) -> Version | None:
    row = await connection.fetchrow(SQL["find_topology_version"])
    return Version(row["revision"], row["published"]) if row is not None else None


async def find_topology(connection: Connection) -> TopologyDocument | None:
    row = await connection.fetchrow(SQL["find_topology"])
    return TopologyDocument(revision=row["revision"], signed=row["signed"]) if row is not None else None


class SubjectTransaction:
    """One subject, by every key that it may be named by; nobody else changes its pin or places it meanwhile."""

    def __init__(self, connection: Connection, keys: Sequence[SubjectKey]) -> None:
        self._connection = connection
        self._keys = list(keys)
        self.changed = False

    async def topology_version(self) -> Version | None:
        return await find_version(self._connection)

    async def topology(self) -> TopologyDocument | None:
        return await find_topology(self._connection)

    async def check_named(self, keys: Sequence[SubjectKey] | Sequence[AliasKey]) -> None:
        """Raise Conflict unless there is a key by each pepper in use, and the first is by one of them.

        Under one that is left out somebody may be there already; under one that only the caller has, others would not
        find who is. Raises InvalidInput for two keys by one pepper: they name two.
        """
        given = [key.pepper_version for key in keys]
        if len(set(given)) != len(given):
            raise InvalidInput("two keys by one pepper", where="other_keys", remedy="there is one by each pepper")
        used = await self._peppers()
        if not used:
            await self._connection.execute(SQL["lock_first"], _FIRST_LOCK)
            used = await self._peppers()
        if missing := sorted(used - set(given)):
            raise Conflict(
                f"subjects are also named by keys of pepper {', '.join(map(str, missing))}, which the caller left out",
                remedy="give the calling process every pepper in use",
            )
        if used and given[0] not in used:
            raise not_announced(given[0])

    async def check_announced(self, versions: set[int]) -> None:
        """Raise Conflict for a pepper that claims need not name: who is named by it would be given a second home."""
        if unheard := versions - await self._peppers():
            raise not_announced(min(unheard))

    async def _peppers(self) -> set[int]:
        return {row["version"] for row in await self._connection.fetch(SQL["find_peppers"])}

    async def pins(self) -> dict[SubjectKey, Pin]:
        """The subject's pin and tombstones, by key."""
        pins = [pin_of(row) for row in await self._connection.fetch(SQL["find_pins"], self._keys)]
        return {pin.subject_key: pin for pin in pins}

    async def lock_round(self, jurisdiction: str) -> Round:
        """The counts of a jurisdiction; nobody else places there until this transaction ends."""
        await self._connection.execute(SQL["begin_round"], jurisdiction)
        return Round.model_validate_json(await self._connection.fetchval(SQL["lock_round"], jurisdiction))

    async def keep_round(self, jurisdiction: str, after: Round) -> None:
        await self._connection.execute(SQL["keep_round"], jurisdiction, after.model_dump_json())

    async def place(self, pin: Pin) -> bool:
        """False where the key has a live pin, or a tombstone of that epoch: brought in from a file or by a cell."""
        values = (pin.subject_key, pin.jurisdiction, pin.cell, pin.epoch, pin.state.value)
        placed = await self._connection.fetchval(SQL["place_pin"], *values) is not None
        self.changed |= placed
        return placed

    async def erase(self, pin: Pin, step: int) -> Pin:
        """Leave a tombstone in a pin's place, ``step`` above its epoch."""
        row = await self._connection.fetchrow(SQL["erase_pin"], pin.subject_key, pin.epoch, step)
        assert row is not None
        self.changed = True
        return pin_of(row)

    async def release_aliases(self, key: SubjectKey) -> None:
        await self._connection.execute(SQL["release_aliases"], key)

    async def move_aliases(self, key: SubjectKey, successor: SubjectKey) -> None:
        await self._connection.execute(SQL["move_aliases"], key, successor)

    async def put_alias(self, kind: str, keys: Sequence[AliasKey], subject: SubjectKey) -> bool:
        """Give an alias, by the first of its keys, to a subject; whether it is new. Raises Conflict for another's."""
        await self._connection.execute(SQL["lock_names"], _ALIASES, list(keys))
        held = await self._connection.fetch(SQL["find_holders"], kind, list(keys))
        if any(row["subject_key"] != subject for row in held):
            raise Conflict("the alias belongs to another subject")
        if not held:
            await self._connection.execute(SQL["add_alias"], kind, keys[0], subject)
        elif all(row["alias_key"] != keys[0] for row in held):
            await self._connection.execute(SQL["rename_alias"], kind, held[0]["alias_key"], keys[0], subject)
        return not held

    async def delete_alias(self, kind: str, alias: AliasKey, subject: SubjectKey) -> None:
        """Afterwards the alias is not this subject's, whether or not it was."""
        await self._connection.execute(SQL["delete_alias"], kind, alias, subject)

    async def rename_alias(self, kind: str, old: AliasKey, new: AliasKey, subject: SubjectKey) -> None:
        """Name an alias of a subject by its key under another pepper, if it still is the subject's.

        Raises Conflict where another subject holds it by the new key.
        """
        await self._connection.execute(SQL["lock_names"], _ALIASES, [old, new])
        rows = await self._connection.fetch(SQL["find_holders"], kind, [old, new])
        held = {row["alias_key"]: row["subject_key"] for row in rows}
        if held.get(old) != subject or held.get(new) == subject:
            return
        if new in held:
            raise Conflict("the alias belongs to another subject")
        await self._connection.execute(SQL["rename_alias"], kind, old, new, subject)


class ReportTransaction:
    """What a reconciliation reads and writes."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def topology_version(self) -> Version | None:
        return await find_version(self._connection)

    async def topology(self) -> TopologyDocument | None:
        return await find_topology(self._connection)

    async def state(self) -> ReconciliationDocument:
        row = await self._connection.fetchrow(SQL["find_reconciliation"])
        assert row is not None
        announced = [found["version"] for found in await self._connection.fetch(SQL["find_peppers"])]
        forgotten = [found["version"] for found in await self._connection.fetch(SQL["find_forgotten"])]
        if row["age"] is None:
            return ReconciliationDocument(
                generation=row["generation"], reconciling=False, announced=announced, forgotten=forgotten
            )
        return ReconciliationDocument(
            generation=row["generation"],
            reconciling=True,
            wait_seconds=wait_seconds(row["age"]),
            revision=row["revision"],
            wanted_revision=row["wanted_revision"],
            announced=announced,
            forgotten=forgotten,
            cells=[_report(row) for row in await self._connection.fetch(SQL["find_reports"])],
        )

    async def report(self, jurisdiction: str, cell: str) -> CellReport | None:
        """Kept for this transaction alone: pages of one cell come one after the other."""
        await self._connection.execute(SQL["lock_clock"])
        found = [_report(row) for row in await self._connection.fetch(SQL["find_reports"])]
        return next((each for each in found if (each.jurisdiction, each.cell) == (jurisdiction, cell)), None)

    async def merge(self, before: CellReport, report: FencesReport) -> CellReport:
        """Bring back what the page of a cell holds; how far the cell has come then."""
        place = (before.jurisdiction, before.cell)
        told = [(fence.subject_key, fence.epoch, fence.state) for fence in report.fences]
        # who was given another key may have a pin by the one before: its tombstone, as when that was done
        told += [
            (f.previous_key, f.epoch + RENAMED_STEP, "retired") for f in report.fences if f.previous_key is not None
        ]
        fences = [list(column) for column in zip(*told, strict=True)] or [[], [], []]
        superseded = await self._connection.fetchval(SQL["count_superseded"], *fences, *place)
        await self._connection.execute(SQL["merge_fences"], *fences, *place)
        await self._connection.execute(SQL["release_erased"], fences[0])
        contradictions = await self._connection.fetchval(SQL["count_contradictions"], *fences, *place)
        aliases = [
            (kind, alias, fence.subject_key) for fence in report.fences for kind, alias in fence.alias_keys.items()
        ]
        columns = [list(column) for column in zip(*aliases, strict=True)] or [[], [], []]
        await self._connection.execute(SQL["merge_aliases"], *columns, *place)
        after = before.model_copy(
            update={
                "last_key": report.fences[-1].subject_key if report.fences else before.last_key,
                "fences": before.fences + len(report.fences),
                "contradictions": before.contradictions + contradictions,
                "superseded": before.superseded + superseded,
                "done": report.last,
            }
        )
        kept = (after.last_key or b"", after.fences, after.contradictions, after.superseded, after.done)
        await self._connection.execute(SQL["keep_report"], *place, *kept)
        return after

    async def end(self) -> None:
        await self._connection.execute(SQL["end_reconciliation"])


def _report(row: asyncpg.Record) -> CellReport:
    return CellReport(**(dict(row) | {"last_key": row["last_key"] or None}))
