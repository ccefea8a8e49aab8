"""Domicile for applications: records that cannot be written, read or shipped outside their jurisdiction.

    class Profile(Record, table="profiles"):
        email: Annotated[str, Personal("user.contact.email", find=True)]
        plan: Annotated[str, Shareable("user.account.plan")]

    async with Residency.connect() as residency:
        home = await residency.claim("alice", residence="DE", aliases={"email": "a@example.eu"})
        await home.put(home.new(Profile, email="a@example.eu", plan="free"))

The guard for aiohttp applications is ``domicile.sdk.aiohttp``; errors are those of ``domicile.model``.
"""

from domicile.model import (
    Conflict,
    CrossBorderAccess,
    Destroyed,
    DomicileError,
    FenceRefused,
    Forbidden,
    InvalidInput,
    KeyDestroyed,
    ModelError,
    NotFound,
    Personal,
    Principal,
    Shareable,
    Unavailable,
    UnknownSubject,
    UnsupportedQuery,
    Withheld,
    WrongCell,
    WrongJurisdiction,
    extend_taxonomy,
)
from domicile.sdk.abroad import Abroad, AbroadPage, AbroadRow
from domicile.sdk.cell import CellSession, Found
from domicile.sdk.even import evenly
from domicile.sdk.finding import Page, Range
from domicile.sdk.home import Home, Stale, Transaction
from domicile.sdk.records import Record
from domicile.sdk.references import Reference
from domicile.sdk.residency import Residency

__all__ = [
    "Abroad",
    "AbroadPage",
    "AbroadRow",
    "CellSession",
    "Conflict",
    "CrossBorderAccess",
    "Destroyed",
    "DomicileError",
    "FenceRefused",
    "Forbidden",
    "Found",
    "Home",
    "InvalidInput",
    "KeyDestroyed",
    "ModelError",
    "NotFound",
    "Page",
    "Personal",
    "Principal",
    "Range",
    "Record",
    "Reference",
    "Residency",
    "Shareable",
    "Stale",
    "Transaction",
    "Unavailable",
    "UnknownSubject",
    "UnsupportedQuery",
    "Withheld",
    "WrongCell",
    "WrongJurisdiction",
    "evenly",
    "extend_taxonomy",
]
