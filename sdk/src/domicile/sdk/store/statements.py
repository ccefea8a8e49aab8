"""The statements over a record table, as text. Names come from classes that ``describe`` accepted, and are quoted.

Each finds its rows by the key that ``domicile.enter`` answers: the one that the subject has in the statement's own
snapshot. The function is read in FROM, since PostgreSQL leaves out what no other part refers to. LATERAL with OFFSET 0
or LIMIT keeps the planner from looking at rows first, when row security does not know the subject yet.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum, auto
from functools import lru_cache
from typing import Final

from domicile.sdk.store.port import CREATED, Operator
from domicile.sdk.tables import PRINCIPAL, Table

CACHED: Final = 512
_KEPT: Final = f"{PRINCIPAL} = excluded.{PRINCIPAL}"
"""For the trigger to see, which refuses another."""


class Write(Enum):
    """Whether a row must be absent, or may be there."""

    NEW = auto()
    PUT = auto()


def compare(column: str, operator: Operator, mark: int) -> str:
    """A condition on a row ``t`` of the fence ``f``."""
    if column == PRINCIPAL:
        return f"t.{PRINCIPAL} {operator.value} coalesce(${mark}::bytea, f.subject_key)"
    return f't."{column}" {operator.value} (${mark})'


def _target(table: Table) -> str:
    return f'public."{table.name}" AS t'


def _sealed_by(mark: str) -> str:
    """Tells the trigger what the rows were made with (``port.made_with``); a condition is looked at before it runs."""
    return f"set_config('domicile.keys', {mark}, true) IS NOT NULL"


def who() -> str:
    """Who a row ``t`` is about, where that is not the subject of the fence ``f``."""
    return f"nullif(t.{PRINCIPAL}, f.subject_key) AS {PRINCIPAL}"


def _changes(columns: Iterable[str], marks: Iterable[str]) -> str:
    given = "".join(f', "{column}" = {mark}' for column, mark in zip(columns, marks, strict=True))
    return f"epoch = $3, version = t.version + 1, updated_at = clock_timestamp(){given}"


@lru_cache(maxsize=CACHED)
def write(table: Table, mode: Write) -> str:
    """One row: its new version. Nothing where it is there and must not be, and where there is no fence at all.

    $1 jurisdiction, $2 subject, $3 epoch, $4 id, $5 principal, $6 keys, then the columns. That a row is there is no
    error, which would fail the transaction; a fence that refuses is one, by the trigger.
    """
    columns = [column for column, _, _ in table.stored]
    names = "".join(f', "{column}"' for column in columns)
    marks = "".join(f", ${number}::{sql_type}" for number, (_, sql_type, _) in enumerate(table.stored, start=7))
    found = _changes(columns, (f'excluded."{column}"' for column in columns))
    return (
        f"INSERT INTO {_target(table)} (jurisdiction, subject_key, principal_key, epoch, id{names}) "  # noqa: S608
        f"SELECT $1, f.subject_key, coalesce($5::bytea, f.subject_key), $3, $4{marks} FROM domicile.enter($2) f "
        f"WHERE {_sealed_by('$6')} "
        f"ON CONFLICT (subject_key, id) DO {f'UPDATE SET {_KEPT}, {found}' if mode is Write.PUT else 'NOTHING'} "
        "RETURNING t.version"
    )


@lru_cache(maxsize=CACHED)
def write_many(table: Table) -> str:
    """Many rows, each id once: $1 jurisdiction, $2 subject, $3 epoch, $4 ids, $5 principals, $6 keys, $7 their places
    in the order of creation, then arrays.

    A row takes more than a microsecond to write, so that whatever is written next is later than the last of them.
    """
    columns = [column for column, _, _ in table.stored]
    names = "".join(f', "{column}"' for column in columns)
    values = "".join(f', u."{column}"' for column in columns)
    arrays = "".join(f", ${number}::{sql_type}[]" for number, (_, sql_type, _) in enumerate(table.stored, start=8))
    found = _changes(columns, (f'excluded."{column}"' for column in columns))
    return (
        f"INSERT INTO {_target(table)} (jurisdiction, subject_key, principal_key, epoch, id, created_at{names}) "  # noqa: S608
        f"SELECT $1, f.subject_key, coalesce(u.principal_key, f.subject_key), $3, u.id, "
        f"statement_timestamp() + u.created_at * interval '1 microsecond'{values} "
        f"FROM domicile.enter($2) f CROSS JOIN unnest($4::uuid[], $5::bytea[], $7::int[]{arrays}) "
        f"AS u (id, principal_key, created_at{names}) "  # names that no field may have
        f"WHERE {_sealed_by('$6')} "
        f"ON CONFLICT (subject_key, id) DO UPDATE SET {_KEPT}, {found} RETURNING t.id, t.version"
    )


@lru_cache(maxsize=CACHED)
def replace(table: Table, columns: tuple[str, ...]) -> str:
    """Some columns of a row at a version, in a fenced transaction.

    $1 version, $2 subject, $3 epoch, $4 id, $5 principal, $6 keys, then the columns.
    """
    types = {column: sql_type for column, sql_type, _ in table.stored}
    marks = [f"${number}::{types[column]}" for number, column in enumerate(columns, start=7)]
    return (
        f"UPDATE {_target(table)} SET {_changes(columns, marks)} "  # noqa: S608 - checked names
        f"WHERE t.subject_key = $2 AND t.id = $4 AND t.version = $1 AND t.{PRINCIPAL} = coalesce($5::bytea, $2) "
        f"AND {_sealed_by('$6')} RETURNING t.version"
    )


def delete(table: Table) -> str:
    """In a fenced transaction: $1 subject, $2 id, $3 the version that it must have, or NULL."""
    return (
        f"DELETE FROM {_target(table)} WHERE t.subject_key = $1 AND t.id = $2 "  # noqa: S608 - the same
        "AND ($3::bigint IS NULL OR t.version = $3)"
    )


def there(table: Table) -> str:
    """Whether a row is there: $1 subject, $2 id."""
    return f"SELECT EXISTS (SELECT FROM {_target(table)} WHERE t.subject_key = $1 AND t.id = $2)"  # noqa: S608


def beyond(column: str, id_column: str, way: str, value: str, row: str) -> str:
    """Rows after a place in an order by ``column``, NULL last, and then by id. ``way``: ``>`` or, descending, ``<``."""
    return (
        f"({column} {way} {value} OR ({column} IS NULL AND {value} IS NOT NULL) "
        f"OR ({column} IS NOT DISTINCT FROM {value} AND {id_column} {way} {row}))"
    )


@lru_cache(maxsize=CACHED)
def select(
    table: Table,
    compared: tuple[tuple[str, Operator], ...],
    order: str = CREATED,
    *,
    descending: bool = False,
    limited: bool = False,
    after: bool = False,
    keyed: bool = False,
    indexed: bool = False,
) -> str:
    """Rows and fence in one snapshot; one row without an id where no row matches.

    The fence's epoch and state, the row's id, version, the value that it is ordered by and its principal, then the
    table's columns: read by their places, since a class may call a column whatever it likes. Last, where ``keyed`` and
    ``indexed``, under how new keys and how new a secret of the cell rows may lie.

    $1 is the subject, then what is compared with, then the value and the id of the place after which to begin, then
    the limit.
    """
    columns = "".join(f', t."{column.name}"' for column in table.columns)
    wheres = "".join(f" AND {compare(name, operator, n)}" for n, (name, operator) in enumerate(compared, start=2))
    next_mark = len(compared) + 2
    way, further = ("DESC", "<") if descending else ("ASC", ">")
    if after:
        value, row = f"${next_mark}::{table.kind_of(order).sql}", f"${next_mark + 1}::uuid"
        wheres += " AND " + beyond(f't."{order}"', "t.id", further, value, row)
        next_mark += 2
    newest = (", domicile.newest_keys($1)" if keyed else "") + (", domicile.newest_index()" if indexed else "")
    bound = f"LIMIT ${next_mark}" if limited else "OFFSET 0"
    return (
        f"SELECT f.epoch, f.state, r.*{newest} FROM domicile.enter($1) f LEFT JOIN LATERAL ("  # noqa: S608
        f'SELECT t.id, t.version, t."{order}", {who()}{columns} FROM {_target(table)} '
        f'WHERE t.subject_key = f.subject_key{wheres} ORDER BY t."{order}" {way} NULLS LAST, t.id {way} {bound}) r '
        "ON true"
    )


@lru_cache(maxsize=CACHED)
def sealed(table: Table, *, held: bool = False) -> str:
    """Sealed values of the transaction's subject, and whom they are about, where that is another; blind indexes, too.

    $1 the id after which to begin, $2 how many rows at most.

    ``held``: those of $1 ids that nobody else holds, held until the transaction ends.
    """
    columns = "".join(f', t."{name}"' for name in table.derived)
    which = "t.id > $1 ORDER BY t.id LIMIT $2"
    if held:
        which = "t.id = ANY ($1::uuid[]) ORDER BY t.id FOR NO KEY UPDATE SKIP LOCKED"
    about = f"nullif(t.{PRINCIPAL}, t.subject_key) AS {PRINCIPAL}"
    return f"SELECT t.id, {about}{columns} FROM {_target(table)} WHERE {which}"  # noqa: S608 - checked names


@lru_cache(maxsize=CACHED)
def reseal(table: Table, columns: tuple[str, ...]) -> str:
    """Other bytes for the same values: of ``domicile_turner``, for whom the trigger lets version and times stay.

    $1 epoch, $2 ids, $3 keys, then arrays.
    """
    names = "".join(f', "{column}"' for column in columns)
    arrays = "".join(f", ${number}::bytea[]" for number in range(4, 4 + len(columns)))
    changes = "".join(f', "{column}" = u."{column}"' for column in columns)
    return (
        f"UPDATE {_target(table)} SET epoch = $1{changes} "  # noqa: S608 - the same
        f"FROM unnest($2::uuid[]{arrays}) AS u (id{names}) WHERE t.id = u.id AND {_sealed_by('$3')} RETURNING t.id"
    )
