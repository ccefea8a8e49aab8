"""Who may speak to whom: identities, vantages and the published matrix role x endpoint x jurisdiction.

Every process has one SPIFFE-style name, ``spiffe://<deployment>/<jurisdiction>/<role>/<name>`` (SPIFFE-ID,
section 2), where ``name`` is ``<zone>``, or ``<cell>.<zone>`` for a cell's processes (a customer's key
holder: ``<key domain>.<zone>``). TLS proves the name; this module says what the name may do. ``global`` is the
directory's own trust domain.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from domicile.model.errors import Forbidden, InvalidInput
from domicile.model.ids import MAX_IDENTIFIER_BYTES

GLOBAL: Final = "global"


class Role(StrEnum):
    """What a process is. One certificate carries one role."""

    DIRECTORY = "directory"
    ROUTER = "router"
    EDGE = "edge"
    APP = "app"
    GATEWAY = "gateway"
    KEYS = "keys"
    HOLDER = "holder"
    STORAGE = "storage"
    BACKUP = "backup"
    OPERATOR = "operator"
    LOAD = "load"


CELL_ROLES: Final = frozenset({Role.APP, Role.GATEWAY})
_NAME: Final = r"[a-z][a-z0-9]*(?:-[a-z0-9]+)*"
_URI: Final = re.compile(
    rf"spiffe://(?P<deployment>{_NAME})/(?P<jurisdiction>{_NAME})/(?P<role>{_NAME})/(?P<name>{_NAME}(?:\.{_NAME})?)"
)


@dataclass(frozen=True, slots=True)
class Identity:
    """A process's proven name; also its vantage: where it runs."""

    deployment: str
    jurisdiction: str
    role: Role
    name: str

    def __post_init__(self) -> None:
        if self.role in CELL_ROLES and "." not in self.name:
            raise InvalidInput(f"a certificate for {self.role} names <cell>.<zone>, not {self.name!r}")

    @property
    def uri(self) -> str:
        return f"spiffe://{self.deployment}/{self.jurisdiction}/{self.role}/{self.name}"

    @property
    def dns_name(self) -> str:
        """The same without the zone, for proxies that check no URI names (RFC 6125 has them look at DNS names): every
        process of a cell in one role, or of a jurisdiction. Nobody resolves it; ``.internal`` is nobody's to register.
        """
        place = f"{self.cell}.{self.jurisdiction}" if self.cell is not None else self.jurisdiction
        return f"{self.role}.{place}.{self.deployment}.domicile.internal"

    @property
    def cell(self) -> str | None:
        cell, dot, _ = self.name.partition(".")
        return cell if dot else None

    @property
    def zone(self) -> str:
        return self.name.rpartition(".")[2]

    @classmethod
    def parse(cls, uri: str) -> Identity:
        """From a certificate's URI name; raises InvalidInput for anything that is not one of ours."""
        match = _URI.fullmatch(uri) if len(uri) <= MAX_IDENTIFIER_BYTES else None
        if match is None:
            raise InvalidInput("not a Domicile identity", remedy="spiffe://deployment/jurisdiction/role/name")
        try:
            role = Role(match["role"])
        except ValueError:
            raise InvalidInput(f"unknown role {match['role']!r} in an identity") from None
        return cls(match["deployment"], match["jurisdiction"], role, match["name"])


STALE_READS: Final = "domicile.stale_reads"
"""What a session of an application's states, as it begins, to be let in at a server that does not lead."""


class Endpoint(StrEnum):
    """A group of operations with one rule. A listener names the endpoint of each of its routes."""

    HEALTH = "health"
    READY = "ready"
    PINS_READ = "directory.pins.read"
    PINS_FOLLOW = "directory.pins.follow"
    PINS_CLAIM = "directory.pins.claim"
    PINS_GRANT = "directory.pins.grant"
    PINS_ERASE = "directory.pins.erase"
    PINS_REKEY = "directory.pins.rekey"
    PEPPERS_READ = "directory.peppers.read"
    PEPPERS_CHANGE = "directory.peppers.change"
    ALIASES = "directory.aliases"
    TOPOLOGY_READ = "directory.topology.read"
    TOPOLOGY_PUBLISH = "directory.topology.publish"
    RECONCILIATION_READ = "directory.reconciliation.read"
    RECONCILIATION_REPORT = "directory.reconciliation.report"
    REPLICAS_READ = "directory.replicas.read"
    SIGNING_KEYS_PUBLISH = "directory.signing-keys.publish"
    SIGNING_KEYS_REVOKE = "directory.signing-keys.revoke"
    DATA_KEYS = "keys.data-keys"
    KEYS_SHRED = "keys.shred"
    KEYS_ROTATE = "keys.rotate"
    KEYS_TURN = "keys.turn"
    BACKUP_KEYS = "keys.backup-keys"
    KEYS_RECEIPTS = "keys.receipts"
    HELD_KEYS = "holder.keys"
    FENCES = "gateway.fences"
    FENCES_REKEY = "gateway.fences.rekey"
    FENCES_ERASE = "gateway.fences.erase"
    FENCES_SHRED = "gateway.fences.shred"
    RECORDS = "gateway.records"
    ABROAD_READ = "gateway.abroad.read"
    RELEASES = "gateway.releases"
    ARRIVALS = "gateway.arrivals"
    LEDGER_HEADS = "gateway.ledger.heads"
    LEDGER_READ = "gateway.ledger.read"
    LEDGER_CARRIED = "gateway.ledger.carried"
    REFERENCES_PULL = "gateway.references.pull"
    REFERENCES_READ = "gateway.references.read"
    APP_REQUESTS = "app.requests"
    GATEWAY_REQUESTS = "gateway.requests"
    ROUTER_INTERNAL = "router.internal"
    EXPLAIN = "router.explain"
    DECIDE = "router.decide"
    CELL_STORAGE = "storage.cell"
    KEY_STORAGE = "storage.keys"
    DIRECTORY_STORAGE = "storage.directory"
    BACKUP_STREAM = "storage.backup"
    REPLICATION = "storage.replication"


class Scope(StrEnum):
    """How near caller and callee must be."""

    ANY = "any jurisdiction"
    JURISDICTION = "the same jurisdiction"
    CELL = "the same cell"
    STORE = "the same cell, key store or directory"


@dataclass(frozen=True, slots=True)
class Rule:
    roles: frozenset[Role]
    scope: Scope


def _rule(scope: Scope, *roles: Role) -> Rule:
    return Rule(frozenset(roles), scope)


MATRIX: Final[dict[Endpoint, Rule]] = {
    Endpoint.HEALTH: _rule(Scope.ANY, Role.OPERATOR),
    Endpoint.READY: _rule(Scope.JURISDICTION, Role.EDGE),
    Endpoint.PINS_READ: _rule(Scope.ANY, Role.ROUTER, Role.APP, Role.GATEWAY, Role.OPERATOR),
    Endpoint.PINS_FOLLOW: _rule(Scope.ANY, Role.ROUTER, Role.EDGE, Role.OPERATOR),
    Endpoint.PINS_CLAIM: _rule(Scope.ANY, Role.APP),
    Endpoint.PINS_GRANT: _rule(Scope.ANY, Role.GATEWAY),
    Endpoint.PINS_ERASE: _rule(Scope.ANY, Role.GATEWAY),
    Endpoint.PINS_REKEY: _rule(Scope.ANY, Role.GATEWAY),
    Endpoint.PEPPERS_READ: _rule(Scope.ANY, Role.OPERATOR),
    Endpoint.PEPPERS_CHANGE: _rule(Scope.JURISDICTION, Role.OPERATOR),
    Endpoint.ALIASES: _rule(Scope.ANY, Role.APP),
    Endpoint.TOPOLOGY_READ: _rule(
        Scope.ANY,
        Role.ROUTER,
        Role.EDGE,
        Role.APP,
        Role.GATEWAY,
        Role.KEYS,
        Role.BACKUP,
        Role.OPERATOR,
        Role.LOAD,
    ),
    Endpoint.TOPOLOGY_PUBLISH: _rule(Scope.JURISDICTION, Role.OPERATOR),
    Endpoint.SIGNING_KEYS_PUBLISH: _rule(Scope.ANY, Role.ROUTER),
    Endpoint.SIGNING_KEYS_REVOKE: _rule(Scope.JURISDICTION, Role.OPERATOR),
    Endpoint.RECONCILIATION_READ: _rule(Scope.ANY, Role.GATEWAY, Role.OPERATOR),
    Endpoint.RECONCILIATION_REPORT: _rule(Scope.ANY, Role.GATEWAY),
    Endpoint.REPLICAS_READ: _rule(Scope.ANY, Role.OPERATOR),
    Endpoint.DATA_KEYS: _rule(Scope.JURISDICTION, Role.APP, Role.GATEWAY),
    Endpoint.KEYS_SHRED: _rule(Scope.JURISDICTION, Role.APP, Role.GATEWAY),
    Endpoint.KEYS_ROTATE: _rule(Scope.JURISDICTION, Role.OPERATOR),
    Endpoint.KEYS_TURN: _rule(Scope.JURISDICTION, Role.GATEWAY),
    Endpoint.BACKUP_KEYS: _rule(Scope.JURISDICTION, Role.BACKUP),
    Endpoint.KEYS_RECEIPTS: _rule(Scope.JURISDICTION, Role.APP, Role.GATEWAY, Role.OPERATOR),
    Endpoint.HELD_KEYS: _rule(Scope.JURISDICTION, Role.KEYS),
    Endpoint.FENCES: _rule(Scope.CELL, Role.APP),
    Endpoint.FENCES_REKEY: _rule(Scope.JURISDICTION, Role.OPERATOR),
    Endpoint.FENCES_ERASE: _rule(Scope.JURISDICTION, Role.APP, Role.OPERATOR),
    Endpoint.FENCES_SHRED: _rule(Scope.CELL, Role.APP),
    Endpoint.RECORDS: _rule(Scope.CELL, Role.APP),
    Endpoint.ABROAD_READ: _rule(Scope.ANY, Role.APP),
    Endpoint.RELEASES: _rule(Scope.JURISDICTION, Role.OPERATOR),
    Endpoint.ARRIVALS: _rule(Scope.ANY, Role.GATEWAY),
    Endpoint.LEDGER_HEADS: _rule(Scope.ANY, Role.GATEWAY, Role.OPERATOR),
    Endpoint.LEDGER_READ: _rule(Scope.JURISDICTION, Role.OPERATOR),
    Endpoint.LEDGER_CARRIED: _rule(Scope.JURISDICTION, Role.ROUTER),
    Endpoint.REFERENCES_PULL: _rule(Scope.ANY, Role.GATEWAY),
    Endpoint.REFERENCES_READ: _rule(Scope.JURISDICTION, Role.APP, Role.OPERATOR),
    Endpoint.APP_REQUESTS: _rule(Scope.JURISDICTION, Role.ROUTER, Role.EDGE),
    Endpoint.GATEWAY_REQUESTS: _rule(Scope.JURISDICTION, Role.ROUTER),
    Endpoint.ROUTER_INTERNAL: _rule(Scope.ANY, Role.ROUTER),
    Endpoint.EXPLAIN: _rule(Scope.ANY, Role.OPERATOR),
    Endpoint.DECIDE: _rule(Scope.JURISDICTION, Role.EDGE),
    Endpoint.CELL_STORAGE: _rule(Scope.CELL, Role.APP, Role.GATEWAY),
    Endpoint.KEY_STORAGE: _rule(Scope.JURISDICTION, Role.KEYS),
    Endpoint.DIRECTORY_STORAGE: _rule(Scope.JURISDICTION, Role.DIRECTORY),
    Endpoint.BACKUP_STREAM: _rule(Scope.JURISDICTION, Role.BACKUP),
    Endpoint.REPLICATION: _rule(Scope.STORE, Role.STORAGE),
}
"""The matrix. An operator of the storage's own jurisdiction may open any storage: it applies schemas; and any operator
may ask whoever it reaches whether it is ready. A process may ask itself how it is: a probe has no other certificate."""

_HEALTH: Final = frozenset({Endpoint.HEALTH, Endpoint.READY})
_STORAGE: Final = frozenset({Endpoint.CELL_STORAGE, Endpoint.KEY_STORAGE, Endpoint.DIRECTORY_STORAGE})


def may(caller: Identity, callee: Identity, endpoint: Endpoint) -> bool:
    """Whether ``caller`` may use ``endpoint`` of ``callee``. Pure; unknown combinations are refused."""
    if caller.deployment != callee.deployment:
        return False
    if endpoint in _STORAGE and caller.role is Role.OPERATOR:
        return caller.jurisdiction == callee.jurisdiction
    if endpoint is Endpoint.READY and caller.role is Role.OPERATOR:
        return True
    if endpoint in _HEALTH and caller == callee:
        return True
    rule = MATRIX[endpoint]
    if caller.role not in rule.roles:
        return False
    if rule.scope is Scope.ANY:
        return True
    if caller.jurisdiction != callee.jurisdiction:
        return False
    if rule.scope is Scope.STORE:
        return caller.cell == callee.cell
    return rule.scope is Scope.JURISDICTION or (caller.cell is not None and caller.cell == callee.cell)


def require(caller: Identity, callee: Identity, endpoint: Endpoint) -> None:
    """Raise Forbidden unless the matrix lets ``caller`` use ``endpoint`` of ``callee``."""
    if not may(caller, callee, endpoint):
        raise Forbidden(
            f"{caller.role} of {caller.jurisdiction} may not use {endpoint} of {callee.jurisdiction}",
            where=callee.uri,
        )
