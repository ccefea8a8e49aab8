"""What an edge may know of a topology, from where it stands: the cells and routers of its own jurisdiction.

Residency holds by construction: a ``View`` has no place for a cell of another jurisdiction, so that no recipe can send
a request there. Whatever an edge cannot decide by a valid token of its own jurisdiction it leaves to a router, which
decides about travellers too.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from domicile.model.access import Identity, Role
from domicile.model.errors import InvalidInput
from domicile.model.manifest import CellState, Manifest, Router
from domicile.model.rules import (
    SUBJECT_SLOT,
    HeaderRule,
    HostIdentityRule,
    JwtRule,
    PathIdentityRule,
    PathRule,
    TokenRule,
    classes_of,
    identity_rules,
)

GATEWAY_PATHS: Final = "/.domicile/"
"""Prefix of the paths that are no application's. An edge leaves them to a router."""
_SLASH: Final = r"(?:[/\\]|%2[Ff]|%5[Cc])"
AMBIGUOUS: Final = (
    rf"(?:{_SLASH}(?:\.|%2[Ee]){{1,2}}(?:{_SLASH}|;|%3[Bb]|[?]|$)"  # dot segments, with parameters or without
    r"|%00|%25|%5[Cc]|[^!-~]|[\\#])"  # NUL, encoded twice, a backslash, what is no printable ASCII, a fragment
)
"""What no path holds that a router forwards, in any spelling that some server might undo: left to one, to be refused.

A regular expression that every proxy's engine reads alike, to be looked for in the path of a target.
"""
HOST: Final = r"(?:[A-Za-z0-9._~-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?"
"""The whole of a Host field that a router takes, in the same grammar; a request with another one is left to it too."""
REFUSED_METHODS: Final = ("CONNECT", "TRACE")
"""No application sees them, whatever the proxy itself thinks of them: a router answers 405."""


@dataclass(frozen=True, slots=True)
class Zone:
    """A cell's application in one zone: ``address`` is host:port, ``uri`` the identity that must answer there."""

    name: str
    address: str
    uri: str


@dataclass(frozen=True, slots=True)
class EdgeCell:
    """A cell of the edge's jurisdiction that serves subjects; its zones, the nearest first."""

    name: str
    zones: tuple[Zone, ...]


@dataclass(frozen=True, slots=True)
class EdgeRouter:
    """A router of the edge's jurisdiction: ``public`` is the listener that clients reach, ``internal`` answers
    ``/v1/decide``."""

    zone: str
    public: str
    internal: str


@dataclass(frozen=True, slots=True)
class View:
    """A topology from one edge.

    ``routers``: the nearest first; ``public_host``: the name in their public certificates. ``directory``: addresses of
    host:port. ``classes``: which paths are a subject's own, the first that matches holds, and a path that none
    matches is pinned; the nearest router's. ``by_token``: whether requests are routed by the residency token at all.
    ``sessions``: cookies that carry the application's own.
    ``named_paths``, ``named_hosts``: regular expressions (whole path, whole host in lower case) of requests that name
    their subject another way: for a router, which compares. ``untrusted``: header fields, in lower case, that a router
    would believe from the edge; to be dropped.
    """

    deployment: str
    jurisdiction: str
    zone: str
    public_host: str
    cells: tuple[EdgeCell, ...]
    routers: tuple[EdgeRouter, ...]
    directory: tuple[str, ...]
    classes: tuple[PathRule, ...]
    by_token: bool
    sessions: tuple[str, ...]
    named_paths: tuple[str, ...]
    named_hosts: tuple[str, ...]
    untrusted: tuple[str, ...]

    @property
    def public_name(self) -> str:
        """``public_host`` without a port."""
        return self.public_host.rpartition(":")[0] or self.public_host

    @property
    def directory_prefix(self) -> str:
        """Of the identities of directory processes."""
        return f"spiffe://{self.deployment}/global/{Role.DIRECTORY}/"


def view_of(manifest: Manifest, vantage: Identity) -> View:
    """The topology from an edge's vantage. Pure.

    A closed cell is left out: what is for it goes to a router, which says so. Raises InvalidInput for an identity that
    is no edge's, and where the jurisdiction has no router.
    """
    if vantage.role is not Role.EDGE or vantage.deployment != manifest.deployment:
        raise InvalidInput(
            f"{vantage.uri} is no edge of {manifest.deployment}",
            remedy=f"a certificate for spiffe://{manifest.deployment}/<jurisdiction>/edge/<zone>",
        )
    home, zone = vantage.jurisdiction, vantage.zone
    if home not in manifest.jurisdictions:
        raise InvalidInput(f"the topology has no jurisdiction {home!r}", where=vantage.uri)
    routers = sorted(manifest.routers_of(home).items(), key=lambda item: item[0] != zone)
    if not routers:
        raise InvalidInput(
            f"{home} has no router, and an edge leaves to one what it cannot decide", remedy="add one to the manifest"
        )
    rules = routers[0][1].rules
    written = identity_rules(rules, sessions=manifest.identity is not None)
    return View(
        deployment=manifest.deployment,
        jurisdiction=home,
        zone=zone,
        public_host=manifest.jurisdictions[home].public_host,
        cells=tuple(_cell(manifest, name, zone) for name in _serving(manifest, home)),
        routers=tuple(EdgeRouter(name, router.public, router.internal) for name, router in routers),
        directory=tuple(site.address for site in sorted(manifest.directory.sites, key=lambda each: each.zone != zone)),
        classes=tuple(classes_of(rules)),
        by_token=any(isinstance(rule, TokenRule) for rule in written),
        sessions=tuple(rule.cookie for rule in written if isinstance(rule, JwtRule) and rule.cookie is not None),
        named_paths=tuple(_path(rule) for rule in written if isinstance(rule, PathIdentityRule)),
        named_hosts=tuple(_host(rule) for rule in written if isinstance(rule, HostIdentityRule)),
        untrusted=_believed(router for _, router in routers),
    )


def _serving(manifest: Manifest, jurisdiction: str) -> list[str]:
    cells = manifest.cells_of(jurisdiction)
    return [name for name, cell in cells.items() if cell.state is not CellState.CLOSED]


def _cell(manifest: Manifest, name: str, nearest: str) -> EdgeCell:
    cell = manifest.cells[name]
    zones = [
        Zone(zone, place.app, Identity(manifest.deployment, cell.jurisdiction, Role.APP, f"{name}.{zone}").uri)
        for zone, place in cell.zones.items()
    ]
    return EdgeCell(name, tuple(sorted(zones, key=lambda each: each.name != nearest)))


def _path(rule: PathIdentityRule) -> str:
    pattern = re.escape(rule.pattern.removesuffix("*")).replace(re.escape(SUBJECT_SLOT), "[^/]+")
    return pattern + (".*" if rule.pattern.endswith("*") else "")


def _host(rule: HostIdentityRule) -> str:
    return re.escape(rule.pattern).replace(re.escape(SUBJECT_SLOT), "[^.]+") + r"\.?(:[0-9]+)?"


def _believed(routers: Iterable[Router]) -> tuple[str, ...]:
    names = set()
    for router in routers:
        upcoming = router.rules_next.rules if router.rules_next is not None else []
        names |= {rule.name.lower() for rule in [*router.rules, *upcoming] if isinstance(rule, HeaderRule)}
    return tuple(sorted(names))
