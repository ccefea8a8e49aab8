"""Alerts as code: each is written over the metrics' own declarations, and says what to look at.

Thresholds are where a promise of this project is near its end, and stand beside the promise. Counters that must stay at
zero wake somebody at one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from prometheus_client.metrics import MetricWrapperBase

from domicile.ops.k8s.names import Object
from domicile.telemetry import (
    BACKUP_AGE,
    BACKUP_FAILURES,
    BORDER,
    HOLDER_FAILURES,
    LEDGER_ALARM,
    LEDGER_REFUSED,
    LOG_LAG,
    LOG_LOSSES,
    REPLICA_LAG,
    REPLICA_STALENESS,
    REQUESTS,
    SHED,
    STORAGE_LAG,
    UNANSWERED_COMMITS,
    UPSTREAM_DURATION,
    UPSTREAM_EJECTIONS,
)
from domicile.telemetry.catalogue import declared

PAGE, TICKET = "page", "ticket"


@dataclass(frozen=True, slots=True)
class Alert:
    """``page``: the page of docs/ that says what to do."""

    name: str
    expression: str
    minutes: int
    severity: str
    summary: str
    page: str


def _series(metric: MetricWrapperBase, number: int = 0, **labels: str) -> str:
    """A series with matchers; ``_match`` behind a label makes it a pattern. Raises ValueError for no such label."""
    known = declared(metric)
    matchers = []
    for label, value in labels.items():
        name = label.removesuffix("_match")
        if name not in known.labels:
            raise ValueError(f"{known.name} has no label {name}")
        matchers.append(f'{name}{"=~" if label.endswith("_match") else "="}"{value}"')
    return known.series[number] + (f"{{{','.join(matchers)}}}" if matchers else "")


def _grown(metric: MetricWrapperBase, window: str = "10m", **labels: str) -> str:
    return f"increase({_series(metric, 0, **labels)}[{window}])"


ALERTS: Final = (
    Alert(
        "DomicileBorderRefused",
        f"sum by (from_jurisdiction, to_jurisdiction, kind) ({_grown(BORDER, verdict='refused')}) > 0",
        0,
        TICKET,
        "Somebody of {{ $labels.from_jurisdiction }} asked {{ $labels.to_jurisdiction }} for what may not cross",
        "threat-model",
    ),
    Alert(
        "DomicileLedgerAlarm",
        f"max by (cell) ({_series(LEDGER_ALARM)}) > 0",
        0,
        PAGE,
        "The ledger of {{ $labels.cell }} does not go with what is held of it",
        "ledger",
    ),
    Alert(
        "DomicileLedgerNotWritten",
        f"sum by (instance) ({_grown(LEDGER_REFUSED)}) > 0",
        0,
        PAGE,
        "Crossings are refused because the ledger could not be written",
        "ledger",
    ),
    Alert(
        "DomicileReplicaStale",
        f"max by (instance) ({_series(REPLICA_STALENESS)}) > 60",
        5,
        PAGE,
        "A router has not heard from the directory for a minute: new subjects get 503",
        "pins",
    ),
    Alert(
        "DomicileReplicaBehind",
        f"max by (instance) ({_series(REPLICA_LAG)}) > 10000",
        5,
        TICKET,
        "A router's map is 10,000 changes behind",
        "pins",
    ),
    Alert(
        "DomicileDirectoryReplicaLate",
        f"max by (address) ({_series(STORAGE_LAG)}) > 5",
        10,
        TICKET,
        "A read replica of the directory is too late to be asked",
        "directory-engines",
    ),
    Alert(
        "DomicileCommitsUnanswered",
        f"sum by (instance) ({_grown(UNANSWERED_COMMITS)}) > 0",
        0,
        PAGE,
        "A database left a COMMIT unanswered: is its synchronous standby gone?",
        "availability",
    ),
    Alert(
        "DomicileErrors",
        f"sum by (job) (rate({_series(REQUESTS, status_match='5..')}[5m]))"
        f" / sum by (job) (rate({_series(REQUESTS)}[5m])) > 0.01",
        5,
        PAGE,
        "More than one request in a hundred fails",
        "status-codes",
    ),
    Alert(
        "DomicileHomeSlow",
        f"histogram_quantile(0.99, sum by (le, jurisdiction, cell) (rate({_series(UPSTREAM_DURATION, 0)}[5m]))) > 1",
        10,
        TICKET,
        "The slowest of a hundred requests to {{ $labels.cell }} takes more than a second",
        "router",
    ),
    Alert(
        "DomicileEjections",
        f"sum by (jurisdiction, cell) ({_grown(UPSTREAM_EJECTIONS)}) > 5",
        0,
        TICKET,
        "Endpoints of {{ $labels.cell }} are put last again and again",
        "router",
    ),
    Alert(
        "DomicileShedding",
        f"sum by (kind) (rate({_series(SHED)}[5m])) > 1",
        5,
        PAGE,
        "Requests are refused for want of room",
        "router",
    ),
    Alert(
        "DomicileKeyHolderWrong",
        f"sum by (domain) ({_grown(HOLDER_FAILURES, reason_match='garbage|wrong-key')}) > 0",
        0,
        PAGE,
        "The holder of {{ $labels.domain }} answers with what is not its key",
        "keys",
    ),
    Alert(
        "DomicileKeysDown",
        f"sum ({_grown(HOLDER_FAILURES, domain='default')}) > 0",
        5,
        PAGE,
        "The key service does not unwrap its own keys",
        "keys",
    ),
    Alert(
        "DomicileBackupLogLate",
        f"max by (database) ({_series(LOG_LAG)}) > 300",
        5,
        PAGE,
        "What {{ $labels.database }} wrote in the last five minutes is in no backup",
        "backup",
    ),
    Alert(
        "DomicileBackupLogLost",
        f"sum by (database) ({_grown(LOG_LOSSES, '1h')}) > 0",
        0,
        PAGE,
        "{{ $labels.database }} gave up log that no backup has",
        "backup",
    ),
    Alert(
        "DomicileBackupOld",
        f"max by (database) ({_series(BACKUP_AGE)}) > 2 * 86400",
        30,
        TICKET,
        "The last base backup of {{ $labels.database }} is two days old",
        "backup",
    ),
    Alert(
        "DomicileBackupFailing",
        f"sum by (database, code) ({_grown(BACKUP_FAILURES, '1h')}) > 3",
        0,
        TICKET,
        "Backups of {{ $labels.database }} fail: {{ $labels.code }}",
        "backup",
    ),
)


def alert_rules() -> Object:
    """A PrometheusRule."""
    rules = [
        {
            "alert": each.name,
            "expr": each.expression,
            "for": f"{each.minutes}m",
            "labels": {"severity": each.severity},
            "annotations": {"summary": each.summary, "page": f"docs/{each.page}.md"},
        }
        for each in ALERTS
    ]
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "domicile"},
        "spec": {"groups": [{"name": "domicile", "rules": rules}]},
    }
