"""The record API: put, get, find, change and delete of a subject's records at home, for applications in any language.

It is for applications of this cell alone, by certificate, and off unless the gateway is told to serve it: with it
the process holds data keys and logs in as ``domicile_app``, for which the abroad reads have no use and no way. The
locks are the SDK's, since it is the SDK that writes: the label is compared, the fence held, the row checked. A
subject's fence is opened at ``/.domicile/v1/fences`` first. Personal values are in bodies, never in a path, a
query string or a problem document. What is refused is counted at the border and logged, without a name of anybody.
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any, Final, TypeAlias
from uuid import UUID

from aiohttp import web
from pydantic import BaseModel

from domicile.model import (
    Conflict,
    DomicileError,
    Endpoint,
    FenceRefused,
    InvalidInput,
    KeyDestroyed,
    NotFound,
    SubjectKey,
    Unavailable,
    UnsupportedQuery,
    WrongJurisdiction,
)
from domicile.model.wire import (
    EPOCH_HEADER,
    IDEMPOTENCY_HEADER,
    RecordChange,
    RecordDocument,
    RecordFields,
    RecordPage,
    RecordQuery,
    RecordsWrite,
    RecordVersion,
    RecordVersions,
    RecordWrite,
)
from domicile.sdk import Home, Range, Record
from domicile.sdk.home import Vault
from domicile.sdk.recorded import described, record_class
from domicile.sdk.store import FenceStore
from domicile.sdk.tables import KINDS, Kind
from domicile.service import PEER, Operation, Service, json_response, read_body
from domicile.telemetry import BORDER, warn

TABLE_PATH: Final = "/.domicile/v1/records/{subject_key}/{table}"
RECORD_PATH: Final = TABLE_PATH + "/{id}"
Handler: TypeAlias = Callable[[web.Request], Awaitable[web.Response]]
_ANSWERS: Final = (NotFound, Conflict, Unavailable)
"""What a caller is told of rows and of the moment, and no refusal."""
_REFUSES: Final = (NotFound, FenceRefused)
_VERSION: Final = re.compile(r"[1-9][0-9]{0,17}", re.ASCII)
_ONCE: Final = re.compile(r"[!-~]{1,256}", re.ASCII)
_SPELLED: Final[Mapping[type, str]] = {
    str: "a string",
    int: "a whole number, without a point or quotes",
    UUID: "a UUID, as a string",
    date: "a date, as a string: 2026-01-31",
    time: "a time of day, as a string: 12:30:00",
    bool: "true or false",
    float: "a number",
    bytes: "base64url, as a string (RFC 4648, section 5)",
    datetime: "a time with its zone, as a string: 2026-01-31T12:00:00Z",
    Decimal: "a decimal number, or a string that is one",
}
"""What a value of each type is in JSON."""
_SCHEMAS: Final = "#/components/schemas/"
_ONCE_HEADER: Final = {IDEMPOTENCY_HEADER: {"type": "string", "pattern": f"^{_ONCE.pattern}$"}}


def _write(summary: str, answer: type[BaseModel], body: type[BaseModel]) -> Operation:
    return Operation(
        summary, {200: answer}, body=body, headers=_ONCE_HEADER, refuses=(*_REFUSES, Conflict, KeyDestroyed)
    )


PUT: Final = _write("Store a record of a subject at home, or replace it", RecordVersion, RecordWrite)
PUT_MANY: Final = _write(
    "Store or replace up to 1,000 records of one table, all of them or none", RecordVersions, RecordsWrite
)
CHANGE: Final = _write("Change some fields of a record that is at a version", RecordVersion, RecordChange)
GET: Final = Operation("A record with its personal fields", {200: RecordDocument}, refuses=(*_REFUSES, Conflict))
DELETE: Final = Operation(
    "Delete a record, at any version or at the one that is named",
    {204: None},
    query={"version": {"type": "string", "pattern": f"^{_VERSION.pattern}$"}},
    refuses=(*_REFUSES, Conflict),
)
FIND: Final = Operation(
    "A page of a subject's records that equal every condition and lie in every range",
    {200: RecordPage},
    body=RecordQuery,
    refuses=_REFUSES,
)


def _document(record: Record) -> RecordDocument:
    fields = json.loads(record.model_dump_json(exclude=set(record.destroyed)))
    own = {name: fields.pop(name) for name in ("jurisdiction", "id")}
    return RecordDocument(**own, version=record.version, fields=fields, destroyed=sorted(record.destroyed) or None)


def _record(kind: type[Record], row: UUID, jurisdiction: str, fields: Mapping[str, Any]) -> Record:
    """Of a request. Raises InvalidInput for fields that are not the class's."""
    if reserved := {"id", "jurisdiction"} & fields.keys():
        raise InvalidInput(f"{', '.join(sorted(reserved))} has a place of its own, not among the fields")
    for name, column in kind.domicile_table.by_name.items():
        if fields.get(name) is not None:
            _given(name, column.kind, fields[name])
    return kind.model_validate_json(json.dumps({**fields, "id": str(row), "jurisdiction": jurisdiction}))


def _require_known(request: web.Request, operation: Operation) -> None:
    """Raise InvalidInput for a query parameter that is not described, or is given twice: it was meant to do something.

    Its name is not told, which might be a value.
    """
    known, given = operation.query, request.query
    if not known.keys() >= given.keys() or len(given) > len(set(given)):
        remedy = f"give {', '.join(sorted(known))} once" if known else "leave it out"
        raise InvalidInput("a query parameter that has no meaning here, or is given twice", remedy=remedy)


def _version(request: web.Request) -> int | None:
    given = request.query.get("version")
    if given is not None and not _VERSION.fullmatch(given):
        raise InvalidInput("a version is a number from 1, as a record was answered with")
    return None if given is None else int(given)


def _once(request: web.Request) -> str | None:
    """The key under which a request is carried out once, however often it comes."""
    given = request.headers.getall(IDEMPOTENCY_HEADER, [])
    if len(given) > 1 or not all(map(_ONCE.fullmatch, given)):
        raise InvalidInput(f"{IDEMPOTENCY_HEADER} is given once, with 1 to 256 printable ASCII characters, no spaces")
    return given[0] if given else None


def _given(name: str, kind: Kind, value: Any) -> Any:
    """A field's value, or a condition's, of its own type: ``true`` is no number, and a number is no text.

    Raises InvalidInput, since a value of another type would be taken for, or find, what nobody meant.
    """
    try:
        return kind.given(json.dumps(value).encode())
    except InvalidInput:
        spelled = kind.called if kind.base is not None else _SPELLED[kind.python]
        raise InvalidInput(f"{name} is {spelled}") from None


def _with_table(document: Mapping[str, Any], table: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    """A description in which the operations on records are spelled out for a table, too. Pure."""
    paths, schemas = dict(document["paths"]), {**document["components"]["schemas"], **fields}
    whole, some = {"$ref": f"{_SCHEMAS}{table}"}, {"$ref": f"{_SCHEMAS}{table}.changes"}
    each = {"type": "array", "items": {"$ref": f"{_SCHEMAS}{table}.{RecordFields.__name__}"}}
    for model, narrowed in (
        (RecordWrite, {"fields": whole}),
        (RecordChange, {"fields": some}),
        (RecordFields, {"fields": whole}),
        (RecordsWrite, {"records": each}),
    ):
        known = schemas[model.__name__]
        properties = {name: {**known["properties"][name], **schema} for name, schema in narrowed.items()}
        schemas[f"{table}.{model.__name__}"] = {**known, "properties": {**known["properties"], **properties}}
    for path in (RECORD_PATH, f"{TABLE_PATH}/batch", f"{TABLE_PATH}/find"):
        paths[path.replace("{table}", table)] = {
            method: _of_table(operation, table, schemas) for method, operation in paths[path].items()
        }
    return {**document, "paths": paths, "components": {"schemas": schemas}}


def _of_table(operation: Mapping[str, Any], table: str, schemas: Mapping[str, Any]) -> dict[str, Any]:
    named = [each for each in operation["parameters"] if each["name"] != "table"]
    found = {**operation, "parameters": named}
    if "requestBody" in operation:
        (content,) = operation["requestBody"]["content"].values()
        body = f"{table}.{content['schema']['$ref'].removeprefix(_SCHEMAS)}"
        if body in schemas:
            schema = {"schema": {"$ref": _SCHEMAS + body}}
            found["requestBody"] = {"required": True, "content": {"application/json": schema}}
    return found


class RecordsApi:
    """Handlers of one cell. ``fences`` are read as the gateway's own role, rows as the application's."""

    def __init__(self, vault: Vault, fences: FenceStore) -> None:
        self._vault = vault
        self._fences = fences

    def routes(self, service: Service) -> None:
        for method, path, kind, handler, operation in (
            ("POST", f"{TABLE_PATH}/find", "record-find", self.find, FIND),
            ("POST", f"{TABLE_PATH}/batch", "record-put", self.put_many, PUT_MANY),
            ("PUT", RECORD_PATH, "record-put", self.put, PUT),
            ("PATCH", RECORD_PATH, "record-put", self.change, CHANGE),
            ("GET", RECORD_PATH, "record-get", self.get, GET),
            ("DELETE", RECORD_PATH, "record-delete", self.delete, DELETE),
        ):
            service.route(method, path, Endpoint.RECORDS, self._told(kind, handler, operation), operation)

    def _told(self, kind: str, handler: Handler, operation: Operation) -> Handler:
        """``handler`` of requests that mean nothing beside what is described, with its refusals on the record."""

        async def answered(request: web.Request) -> web.Response:
            try:
                _require_known(request, operation)
                return await handler(request)
            except _ANSWERS:
                raise
            except DomicileError as error:
                peer = request[PEER].jurisdiction
                BORDER.labels(peer, self._vault.jurisdiction, kind, "refused").inc()
                warn("record-refused", kind=kind, code=error.code, from_jurisdiction=peer)
                raise

        return answered

    async def describe(self, document: Mapping[str, Any]) -> dict[str, Any]:
        """The description, with paths for each table that is recorded, which say what its fields may hold."""
        found = dict(document)
        for table in await self._fences.tables():
            with suppress(Conflict):  # an older program applied it
                found = _with_table(found, table, described(table, await self._fences.columns(table), prefix=_SCHEMAS))
        return found

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
        once, body = _once(request), await read_body(request, RecordWrite)
        record = _record(kind, row, body.jurisdiction, body.fields)
        version = await home.put(record, version=body.version, idempotency_key=once)
        return json_response(RecordVersion(id=row, version=version), Cache_Control="no-store")

    async def put_many(self, request: web.Request) -> web.Response:
        home, kind = await self._home(request), await self._kind(request)
        once, body = _once(request), await read_body(request, RecordsWrite)
        records = [_record(kind, each.id, body.jurisdiction, each.fields) for each in body.records]
        versions = await home.put_many(records, idempotency_key=once)
        written = [RecordVersion(id=each.id, version=now) for each, now in zip(records, versions, strict=True)]
        return json_response(RecordVersions(records=written), Cache_Control="no-store")

    async def change(self, request: web.Request) -> web.Response:
        """The whole record is checked as it would be, and the named fields of it are written."""
        row, home, kind = self._id(request), await self._home(request), await self._kind(request)
        once, body = _once(request), await read_body(request, RecordChange)
        if body.jurisdiction != home.jurisdiction:
            raise WrongJurisdiction(f"a record that is not labelled {home.jurisdiction}")
        read = await home.get(kind, row)
        if read is None:
            raise NotFound("no such record")
        if read.destroyed:
            raise KeyDestroyed("a field of the record was destroyed, and is not written again")
        wanted = _record(kind, row, body.jurisdiction, {**_document(read).fields, **body.fields})
        changes = {name: getattr(wanted, name) for name in body.fields}
        changed = await home.update(read, version=body.version, idempotency_key=once, **changes)
        return json_response(RecordVersion(id=row, version=changed.version), Cache_Control="no-store")

    async def get(self, request: web.Request) -> web.Response:
        row, home, kind = self._id(request), await self._home(request), await self._kind(request)
        record = await home.get(kind, row)
        if record is None:
            raise NotFound("no such record")
        return json_response(_document(record), Cache_Control="no-store")

    async def delete(self, request: web.Request) -> web.Response:
        row, home, kind = self._id(request), await self._home(request), await self._kind(request)
        if not await home.delete(kind, row, version=_version(request)):
            raise NotFound("no such record")
        return web.Response(status=204, headers={"Cache-Control": "no-store"})

    async def find(self, request: web.Request) -> web.Response:
        home, kind = await self._home(request), await self._kind(request)
        body = await read_body(request, RecordQuery)
        table = kind.domicile_table
        kinds = {name: column.kind for name, column in table.by_name.items()}
        if table.about is not None:
            kinds[table.about.name] = KINDS[UUID]
        if not (body.conditions.keys() | body.ranges.keys()) <= kinds.keys():
            raise UnsupportedQuery("no such field to find by")
        if body.conditions.keys() & body.ranges.keys():
            raise InvalidInput("a field that is to equal a value, and to lie in a range", remedy="one of the two")
        asked = [*body.conditions.values(), *(value for bounds in body.ranges.values() for value in bounds.values())]
        if None in asked:
            raise UnsupportedQuery("null is not a value to find")
        conditions = {name: _given(name, kinds[name], value) for name, value in body.conditions.items()}
        for name, bounds in body.ranges.items():
            conditions[name] = Range(**{bound: _given(name, kinds[name], value) for bound, value in bounds.items()})
        page = await home.page(kind, conditions, size=body.size, order_by=body.order_by, after=body.after)
        found = RecordPage(records=[_document(record) for record in page.records], next=page.next)
        return json_response(found, Cache_Control="no-store")
