"""What a session must have set, whatever its role says: a role may change its own settings, by ALTER ROLE.

Each connection states them as it begins, which goes before what is set for a role or a database. A pooler in
transaction mode lets through those alone that it keeps track of; the others are there what the role, or whoever had the
same server before, has set. So behind one each transaction begins by stating them (``OPENING``), and nothing that
touches rows runs outside of one. What is left to a role there is to keep its own sessions out: by a library that cannot
be loaded, or a time-out that ends an idle server. `domicile schema plan` says what a role has set against them,
`apply` takes it back, and a gateway warns of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

import asyncpg

from domicile.model.access import STALE_READS
from domicile.sdk.store import ddl
from domicile.sdk.store.changes import Step

OWN: Final[Mapping[str, str]] = {
    "synchronous_commit": "on",
    "search_path": "public",
    "lock_timeout": "5s",
    "idle_in_transaction_session_timeout": "30s",
}
"""What ``sql/system.sql`` sets for each role, too, for sessions behind a pooler."""
_TRACKED: Final[Mapping[str, str]] = {
    "application_name": "domicile",
    "TimeZone": "UTC",
    "DateStyle": "ISO, MDY",
    "standard_conforming_strings": "on",  # else a literal that was admitted could end where nobody saw its end
}
"""What PgBouncer keeps track of."""
_SESSION: Final[Mapping[str, str]] = {
    **_TRACKED,
    **OWN,
    "statement_timeout": "0",  # it would cut a COMMIT that waits for a standby short, and answer that it was done
    "idle_session_timeout": "0",
    "default_transaction_read_only": "off",
    "default_transaction_deferrable": "off",
    "default_transaction_isolation": "read committed",  # a fence is looked at as of now, not as of BEGIN
    "row_security": "on",
    "transform_null_equals": "off",
    "IntervalStyle": "postgres",
    "bytea_output": "hex",
    "extra_float_digits": "1",
    "local_preload_libraries": "",
    "debug_print_parse": "off",  # these three write what a statement compares with into the server's log
    "debug_print_rewritten": "off",
    "debug_print_plan": "off",
}
_OF_BEGIN: Final = frozenset(
    {"default_transaction_read_only", "default_transaction_deferrable", "default_transaction_isolation"}
)
_OF_NO_TRANSACTION: Final = frozenset({"idle_session_timeout", "local_preload_libraries"})
"""They count outside of transactions, and as a session begins."""
OPENING: Final = "; ".join(
    [
        "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE NOT DEFERRABLE",
        *(
            f"SET LOCAL {name} = {ddl.literal(value)}"
            for name, value in _SESSION.items()
            if name not in {*_TRACKED, *_OF_BEGIN, *_OF_NO_TRANSACTION}
        ),
    ]
)
"""Begins a transaction behind a pooler, whatever was set for its session."""
WATCHED: Final = frozenset({name.lower() for name in _SESSION} | {"transaction_timeout", "role"}) - {"application_name"}
"""``transaction_timeout`` came with PostgreSQL 17: no connection may name it. It ends a session, and no more."""


def of_session(*, pooler: bool = False, standby: bool = False) -> dict[str, str]:
    """``pooler``: whether one in transaction mode stands between; ``standby``: of a session that only reads at one."""
    own = {STALE_READS: "asked", "default_transaction_read_only": "on"} if standby else {}
    return dict(_TRACKED if pooler else _SESSION) | own


def strange(found: Iterable[asyncpg.Record]) -> list[asyncpg.Record]:
    """Of the rows of ``role_settings``, those that are watched and not ours."""
    watched = [row for row in found if row["name"].lower() in WATCHED]
    return [row for row in watched if row["database"] is not None or OWN.get(row["name"]) != row["value"]]


def steps(found: Iterable[asyncpg.Record]) -> list[Step]:
    """What takes back the settings of our roles that are not ours. Pure."""
    taken = []
    for row in strange(found):
        where = "" if row["database"] is None else f" IN DATABASE {ddl.quote(row['database'])}"
        ours = OWN.get(row["name"]) if row["database"] is None else None
        name = ddl.quote(row["name"])
        change = f"RESET {name}" if ours is None else f"SET {name} = {ddl.literal(ours)}"
        sql = f"ALTER ROLE {ddl.quote(row['role'])}{where} {change};"
        taken.append(Step(f"take back {row['name']} of role {row['role']}", sql, by_system=True))
    return taken
