"""A cell's gateway, as its application and applications abroad see it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final
from urllib.parse import quote, urlencode
from uuid import UUID

from domicile.client.http import Peer
from domicile.identity import Credentials
from domicile.model.access import Role
from domicile.model.crossings import PURPOSE_HEADER, as_code
from domicile.model.errors import InvalidInput
from domicile.model.ids import AliasKey, SubjectKey
from domicile.model.ledger_wire import CarriedReport, HeadAnswer, HeldAnswer, LinesAnswer, ReportTaken
from domicile.model.manifest import Manifest
from domicile.model.wire import (
    AbroadRows,
    ErasureResponse,
    FenceRequest,
    FenceResponse,
    PrincipalRequest,
    ReferencePage,
    RekeyRequest,
)

_LEDGER: Final = "/.domicile/v1/ledger"


class GatewayClient:
    """Calls to the gateways of one cell; connects nowhere else."""

    def __init__(self, credentials: Credentials, manifest: Manifest, cell: str) -> None:
        place = manifest.cells[cell]
        addresses: Sequence[str] = [zone.gateway for zone in place.zones.values()]
        self._peer = Peer(
            credentials,
            addresses,
            jurisdiction=place.jurisdiction,
            role=Role.GATEWAY,
            cell=cell,
            networks=[zone.network for zone in place.zones.values()],
        )

    async def close(self) -> None:
        await self._peer.close()

    async def open_fence(
        self, key: SubjectKey, alias_keys: dict[str, AliasKey], *, min_epoch: int | None = None
    ) -> FenceResponse:
        """Have the gateway answer the open fence, or fetch the grant and open it.

        ``min_epoch``: a fence that is open below this epoch is not enough, and the gateway asks the directory
        again; the answer may still be lower where the directory knows no higher one. Raises WrongCell,
        UnknownSubject, FenceRefused, Unavailable.
        """
        body = FenceRequest(alias_keys=alias_keys)
        query = "" if min_epoch is None else f"?min_epoch={min_epoch}"
        return await self._peer.ask(FenceResponse, "POST", f"/.domicile/v1/fences/{key}{query}", body=body)

    async def rekey(self, key: SubjectKey, body: RekeyRequest) -> FenceResponse:
        """Name a subject by its key under another pepper, in the cell first and then in the directory.

        Harmless to repeat. Raises UnknownSubject where the cell has no such fence.
        """
        return await self._peer.ask(FenceResponse, "POST", f"/.domicile/v1/fences/{key}/rekey", body=body)

    async def erase(self, key: SubjectKey, *, epoch: int | None = None) -> ErasureResponse:
        """Erase a subject at home in this cell, for good; repeating it gives the same receipt.

        ``epoch``: of the pin that is meant, or of its tombstone; whoever has come back above it is left alone. Raises
        UnknownSubject, WrongCell, Conflict for one that is being moved or is at another epoch. Raises Unavailable where
        it is not done: either nothing is begun, or the rest goes on by itself.
        """
        query = "" if epoch is None else f"?epoch={epoch}"
        return await self._peer.ask(ErasureResponse, "POST", f"/.domicile/v1/fences/{key}/erase{query}")

    async def shred(self, key: SubjectKey, principal: UUID) -> ErasureResponse:
        """Delete what is stored about one principal of a subject, and destroy its key. Raises as ``erase``."""
        body = PrincipalRequest(principal=principal)
        return await self._peer.ask(ErasureResponse, "POST", f"/.domicile/v1/fences/{key}/shred", body=body)

    async def abroad(self, key: SubjectKey, table: str, query: Mapping[str, str], purpose: str = "") -> AbroadRows:
        """Shareable columns of a subject's rows, as ``AbroadQuery`` spells what is asked; at most a page of them.

        ``purpose``: a code for the home's ledger, such as ``support:T-1042``. Raises InvalidInput for what is none.
        """
        if as_code(purpose) != purpose:
            raise InvalidInput("a purpose is a code without blanks", remedy="such as support:T-1042")
        path = f"/.domicile/v1/abroad/{key}/{quote(table, safe='')}" + (f"?{urlencode(query)}" if query else "")
        headers = {PURPOSE_HEADER: purpose} if purpose else {}
        return await self._peer.ask(AbroadRows, "GET", path, headers=headers)

    async def ledger_head(self, since: int = 0) -> HeadAnswer:
        """The head of the cell's ledger; with the proof that it grew from its first ``since`` lines."""
        return await self._peer.ask(HeadAnswer, "GET", f"{_LEDGER}/head?since={since}")

    async def ledger_lines(self, first: int, limit: int) -> LinesAnswer:
        """For an operator of the cell's jurisdiction. Raises Conflict for a ledger that is shorter."""
        return await self._peer.ask(LinesAnswer, "GET", f"{_LEDGER}/lines?first={first}&limit={limit}")

    async def ledger_since(self, moment: int, limit: int) -> LinesAnswer:
        """As ``ledger_lines``, from the first line of a moment (seconds since 1970) or later."""
        return await self._peer.ask(LinesAnswer, "GET", f"{_LEDGER}/lines?since={moment}&limit={limit}")

    async def ledger_held(self) -> HeldAnswer:
        """What this cell's gateway holds of other cells' ledgers."""
        return await self._peer.ask(HeldAnswer, "GET", f"{_LEDGER}/held")

    async def carried(self, report: CarriedReport) -> ReportTaken:
        """For a router of the jurisdiction. Who repeats a report has it entered again, under the same name."""
        return await self._peer.ask(ReportTaken, "POST", f"{_LEDGER}/carried", body=report)

    async def references(self, table: str, *, known: int | None = None, after: int = 0) -> ReferencePage:
        """Rows of a reference table that the cell writes, behind the first ``after``; no rows of the version ``known``.

        Raises NotFound for a table that it does not write.
        """
        query = urlencode({name: value for name, value in (("known", known), ("after", after)) if value})
        return await self._peer.ask(ReferencePage, "GET", f"/.domicile/v1/references/{quote(table, safe='')}?{query}")


class Gateways:
    """A client of each cell that was asked; another one where the manifest places it elsewhere by now."""

    def __init__(self, credentials: Credentials) -> None:
        self._credentials = credentials
        self._clients: dict[str, tuple[object, GatewayClient]] = {}
        self._left: list[GatewayClient] = []

    def of(self, manifest: Manifest, cell: str) -> GatewayClient:
        place = manifest.cells[cell]
        known = self._clients.get(cell)
        if known is not None and known[0] == place:
            return known[1]
        if known is not None:
            self._left.append(known[1])
        self._clients[cell] = (place, made := GatewayClient(self._credentials, manifest, cell))
        return made

    async def close(self) -> None:
        for client in (*self._left, *(client for _, client in self._clients.values())):
            await client.close()
