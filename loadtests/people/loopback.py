"""The load process's only way out: names of this world, addresses of the loopback interface.

Two locks. The resolver knows the public hosts of the world and nothing else, and no question leaves the machine. The
interpreter itself refuses a connection elsewhere, whichever library asks for it (PEP 578). Imported by the load process
alone, and before anything that opens a socket: gevent reads its resolver once.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, ClassVar, Final

import gevent
from gevent.resolver.blocking import Resolver

from domicile.model.errors import Forbidden
from loadtests.people.places import loopback

_CONNECTS: Final = frozenset({"socket.connect", "socket.sendto", "socket.sendmsg"})


class WorldResolver(Resolver):
    """Addresses as they are, and the public hosts of the world."""

    hosts: ClassVar[dict[str, str]] = {}

    def getaddrinfo(self, host: Any, port: Any, *rest: Any, **more: Any) -> Any:
        name = host.decode() if isinstance(host, bytes) else str(host)
        return super().getaddrinfo(loopback(self.hosts.get(name, name)), port, *rest, **more)


def _refuse_elsewhere(event: str, arguments: tuple[Any, ...]) -> None:
    if event in _CONNECTS and len(arguments) > 1 and isinstance(arguments[1], tuple):
        loopback(str(arguments[1][0]))
    elif event in ("socket.gethostbyname", "socket.gethostbyaddr"):
        raise Forbidden("a name is asked for behind the resolver", where=str(arguments[0]))


def confine(hosts: Mapping[str, str]) -> None:
    """From here on, for good. ``hosts``: names and their addresses. Raises Forbidden for one that is elsewhere."""
    WorldResolver.hosts = {name: loopback(address) for name, address in hosts.items()}
    gevent.config.resolver = WorldResolver
    sys.addaudithook(_refuse_elsewhere)
