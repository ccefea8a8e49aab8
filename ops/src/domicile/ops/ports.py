"""Addresses for a local world: port 0 in a manifest becomes a free one, a fixed one must be free."""

from __future__ import annotations

import asyncio
import errno
import random
import re
import socket
import time
from typing import Any, Final

import psutil

from domicile.model.errors import InvalidInput, Unavailable
from domicile.model.manifest import Address, Manifest

_RANGE: Final = range(20_000, 32_000)
"""Below Linux's ephemeral ports (32768 up), so that no outgoing connection takes one before it is bound."""
_ATTEMPTS: Final = 200
_LOOK_SECONDS: Final = 0.05
_UNSET: Final = re.compile(r"(?P<host>[^\s:]+|\[[0-9a-f:]+\]):0")


def _bindable(host: str, port: int) -> OSError | None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            return error
    return None


def free_address(host: str, taken: set[str]) -> str:
    """A free ``host:port`` that isn't in ``taken``, which it joins. Raises Unavailable."""
    for _ in range(_ATTEMPTS):
        address = f"{host}:{random.choice(_RANGE)}"  # noqa: S311 - a port, no secret
        if address in taken:
            continue
        error = _bindable(host, Address(address).port)
        if error is None:
            taken.add(address)
            return address
        if error.errno != errno.EADDRINUSE:
            raise Unavailable(
                f"cannot listen on this machine: {error.strerror}",
                where=host,
                remedy=f"give the loopback interface this address (macOS: ifconfig lo0 alias {host})",
            )
    raise Unavailable("no free port", where=host, remedy="stop what listens there")


def choose_ports(data: Any, taken: set[str]) -> Any:
    """A copy of a manifest's plain data in which each address with port 0 has a free port.

    A ``public_host`` with port 0 gets the public port of its jurisdiction's first router.
    """
    chosen = _fill(data, taken)
    if not isinstance(chosen, dict):
        return chosen
    jurisdictions = chosen.get("jurisdictions")
    routers = chosen.get("routers")
    if not isinstance(jurisdictions, dict) or not isinstance(routers, dict):
        return chosen
    for jurisdiction in jurisdictions.values():
        host = jurisdiction.get("public_host") if isinstance(jurisdiction, dict) else None
        if not isinstance(host, str) or not host.endswith(":0"):
            continue
        countries = jurisdiction.get("countries")
        for router in routers.values() if isinstance(countries, list) else ():
            if isinstance(router, dict) and router.get("country") in countries:
                port = str(router.get("public")).rpartition(":")[2]
                jurisdiction["public_host"] = f"{host[:-2]}:{port}"
                break
    return chosen


def _fill(data: Any, taken: set[str]) -> Any:
    if isinstance(data, dict):
        return {key: value if key == "public_host" else _fill(value, taken) for key, value in data.items()}
    if isinstance(data, list):
        return [_fill(item, taken) for item in data]
    if isinstance(data, str) and (match := _UNSET.fullmatch(data)):
        return free_address(match["host"], taken)
    return data


def require_free(manifest: Manifest, addresses: list[tuple[str, str]]) -> None:
    """Raise InvalidInput for the first of ``(process, address)`` that cannot be listened on."""
    for process, address in addresses:
        place = Address(address)
        if (error := _bindable(place.host.replace("localhost", "127.0.0.1"), place.port)) is not None:
            raise InvalidInput(
                f"{process} cannot listen: {(error.strerror or 'unusable').lower()}",
                where=address,
                remedy=f"stop what listens there, or write port 0 in the manifest of {manifest.deployment}",
            )


async def listens(pid: int, address: str, seconds: float) -> bool:
    """Whether that process, and not another at the same address, listens there before the time is up; no if it ends."""
    place = Address(address)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            sockets = await asyncio.to_thread(psutil.Process(pid).net_connections, "tcp")
        except psutil.Error:
            return False
        if any(each.status == psutil.CONN_LISTEN and each.laddr == (place.host, place.port) for each in sockets):
            return True
        await asyncio.sleep(_LOOK_SECONDS)
    return False
