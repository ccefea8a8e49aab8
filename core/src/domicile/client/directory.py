"""The directory, as seen by everybody else."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final
from uuid import UUID

from domicile.client.http import Peer
from domicile.identity import Credentials
from domicile.model.access import GLOBAL, Role
from domicile.model.ids import AliasKey, SubjectKey
from domicile.model.pins import Pin
from domicile.model.wire import (
    JWKS,
    AliasDocument,
    AliasRequest,
    ClaimRequest,
    GrantRequest,
    GrantResponse,
    ResolveRequest,
    ResolveResponse,
    SigningKey,
    TopologyDocument,
)

DEADLINE_SECONDS: Final = 3.0


class DirectoryClient:
    """Typed calls. Each raises Unavailable where the directory can't be reached, UnknownSubject for no pin.

    Look-ups of one subject that are under way at once share one request.
    """

    def __init__(
        self, credentials: Credentials, addresses: Sequence[str], *, deadline: float = DEADLINE_SECONDS
    ) -> None:
        self._peer = Peer(credentials, addresses, jurisdiction=GLOBAL, role=Role.DIRECTORY, deadline=deadline)
        self._flights: dict[SubjectKey, asyncio.Task[Pin]] = {}

    async def close(self) -> None:
        for flight in list(self._flights.values()):
            flight.cancel()
        await self._peer.close()

    async def pin(self, key: SubjectKey) -> Pin:
        flight = self._flights.get(key)
        if flight is None:
            flight = asyncio.create_task(self._peer.ask(Pin, "GET", f"/v1/pins/{key}"))
            self._flights[key] = flight
            flight.add_done_callback(lambda done: self._landed(key, done))
        return await asyncio.shield(flight)

    def _landed(self, key: SubjectKey, flight: asyncio.Task[Pin]) -> None:
        del self._flights[key]
        if not flight.cancelled():
            flight.exception()  # taken note of, also where every caller has gone

    async def resolve(self, keys: Sequence[SubjectKey]) -> ResolveResponse:
        body = ResolveRequest(subject_keys=list(keys))
        return await self._peer.ask(ResolveResponse, "POST", "/v1/pins:resolve", body=body)

    async def claim(self, key: SubjectKey, claim: ClaimRequest) -> Pin:
        """First writer wins, repeating it is harmless; Conflict where it contradicts the pin."""
        return await self._peer.ask(Pin, "PUT", f"/v1/pins/{key}", body=claim)

    async def grant(self, key: SubjectKey, incarnation: UUID) -> str:
        body = GrantRequest(incarnation=incarnation)
        answer = await self._peer.ask(GrantResponse, "POST", f"/v1/pins/{key}/grants", body=body)
        return answer.grant

    async def put_alias(self, kind: str, alias: AliasKey, key: SubjectKey) -> None:
        """Raises Conflict where the alias belongs to another subject."""
        await self._peer.call("PUT", f"/v1/aliases/{kind}/{alias}", body=AliasRequest(subject_key=key))

    async def alias(self, kind: str, alias: AliasKey) -> SubjectKey:
        """Whose alias it is; raises NotFound."""
        answer = await self._peer.ask(AliasDocument, "GET", f"/v1/aliases/{kind}/{alias}")
        return answer.subject_key

    async def delete_alias(self, kind: str, alias: AliasKey, key: SubjectKey) -> None:
        await self._peer.call("DELETE", f"/v1/aliases/{kind}/{alias}?subject_key={key}")

    async def topology(self) -> TopologyDocument:
        return await self._peer.ask(TopologyDocument, "GET", "/v1/topology")

    async def publish_topology(self, document: TopologyDocument) -> None:
        """Raises Conflict where the revision isn't the next one."""
        await self._peer.call("PUT", "/v1/topology", body=document)

    async def keys(self) -> list[SigningKey]:
        return (await self._peer.ask(JWKS, "GET", "/.well-known/jwks.json")).keys

    async def publish_key(self, key: SigningKey) -> None:
        await self._peer.call("PUT", f"/v1/signing-keys/{key.kid}", body=key)
