"""A router, as an operator sees it."""

from __future__ import annotations

from domicile.client.http import Peer
from domicile.identity import Credentials
from domicile.model.access import Role
from domicile.model.explanation import ExplainRequest, Explanation


class RouterClient:
    """Calls to the internal listener of one router."""

    def __init__(self, credentials: Credentials, address: str, jurisdiction: str) -> None:
        self._peer = Peer(credentials, [address], jurisdiction=jurisdiction, role=Role.ROUTER)

    async def close(self) -> None:
        await self._peer.close()

    async def explain(self, request: ExplainRequest) -> Explanation:
        """What the router would do with a request. Raises Forbidden, InvalidInput, Unavailable."""
        return await self._peer.ask(Explanation, "POST", "/v1/explain", body=request)
