"""A customer's own key holder, over mutual TLS: who cuts this connection closes his data."""

from __future__ import annotations

from collections.abc import Sequence

from domicile.cells.keys.holders import Plain, Wrapped
from domicile.client import Peer
from domicile.identity import Credentials
from domicile.model import Conflict, KeyWithheld, Role
from domicile.model.key_wire import HeldKey, HeldKeysRequest, HeldKeysResponse, HeldVersion


class CustomerHolder:
    """The holder of one domain: its certificate must name the domain, and be of the key service's jurisdiction."""

    def __init__(self, credentials: Credentials, jurisdiction: str, domain: str, addresses: Sequence[str]) -> None:
        self._domain = domain
        self._peer = Peer(credentials, addresses, jurisdiction=jurisdiction, role=Role.HOLDER, cell=domain, deadline=2)

    async def close(self) -> None:
        await self._peer.close()

    async def version(self) -> int:
        return (await self._peer.ask(HeldVersion, "GET", "/v1/version")).version

    async def wrap(self, keys: Sequence[Plain]) -> list[Wrapped]:
        asked = [HeldKey(context=key.context, value=key.value) for key in keys]
        answer = await self._ask("/v1/wrap", asked)
        return [Wrapped(key.context, key.version, key.value) for key in answer]

    async def unwrap(self, keys: Sequence[Wrapped]) -> list[bytes]:
        asked = [HeldKey(context=key.context, value=key.value, version=key.version) for key in keys]
        return [key.value for key in await self._ask("/v1/unwrap", asked)]

    async def rotate(self) -> int:
        raise Conflict(
            "only its holder begins a new version of this key-encryption key",
            where=f"key domain {self._domain}",
            remedy="let him; then run this again to re-wrap",
        )

    async def _ask(self, path: str, keys: list[HeldKey]) -> list[HeldKey]:
        answer = await self._peer.ask(HeldKeysResponse, "POST", path, body=HeldKeysRequest(keys=keys))
        if len(answer.keys) != len(keys):
            raise KeyWithheld("answered another number of keys than asked")
        return answer.keys
