"""No function by the back door of admitted SQL: PostgreSQL calls ``f(n)`` where it reads ``n.f`` and n has no column f.

So a name after a row's is admitted where that row has such a column: a table by its class, a query by what it names. A
query's nameless columns have names that PostgreSQL makes up; they are not guessed at here, and want an AS.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from domicile.model.errors import UnsupportedQuery
from domicile.sdk.tables import SYSTEM_COLUMNS, ReferenceTable, Table

if TYPE_CHECKING:
    from sqlglot import exp

_SCHEMA: Final = "public"
_KEYWORDS: Final = frozenset(
    "current_catalog current_date current_role current_schema current_time current_timestamp current_user localtime "
    "localtimestamp session_user system_user user".split()
)
"""Functions that are called without parentheses (PostgreSQL 18, section 9.27): as a column's name they want quotes."""


def _columns(table: Table | ReferenceTable) -> set[str]:
    names = {column.name for column in table.columns}
    if isinstance(table, Table):
        names |= SYSTEM_COLUMNS | {column.index for column in table.columns if column.find}
    return names


class _Rows:
    """What each source of rows in a statement has as its columns, in their order."""

    def __init__(self, nodes: Sequence[exp.Expr], known: Mapping[str, Sequence[Table | ReferenceTable]]) -> None:
        from sqlglot import exp

        self._known = known
        self._named = [node for node in nodes if isinstance(node, exp.CTE)]

    def _query(self, query: exp.Expr, seen: frozenset[str]) -> list[str]:
        from sqlglot import exp

        if isinstance(query, exp.SetOperation):
            return self._query(query.left, seen)
        if isinstance(query, exp.Subquery):
            return self._query(query.this, seen)
        names: list[str] = []
        for each in query.args.get("expressions") or []:
            if isinstance(each, exp.Star) or (isinstance(each, exp.Column) and isinstance(each.this, exp.Star)):
                of = each.table if isinstance(each, exp.Column) else None
                for name, columns in self.sources(query, seen):
                    names += columns if of in (None, name) else []
            else:
                names.append(each.alias_or_name if isinstance(each, exp.Alias | exp.Column) else "")
        return names

    def _table(self, table: exp.Table, seen: frozenset[str]) -> list[str]:
        if table.db:  # it was given to each table that is one
            return sorted(set().union(*map(_columns, self._known.get(table.name, ()))))
        meant = [each for each in self._named if each.alias == table.name and table.name not in seen]
        found = [self._renamed(each, self._query(each.this, seen | {table.name})) for each in meant]
        return [name for name in found[0] if all(name in each for each in found)] if found else []

    @staticmethod
    def _renamed(source: exp.Expr, names: list[str]) -> list[str]:
        given: list[str] = source.alias_column_names
        return [*given, *names[len(given) :]] if given else names

    def within(self, source: exp.Expr, seen: frozenset[str] = frozenset()) -> Iterator[tuple[str, list[str]]]:
        """The rows that a source brings into sight, by their names."""
        from sqlglot import exp

        if isinstance(source, exp.Table):
            yield source.alias_or_name, self._renamed(source, self._table(source, seen))
        elif isinstance(source, exp.Subquery):
            inside: exp.Expr = source.this
            if isinstance(inside, exp.Select | exp.SetOperation):
                yield source.alias, self._renamed(source, self._query(inside, seen))
            elif source.alias:  # a join in parentheses, which hides its parts
                parts = [name for _, names in self.within(inside, seen) for name in names]
                yield source.alias, self._renamed(source, parts)
            else:
                yield from self.within(inside, seen)
        for join in source.args.get("joins") or []:
            yield from self.within(join.this, seen)

    def sources(self, query: exp.Expr, seen: frozenset[str] = frozenset()) -> Iterator[tuple[str, list[str]]]:
        from sqlglot import exp

        if isinstance(query, exp.Delete):
            roots = [query.this, *(query.args.get("using") or [])]
        else:
            source = query.args.get("from_")
            roots = [source.this] if source is not None else []
            roots += [join.this for join in query.args.get("joins") or []]
        for root in roots:
            yield from self.within(root, seen)

    def meant_by(self, column: exp.Column) -> list[str]:
        """The columns of the row that a column's own qualifier names, where it stands; none where nothing does."""
        from sqlglot import exp

        node: exp.Expr = column
        hidden = False  # a query in FROM, or of WITH, sees nothing of the one around it, which has no LATERAL
        while (around := node.parent) is not None:
            if isinstance(node, exp.CTE) or (
                isinstance(around, exp.From | exp.Join) and node.arg_key == "this" and not isinstance(node, exp.Table)
            ):
                hidden = hidden or _holds_query(node)
            if isinstance(around, exp.Select | exp.Delete):
                found = [] if hidden else [each for name, each in self.sources(around) if name == column.table]
                hidden = False
                if found:
                    return found[0]
            elif isinstance(around, exp.Table | exp.Subquery) and node.arg_key == "joins":
                found = [each for name, each in self.within(around) if name == column.table]
                if found:
                    return found[0]
            node = around
        return []


def _holds_query(node: exp.Expr) -> bool:
    from sqlglot import exp

    return isinstance(node, exp.CTE) or isinstance(node.this, exp.Select | exp.SetOperation | exp.Subquery)


def check_attributes(nodes: Sequence[exp.Expr], known: Mapping[str, Sequence[Table | ReferenceTable]]) -> None:
    """Raises UnsupportedQuery for a column that its row does not have, which PostgreSQL would take for a call.

    ``known``: the tables by name; each that the statement uses was given its schema.
    """
    from sqlglot import exp

    rows = _Rows(nodes, known)
    for node in nodes:
        if not isinstance(node, exp.Column) or isinstance(node.this, exp.Star):
            continue
        if not node.table:
            if node.name in _KEYWORDS and not node.this.quoted:
                raise UnsupportedQuery(
                    f"{node.name}, which is not on the list of what is admitted",
                    where="sql",
                    remedy=f'a column of this name is written "{node.name}"',
                )
            continue
        if node.catalog or node.db not in ("", _SCHEMA) or node.name not in rows.meant_by(node):
            raise UnsupportedQuery(
                "a column that its row does not have, which is a call of a function",
                where="sql",
                remedy="a column of the record's class; a name by AS for what a query computes",
            )
