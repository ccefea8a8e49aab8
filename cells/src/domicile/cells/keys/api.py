"""The key service over HTTP: a cell's application and gateway have its keys unwrapped, and nobody else does.

The matrix lets those of this jurisdiction in; the cell that a request names must also be the one in the
caller's certificate, since a sibling cell is no more entitled to a subject's keys than a foreign one. Operators
rotate key-encryption keys; they are handed no key.
"""

from __future__ import annotations

from aiohttp import web

from domicile.cells.keys.custody import Custody
from domicile.cells.keys.shreds import Shredder
from domicile.cells.keys.storage import KeyStore, Name
from domicile.model import Endpoint, Forbidden
from domicile.model.key_wire import (
    BackupKeyRequest,
    DataKeyRef,
    DataKeysRequest,
    DataKeysResponse,
    IndexKeyRequest,
    IndexKeyResponse,
    IndexTurnRequest,
    KekProgresses,
    KeyDomainRequest,
    KeyRotationRequest,
    KeyTurnRequest,
    KeyTurns,
    KeyTurnsRequest,
    ReceiptKey,
    ShredRequest,
    ShredResponse,
)
from domicile.service import PEER, Service, json_response, read_body


class KeyApi:
    """Handlers over one jurisdiction's keys. ``cache_seconds``: how long who asks may hold a key."""

    def __init__(self, custody: Custody, shredder: Shredder, store: KeyStore, cache_seconds: int) -> None:
        self._custody = custody
        self._shredder = shredder
        self._store = store
        self._cache_seconds = cache_seconds

    def routes(self, service: Service) -> None:
        service.route("POST", "/v1/data-keys", Endpoint.DATA_KEYS, self.data_keys)
        service.route("POST", "/v1/index-keys", Endpoint.DATA_KEYS, self.index_keys)
        service.route("POST", "/v1/key-domains", Endpoint.DATA_KEYS, self.assign)
        service.route("POST", "/v1/shreds", Endpoint.KEYS_SHRED, self.shred)
        service.route("GET", "/v1/receipt-key", Endpoint.KEYS_RECEIPTS, self.receipt_key)
        service.route("POST", "/v1/key-rotations", Endpoint.KEYS_TURN, self.rotation)
        service.route("POST", "/v1/key-rotations/subjects", Endpoint.KEYS_TURN, self.turns)
        service.route("POST", "/v1/key-rotations/turns", Endpoint.KEYS_TURN, self.turn)
        service.route("POST", "/v1/key-rotations/index", Endpoint.KEYS_TURN, self.turn_index)
        service.route("POST", "/v1/backup-keys", Endpoint.BACKUP_KEYS, self.backup_key)
        service.route("GET", "/v1/keks", Endpoint.KEYS_ROTATE, self.keks)
        service.route("POST", "/v1/keks/{domain}/rotate", Endpoint.KEYS_ROTATE, self.rotate)
        service.route("POST", "/v1/keks/{domain}/rewrap", Endpoint.KEYS_ROTATE, self.rewrap)

    async def _own_cell(self, request: web.Request, cell: str, names: list[Name]) -> str:
        """Who asks, if its certificate is that cell's; else Forbidden, and recorded."""
        peer = request[PEER]
        if peer.cell != cell:
            await self._store.record_refusal(peer.cell or "", names, peer.uri)
            raise Forbidden("keys are for the cell that asks, by its certificate")
        return peer.uri

    async def data_keys(self, request: web.Request) -> web.Response:
        asked = await read_body(request, DataKeysRequest)
        names = [(key.subject, key.principal) for key in asked.keys]
        caller = await self._own_cell(request, asked.cell, names)
        handed = await self._custody.data_keys(asked.cell, names, caller, create=asked.create)
        answer = DataKeysResponse(
            keys=handed.keys,
            withheld=[DataKeyRef(subject=name[0], principal=name[1]) for name in handed.withheld],
            destroyed=[DataKeyRef(subject=name[0], principal=name[1]) for name in handed.destroyed],
            cache_seconds=self._cache_seconds,
        )
        return json_response(answer, Cache_Control="no-store")

    async def index_keys(self, request: web.Request) -> web.Response:
        asked = await read_body(request, IndexKeyRequest)
        caller = await self._own_cell(request, asked.cell, [])
        key = await self._custody.index_key(asked.cell, caller)
        answer = IndexKeyResponse(
            generation=key.generation, key=key.key, other=key.other, cache_seconds=self._cache_seconds
        )
        return json_response(answer, Cache_Control="no-store")

    async def assign(self, request: web.Request) -> web.Response:
        asked = await read_body(request, KeyDomainRequest)
        caller = await self._own_cell(request, asked.cell, [(asked.subject, asked.subject)])
        await self._custody.assign(asked.cell, asked.subject, asked.domain, caller)
        return web.Response(status=204)

    async def rotation(self, request: web.Request) -> web.Response:
        asked = await read_body(request, KeyRotationRequest)
        await self._own_cell(request, asked.cell, [])
        return json_response(await self._store.rotation(asked.cell, asked.action), Cache_Control="no-store")

    async def turns(self, request: web.Request) -> web.Response:
        asked = await read_body(request, KeyTurnsRequest)
        await self._own_cell(request, asked.cell, [])
        found = await self._store.turns(asked.cell, asked.after, asked.limit)
        return json_response(KeyTurns(turns=found), Cache_Control="no-store")

    async def turn(self, request: web.Request) -> web.Response:
        asked = await read_body(request, KeyTurnRequest)
        caller = await self._own_cell(request, asked.cell, [(asked.subject, asked.subject)])
        if asked.step == "make":
            await self._custody.make_next(asked.cell, asked.subject, asked.generation, caller)
        elif asked.step == "turn":
            await self._store.turn(asked.cell, asked.subject, asked.generation)
        else:
            await self._store.retire(asked.cell, asked.subject, asked.generation, caller)
        return web.Response(status=204)

    async def turn_index(self, request: web.Request) -> web.Response:
        asked = await read_body(request, IndexTurnRequest)
        caller = await self._own_cell(request, asked.cell, [])
        if asked.step == "make":
            await self._custody.make_next_index(asked.cell, asked.generation, caller)
        elif asked.step == "turn":
            await self._store.turn_index_key(asked.cell, asked.generation)
        else:
            await self._store.retire_index_keys(asked.cell, asked.generation, caller)
        return web.Response(status=204)

    async def shred(self, request: web.Request) -> web.Response:
        asked = await read_body(request, ShredRequest)
        caller = await self._own_cell(request, asked.cell, [(asked.subject, asked.principal or asked.subject)])
        receipt, key = await self._shredder.shred(asked, caller)
        return json_response(ShredResponse(receipt=receipt, key=key), Cache_Control="no-store")

    async def receipt_key(self, _: web.Request) -> web.Response:
        return json_response(ReceiptKey(pem=self._shredder.public_pem))

    async def backup_key(self, request: web.Request) -> web.Response:
        asked = await read_body(request, BackupKeyRequest)
        key = await self._custody.backup_key(asked, request[PEER].uri)
        return json_response(key, Cache_Control="no-store")

    async def keks(self, _: web.Request) -> web.Response:
        return json_response(KekProgresses(domains=await self._custody.progress()), Cache_Control="no-store")

    async def rotate(self, request: web.Request) -> web.Response:
        return json_response(await self._custody.rotate(request.match_info["domain"]), Cache_Control="no-store")

    async def rewrap(self, request: web.Request) -> web.Response:
        return json_response(await self._custody.rewrap(request.match_info["domain"]), Cache_Control="no-store")
