"""Which SQL an application may run in a transaction: an allow-list of kinds, functions and tables, one statement.

Row security limits a session to its subject, and a session can change its settings; so no statement that could is
admitted. What runs is written anew from the tree that was admitted, never the text that came: another reading of that
text cannot reach the database. (These locks hold against accidents. The database's rights hold against the rest.)

A sealed column may be selected, and nothing else: any comparison would be of ciphertexts, and find nothing. It keeps
its name wherever it is selected, so that the name tells it in the queries around, too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
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
    Neg DPipe Any Array AtTimeZone
"""
_FUNCTIONS: Final = """
    Count Sum Min Max Avg Coalesce Nullif Lower Upper Length Abs Round Ceil Floor Greatest Least CurrentTimestamp
    CurrentDate TimestampTrunc Extract
"""
_TEXTS: Final = "Trim Substring Replace Concat ConcatWs Left Right StrPosition SplitPart StartsWith Initcap"
"""None that makes a long text of a short one."""
_NUMBERS: Final = "Pow Sqrt Sign Trunc Ln Exp"
_AGGREGATES: Final = """
    ArrayAgg GroupConcat LogicalAnd LogicalOr Stddev StddevSamp StddevPop Variance VariancePop Filter WithinGroup
    PercentileCont PercentileDisc Mode
"""
_WINDOWS: Final = """
    Window WindowSpec RowNumber Rank DenseRank PercentRank CumeDist Ntile Lag Lead FirstValue LastValue NthValue
"""
_ADMITTED: Final = frozenset(
    f"{_KINDS} {_SHAPE} {_VALUES} {_OPERATORS} {_FUNCTIONS} {_TEXTS} {_NUMBERS} {_AGGREGATES} {_WINDOWS}".split()
)
_TYPES: Final = frozenset(
    """
    TEXT VARCHAR INT BIGINT SMALLINT UUID DATE TIMESTAMP TIMESTAMPTZ DECIMAL DOUBLE BOOLEAN INTERVAL VARBINARY ARRAY
    """.split()
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
    _fold(nodes)
    for node in nodes:
        _check_node(node)
    used = _check_tables(nodes)
    _check_columns(nodes, used)
    _check_results(nodes, used)
    return tree.sql(dialect="postgres", comments=False)


def _fold(nodes: Sequence[exp.Expr]) -> None:
    """Names as PostgreSQL reads them, unquoted in lower case. (A comment can ask normalize_identifiers not to.)"""
    from sqlglot import exp
    from sqlglot.dialects.dialect import Dialect

    postgres = Dialect.get_or_raise("postgres")
    for node in nodes:
        if isinstance(node, exp.Identifier):
            postgres.normalize_identifier(node)


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
    if named & known.keys():
        raise _refuse("a name of WITH that is a table's, too")
    used: list[Table | ReferenceTable] = []
    for node in nodes:
        if not isinstance(node, exp.Table):
            continue
        if not isinstance(node.this, exp.Identifier) or node.catalog or node.db not in ("", _SCHEMA):
            raise _refuse("a table that is not one of the records'")
        if not node.db and _is_named(node):
            continue
        if node.name not in known:
            raise _refuse("a table that is not one of the records'", "the tables of classes that are imported")
        if isinstance(node.parent, exp.Delete) and all(isinstance(each, ReferenceTable) for each in known[node.name]):
            raise _refuse("a DELETE of what belongs to no subject", "`domicile schema load`")
        node.set("db", exp.to_identifier(_SCHEMA))  # or pg_catalog, and the session's own tables, would come first
        used += known[node.name]
    return used


def _is_named(table: exp.Table) -> bool:
    """Whether a table's name is one of WITH where it stands: of a query around it, or of a WITH's earlier part."""
    from sqlglot import exp

    node: exp.Expr = table
    part: exp.Expr | None = None
    while (around := node.parent) is not None:
        part = node if isinstance(node, exp.CTE) else part
        names = around.args.get("with_")
        if isinstance(names, exp.With):
            seen = names.expressions
            if node is names and not names.recursive:
                seen = seen[: next(index for index, each in enumerate(seen) if each is part)]
            if any(each.alias == table.name for each in seen):
                return True
        node = around
    return False


def _check_columns(nodes: Sequence[exp.Expr], used: Sequence[Table | ReferenceTable]) -> None:
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


@dataclass(frozen=True)
class _Sealed:
    """What of a statement holds ciphertext: columns and tables by name, and what its names of WITH stand for."""

    columns: frozenset[str]
    tables: frozenset[str]
    named: Sequence[exp.CTE]

    def within(self, node: exp.Expr, seen: frozenset[str] = frozenset()) -> bool:
        """Whether a query answers, or a source of one has, a sealed column. ``seen``: names that are being told."""
        from sqlglot import exp

        if isinstance(node, exp.SetOperation):
            return self.within(node.left, seen) or self.within(node.right, seen)
        if isinstance(node, exp.Select):
            if any(isinstance(each, exp.Column) and each.name in self.columns for each in node.expressions):
                return True
            source = node.args.get("from_")
            return node.is_star and (
                self._joined(node, seen) or (source is not None and self.within(source.this, seen))
            )
        if isinstance(node, exp.Table) and node.name not in seen:
            meant = [each.this for each in self.named if each.alias == node.name]
            own = node.name in self.tables or any(self.within(each, seen | {node.name}) for each in meant)
            return own or self._joined(node, seen)
        return isinstance(node, exp.CTE | exp.Subquery) and (self.within(node.this, seen) or self._joined(node, seen))

    def _joined(self, node: exp.Expr, seen: frozenset[str]) -> bool:
        return any(self.within(join.this, seen) for join in node.args.get("joins") or [])


def _whole(query: exp.Expr) -> Iterator[exp.Expr]:
    """A query and what it is a branch of, in parentheses or not; the last one is what is used as a whole."""
    from sqlglot import exp

    yield query
    while isinstance(query.parent, exp.SetOperation | exp.Subquery) and query.arg_key in ("this", "expression"):
        query = query.parent
        yield query


def _check_results(nodes: Sequence[exp.Expr], used: Sequence[Table | ReferenceTable]) -> None:
    """Ciphertext stays in results, under its own name: nothing compares rows, counts positions or gives new names."""
    from sqlglot import exp

    sealed = _Sealed(
        frozenset(column.name for table in used for column in table.columns if column.sealed),
        frozenset(table.name for table in used if any(column.sealed for column in table.columns)),
        [node for node in nodes if isinstance(node, exp.CTE)],
    )
    for node in nodes:
        if isinstance(node, exp.CTE | exp.Subquery | exp.Table):
            if node.alias_column_names and sealed.within(node):
                raise _refuse("new names for sealed columns", "leave the list of columns out")
        elif isinstance(node, exp.SetOperation):
            if sealed.within(node):
                _check_union(node)
        elif isinstance(node, exp.Select):
            if sealed.within(node):
                _check_select(node)
        elif (query := _numbered(node)) is not None and sealed.within(query):
            raise _refuse("an order or a group by position, beside a sealed column", "name the column")


def _check_union(node: exp.SetOperation) -> None:
    from sqlglot import exp

    if not isinstance(node, exp.Union) or node.args.get("distinct") is not False:
        raise _refuse("a union that compares rows", "UNION ALL")
    *_, last = whole = list(_whole(node))
    if last.parent is None and not any(each.args.get("order") for each in whole):
        return
    names = node.left.named_selects
    if "*" in names or names != node.right.named_selects:
        raise _refuse("a union that gives a sealed column another's name", "name the same columns on both sides")


def _check_select(node: exp.Select) -> None:
    from sqlglot import exp

    distinct = node.args.get("distinct")
    if distinct is not None and not distinct.args.get("on"):
        raise _refuse("DISTINCT, which compares sealed columns", "DISTINCT ON (...), or GROUP BY, of clear columns")
    *_, last = _whole(node)
    source = isinstance(last.parent, exp.From | exp.Join) and last.arg_key == "this"
    using = isinstance(last.parent, exp.Delete) and last.arg_key == "using"
    if not (last.parent is None or source or using or isinstance(last.parent, exp.CTE | exp.Exists)):
        raise _refuse("a sealed column as a value", "name clear columns there")


def _numbered(node: exp.Expr) -> exp.Expr | None:
    """The query that is ordered or grouped by this position (or by ALL that it selects)."""
    from sqlglot import exp

    if isinstance(node, exp.Group) and node.args.get("all"):
        return node.parent
    if not isinstance(node, exp.Literal):
        return None
    place = node.parent
    while isinstance(place, exp.Paren | exp.Tuple | exp.Ordered):
        place = place.parent
    return place.parent if isinstance(place, exp.Order | exp.Group | exp.Distinct) else None
