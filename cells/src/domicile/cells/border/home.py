"""The home cell's side of a release: read, pass the gate, sign, keep, and only then send.

Every step is one that may be the last, and whoever runs next goes on from what is in the database:

1. ``building``: rows are read in one snapshot and pass the gate. Nothing of it is anywhere until
2. ``ready``: the signed manifest, its pages and the classes of its subjects are kept, in one transaction;
3. ``sending``: the ledger has the line, once however often this is begun. Pages that the other side lacks are sent;
   each is the same to the byte;
4. ``accepted``: the other side's signed receipt is kept, and the pages are not any longer.

Two that run at once are harmless: the first to keep a manifest wins, and a page that is sent twice is one page. A
release that the gate refused, or the other side, is on the ledger as a refusal.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from domicile.cells.border import pages
from domicile.cells.border.anonymity import Row
from domicile.cells.border.crossing import ended, passing, refusal
from domicile.cells.border.declaration import Declaration, Drop, parse_declaration
from domicile.cells.border.gate import Passed, Treating, passed
from domicile.cells.border.lineage import PEOPLE
from domicile.cells.border.plan import Plan, plan
from domicile.cells.border.signing import sign, verify
from domicile.cells.border.wire import (
    MAX_PAGES,
    Arrival,
    CheckedDeclaration,
    Page,
    Receipt,
    ReleaseManifest,
    ReleaseStatus,
    SignedManifest,
    whole,
)
from domicile.client import KeyClient, Peer
from domicile.identity import Credentials
from domicile.model.access import Role
from domicile.model.crossings import CrossingLog
from domicile.model.errors import (
    Conflict,
    DomicileError,
    Forbidden,
    InvalidInput,
    KeyDestroyed,
    NotFound,
    TokenInvalid,
    Unavailable,
)
from domicile.model.fields import Destroyed
from domicile.model.manifest import Manifest
from domicile.sdk.codec import Codec
from domicile.sdk.recorded import record_class
from domicile.sdk.store import KeptDeclaration, KeptRelease, Reading, ReleaseStore
from domicile.telemetry import RELEASE_FAULTS, log, warn

MAX_ROWS: Final = 1_000_000
"""Of one release, since k is counted over all of them at once."""
MAX_PEOPLE: Final = 5_000_000
"""In all groups of one release, each as often as it is in one."""
SEND_SECONDS: Final = 30.0
BEAT_SECONDS: Final = 5.0
REFUSALS: Final = (Forbidden, InvalidInput, Conflict, TokenInvalid, NotFound)
"""What trying again does not mend."""


@dataclass(slots=True)
class _Progress:
    done: int = 0


class HomeBorder:
    """Releases of one cell. ``keys``: its client of the key service; ``topology``: the manifest in force."""

    def __init__(
        self,
        credentials: Credentials,
        store: ReleaseStore,
        ledger: CrossingLog,
        keys: Callable[[], Awaitable[KeyClient]],
        topology: Callable[[], Awaitable[Manifest]],
    ) -> None:
        self._credentials = credentials
        self._own = credentials.identity
        self._store = store
        self._ledger = ledger
        self._keys = keys
        self._topology = topology
        self._reading: dict[tuple[str, int], _Progress] = {}
        self._asked = asyncio.Event()

    # -- what operators ask ------------------------------------------------------------------------------

    async def check(self, text: str) -> CheckedDeclaration:
        """What a declaration would release. Raises InvalidInput for one that is refused."""
        return _checked(await self._new(text))

    async def declare(self, text: str, by: str) -> CheckedDeclaration:
        """Keep a declaration; the last of its name is in force. Raises InvalidInput, and then keeps nothing."""
        made = await self._new(text)
        await self._store.declare(made.declaration.name, made.declaration.digest, text, by)
        log("release-declared", count=len(made.columns))
        return _checked(made)

    async def _new(self, text: str) -> Plan:
        made = await self._plan(parse_declaration(text))
        await self._keeps_lineage(made.declaration.name, made.declaration.family)
        return made

    async def _keeps_lineage(self, name: str, family: str) -> None:
        """What left under a name is what its next release is held against: changing one word does not end that."""
        before = await self._store.other_lineage(name, family)
        if before is not None:
            raise InvalidInput(
                f"{name} was released in the lineage {before} before",
                where="lineage",
                remedy="a name keeps its lineage",
            )

    async def declared(self) -> list[CheckedDeclaration]:
        """Those in force; one that no longer fits what is recorded shows without columns."""
        found = []
        for each in await self._store.declarations():
            said = parse_declaration(each.text)
            try:
                found.append(_checked(await self._plan(said)))
            except InvalidInput:
                found.append(_unfit(said))
        return found

    async def run(self, name: str, revision: int | None, by: str) -> ReleaseStatus:
        """Begin a release, or answer how far it is: one name and revision are one release.

        Without a revision it is the one under way, else the next. Raises NotFound for no declaration.
        """
        kept = await self._declaration(name)
        if revision is None:
            last = await self._store.last_revision(name)
            there = await self._store.release(name, last) if last else None
            over = there is None or there.state in ("accepted", "refused")
            revision = last + 1 if over else last
        await self._store.begin(kept, revision, parse_declaration(kept.text).family, by)
        self._asked.set()
        return await self.status(name, revision)

    async def status(self, name: str, revision: int) -> ReleaseStatus:
        """Raises NotFound for no such release."""
        release = await self._store.release(name, revision)
        if release is None:
            raise NotFound("no such release", where=f"{name} {revision}", remedy="see `domicile release list`")
        return self._status(release)

    async def made(self) -> list[ReleaseStatus]:
        return [self._status(each) for each in await self._store.releases()]

    def _status(self, release: KeptRelease) -> ReleaseStatus:
        to = parse_declaration(release.text).to
        found = ReleaseStatus.model_validate(
            {
                "name": release.name,
                "revision": release.revision,
                "state": release.state,
                "to": f"{to.jurisdiction}/{to.cell}",
                "reason": release.reason,
            }
        )
        if release.manifest is None:
            progress = self._reading.get((release.name, release.revision), _Progress())
            return found.model_copy(update={"done": progress.done})
        said = ReleaseManifest.model_validate_json(release.manifest)
        sent = len(said.pages) if release.state == "accepted" else release.pages_sent
        return found.model_copy(
            update={
                "id": _signed(release).id,
                "done": sent,
                "of": len(said.pages),
                "rows": said.rows,
                "suppressed": said.suppressed,
                "k": said.k,
            }
        )

    async def _declaration(self, name: str) -> KeptDeclaration:
        kept = await self._store.declaration(name)
        if kept is None:
            raise NotFound("no such declaration", where=name, remedy="declare it: `domicile release declare FILE`")
        return kept

    async def _plan(self, said: Declaration) -> Plan:
        topology = await self._topology()
        cell = topology.cells.get(said.to.cell)
        if cell is None or cell.jurisdiction != said.to.jurisdiction:
            what = f"no cell {said.to.cell} of {said.to.jurisdiction}"
            raise InvalidInput(what, where="to", remedy="see the manifest")
        classes = await self._store.classes()
        # a statement may be long, and others are waiting
        return await asyncio.to_thread(plan, said, classes, self._own.jurisdiction)

    # -- what goes on by itself --------------------------------------------------------------------------

    async def work(self) -> None:
        """Without end: what is under way, as soon as it is asked for, or at the next beat."""
        while True:
            self._asked.clear()
            try:
                await self.go_on()
            except DomicileError as error:
                warn("releases-not-run", code=error.code)
            except Exception as error:
                _unforeseen(error)
            with suppress(TimeoutError):
                async with asyncio.timeout(BEAT_SECONDS):
                    await self._asked.wait()

    async def go_on(self) -> None:
        """Every release that is under way, as far as it goes now. Raises the last DomicileError that may pass."""
        failed: DomicileError | None = None
        for name, revision in await self._store.under_way():
            try:
                await self.advance(name, revision)
            except DomicileError as error:  # the others may have more luck
                failed = error
            except Exception as error:
                _unforeseen(error)
        if failed is not None:
            raise failed

    async def advance(self, name: str, revision: int) -> None:
        """One release to its end. Raises Unavailable where it has to wait; refusals end it, on the ledger."""
        while (release := await self._store.release(name, revision)) is not None:
            step = {"building": self._build, "ready": self._let_out, "sending": self._send}.get(release.state)
            if step is None:
                return
            try:
                await step(release)
            except REFUSALS as error:
                await self._refuse(release, error)
            finally:
                self._reading.pop((name, revision), None)

    async def _refuse(self, release: KeptRelease, error: DomicileError) -> None:
        said = parse_declaration(release.text)
        where = f"{self._own.cell}/{release.name}/{release.revision}"
        home, there = self._own.jurisdiction, said.to.jurisdiction
        await self._ledger.append_once(refusal(home, there, where, said.purpose, error, self._own, ended(where)))
        await self._store.change(release, "refused", f"{error.code}: {error}"[:500])
        warn("release-refused", code=error.code)

    async def _build(self, release: KeptRelease) -> None:
        made = await self._plan(parse_declaration(release.text))
        await self._keeps_lineage(release.name, release.lineage)
        keys = await self._keys()
        treating = Treating(made, (await keys.cell_index_key()).key)
        progress = self._reading[release.name, release.revision] = _Progress()
        rows = await self._read(made, treating, keys, progress)
        topology = await self._topology()
        countries = topology.jurisdictions[self._own.jurisdiction].countries
        earlier = await self._store.earlier(release.lineage)
        least = await self._store.declared_k(release.lineage)
        through = await asyncio.to_thread(passed, made, rows, list(earlier.values()), countries, together=least)
        if len(through.pages) > MAX_PAGES:
            raise Forbidden(f"more than {MAX_PAGES} pages", where="source", remedy="export fewer columns")
        signed = sign(self._manifest(made, release, through).model_dump_json(), self._credentials)
        parts = (signed.text, signed.certificate, signed.signature)
        with suppress(Conflict):  # of the lineage: another one was made meanwhile, and this one is held against it
            await self._store.make(release, list(earlier), parts, through.pages, through.members)

    async def _read(self, made: Plan, treating: Treating, keys: KeyClient, progress: _Progress) -> list[Row]:
        rows: list[Row] = []
        seen = 0

        def take(values: list[Any], people: list[UUID]) -> None:
            nonlocal seen
            seen += len(people)
            if len(rows) >= MAX_ROWS:
                raise Forbidden(f"more than {MAX_ROWS:,} rows", where="source", remedy="aggregate them")
            if seen > MAX_PEOPLE:
                raise Forbidden(f"groups of more than {MAX_PEOPLE:,} subjects", where="source", remedy="choose some")
            rows.append(treating.row(values, [person.bytes for person in people]))

        async with self._store.reading(f"release:{made.declaration.name}") as reading:
            if made.query is None:
                await self._records(reading, made, keys, take, progress)
            else:
                names = [column.name for column in made.columns]
                async for found in reading.rows(made.query.sql):
                    for row in found:
                        people = row[PEOPLE] if made.grouped else [row[PEOPLE]]
                        values = [row[name] for name in names]
                        take(values, [UUID(int=each.int) for each in people or ()])
                    progress.done += len(found)
        return rows

    async def _records(
        self,
        reading: Reading,
        made: Plan,
        keys: KeyClient,
        take: Callable[[list[Any], list[UUID]], None],
        progress: _Progress,
    ) -> None:
        """Sealed values are opened with keys that are asked for by the page; rows whose key is destroyed stay out."""
        kind = record_class(made.table, made.fields)
        names = [column.name for column in made.fields]
        sealed = any(column.sealed for column in made.fields)
        assert self._own.cell is not None
        async for found in reading.records(made.table, names):
            if sealed:
                whose = {(row.subject, row.row.principal or row.subject) for row in found}
                with suppress(NotFound, KeyDestroyed):  # it turns out row by row
                    await keys.data_keys(sorted(whose))
            for row in found:
                codec = Codec(keys, self._own.cell, self._own.jurisdiction, row.subject, across=True)
                record = await codec.record(kind, row.row)
                values = [getattr(record, name) for name in names]
                if not any(isinstance(value, Destroyed) for value in values):
                    take(values, [row.subject])
            progress.done += len(found)

    def _manifest(self, made: Plan, release: KeptRelease, through: Passed) -> ReleaseManifest:
        said = made.declaration
        digests = [pages.digest(page) for page in through.pages]
        assert self._own.cell is not None
        return ReleaseManifest(
            deployment=self._own.deployment,
            source=self._own.jurisdiction,
            cell=self._own.cell,
            destination=said.to.jurisdiction,
            to_cell=said.to.cell,
            name=said.name,
            lineage=release.lineage,
            revision=release.revision,
            declaration=said.digest,
            purpose=said.purpose,
            columns=list(made.columns),
            quasi=said.quasi_identifiers,
            sensitive=None if said.sensitive is None else said.sensitive.column,
            grouped=made.grouped,
            least=said.least,
            k=through.kept.k,
            l_declared=0 if said.sensitive is None else said.sensitive.l,
            l=through.kept.l,
            rows=len(through.kept.rows),
            suppressed=through.kept.suppressed,
            pages=digests,
            digest=whole(digests),
            made_at=int(time.time()),
        )

    async def _let_out(self, release: KeptRelease) -> None:
        """On the ledger before the first byte leaves."""
        said = ReleaseManifest.model_validate_json(release.manifest or "")
        size = 0
        for number in range(len(said.pages)):
            size += len(await self._page(release, number))
        await self._ledger.append_once(passing(said, _signed(release).id, size, self._own))
        await self._store.change(release, "sending")

    async def _page(self, release: KeptRelease, number: int) -> str:
        body = await self._store.page(release, number)
        if body is None:
            raise Unavailable("a page of the release is gone", where=release.name)
        return body

    async def _send(self, release: KeptRelease) -> None:
        said, signed = ReleaseManifest.model_validate_json(release.manifest or ""), _signed(release)
        topology = await self._topology()
        place = topology.cells.get(said.to_cell)
        if place is None or place.jurisdiction != said.destination:
            raise InvalidInput("the destination is no cell any more", where="to")
        peer = Peer(
            self._credentials,
            [zone.gateway for zone in place.zones.values()],
            jurisdiction=said.destination,
            role=Role.GATEWAY,
            cell=said.to_cell,
            networks=[zone.network for zone in place.zones.values()],
            deadline=SEND_SECONDS,
        )
        where = f"/.domicile/v1/arrivals/{signed.id}"
        async with peer:
            there = await peer.ask(Arrival, "PUT", where, body=signed)
            for number in sorted(there.missing) if there.state == "offered" else ():
                if not 0 <= number < len(said.pages):
                    raise Forbidden("the receiver asks for a page that is none", where=said.to_cell)
                page = Page(body=await self._page(release, number))
                await peer.ask(Arrival, "PUT", f"{where}/pages/{number}", body=page)
                await self._store.sent(release, number + 1)
            done = await peer.ask(Arrival, "POST", f"{where}/accept")
        if done.receipt is None:
            raise Forbidden("the receiver accepted without a receipt", where=said.to_cell)
        self._check_receipt(done.receipt, said, signed.id)
        await self._store.accepted(release, done.receipt.model_dump_json())
        log("release-accepted", count=said.rows, to_jurisdiction=said.destination)

    def _check_receipt(self, receipt: SignedManifest, said: ReleaseManifest, identifier: str) -> None:
        told, who = verify(
            receipt, Receipt, self._credentials.authorities, said.destination, at=time.time(), receipt=True
        )
        wanted = (identifier, said.digest, said.rows, said.deployment, said.destination, said.to_cell)
        given = (told.accepted, told.digest, told.rows, told.deployment, told.jurisdiction, told.cell)
        if given != wanted or (who.cell, who.deployment) != (said.to_cell, said.deployment):
            raise Forbidden("a receipt for something else", where=said.to_cell)


def _unforeseen(error: Exception) -> None:
    """Of one release; the others, and those to come, are not for it to hold up."""
    RELEASE_FAULTS.inc()
    warn("releases-not-run", error=type(error).__name__)


def _signed(release: KeptRelease) -> SignedManifest:
    return SignedManifest(
        text=release.manifest or "", certificate=release.certificate or "", signature=release.signature or ""
    )


def _checked(made: Plan) -> CheckedDeclaration:
    said = made.declaration
    return CheckedDeclaration(
        name=said.name,
        digest=said.digest,
        to=f"{said.to.jurisdiction}/{said.to.cell}",
        grouped=made.grouped,
        columns=list(made.columns),
        dropped=[name for name, treatment in said.columns.items() if isinstance(treatment, Drop)],
    )


def _unfit(said: Declaration) -> CheckedDeclaration:
    return CheckedDeclaration(
        name=said.name,
        digest=said.digest,
        to=f"{said.to.jurisdiction}/{said.to.cell}",
        grouped=False,
        columns=[],
        dropped=[],
    )
