"""What the load process is told: where each jurisdiction's front is, and whom to be. No secret is in it.

Everything is on this machine: an address that is not on the loopback interface is refused here, before anything starts,
and again in the load process at each connection.
"""

from __future__ import annotations

import ipaddress
import secrets
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from domicile.model.addresses import Address
from domicile.model.errors import Forbidden, InvalidInput
from domicile.model.manifest import Manifest, Travellers
from domicile.ops.layout import Layout
from loadtests.people.plan import Kind, Plan


class Front(BaseModel):
    """Of one jurisdiction. ``value``: what every personal value of this run's people from there holds, and nothing else
    does; ``public_host``: where its travellers are sent; ``travellers``: what happens to its people abroad."""

    model_config = ConfigDict(frozen=True)

    country: str
    cells: list[str]
    routers: list[str]
    public_host: str
    authority: Path
    travellers: Travellers
    value: str


class Task(BaseModel):
    """``requests``: the file that gets one line for each request."""

    model_config = ConfigDict(frozen=True)

    plan: Plan
    seconds: float
    fronts: dict[str, Front]
    requests: Path


def loopback(host: str) -> str:
    """``host`` if it is an address of the loopback interface. Raises Forbidden."""
    try:
        inside = ipaddress.ip_address(host).is_loopback
    except ValueError:
        inside = False
    if not inside:
        raise Forbidden(
            "is not on this machine, and a load test goes nowhere else", where=host or "(none)",
            remedy="run it against a world of `domicile up`",
        )  # fmt: skip
    return host


def fronts(manifest: Manifest, layout: Layout) -> dict[str, Front]:
    """Raises Forbidden for a router elsewhere, InvalidInput for a jurisdiction that nobody can reach."""
    found = {}
    for name, jurisdiction in manifest.jurisdictions.items():
        routers = [str(router.public) for router in manifest.routers_of(name).values()]
        if not routers:
            raise InvalidInput("has no router", where=f"jurisdictions.{name}", remedy="people come in by one")
        for router in routers:
            loopback(Address(router).host)
        found[name] = Front(
            country=jurisdiction.countries[0],
            cells=list(manifest.cells_of(name)),
            routers=routers,
            public_host=jurisdiction.public_host,
            authority=layout.authorities / f"{name}.pem",
            travellers=jurisdiction.travellers_on("/profile"),
            value=f"load-{secrets.token_hex(8)}",
        )
    return found


def check(plan: Plan, found: dict[str, Front]) -> None:
    """That this world has what the plan asks for. Raises InvalidInput."""
    coming = plan.mix.users()
    if Kind.HOT_CELL in coming and not any(plan.mix.hot_cell.cell in front.cells for front in found.values()):
        raise InvalidInput(
            f"no cell {plan.mix.hot_cell.cell!r} in this world", where="mix.hot_cell.cell",
            remedy=f"one of {', '.join(cell for front in found.values() for cell in front.cells)}",
        )  # fmt: skip
    if Kind.TRAVELLERS in coming and len(found) < 2:
        raise InvalidInput("a world of one jurisdiction has no travellers", where="mix.travellers",
                           remedy="travellers: {users: 0}")  # fmt: skip
