"""The key service over HTTP: a cell's application has its own cell's keys unwrapped, and nobody else does.

The matrix lets applications of this jurisdiction in; the cell that a request names must also be the one in the
caller's certificate, since a sibling cell is no more entitled to a subject's keys than a foreign one.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from aiohttp import web

from domicile.cells.keys.storage import KeyStore
from domicile.cells.keys.wrapping import KEY_BYTES, KeyEncryptionKey, settle
from domicile.model import GLOBAL, Address, Endpoint, Forbidden, Identity, InvalidInput, Role
from domicile.model.wire import (
    DataKey,
    DataKeyRef,
    DataKeysRequest,
    DataKeysResponse,
    IndexKeyRequest,
    IndexKeyResponse,
)
from domicile.service import PEER, ProcessSettings, Service, json_response, read_body

DOMAIN: Final = "default"
KEK_FILE: Final = "kek.key"


def own_cell(peer: Identity, cell: str) -> str:
    """``cell``, if the caller's certificate is that cell's; else Forbidden."""
    if peer.cell != cell:
        raise Forbidden("keys are for the cell that asks, by its certificate")
    return cell


class KeyApi:
    """Handlers over one store and one key-encryption key."""

    def __init__(self, store: KeyStore, kek: KeyEncryptionKey) -> None:
        self._store = store
        self._kek = kek

    def routes(self, service: Service) -> None:
        service.route("POST", "/v1/data-keys", Endpoint.DATA_KEYS, self.data_keys)
        service.route("POST", "/v1/index-keys", Endpoint.DATA_KEYS, self.index_keys)

    async def data_keys(self, request: web.Request) -> web.Response:
        asked = await read_body(request, DataKeysRequest)
        cell = own_cell(request[PEER], asked.cell)
        make = self._make if asked.create else None
        wrapped = await self._store.data_keys(cell, self._kek.domain, asked.keys, make)
        keys = []
        for subject, principal, sealed in wrapped:
            plain = self._kek.unwrap_data_key(subject, principal, sealed)
            keys.append(
                DataKey(subject=subject, principal=principal, key=plain[:KEY_BYTES], index_key=plain[KEY_BYTES:])
            )
        return json_response(DataKeysResponse(keys=keys), Cache_Control="no-store")

    def _make(self, reference: DataKeyRef) -> bytes:
        return self._kek.wrap_data_key(reference.subject, reference.principal, secrets.token_bytes(2 * KEY_BYTES))

    async def index_keys(self, request: web.Request) -> web.Response:
        asked = await read_body(request, IndexKeyRequest)
        cell = own_cell(request[PEER], asked.cell)
        wrapped = await self._store.index_key(
            cell, self._kek.domain, lambda: self._kek.wrap_index_key(cell, secrets.token_bytes(KEY_BYTES))
        )
        return json_response(IndexKeyResponse(key=self._kek.unwrap_index_key(cell, wrapped)), Cache_Control="no-store")


@asynccontextmanager
async def serve_keys(settings: ProcessSettings) -> AsyncIterator[None]:
    """The key service of the certificate's jurisdiction, listening inside the context.

    Raises InvalidInput for settings or a key-encryption key that it must not start with, Unavailable for no
    database.
    """
    identity = settings.credentials.identity
    if identity.role is not Role.KEYS:
        raise InvalidInput(f"the certificate is for {identity.role}, not {Role.KEYS}", where=str(settings.certificate))
    if not settings.storage:
        raise InvalidInput("no database", where="DOMICILE_STORAGE", remedy="name the key store's host:port")
    async with KeyStore.connect(settings.credentials, [Address(each) for each in settings.storage]) as store:
        kek: KeyEncryptionKey | None = None

        def settled(recorded: bytes | None) -> bytes:
            nonlocal kek
            kek = settle(settings.state / KEK_FILE, identity.jurisdiction, DOMAIN, recorded)
            return kek.check_value

        await store.prepare(DOMAIN, settled)
        assert kek is not None
        service = Service(settings, store.probe)
        KeyApi(store, kek).routes(service)
        context = service.internal_context([Role.APP], [identity.jurisdiction, GLOBAL])
        async with service.listen(settings.address(), context):
            yield
