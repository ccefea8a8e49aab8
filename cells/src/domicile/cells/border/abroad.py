"""The receiving side: a release is looked at anew, all of it, before any of it is a row here.

Nothing is believed of the sender but what its jurisdiction's authority stands behind: the signature is checked, each
page against its signed digest, every value by this side's own detector before the page is kept, and at the end counts,
k and l over all rows. Then the ledger has the line, and the rows are there at once. What fails leaves nothing.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final, NoReturn

from domicile.cells.border.crossing import passing, refusal
from domicile.cells.border.gate import Examination, check_shape
from domicile.cells.border.signing import sign, verify
from domicile.cells.border.wire import (
    Arrival,
    ArrivedRelease,
    Receipt,
    ReleasedRows,
    ReleaseManifest,
    SignedManifest,
)
from domicile.identity import Credentials
from domicile.model.access import Identity
from domicile.model.crossings import CrossingLog
from domicile.model.errors import Conflict, DomicileError, Forbidden, InvalidInput, NotFound, TokenInvalid
from domicile.model.manifest import Manifest
from domicile.sdk.store import ArrivalStore, KeptArrival
from domicile.telemetry import BORDER, log, warn

READ_ROWS: Final = 1_000
_CLOCKS: Final = 300.0
"""Seconds by which the other side's clock may be ahead of this one."""


class AbroadBorder:
    """Arrivals at one cell. The detector knows the telephone numbers of the sender's countries, by ``topology``."""

    def __init__(
        self,
        credentials: Credentials,
        store: ArrivalStore,
        ledger: CrossingLog,
        topology: Callable[[], Awaitable[Manifest]],
    ) -> None:
        self._credentials = credentials
        self._own = credentials.identity
        self._store = store
        self._ledger = ledger
        self._topology = topology

    async def offer(self, identifier: str, given: SignedManifest, peer: Identity) -> Arrival:
        """A manifest; what of its pages is missing here. Raises TokenInvalid, Forbidden, Conflict."""
        try:
            said = self._believed(identifier, given, peer)
            check_shape(said)
            kept = await self._store.offer(_kept(identifier, said, given))
        except (TokenInvalid, Forbidden, InvalidInput, Conflict) as error:
            await self._refused(peer, identifier, error)
        return await self._arrival(kept, said)

    def _believed(self, identifier: str, given: SignedManifest, peer: Identity) -> ReleaseManifest:
        if given.id != identifier:
            raise Forbidden("a manifest of another name", where="release")
        if peer.jurisdiction == self._own.jurisdiction:
            raise Forbidden("a release that crosses no border", where="release")
        now = time.time()
        said, who = verify(given, ReleaseManifest, self._credentials.authorities, peer.jurisdiction, at=now)
        wanted = (self._own.deployment, self._own.jurisdiction, self._own.cell)
        if (said.deployment, said.destination, said.to_cell) != wanted or who.deployment != self._own.deployment:
            raise Forbidden("a release for somewhere else", where="release")
        if (said.source, said.cell) != (peer.jurisdiction, peer.cell) or who.cell != peer.cell:
            raise Forbidden("a release of another cell than its sender's", where="release")
        if said.made_at > now + _CLOCKS:
            raise Forbidden("a release from the future", where="release", remedy="compare the clocks")
        return said

    async def page(self, identifier: str, number: int, body: str, peer: Identity) -> Arrival:
        """One page, looked at before it is kept. Raises Forbidden, InvalidInput: then the whole release is refused."""
        kept, said = await self._offered(identifier, peer)
        if kept.state == "offered":
            try:
                await asyncio.to_thread((await self._examination(said)).page, number, body)
            except (Forbidden, InvalidInput) as error:
                await self._refused(peer, identifier, error, kept)
            await self._store.put_page(identifier, number, body)
        return Arrival.model_validate({"id": identifier, "state": kept.state})

    async def accept(self, identifier: str, peer: Identity) -> Arrival:
        """All of it, or Conflict while pages are missing. Asked again, it answers the same receipt."""
        kept, said = await self._offered(identifier, peer)
        if kept.state == "offered":
            there = await self._arrival(kept, said)
            if there.missing:
                raise Conflict("pages are missing", where="release", remedy="send them")
            bodies = await self._store.bodies(identifier)
            try:
                rows = await asyncio.to_thread(_examined, await self._examination(said), said, bodies)
            except (Forbidden, InvalidInput) as error:
                await self._refused(peer, identifier, error, kept)
            size = sum(map(len, bodies))
            await self._ledger.append_once(passing(said, identifier, size, peer))
            await self._store.accept(identifier, self._receipt(identifier, said), rows)
            BORDER.labels(peer.jurisdiction, self._own.jurisdiction, "release", "allowed").inc()
            log("release-arrived", count=said.rows, from_jurisdiction=peer.jurisdiction)
            kept, said = await self._offered(identifier, peer)
        return await self._arrival(kept, said)

    async def _examination(self, said: ReleaseManifest) -> Examination:
        """Raises Forbidden for a release of no jurisdiction that this side knows, Unavailable."""
        source = (await self._topology()).jurisdictions.get(said.source)
        if source is None:
            raise Forbidden("a release of an unknown jurisdiction", where="release")
        return Examination(said, source.countries)

    def _receipt(self, identifier: str, said: ReleaseManifest) -> str:
        assert self._own.cell is not None
        receipt = Receipt(
            accepted=identifier,
            digest=said.digest,
            rows=said.rows,
            deployment=self._own.deployment,
            jurisdiction=self._own.jurisdiction,
            cell=self._own.cell,
        )
        return sign(receipt.model_dump_json(), self._credentials, receipt=True).model_dump_json()

    async def _offered(self, identifier: str, peer: Identity) -> tuple[KeptArrival, ReleaseManifest]:
        """Raises NotFound for what this peer's cell has not offered."""
        kept = await self._store.arrival(identifier)
        if kept is None or (kept.source, kept.cell) != (peer.jurisdiction, peer.cell):
            raise NotFound("no such release was offered", where="release")
        return kept, ReleaseManifest.model_validate_json(kept.manifest)

    async def _arrival(self, kept: KeptArrival, said: ReleaseManifest) -> Arrival:
        if kept.state == "accepted":
            receipt = SignedManifest.model_validate_json(kept.receipt or "")
            return Arrival(id=kept.id, state="accepted", receipt=receipt)
        there = await self._store.pages(kept.id)
        return Arrival(id=kept.id, state="offered", missing=[n for n in range(len(said.pages)) if n not in there])

    async def _refused(
        self, peer: Identity, identifier: str, error: DomicileError, kept: KeptArrival | None = None
    ) -> NoReturn:
        """On the ledger; and what came of it so far is gone."""
        BORDER.labels(peer.jurisdiction, self._own.jurisdiction, "release", "refused").inc()
        warn("arrival-refused", code=error.code, from_jurisdiction=peer.jurisdiction)
        if kept is not None:
            await self._store.refuse(kept.id)
        line = refusal(peer.jurisdiction, self._own.jurisdiction, identifier, "", error, peer)
        await self._ledger.append(line)
        raise error

    # -- what operators here ask -------------------------------------------------------------------------

    async def arrived(self) -> list[ArrivedRelease]:
        found = []
        for kept in await self._store.arrivals():
            said = ReleaseManifest.model_validate_json(kept.manifest)
            found.append(
                ArrivedRelease(
                    id=kept.id,
                    source=kept.source,
                    cell=kept.cell,
                    name=kept.name,
                    revision=kept.revision,
                    rows=said.rows,
                    k=said.k,
                    state=kept.state,
                )
            )
        return found

    async def rows(self, identifier: str, after: int) -> ReleasedRows:
        """Rows of a release that was accepted, behind the one of number ``after``. Raises NotFound."""
        kept = await self._store.arrival(identifier)
        if kept is None or kept.state != "accepted":
            raise NotFound("no such release was accepted", where="release", remedy="see `domicile release list`")
        said = ReleaseManifest.model_validate_json(kept.manifest)
        names = [column.name for column in said.columns]
        found = await self._store.rows(identifier, after, READ_ROWS)
        rows = [[json.loads(text).get(name) for name in names] for _, text in found]
        return ReleasedRows(columns=names, rows=rows, after=found[-1][0] if found else after)


def _kept(identifier: str, said: ReleaseManifest, given: SignedManifest) -> KeptArrival:
    return KeptArrival(
        id=identifier,
        source=said.source,
        cell=said.cell,
        name=said.name,
        revision=said.revision,
        state="offered",
        manifest=given.text,
        certificate=given.certificate,
        signature=given.signature,
        receipt=None,
    )


def _examined(examination: Examination, said: ReleaseManifest, bodies: list[str]) -> list[str]:
    """The rows as JSON objects. Everything is looked at again: what lay here may have been touched."""
    rows: list[list[Any]] = []
    for number, body in enumerate(bodies):
        rows += examination.page(number, body)
    examination.finish(rows)
    names = [column.name for column in said.columns]
    return [json.dumps(dict(zip(names, row, strict=True))) for row in rows]
