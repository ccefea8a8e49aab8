"""Where each column of a SELECT comes from, so that a name or an expression does not make it harmless.

The statement that was looked at is the statement that runs: names are resolved by the recorded schema, ``*`` is
written out, nested queries are merged (all by sqlglot), and what is left must be one SELECT made of parts from a list.
Then each output column has the strictest class of the columns in it:

- anything that a personal column is in, a CASE's condition too, is personal;
- ``count(*)``, and a count of shareable columns, is shareable: a group is held to the least number of subjects anyway;
- any other aggregate of a personal column is personal, for ``max`` is one person's value and ``avg`` may be;
- rows may not be chosen, grouped by hidden columns or cut off by what is personal, since that tells it of all the rest.

A column that lies sealed cannot be computed with in the database: such a one is exported from its records instead.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, NoReturn

import sqlglot
from sqlglot import exp
from sqlglot.optimizer.annotate_types import annotate_types
from sqlglot.optimizer.merge_subqueries import merge_subqueries
from sqlglot.optimizer.qualify import qualify

from domicile.model.errors import InvalidInput
from domicile.sdk.store import RecordedColumn
from domicile.sdk.tables import KINDS

Classes = Mapping[str, tuple[RecordedColumn, ...]]
PEOPLE: Final = "domicile_people"
"""The hidden output: whom the row is about, an array where it is a group."""
MAX_TOKENS: Final = 1_000
"""Of a statement: what a longer one says can take minutes to find out."""
_SUBJECT: Final = "domicile_subject"
_JOIN: Final = "subject_key"
_SQL: Final = {kind.python.__name__: kind.sql for kind in KINDS.values()}
_TIMES: Final = ("created_at", "updated_at")
_WHERE: Final = "source.sql"

_STRUCTURE: Final = (
    exp.Select, exp.From, exp.Table, exp.TableAlias, exp.Identifier, exp.Join, exp.Where, exp.Group, exp.Having,
    exp.Alias, exp.Column, exp.Paren, exp.Literal, exp.Null, exp.Boolean, exp.Star, exp.Var, exp.Distinct,
    exp.DataType, exp.DataTypeParam, exp.Tuple, exp.Interval, exp.Ordered,
)  # fmt: skip
_OPERATORS: Final = (
    exp.And, exp.Or, exp.Not, exp.EQ, exp.NEQ, exp.GT, exp.GTE, exp.LT, exp.LTE, exp.Is, exp.In, exp.Between, exp.Like,
    exp.ILike, exp.Add, exp.Sub, exp.Mul, exp.Div, exp.Mod, exp.Neg, exp.DPipe, exp.Case, exp.If,
)  # fmt: skip
_FUNCTIONS: Final = (
    exp.Cast, exp.Coalesce, exp.Nullif, exp.Lower, exp.Upper, exp.Length, exp.Substring, exp.Left, exp.Trim, exp.Concat,
    exp.Extract, exp.TimestampTrunc, exp.DateTrunc, exp.Round, exp.Abs, exp.Floor, exp.Ceil, exp.Greatest, exp.Least,
)  # fmt: skip
_AGGREGATES: Final = (exp.Count, exp.Sum, exp.Avg, exp.Min, exp.Max)
_KNOWN: Final = frozenset((*_STRUCTURE, *_OPERATORS, *_FUNCTIONS, *_AGGREGATES))
_NESTED: Final = frozenset((exp.With, exp.CTE, exp.Subquery))
"""What may be there before queries are merged."""
_CLAUSES: Final = frozenset({"kind", "expressions", "from", "from_", "joins", "where", "group", "having"})
_KINDS: Final[dict[str, tuple[exp.DType, ...]]] = {
    "str": (exp.DType.TEXT, exp.DType.VARCHAR, exp.DType.CHAR),
    "int": (exp.DType.BIGINT, exp.DType.INT, exp.DType.SMALLINT),
    "float": (exp.DType.DOUBLE, exp.DType.FLOAT),
    "Decimal": (exp.DType.DECIMAL, exp.DType.BIGDECIMAL),
    "bool": (exp.DType.BOOLEAN,),
    "date": (exp.DType.DATE,),
    "datetime": (exp.DType.TIMESTAMP, exp.DType.TIMESTAMPTZ),
    "UUID": (exp.DType.UUID,),
}


@dataclass(frozen=True, slots=True)
class Output:
    """A column of the result. ``personal``: its class; ``kind``: the Python type, ``sources``: ``table.column``."""

    name: str
    personal: bool
    kind: str
    sources: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Query:
    """``sql``: what runs, over subjects that are open here, with PEOPLE behind the outputs."""

    sql: str
    outputs: tuple[Output, ...]
    grouped: bool
    tables: tuple[str, ...]


def _refuse(what: str, remedy: str = "see docs/border.md") -> NoReturn:
    raise InvalidInput(what, where=_WHERE, remedy=remedy)


def analyse(sql: str, classes: Classes) -> Query:
    """Raises InvalidInput for what cannot be followed: it is never guessed."""
    schema: dict[str, object] = {
        table: {column.name: _sql_type(column) for column in columns}
        | {_JOIN: "bytea"}
        | dict.fromkeys(_TIMES, "timestamptz")
        for table, columns in classes.items()
    }
    if not schema:
        _refuse("no table of records is recorded here", "run `domicile schema apply`")
    try:
        words = sqlglot.tokenize(sql, dialect="postgres")
        if len(words) > MAX_TOKENS:
            _refuse(f"more than {MAX_TOKENS} words", "shorten it")
        if any(word.token_type is sqlglot.TokenType.L_BRACKET for word in words):  # whose parser is the slowest
            _refuse("an array cannot be followed", "use the operators and functions of docs/border.md")
        statements = sqlglot.parse(sql, dialect="postgres")
        if len(statements) != 1 or not isinstance(statements[0], exp.Query):
            _refuse("not one SELECT")
        _check_known(statements[0], _KNOWN | _NESTED)
        found = qualify(statements[0], schema=schema, dialect="postgres")
        found = annotate_types(merge_subqueries(found), schema=schema, dialect="postgres")
    except InvalidInput:
        raise
    except Exception:  # a parser of hostile text may fail in any way
        found = None
    if not isinstance(found, exp.Select):
        _refuse("not one SELECT whose every table and column is recorded", "name tables and columns as applied")
    return _followed(found, classes)


def _sql_type(column: RecordedColumn) -> str:
    return "bytea" if column.sealed else _SQL.get(column.kind or "", "bytea")


def _followed(select: exp.Select, classes: Classes) -> Query:
    _check_parts(select)
    tables = {table.alias_or_name: table.name for table in select.find_all(exp.Table)}
    for table in select.find_all(exp.Table):
        if table.name not in classes or table.db not in ("", "public") or table.catalog:
            _refuse("a table that no schema recorded")
        if table.alias_column_names:
            _refuse("other names for a table's columns", "rename them in the SELECT")
    first = select.args.get("from_") or select.args.get("from")
    if first is None:
        _refuse("no table", "select from a table of records")
    _check_joins(select)
    recorded = {(alias, each.name): each for alias, name in tables.items() for each in classes[name]}

    def personal(column: exp.Column) -> bool:
        """Raises InvalidInput for a column that is not to be computed with."""
        key = (column.table, column.name)
        if column.name == _JOIN:
            _refuse("a subject's key in a result or a condition", "it only joins tables")
        if column.name in _TIMES and key not in recorded:
            return True
        if key not in recorded:
            _refuse("a column that no schema recorded")
        if recorded[key].sealed:
            _refuse(
                f"{tables[column.table]}.{column.name} lies sealed, and cannot be computed with in the database",
                "export it from its records: source: {records: ...}",
            )
        return recorded[key].field_class != "shareable"

    for clause in ("where", "having"):
        part = select.args.get(clause)
        if part is not None and any(personal(column) for column in part.find_all(exp.Column)):
            _refuse(f"a personal column in {clause.upper()}: it would tell of every row that it holds for them")
    grouped = select.args.get("group") is not None or any(True for _ in select.find_all(*_AGGREGATES))
    outputs = tuple(_output(each, tables, personal) for each in select.selects)
    names = [output.name for output in outputs]
    if len(set(names)) != len(names) or PEOPLE in names:
        _refuse("two columns of one name, or one of ours")
    if (group := select.args.get("group")) is not None:
        if any(value for name, value in group.args.items() if name != "expressions"):
            _refuse("GROUP BY of more than columns", "name what you group by")
        shown = {each.unalias().sql() for each in select.selects}
        if any(part.sql() not in shown for part in group.expressions):
            _refuse("groups by what the result does not show", "select what you group by")
    return Query(_rewritten(select, first, grouped=grouped), outputs, grouped, tuple(sorted(set(tables.values()))))


def _check_known(query: exp.Expr, known: frozenset[type[exp.Expr]]) -> None:
    for node in query.walk():
        if type(node) not in known:
            what = node.sql_name().lower() if isinstance(node, exp.Func) else type(node).__name__.lower()
            if isinstance(node, exp.Anonymous):
                what = "a function that is not known"
            _refuse(f"{what} cannot be followed", "use the operators and functions of docs/border.md")


def _check_parts(select: exp.Select) -> None:
    _check_known(select, _KNOWN)
    if sum(1 for _ in select.find_all(exp.Select)) != 1:
        _refuse("a query within the query that cannot be merged", "write one SELECT with joins")
    for name, value in select.args.items():
        if value and name not in _CLAUSES:
            _refuse(f"{name.rstrip('_').upper()} in the SELECT", "rows have an order of their own, and none is cut off")


def _check_joins(select: exp.Select) -> None:
    for join in select.args.get("joins") or ():
        on = join.args.get("on")
        plain = not any(join.args.get(part) for part in ("side", "method", "using")) and join.args.get("kind") in (
            None, "", "INNER",
        )  # fmt: skip
        pair = [on.this, on.expression] if isinstance(on, exp.EQ) else []
        sound = len(pair) == 2 and all(isinstance(each, exp.Column) and each.name == _JOIN for each in pair)
        if not plain or not sound or pair[0].table == pair[1].table:
            _refuse("a join of other rows than one subject's", "join by USING (subject_key), inner")


def _output(each: exp.Expr, tables: dict[str, str], personal: Callable[[exp.Column], bool]) -> Output:
    value = each.unalias()
    columns = list(value.find_all(exp.Column))
    found = [personal(column) for column in columns]  # each one, since it refuses
    tainted = any(found)
    kind = next((name for name, types in _KINDS.items() if value.type is not None and value.is_type(*types)), None)
    if isinstance(value, exp.TimestampTrunc | exp.DateTrunc):
        kind = "datetime"
    if kind is None:
        _refuse(f"{each.alias_or_name or 'a column'} has no type that is known", "cast it")
    sources = tuple(sorted({f"{tables[column.table]}.{column.name}" for column in columns}))
    return Output(each.alias_or_name, tainted, kind, sources)


def _rewritten(select: exp.Select, first: exp.Expression, *, grouped: bool) -> str:
    """Over open subjects only, named by the id that no rotation changes; a table's own name stays its alias."""
    alias = first.this.alias_or_name
    subject = exp.column(_SUBJECT, table=alias, quoted=True)
    people = exp.ArrayAgg(this=exp.Distinct(expressions=[subject])) if grouped else subject
    made = select.select(exp.alias_(people, PEOPLE, quoted=True), copy=True)
    for table in list(made.find_all(exp.Table)):
        name, called = table.name, table.alias_or_name
        opened = sqlglot.parse_one(
            f'SELECT t.*, f.internal_id AS {_SUBJECT} FROM public."{name}" AS t '  # noqa: S608 - a recorded name
            "CROSS JOIN LATERAL domicile.read_fence(t.subject_key) AS f WHERE f.state = 'open'",
            dialect="postgres",
        )
        assert isinstance(opened, exp.Select)
        table.replace(opened.subquery(called, copy=False))
    return made.sql(dialect="postgres")
