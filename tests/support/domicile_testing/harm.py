"""Settings that an application's role, or a session of it, may give itself, each to the worst that it takes."""

from __future__ import annotations

from typing import Final

HARM: Final = {
    "synchronous_commit": "off",
    "search_path": "pg_temp",
    "row_security": "off",
    "default_transaction_read_only": "on",
    "default_transaction_isolation": "serializable",
    "default_transaction_deferrable": "on",
    "statement_timeout": "1ms",
    "lock_timeout": "1ms",
    "idle_in_transaction_session_timeout": "1ms",
    "idle_session_timeout": "1ms",
    "transform_null_equals": "on",
    "standard_conforming_strings": "off",
    "TimeZone": "Pacific/Auckland",
    "DateStyle": "SQL, DMY",
    "IntervalStyle": "sql_standard",
    "bytea_output": "escape",
    "extra_float_digits": "-15",
    "debug_print_parse": "on",
    "debug_print_rewritten": "on",
    "debug_print_plan": "on",
    "local_preload_libraries": "nothing",
}
