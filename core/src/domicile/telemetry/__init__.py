"""Logs and metrics by allow-list: personal values have no field to be written to."""

from domicile.telemetry.logs import FIELDS, FieldNotAllowed, configure_logs, log, place_of, warn
from domicile.telemetry.metrics import (
    BORDER,
    DECISIONS,
    DURATION,
    REFUSALS,
    REPLICA_LAG,
    REPLICA_PINS,
    REPLICA_STALENESS,
    REQUESTS,
    RULE_DISAGREEMENTS,
    SHED,
    UPSTREAM_EJECTIONS,
    UPSTREAM_RETRIES,
    render_metrics,
)

__all__ = [
    "BORDER",
    "DECISIONS",
    "DURATION",
    "FIELDS",
    "REFUSALS",
    "REPLICA_LAG",
    "REPLICA_PINS",
    "REPLICA_STALENESS",
    "REQUESTS",
    "RULE_DISAGREEMENTS",
    "SHED",
    "UPSTREAM_EJECTIONS",
    "UPSTREAM_RETRIES",
    "FieldNotAllowed",
    "configure_logs",
    "log",
    "place_of",
    "render_metrics",
    "warn",
]
