"""Metrics by allow-list: every series is declared here, with labels that take names of places and codes.

prometheus_client keeps and renders them; no label may take a subject, an address or a path.
"""

from __future__ import annotations

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from domicile.telemetry.tallies import settle

REGISTRY: Final = CollectorRegistry()

REQUESTS: Final = Counter("domicile_requests", "Requests answered", ["route", "method", "status"], registry=REGISTRY)
DURATION: Final = Histogram(
    "domicile_request_duration_seconds",
    "Time from a request's head to the end of its answer",
    ["route"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 5, 30),
    registry=REGISTRY,
)
REFUSALS: Final = Counter("domicile_refusals", "Requests refused", ["code"], registry=REGISTRY)
BORDER: Final = Counter(
    "domicile_border_crossings",
    "What crossed, or tried to cross, a border",
    ["from_jurisdiction", "to_jurisdiction", "kind", "verdict"],
    registry=REGISTRY,
)
BORDER_BYTES: Final = Counter(
    "domicile_border_bytes",
    "Bytes of bodies that were carried over a border",
    ["from_jurisdiction", "to_jurisdiction", "kind"],
    registry=REGISTRY,
)
UPSTREAM_REQUESTS: Final = Counter(
    "domicile_upstream_requests",
    "Answers by a home, or why there was none",
    ["jurisdiction", "cell", "route", "status"],
    registry=REGISTRY,
)
UPSTREAM_DURATION: Final = Histogram(
    "domicile_upstream_duration_seconds",
    "Time from sending a request on to the head of the answer",
    ["jurisdiction", "cell", "route"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 5, 30),
    registry=REGISTRY,
)
DECISIONS: Final = Counter("domicile_decisions", "Routing decisions", ["kind", "jurisdiction"], registry=REGISTRY)
UPSTREAM_EJECTIONS: Final = Counter(
    "domicile_upstream_ejections", "Endpoints put last for a while", ["jurisdiction", "cell", "kind"], registry=REGISTRY
)
UPSTREAM_RETRIES: Final = Counter(
    "domicile_upstream_retries", "Second attempts, made or not", ["verdict"], registry=REGISTRY
)
SHED: Final = Counter("domicile_shed", "Requests refused for want of room", ["kind"], registry=REGISTRY)
RULE_DISAGREEMENTS: Final = Counter(
    "domicile_rule_disagreements", "Requests that rules_next reads otherwise than rules", ["kind"], registry=REGISTRY
)

REPLICA_STALENESS: Final = Gauge(
    "domicile_replica_staleness_seconds",
    "Since the pin replica last heard from the directory that it is up to date",
    registry=REGISTRY,
)
REPLICA_LAG: Final = Gauge(
    "domicile_replica_lag_changes",
    "Changes that the replica was told of and has not taken",
    registry=REGISTRY,
)
REPLICA_PINS: Final = Gauge("domicile_replica_pins", "Pins in the replica", registry=REGISTRY)

STORAGE_LAG: Final = Gauge(
    "domicile_storage_replica_lag_seconds",
    "How old the answers of a read replica of the directory's database may be",
    ["address"],
    registry=REGISTRY,
)
RELEASE_FAULTS: Final = Counter(
    "domicile_release_faults",
    "Times that a release did not go on for an error that nobody foresaw; it is tried again",
    registry=REGISTRY,
)
STALE_READS: Final = Counter(
    "domicile_stale_reads",
    "Reads whose caller said how old their answer may be: those that a standby answered, and those that the leader did",
    ["by"],
    registry=REGISTRY,
)
UNANSWERED_COMMITS: Final = Counter(
    "domicile_unanswered_commits",
    "Commits that the database had not answered when they were given up: done or not",
    registry=REGISTRY,
)

REFERENCE_VERSION: Final = Gauge(
    "domicile_reference_version", "Version of a reference table that is read here", ["table"], registry=REGISTRY
)
REFERENCE_BEHIND: Final = Gauge(
    "domicile_reference_behind",
    "1 where the writing cell has a later version than is read here",
    ["table"],
    registry=REGISTRY,
)
REFERENCE_AGE: Final = Gauge(
    "domicile_reference_age_seconds",
    "Since the cell that writes a reference table was heard of",
    ["table"],
    registry=REGISTRY,
)

HOLDER_DURATION: Final = Histogram(
    "domicile_key_holder_duration_seconds",
    "Time that the holder of a key-encryption key took to wrap or unwrap one batch",
    ["domain", "call"],
    buckets=(0.0001, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2, 5),
    registry=REGISTRY,
)
HOLDER_FAILURES: Final = Counter(
    "domicile_key_holder_failures", "Batches that a holder did not serve", ["domain", "reason"], registry=REGISTRY
)

LOG_LAG: Final = Gauge(
    "domicile_backup_log_lag_seconds",
    "Since everything that a database had written was in its backup target",
    ["database"],
    registry=REGISTRY,
)
LOG_WAITING: Final = Gauge(
    "domicile_backup_log_waiting_bytes", "Received and not in the target yet", ["database"], registry=REGISTRY
)
LOG_LOSSES: Final = Counter(
    "domicile_backup_log_losses",
    "Times that a database gave up log that was not in the target: a base backup was taken then",
    ["database"],
    registry=REGISTRY,
)
BACKUP_AGE: Final = Gauge(
    "domicile_backup_age_seconds", "Since the last base backup ended", ["database"], registry=REGISTRY
)
BACKUP_FAILURES: Final = Counter(
    "domicile_backup_failures", "What could not be kept or taken", ["database", "code"], registry=REGISTRY
)

LEDGER_LINES: Final = Counter(
    "domicile_ledger_lines", "Lines that this process has added to the ledger", registry=REGISTRY
)
LEDGER_REFUSED: Final = Counter(
    "domicile_ledger_refused", "Crossings refused because the ledger could not be written", registry=REGISTRY
)
LEDGER_ALARM: Final = Gauge(
    "domicile_ledger_alarm",
    "Whether another cell's ledger does not go with what is held of it: 1 is an alarm",
    ["cell"],
    registry=REGISTRY,
)
LEDGER_HEAD_AGE: Final = Gauge(
    "domicile_ledger_head_age_seconds",
    "Since another cell's ledger was last found to go with what is held of it",
    ["cell"],
    registry=REGISTRY,
)


def render_metrics() -> tuple[bytes, str]:
    """The exposition text and its content type."""
    settle()
    return generate_latest(REGISTRY), CONTENT_TYPE_LATEST
