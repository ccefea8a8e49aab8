"""The guard's decisions, for every framework: what checks a request at the cell's edge before any handler runs.

It is the second of the three locks on a write, and trusts nothing but TLS: the peer is a router of this
jurisdiction by its certificate, and what its headers say of the subject holds only where this cell's own
fence says the same. ``Domicile-Guard`` on an answer tells the router that no handler ran (or that one on an
unpinned path asked for a home that is elsewhere), so that the request may be sent again; an application's
own header of that name never leaves.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from multidict import CIMultiDictProxy

from domicile.model.access import Endpoint, Identity, Role, require
from domicile.model.errors import (
    CrossBorderAccess,
    DomicileError,
    FenceRefused,
    IdentitiesDisagree,
    InvalidInput,
    Misdirected,
    UnknownSubject,
    WrongCell,
)
from domicile.model.geography import COUNTRIES
from domicile.model.ids import SubjectKey
from domicile.model.manifest import Manifest, Travellers
from domicile.model.wire import CELL_HEADER, COUNTRY_HEADER, EPOCH_HEADER, GUARD_HEADER, SUBJECT_KEY_HEADER
from domicile.sdk.home import Home
from domicile.sdk.residency import Residency
from domicile.sdk.store import Fence
from domicile.telemetry import REFUSALS, warn

HEALTH_PATHS: Final = frozenset({"/healthz", "/readyz", "/metrics"})
READY_PATH: Final = "/readyz"


class Verdict(StrEnum):
    STALE_EPOCH = "stale-epoch"
    WRONG_CELL = "wrong-cell"


@dataclass(frozen=True, slots=True)
class Routed:
    """Whom a router says that a request is for."""

    subject_key: SubjectKey
    cell: str
    epoch: int


@dataclass(frozen=True, slots=True)
class Refusal:
    """What is answered in a handler's place. ``verdict``: the guard's own word to the router, or None.

    ``location``: where to send the client (307) instead of telling the error.
    """

    error: DomicileError
    verdict: Verdict | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    location: str | None = None


def _single(headers: CIMultiDictProxy[str], name: str) -> str | None:
    values = headers.getall(name, [])
    if len(values) > 1:
        raise IdentitiesDisagree(f"{name} is given {len(values)} times")
    return values[0] if values else None


def routed(headers: CIMultiDictProxy[str]) -> Routed | None:
    """The subject that the router named, or None. Raises IdentitiesDisagree for half a statement. Pure."""
    key, cell, epoch = (_single(headers, name) for name in (SUBJECT_KEY_HEADER, CELL_HEADER, EPOCH_HEADER))
    if key is None and cell is None and epoch is None:
        return None
    if key is None or cell is None or epoch is None:
        raise IdentitiesDisagree("subject, cell and epoch are named together or not at all")
    if not epoch.isascii() or not epoch.isdigit() or not 1 <= int(epoch) < 2**63:
        raise InvalidInput("an epoch is a positive number", where=EPOCH_HEADER)
    return Routed(SubjectKey.parse(key), cell, int(epoch))


def country_in(headers: CIMultiDictProxy[str]) -> str | None:
    """The country from which the router saw the request come, on unpinned paths. A guess, never a proof."""
    country = _single(headers, COUNTRY_HEADER)
    return country if country in COUNTRIES else None


def is_pinned(manifest: Manifest, peer: Identity, path: str) -> bool:
    """Whether a router's rules leave the path to a home. A router that the manifest doesn't name has no rules.

    What an edge sends is always a subject's own: it leaves unpinned paths to a router.
    """
    place = manifest.routers.get(peer.zone) if peer.role is Role.ROUTER else None
    return place is None or not place.is_unpinned(path)


def asks_for_health(peer: Identity, own: Identity, path: str, headers: CIMultiDictProxy[str]) -> bool:
    """Whether a request is for the process and not for anybody's data: an operator's, or its own probe's. An edge asks
    in nobody's name; what it carries for a client names a subject. Pure."""
    if peer.role is Role.EDGE:
        return path == READY_PATH and routed(headers) is None
    return (peer.role is Role.OPERATOR or peer == own) and path in HEALTH_PATHS


def needs_asking(fence: Fence | None, epoch: int) -> bool:
    """Whether the gateway must be asked: the router knows more than the fence, or there is none open. Pure."""
    return fence is None or epoch > fence.epoch or (fence.state != "open" and epoch == fence.epoch)


def same_subject(home: Home, residency: Residency, user: str) -> Home:
    """The home. Raises IdentitiesDisagree unless it is that of a user whom the application's own session names."""
    if home.subject_key not in residency.subject_keys(user):
        raise IdentitiesDisagree("the session names another subject than the one that was routed")
    return home


class Gate:
    """The guard of one cell's application."""

    def __init__(self, residency: Residency) -> None:
        self._residency = residency

    async def admit(self, peer: Identity, path: str, headers: CIMultiDictProxy[str]) -> Home | Refusal | None:
        """The routed subject's home on a pinned path, None on an unpinned one, or why no handler may run.

        Raises DomicileError for a request that no router sends again.
        """
        require(peer, self._residency.identity, Endpoint.APP_REQUESTS)
        subject = routed(headers)
        if not is_pinned(self._residency.manifest, peer, path):
            return None
        if subject is None:
            raise IdentitiesDisagree("a pinned path without a subject", remedy="see the router's rules")
        return await self._home(subject)

    async def _home(self, subject: Routed) -> Home | Refusal:
        if subject.cell != self._residency.cell_name:
            return self._wrong_cell(self._elsewhere(subject))
        fence = await self._residency.fence(subject.subject_key)
        if needs_asking(fence, subject.epoch):
            try:
                fence = await self._residency.admit(subject.subject_key, subject.epoch)
            except (Misdirected, UnknownSubject):
                return self._wrong_cell(self._elsewhere(subject))
            except FenceRefused:
                fence = await self._residency.fence(subject.subject_key)
        if fence is None or fence.state != "open" or fence.epoch != subject.epoch:
            return self._stale(fence)
        return self._residency.home_by(fence)

    def answer_to(self, error: DomicileError, path: str, target: str, *, pinned: bool) -> Refusal:
        """What a handler's error becomes. On an unpinned path CrossBorderAccess becomes 307 to the same ``target`` at
        the home's public host, and WrongCell tells the router where to go; else they are what they are."""
        if not pinned and isinstance(error, WrongCell):
            return self._wrong_cell(error)
        REFUSALS.labels(error.code).inc()
        if pinned or not isinstance(error, CrossBorderAccess):
            return Refusal(error)
        place = self._residency.manifest.jurisdictions.get(error.jurisdiction)
        if error.public_host is None or place is None or place.travellers_on(path) is Travellers.REFUSE:
            return Refusal(error)
        return Refusal(error, location=f"https://{error.public_host}{target}")

    def _refuse(self, error: DomicileError, verdict: Verdict, headers: Mapping[str, str]) -> Refusal:
        REFUSALS.labels(error.code).inc()
        warn("guard-refused", reason=str(verdict), cell=self._residency.cell_name)
        return Refusal(error, verdict, {GUARD_HEADER: str(verdict), **headers})

    def _stale(self, fence: Fence | None) -> Refusal:
        error = FenceRefused("this cell holds the subject at another epoch, or not open")
        headers = {} if fence is None else {EPOCH_HEADER: str(fence.epoch)}
        return self._refuse(error, Verdict.STALE_EPOCH, headers)

    def _elsewhere(self, subject: Routed) -> WrongCell:
        return WrongCell(
            "the subject's home is another cell",
            jurisdiction=self._residency.jurisdiction,
            cell=subject.cell,
            subject_key=str(subject.subject_key),
        )

    def _wrong_cell(self, error: WrongCell) -> Refusal:
        return self._refuse(error, Verdict.WRONG_CELL, {SUBJECT_KEY_HEADER: error.subject_key})
