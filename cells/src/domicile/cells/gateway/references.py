"""Tables that belong to no subject, between cells: served where the manifest says that they are written, else pulled.

Every gateway asks at a steady beat, so that a cell that was away needs nobody to remember it. What it has stays what
is read until the next version is whole: a writer that is down makes it older, and the metrics and ``states`` say by how
much, but takes nothing away. Two gateways of one cell pull beside each other and keep each page once.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

from aiohttp import web

from domicile.cells.gateway.border import Border
from domicile.model import Conflict, DomicileError, Endpoint, Identity, InvalidInput, Manifest, NotFound, Unavailable
from domicile.model.crossings import CrossingKind
from domicile.model.wire import ReferencePage, ReferenceState, ReferenceStates
from domicile.sdk.store import ReferenceStore
from domicile.service import Operation, Service, json_response, repeated
from domicile.telemetry import REFERENCE_AGE, REFERENCE_BEHIND, REFERENCE_VERSION, log, warn

REFERENCES_PATH: Final = "/.domicile/v1/references"
BEAT_SECONDS: Final = 15.0
_NUMBER: Final = re.compile(r"[0-9]{1,18}", re.ASCII)
_DESCRIBED: Final = {"type": "string", "pattern": f"^{_NUMBER.pattern}$"}
PULL: Final = Operation(
    "Rows of a table without a subject that this cell writes, behind the first `after`; none of the version `known`",
    {200: ReferencePage},
    query={"known": _DESCRIBED, "after": _DESCRIBED},
    refuses=(NotFound,),
)
STATES: Final = Operation(
    "What this cell has of each table without a subject, and how old it is", {200: ReferenceStates}
)


def _number(request: web.Request, name: str) -> int | None:
    text = request.query.get(name)
    if text is not None and not _NUMBER.fullmatch(text):
        raise InvalidInput(f"{name} is a whole number")
    return None if text is None else int(text)


class ReferencesApi:
    """Who only hears that he has the last version got nothing, and is in no ledger."""

    def __init__(self, cell: Identity, store: ReferenceStore, border: Border) -> None:
        self._cell = cell.cell or ""
        self._store = store
        self._border = border

    def routes(self, service: Service) -> None:
        service.route("GET", REFERENCES_PATH, Endpoint.REFERENCES_READ, self.states, STATES)
        service.route("GET", f"{REFERENCES_PATH}/{{table}}", Endpoint.REFERENCES_PULL, self.pull, PULL)

    async def states(self, _: web.Request) -> web.Response:
        answer = ReferenceStates(cell=self._cell, tables=await self._store.states())
        return json_response(answer, Cache_Control="no-store")

    async def pull(self, request: web.Request) -> web.Response:
        table = request.match_info["table"]
        try:
            page = await self._store.page(self._cell, table, _number(request, "known"), _number(request, "after") or 0)
        except Unavailable:
            raise
        except DomicileError as error:
            await self._border.refuses(request, CrossingKind.REFERENCE_PULL, error)
            raise
        response = json_response(page, Cache_Control="no-store")
        if page.rows:
            await self._border.passes(request, CrossingKind.REFERENCE_PULL, {"rows": len(page.rows)}, response)
        return response


class Source(Protocol):
    """The gateways of the cell that writes a table. Raises DomicileError."""

    async def references(self, table: str, *, known: int | None = None, after: int = 0) -> ReferencePage: ...


class Puller:
    """``run`` never ends by itself. ``topology`` gives the manifest in force; ``source``, a cell's gateways by it."""

    def __init__(
        self,
        cell: Identity,
        store: ReferenceStore,
        topology: Callable[[], Awaitable[Manifest]],
        source: Callable[[Manifest, str], Source],
        *,
        beat: float = BEAT_SECONDS,
    ) -> None:
        self._cell = cell
        self._store = store
        self._topology = topology
        self._source = source
        self._beat = beat

    async def run(self) -> None:
        await repeated(self.pull_all, self._beat, "references-not-pulled")

    async def pull_all(self) -> None:
        """Once through all tables that another cell writes. Raises what the first one met that could not be pulled."""
        manifest = await self._topology()
        sources = manifest.references or {}
        await self._store.name_sources(sources)
        before = {state.table: state for state in await self._store.states()}
        failures: list[DomicileError] = []
        for table, cell in sources.items():
            if cell == self._cell.cell:
                continue
            try:
                await self._pull(table, before[table], self._source(manifest, cell))
            except DomicileError as error:
                failures.append(error)
        self._show(await self._store.states())
        if failures:
            raise failures[0]

    @staticmethod
    def _show(states: list[ReferenceState]) -> None:
        for state in states:
            REFERENCE_VERSION.labels(state.table).set(state.version or 0)
            REFERENCE_BEHIND.labels(state.table).set((state.seen or 0) > (state.version or 0))
            if state.age is not None:
                REFERENCE_AGE.labels(state.table).set(state.age)

    async def _pull(self, table: str, before: ReferenceState, source: Source) -> None:
        """Where it is interrupted, the next call goes on behind the pages that have come."""
        known = before.version if before.origin == before.source else None
        page = await source.references(table, known=known)
        if page.cell != before.source:
            raise Conflict("another cell answers than the one that writes the table", where=table)
        await self._store.heard(table, page)
        if page.version == known:
            return
        try:
            if await self._fetch(table, page, source):
                log("reference-pulled", table=table, count=page.total, cell=page.cell)
        except (Conflict, InvalidInput):
            await self._store.give_up(table)
            raise

    async def _fetch(self, table: str, page: ReferencePage, source: Source) -> bool:
        """Whether it is put in place by this call. What the writer has changed meanwhile
        is for the next beat."""
        version = page.version
        here, total = await self._store.begin(table, page)
        if here is None:
            warn("reference-writer-behind", table=table, cell=page.cell)
            return False
        if here:  # pages of before are kept
            page = await source.references(table, after=here)
        while here < total and page.version == version:
            if not page.rows:
                raise Conflict("fewer rows than were said", where=table)
            here, _ = await self._store.keep(table, page, here)
            if here is None:
                return False
            if here < total:
                page = await source.references(table, after=here)
        return here == total and await self._store.take(table, version)
