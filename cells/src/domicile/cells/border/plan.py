"""A declaration held to what is recorded: what is read, what becomes of it, and what its columns are outside."""

from __future__ import annotations

from dataclasses import dataclass

from domicile.cells.border import lineage, treatments
from domicile.cells.border.anonymity import Policy
from domicile.cells.border.declaration import Declaration, Drop, Pseudonym
from domicile.cells.border.lineage import Classes, Query
from domicile.cells.border.wire import ReleasedColumn
from domicile.model.errors import InvalidInput
from domicile.sdk.store import RecordedColumn


@dataclass(frozen=True, slots=True)
class Plan:
    """``columns``: of the output, in their order. ``table`` and ``fields``: what is read of records; else ``query``."""

    declaration: Declaration
    columns: tuple[ReleasedColumn, ...]
    table: str = ""
    fields: tuple[RecordedColumn, ...] = ()
    query: Query | None = None

    @property
    def grouped(self) -> bool:
        return self.query is not None and self.query.grouped

    @property
    def policy(self) -> Policy:
        said, names = self.declaration, [column.name for column in self.columns]
        return Policy(
            quasi=tuple(names.index(name) for name in said.quasi_identifiers),
            k=said.least,
            max_suppressed=said.max_suppressed,
            sensitive=None if said.sensitive is None else names.index(said.sensitive.column),
            l=1 if said.sensitive is None else said.sensitive.l,
            grouped=self.grouped,
            pseudonyms=tuple(place for place, column in enumerate(self.columns) if column.pseudonym),
        )


def plan(declaration: Declaration, classes: Classes, home: str) -> Plan:
    """Raises InvalidInput for a column that is not recorded, or whose treatment does not fit what it is.

    ``classes``: of every table of records here; ``home``: this jurisdiction.
    """
    if declaration.to.jurisdiction == home:
        raise InvalidInput("a release to the jurisdiction that it is from", where="to", remedy="nothing crosses there")
    if declaration.source.sql is not None:
        query = lineage.analyse(declaration.source.sql, classes)
        kinds = {output.name: (output.kind, output.personal) for output in query.outputs}
        _check_named(declaration, set(kinds), personal={output.name for output in query.outputs})
        return Plan(declaration, _columns(declaration, kinds), query=query)
    table = declaration.source.records or ""
    fields = {column.name: column for column in classes.get(table, ())}
    if not fields:
        raise InvalidInput("no such table of records", where="source.records", remedy="see `domicile schema apply`")
    kinds = {name: (column.kind or "", column.field_class != "shareable") for name, column in fields.items()}
    _check_named(declaration, set(kinds), personal=set())
    read = tuple(fields[name] for name in declaration.leaving)
    if any(column.field_class == "principal" for column in read):
        raise InvalidInput("the field that says whom a row is about", where="columns", remedy="drop it")
    return Plan(declaration, _columns(declaration, kinds), table=table, fields=read)


def _check_named(declaration: Declaration, known: set[str], personal: set[str]) -> None:
    """``personal``: outputs that the declaration must name, all of them."""
    if unknown := sorted(declaration.columns.keys() - known):
        raise InvalidInput(f"no column {unknown[0]}", where="columns", remedy="name columns as they are recorded")
    if missing := sorted(personal - declaration.columns.keys()):
        raise InvalidInput("a column without a treatment", where=f"columns.{missing[0]}", remedy="drop it, at least")


def _columns(declaration: Declaration, kinds: dict[str, tuple[str, bool]]) -> tuple[ReleasedColumn, ...]:
    found = []
    for name, treatment in declaration.columns.items():
        kind, personal = kinds[name]
        given = treatments.check(treatment, kind, personal=personal, where=f"columns.{name}")
        if not isinstance(treatment, Drop):
            found.append(ReleasedColumn(name=name, type=given, pseudonym=isinstance(treatment, Pseudonym)))
    return tuple(found)
