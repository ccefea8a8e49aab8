"""The record API: put, get, find and delete of a subject's records at home, for applications in any language.

It is for applications of this cell alone, by certificate, and off unless the gateway is told to serve it: with it
the process holds data keys and logs in as ``domicile_app``, for which the abroad reads have no use and no way. The
locks are the SDK's, since it is the SDK that writes: the label is compared, the fence held, the row checked. A
subject's fence is opened at ``/.domicile/v1/fences`` first. Personal values are in bodies, never in a path, a
query string or a problem document. What is refused is counted at the border and logged, without a name of anybody.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Final, TypeAlias
from uuid import UUID

from aiohttp import web

from domicile.cells.gateway.classes import record_class
from domicile.model import (
    Conflict,
    DomicileError,
    Endpoint,
    FenceRefused,
    InvalidInput,
    NotFound,
    SubjectKey,
    Unavailable,
    UnsupportedQuery,
)
from domicile.model.wire import (
    EPOCH_HEADER,
    RecordDocument,
    RecordPage,
    RecordQuery,
    RecordVersion,
    RecordWrite,
)
from domicile.sdk import Home, Record
from domicile.sdk.home import Vault
from domicile.sdk.store import FenceStore
from domicile.sdk.tables import KINDS
from domicile.service import PEER, Operation, Service, json_response, read_body
from domicile.telemetry import BORDER, warn

TABLE_PATH: Final = "/.domicile/v1/records/{subject_key}/{table}"
RECORD_PATH: Final = TABLE_PATH + "/{id}"
Handler: TypeAlias = Callable[[web.Request], Awaitable[web.Response]]
_ANSWERS: Final = (NotFound, Conflict, Unavailable)
"""What a caller is told of rows and of the moment, and no refusal."""
_REFUSES: Final = (NotFound, FenceRefused)
PUT: Final = Operation(
    "Store a record of a subject at home, or replace it",
    {200: RecordVersion},
    body=RecordWrite,
    refuses=(*_REFUSES, Conflict),
)
GET: Final = Operation("A record with its personal fields", {200: RecordDocument}, refuses=(*_REFUSES, Conflict))
DELETE: Final = Operation("Delete a record", {204: None}, refuses=(*_REFUSES, Conflict))
FIND: Final = Operation(
    "A page of a subject's records that equal every condition",
    {200: RecordPage},
    body=RecordQuery,
    refuses=_REFUSES,
)


def _document(record: Record) -> RecordDocument:
    fields = json.loads(record.model_dump_json(exclude=set(record.destroyed)))
    own = {name: fields.pop(name) for name in ("jurisdiction", "id")}
    return RecordDocument(**own, version=record.version, fields=fields, destroyed=sorted(record.destroyed) or None)


class RecordsApi:
    """Handlers of one cell. ``fences`` are read as the gateway's own role, rows as the application's."""

    def __init__(self, vault: Vault, fences: FenceStore) -> None:
        self._vault = vault
        self._fences = fences

    def routes(self, service: Service) -> None:
        service.route("POST", f"{TABLE_PATH}/find", Endpoint.RECORDS, self._told("record-find", self.find), FIND)
        service.route("PUT", RECORD_PATH, Endpoint.RECORDS, self._told("record-put", self.put), PUT)
        service.route("GET", RECORD_PATH, Endpoint.RECORDS, self._told("record-get", self.get), GET)
        service.route("DELETE", RECORD_PATH, Endpoint.RECORDS, self._told("record-delete", self.delete), DELETE)

    def _told(self, kind: str, handler: Handler) -> Handler:
        """``handler``, with its refusals on the record."""

        async def answered(request: web.Request) -> web.Response:
            try:
                return await handler(request)
            except _ANSWERS:
                raise
            except DomicileError as error:
                peer = request[PEER].jurisdiction
                BORDER.labels(peer, self._vault.jurisdiction, kind, "refused").inc()
                warn("record-refused", kind=kind, code=error.code, from_jurisdiction=peer)
                raise

        return answered

    async def _home(self, request: web.Request) -> Home:
        """The subject's home at the epoch that the caller names, else at the fence's own. Raises FenceRefused."""
        fence = await self._fences.fence(SubjectKey.parse(request.match_info["subject_key"]))
        wanted = request.headers.get(EPOCH_HEADER)
        if fence is None or fence.state != "open" or wanted not in (None, str(fence.epoch)):
            raise FenceRefused("this cell does not hold the subject open at this epoch", remedy="open its fence")
        return Home(self._vault, fence)

    async def _kind(self, request: web.Request) -> type[Record]:
        table = request.match_info["table"]
        return record_class(table, await self._fences.columns(table))

    @staticmethod
    def _id(request: web.Request) -> UUID:
        try:
            return UUID(request.match_info["id"])
        except ValueError:
            raise InvalidInput("an id is a UUID") from None

    async def put(self, request: web.Request) -> web.Response:
        row, home, kind = self._id(request), await self._home(request), await self._kind(request)
        body = await read_body(request, RecordWrite)
        if reserved := {"id", "jurisdiction"} & body.fields.keys():
            raise InvalidInput(f"{', '.join(sorted(reserved))} has a place of its own, not among the fields")
        whole = {**body.fields, "id": str(row), "jurisdiction": body.jurisdiction}
        record = kind.model_validate_json(json.dumps(whole))
        version = await home.put(record, version=body.version)
        return json_response(RecordVersion(id=row, version=version), Cache_Control="no-store")

    async def get(self, request: web.Request) -> web.Response:
        row, home, kind = self._id(request), await self._home(request), await self._kind(request)
        record = await home.get(kind, row)
        if record is None:
            raise NotFound("no such record")
        return json_response(_document(record), Cache_Control="no-store")

    async def delete(self, request: web.Request) -> web.Response:
        row, home, kind = self._id(request), await self._home(request), await self._kind(request)
        if not await home.delete(kind, row):
            raise NotFound("no such record")
        return web.Response(status=204, headers={"Cache-Control": "no-store"})

    async def find(self, request: web.Request) -> web.Response:
        home, kind = await self._home(request), await self._kind(request)
        body = await read_body(request, RecordQuery)
        table = kind.domicile_table
        kinds = {name: column.kind for name, column in table.by_name.items()}
        if table.about is not None:
            kinds[table.about.name] = KINDS[UUID]
        if not body.conditions.keys() <= kinds.keys():
            raise UnsupportedQuery("no such field to find by")
        if None in body.conditions.values():
            raise UnsupportedQuery("null is not a value to find")
        conditions = {name: kinds[name].load(json.dumps(value).encode()) for name, value in body.conditions.items()}
        page = await home.page(kind, conditions, size=body.size, order_by=body.order_by, after=body.after)
        found = RecordPage(records=[_document(record) for record in page.records], next=page.next)
        return json_response(found, Cache_Control="no-store")
