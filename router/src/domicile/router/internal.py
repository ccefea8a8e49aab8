"""Connections of the internal listener: other routers' are served as a client's, all others go to the health routes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

from domicile.identity import peer_of
from domicile.model import DomicileError, Endpoint, Role, require
from domicile.router.decide import Listener
from domicile.router.downstream import Clients, Downstream
from domicile.router.front import Front

Handler = Callable[[], asyncio.Protocol]


class Internal(Downstream):
    """Hands the connections of whoever isn't a router to the health routes."""

    def __init__(self, front: Front, clients: Clients, others: Handler) -> None:
        super().__init__(front, Listener.INTERNAL, clients)
        self._others = others

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        peer = peer_of(transport)
        if peer.role is Role.ROUTER and peer != self._front.vantage:  # its own is a probe's
            self.router = peer
            super().connection_made(transport)
            try:
                require(peer, self._front.vantage, Endpoint.ROUTER_INTERNAL)
            except DomicileError as error:
                self._refuse(error)
            return
        handler = self._others()
        cast("asyncio.Transport", transport).set_protocol(handler)
        handler.connection_made(transport)
