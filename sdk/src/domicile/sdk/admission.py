"""Which SQL an application may run in a transaction: an allow-list of kinds, functions and tables, one statement.

Row security limits a session to its subject, and a session can change its settings; so no statement that could is
admitted. What runs is written anew from the tree that was admitted, never the text that came: another reading of that
text cannot reach the database. (These locks hold against accidents. The database's rights hold against the rest.)

A sealed column may be selected, and nothing else: any comparison would be of ciphertexts, and find nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from domicile.model.errors import UnsupportedQuery
from domicile.sdk.records import Record
from domicile.sdk.references import Reference
from domicile.sdk.tables import ReferenceTable, Table

if TYPE_CHECKING:
    from sqlalchemy.sql import ClauseElement
    from sqlglot import exp

_KINDS: Final = "Select Union Intersect Except Delete"
_SHAPE: Final = """
    From Where Join Group Having Order Ordered Limit Offset Distinct With CTE Subquery Table TableAlias Alias Column
    Identifier Star Paren Tuple Returning
"""
_VALUES: Final = "Literal Null Boolean Parameter Placeholder Cast DataType Interval Var"
_OPERATORS: Final = """
    And Or Not EQ NEQ GT GTE LT LTE Is In Between Like ILike NullSafeEQ NullSafeNEQ Exists Case If Add Sub Mul Div Mod
    Neg DPipe
"""
_FUNCTIONS: Final = """
    Count Sum Min Max Avg Coalesce Nullif Lower Upper Length Abs Round Ceil Floor Greatest Least CurrentTimestamp
    CurrentDate TimestampTrunc Extract
"""
_ADMITTED: Final = frozenset(f"{_KINDS} {_SHAPE} {_VALUES} {_OPERATORS} {_FUNCTIONS}".split())
_TYPES: Final = frozenset(
    "TEXT VARCHAR INT BIGINT SMALLINT UUID DATE TIMESTAMP TIMESTAMPTZ DECIMAL DOUBLE BOOLEAN INTERVAL VARBINARY".split()
)
_SCHEMA: Final = "public"
_INSTEAD: Final = {
    "Insert": "put(record), or put_many(records)",
    "Update": "update(record, field=...), or put_many(records) with what changed",
    "Merge": "put_many(records), which replaces what is there",
}
"""What writes a value goes by the record's class, which checks it, seals it and counts the row's versions."""


def _refuse(what: str, remedy: str = "find(), page(), put_many() and update() do the rest") -> UnsupportedQuery:
    return UnsupportedQuery(what, where="sql", remedy=remedy)


def _of_kind(name: str) -> UnsupportedQuery:
    if name in _INSTEAD:
        return _refuse(f"{name.upper()}, which would write past the checks of the record's class", _INSTEAD[name])
    return _refuse(f"{name}, which is not on the list of what is admitted")


def _records(root: type[Record]) -> Iterator[Table]:
    for record in root.__subclasses__():
        if "domicile_table" in vars(record):  # a definition that was refused may linger
            yield record.domicile_table
        yield from _records(record)


def _references(root: type[Reference]) -> Iterator[ReferenceTable]:
    for reference in root.__subclasses__():
        if "domicile_reference" in vars(reference):
            yield reference.domicile_reference
        yield from _references(reference)


def _tables() -> dict[str, list[Table | ReferenceTable]]:
    """Tables by name; several classes may stand for one while a schema is being changed."""
    found: dict[str, list[Table | ReferenceTable]] = {}
    tables: list[Table | ReferenceTable] = [*_records(Record), *_references(Reference)]
    for table in tables:
        found.setdefault(table.name, []).append(table)
    return found


def admitted(statement: str | ClauseElement, arguments: Sequence[Any]) -> tuple[str, Sequence[Any]]:
    """The statement as it may run, and its arguments. Raises UnsupportedQuery; never quotes what it refuses."""
    if isinstance(statement, str):
        return _admit(statement), arguments
    if arguments:
        raise _refuse("arguments beside a statement that carries its own", "bindparam() and literals")
    from sqlalchemy.dialects.postgresql.asyncpg import dialect

    compiled = statement.compile(dialect=dialect(), compile_kwargs={"render_postcompile": True})  # type: ignore[no-untyped-call]
    given = compiled.params
    names: Sequence[str] = getattr(compiled, "positiontup", None) or []
    return _admit(str(compiled)), [given[name] for name in names]


@lru_cache(maxsize=512)
def _admit(text: str) -> str:
    import sqlglot
    from sqlglot import exp
    from sqlglot.errors import SqlglotError

    try:
        statements = sqlglot.parse(text, read="postgres")
    except (SqlglotError, RecursionError):
        statements = []
    if len(statements) != 1 or not isinstance(statements[0], exp.Expr):
        raise _refuse("not one statement that can be read")
    tree = statements[0]
    if type(tree).__name__ not in _KINDS.split():
        raise _of_kind(type(tree).__name__)
    nodes = list(tree.walk())
    for node in nodes:
        _check_node(node)
    used = _check_tables(nodes)
    _check_columns(tree, nodes, used)
    return tree.sql(dialect="postgres", comments=False)


def _check_node(node: exp.Expr) -> None:
    name = type(node).__name__
    if name not in _ADMITTED:
        raise _of_kind(name)
    if name == "DataType" and getattr(node.this, "name", "") not in _TYPES:
        raise _refuse("a cast to a type that is not on the list")
    if name == "Join" and node.args.get("method"):
        raise _refuse("a NATURAL join", "JOIN ... ON")
    if name == "Delete" and node.parent is not None:
        raise _refuse("a DELETE inside another statement")


def _check_tables(nodes: Sequence[exp.Expr]) -> list[Table | ReferenceTable]:
    from sqlglot import exp

    known = _tables()
    named = {node.alias for node in nodes if isinstance(node, exp.CTE)}
    used: list[Table | ReferenceTable] = []
    for node in nodes:
        if not isinstance(node, exp.Table):
            continue
        if not isinstance(node.this, exp.Identifier) or node.catalog or node.db not in ("", _SCHEMA):
            raise _refuse("a table that is not one of the records'")
        if node.name in named and not node.db:
            continue
        if node.name not in known:
            raise _refuse("a table that is not one of the records'", "the tables of classes that are imported")
        if isinstance(node.parent, exp.Delete) and all(isinstance(each, ReferenceTable) for each in known[node.name]):
            raise _refuse("a DELETE of what belongs to no subject", "`domicile schema load`")
        used += known[node.name]
    if named & known.keys():
        raise _refuse("a name of WITH that is a table's, too")
    return used


def _check_columns(tree: exp.Expr, nodes: Sequence[exp.Expr], used: Sequence[Table | ReferenceTable]) -> None:
    from sqlglot import exp

    sealed = {column.name for table in used for column in table.columns if column.sealed}
    indexes = {column.index for table in used for column in table.columns if column.find}
    rows = {node.alias_or_name for node in nodes if isinstance(node, exp.Table | exp.CTE | exp.Subquery)}
    for node in nodes:
        if isinstance(node, exp.Join) and {name.name for name in node.args.get("using") or []} & (sealed | indexes):
            raise _refuse("a join by a sealed column", "JOIN ... ON ids")
        if not isinstance(node, exp.Column):
            continue
        selected = isinstance(node.parent, exp.Select) and node.arg_key == "expressions"
        if isinstance(node.this, exp.Star):
            if not selected:
                raise _refuse("a whole row as a value")
        elif node.name in indexes:
            raise _refuse("a blind index", "find() looks it up")
        elif node.name in sealed and not selected:
            raise _refuse(f"{node.name} is sealed: it can be selected, and nothing else", "find(), or sealed=False")
        elif not node.table and node.name in rows:
            raise _refuse("a whole row as a value", "name its columns")
    if isinstance(tree, exp.SetOperation) and sealed and tree.args.get("distinct") is not False:
        raise _refuse("a union that compares rows", "UNION ALL")
