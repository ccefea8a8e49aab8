"""The key service of a jurisdiction, as its cells see it: data keys, held in memory for a bounded time."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from typing import Final
from uuid import UUID

from domicile.client.http import Peer
from domicile.identity import Credentials
from domicile.model.access import Role
from domicile.model.addresses import Network
from domicile.model.errors import NotFound
from domicile.model.wire import (
    DataKey,
    DataKeyRef,
    DataKeysRequest,
    DataKeysResponse,
    IndexKeyRequest,
    IndexKeyResponse,
)

MAX_CACHED: Final = 10_000


class KeyClient:
    """Data keys by (subject, principal). ``cache_seconds`` is the manifest's bound on an old key's life.

    The cache is in order of arrival, which is the order of expiry: each call first forgets what is too old.
    """

    def __init__(
        self,
        credentials: Credentials,
        addresses: Sequence[str],
        *,
        jurisdiction: str,
        cell: str,
        cache_seconds: float,
        networks: Collection[Network] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._peer = Peer(credentials, addresses, jurisdiction=jurisdiction, role=Role.KEYS, networks=networks)
        self._cell = cell
        self._seconds = cache_seconds
        self._clock = clock
        self._cache: OrderedDict[tuple[UUID, UUID], tuple[float, DataKey]] = OrderedDict()
        self._index: tuple[float, bytes] | None = None

    async def close(self) -> None:
        self._cache.clear()
        self._index = None
        await self._peer.close()

    async def data_key(self, subject: UUID, principal: UUID, *, create: bool = False) -> DataKey:
        """Raises NotFound where no such key exists (shredded, or never made), Unavailable for no service."""
        name = (subject, principal)
        self._forget()
        if (held := self._cache.get(name)) is not None:
            return held[1]
        reference = DataKeyRef(subject=subject, principal=principal)
        body = DataKeysRequest(cell=self._cell, keys=[reference], create=create)
        answer = await self._peer.ask(DataKeysResponse, "POST", "/v1/data-keys", body=body)
        found = [key for key in answer.keys if (key.subject, key.principal) == name]
        if not found:
            raise NotFound("no data key: shredded, or never made")
        self._cache.pop(name, None)
        self._cache[name] = (self._clock() + self._seconds, found[0])
        while len(self._cache) > MAX_CACHED:
            self._cache.popitem(last=False)
        return found[0]

    def _forget(self) -> None:
        now = self._clock()
        while self._cache and next(iter(self._cache.values()))[0] <= now:
            self._cache.popitem(last=False)

    async def cell_index_key(self) -> bytes:
        """The secret of this cell's blind indexes across subjects."""
        if self._index is None or self._index[0] <= self._clock():
            body = IndexKeyRequest(cell=self._cell)
            answer = await self._peer.ask(IndexKeyResponse, "POST", "/v1/index-keys", body=body)
            self._index = (self._clock() + self._seconds, answer.key)
        return self._index[1]
