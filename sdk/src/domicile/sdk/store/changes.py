"""What it takes to bring a cell's tables to what the classes say, and what is refused. Pure: no I/O.

alembic's autogenerate and migra compare a database with a model and write a script for somebody to read; a
rename looks like a drop and an addition to them, and neither knows a fence, a class or a seal. Here the
comparison is with what ``domicile.columns`` says was applied, which has those words, and only what loses
nothing is applied by itself:

- a table, an index, a field that may be None or has a default: applied; processes of before go on as they did;
- a field that is gone or of another type, class or sealing: refused, unless ``--drop TABLE.FIELD`` gives its
  values up. There is no renaming: a sealed value opens only under the name of its own column.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from domicile.sdk.rules import rules_of
from domicile.sdk.store import ddl
from domicile.sdk.tables import About, Column, Table

_SAID: Final = frozenset({"optional", "given", "rules"})
"""What is recorded of a field for those who have no class of it, and is nothing of its column's."""
_NEW_FIELD: Final = "add a field of another name, fill it, then drop this one"


class Step(NamedTuple):
    """``outside``: an index of a table that is in use, built while writers go on, which no transaction can hold.

    ``by_system``: run as the superuser; all others as the owner of what they touch.
    """

    what: str
    sql: str
    outside: bool = False
    by_system: bool = False


class Refusal(NamedTuple):
    """Nothing is applied while there is one. ``where``: what ``--drop`` takes, if it helps."""

    where: str
    what: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what} ({self.remedy})"


@dataclass(frozen=True)
class Plan:
    """``steps`` in the order in which they are taken; ``unused``: drops that were named for nothing."""

    steps: tuple[Step, ...]
    refusals: tuple[Refusal, ...] = ()
    unused: tuple[str, ...] = ()


@dataclass(frozen=True)
class Index:
    columns: tuple[str, ...]
    name: str
    valid: bool


@dataclass(frozen=True)
class Found:
    """A cell's database: by table, each field as it was recorded, and what is there beside the record.

    ``across``: the tables that the role for looks across subjects may read. ``references``: of tables that belong
    to no subject, each field as it was recorded.
    """

    columns: Mapping[str, Mapping[str, Mapping[str, Any]]] = field(default_factory=dict)
    stored: Mapping[str, Collection[str]] = field(default_factory=dict)
    indexes: Mapping[str, Collection[Index]] = field(default_factory=dict)
    keep: Mapping[str, int] = field(default_factory=dict)
    across: Collection[str] = ()
    references: Mapping[str, Mapping[str, Mapping[str, Any]]] = field(default_factory=dict)


def recorded(column: Column) -> dict[str, Any]:
    """What ``domicile.columns`` keeps of a field, beside the table's name."""
    return {
        "column_name": column.name,
        "class": "personal" if column.personal else "shareable",
        "category": column.field.category,
        "sealed": column.sealed,
        "find": column.find,
        "sql_type": column.sql_type,
        "nullable": column.sql_nullable,
        "kind": column.kind.name,
        "default": ddl.default(column),
        "optional": column.nullable,
        "given": None if column.default is None else column.kind.dump(column.default).decode(),
        "rules": rules_of(column.annotation, column.kind),
    }


def recorded_about(about: About) -> dict[str, Any]:
    """The same of the field that names a row's principal, which every table has a column for."""
    return {
        "column_name": about.name,
        "class": "principal",
        "category": about.field.category,
        "sealed": False,
        "find": None,
        "sql_type": "bytea",
        "nullable": about.nullable,
        "kind": "UUID",
        "default": None,
    }


def note(table: str, field: Column | About) -> str:
    """The statement that records a field; for one that is recorded, what may change of it."""
    said = recorded_about(field) if isinstance(field, About) else recorded(field)
    return ddl.upsert("domicile.columns", {"table_name": table, **said}, key=("table_name", "column_name"))


def _forget(table: str, field: str) -> str:
    return (
        f"DELETE FROM domicile.columns WHERE table_name = {ddl.literal(table)} "  # noqa: S608 - quoted
        f"AND column_name = {ddl.literal(field)};"
    )


def _kept(table: str, seconds: int | None) -> str:
    if seconds is None:
        return f"DELETE FROM domicile.retention WHERE table_name = {ddl.literal(table)};"  # noqa: S608 - quoted
    return (
        f"INSERT INTO domicile.retention VALUES ({ddl.literal(table)}, {seconds})\n"  # noqa: S608 - quoted
        "ON CONFLICT (table_name) DO UPDATE SET keep_seconds = excluded.keep_seconds;"
    )


def _keep(table: Table) -> int | None:
    return None if table.keep is None else round(table.keep.total_seconds())


def compare(tables: Iterable[Table], found: Found, jurisdiction: str, drops: Collection[str] = ()) -> Plan:
    """How to get from what is found to the classes' tables. Other classes' tables are left alone, unless dropped."""
    comparison = _Comparison(found, jurisdiction, set(drops))
    wanted = {table.name: table for table in tables}
    for name in sorted(comparison.drops & found.columns.keys()):
        comparison.drop_table(name, wanted.get(name))
    for name in sorted(wanted):
        if name in comparison.used:
            continue
        if name in found.columns:
            comparison.alter(wanted[name])
        else:
            comparison.create(wanted[name])
    inside = [step for step in comparison.steps if not step.outside]
    outside = [step for step in comparison.steps if step.outside]
    unused = sorted(comparison.drops - comparison.used)
    return Plan((*inside, *outside), tuple(comparison.refusals), tuple(unused))


class _Comparison:
    def __init__(self, found: Found, jurisdiction: str, drops: set[str]) -> None:
        self._found = found
        self._jurisdiction = jurisdiction
        self.drops = drops
        self.used: set[str] = set()
        self.steps: list[Step] = []
        self.refusals: list[Refusal] = []

    def create(self, table: Table) -> None:
        if table.name in self._found.stored:
            self.refusals.append(
                Refusal(table.name, "is a table that no class of records made", "give the class another table=")
            )
            return
        fields = [*table.columns, *((table.about,) if table.about is not None else ())]
        parts = [ddl.create_table(table, self._jurisdiction), *(note(table.name, field) for field in fields)]
        if table.keep is not None:
            parts.append(_kept(table.name, _keep(table)))
        self.steps.append(Step(f"create table {table.name}", "\n".join(parts)))

    def drop_table(self, name: str, wanted: Table | None) -> None:
        self.used.add(name)
        if wanted is not None:
            self.refusals.append(Refusal(name, "is dropped, and a class names it", "drop single fields, or neither"))
            return
        quoted = ddl.literal(name)
        gone = f"DROP TABLE IF EXISTS {ddl.place(name)};\nDELETE FROM domicile.columns WHERE table_name = {quoted};"
        self.steps.append(Step(f"drop table {name} and its rows", f"{gone}\n{_kept(name, None)}"))

    def alter(self, table: Table) -> None:
        if table.name not in self._found.stored:
            self.refusals.append(Refusal(table.name, "was applied, and is not there", "restore it, or --drop it first"))
            return
        fields = self._found.columns[table.name]
        before = {name: field for name, field in fields.items() if field["class"] != "principal"}
        gone: set[str] = set()
        self._change_about(table, [field for field in fields.values() if field["class"] == "principal"])
        for name in sorted(before.keys() - table.by_name.keys()):
            self._drop(table.name, name, before[name], gone, "is no field of its class any more")
        for column in table.columns:
            if column.name not in before:
                self._add(table.name, column)
            else:
                self._change(table.name, column, before[column.name], gone)
        if table.name not in self._found.across:
            self._step(f"let the cell's own role read {table.name}", ddl.across(table.name))
        self._keep_for(table)
        self._build_indexes(table, gone)

    def _change_about(self, table: Table, before: list[Mapping[str, Any]]) -> None:
        """Rows keep whom they are about, whatever the field is called; rows of before are about their subject."""
        named = [field["column_name"] for field in before]
        about = table.about
        if about is None:
            for name in named:
                where = f"{table.name}.{name}"
                if where not in self.drops:
                    what = "is no field of its class any more, which says whom rows are about"
                    self.refusals.append(Refusal(where, what, f"keep it; --drop {where} forgets its name"))
                    continue
                self.used.add(where)
                self._step(f"drop {where}", _forget(table.name, name))
        elif [recorded_about(about)] != [{key: field.get(key) for key in recorded_about(about)} for field in before]:
            forgotten = [_forget(table.name, name) for name in named if name != about.name]
            self._step(f"let {table.name}.{about.name} say whom rows are about", *forgotten, note(table.name, about))

    def _step(self, what: str, *sql: str) -> None:
        self.steps.append(Step(what, "\n".join(sql)))

    def _drop(self, table: str, name: str, before: Mapping[str, Any], gone: set[str], why: str) -> bool:
        where = f"{table}.{name}"
        if where not in self.drops:
            self.refusals.append(Refusal(where, why, f"{_NEW_FIELD}; --drop {where} gives its values up"))
            return False
        self.used.add(where)
        names = [name, f"{name}_index"] if before["find"] else [name]
        gone |= set(names)
        drops = ", ".join(f"DROP COLUMN {ddl.quote(each)}" for each in names)
        self._step(
            f"drop {where} and its values",
            f"ALTER TABLE {ddl.place(table)} {drops};",
            _forget(table, name),
        )
        return True

    def _add(self, table: str, column: Column) -> None:
        where = f"{table}.{column.name}"
        if not column.sql_nullable and ddl.default(column) is None:
            what = "is a new field, and rows that are there have no value for it"
            self.refusals.append(Refusal(where, what, "a default, or | None"))
            return
        if column.find and not column.nullable and column.default is not None:
            what = "is a new field that is found by, and no row that is there would be found by its default"
            self.refusals.append(Refusal(where, what, "| None instead of the default"))
            return
        added = ", ".join(f"ADD COLUMN {definition}" for definition in ddl.columns_of(column))
        sql = [f"ALTER TABLE {ddl.place(table)} {added};"]
        if not column.personal:
            sql.append(ddl.show_abroad(table, [ddl.quote(column.name)]))
        self._step(f"add {where}", *sql, note(table, column))

    def _change(self, table: str, column: Column, before: Mapping[str, Any], gone: set[str]) -> None:
        wanted = recorded(column)
        changed = {name for name, value in wanted.items() if before.get(name) != value}
        where = f"{table}.{column.name}"
        if before.get("kind") is None and not changed & {"class", "sealed", "sql_type"}:
            changed.discard("kind")  # applied before kinds were recorded
            changed = changed or set(_SAID)
        if not changed:
            return
        if changed <= _SAID:
            self._step(f"record the type and the default of {where}", note(table, column))
            return
        for names, why in (
            ({"class"}, f"was {before['class']} and is {wanted['class']}"),
            ({"sealed"}, "was sealed and is clear" if before["sealed"] else "was clear and is sealed"),
            ({"sql_type", "kind"}, f"was a {before.get('kind') or before['sql_type']} and is a {wanted['kind']}"),
            ({"find"}, "changes what it is found by, which rows that are there do not have"),
        ):
            if changed & names:
                if self._drop(table, column.name, before, gone, why):
                    self._add(table, column)
                return
        if before["nullable"] and not wanted["nullable"]:
            self.refusals.append(Refusal(where, "may be None in rows that are there", "leave | None"))
            return
        alterations: list[str] = []
        if wanted["nullable"] and not before["nullable"]:
            alterations += [f"ALTER COLUMN {ddl.quote(name)} DROP NOT NULL" for name in self._names(column)]
        if wanted["default"] != before.get("default"):
            given = wanted["default"]
            alterations.append(
                f"ALTER COLUMN {ddl.quote(column.name)} {'DROP DEFAULT' if given is None else f'SET DEFAULT {given}'}"
            )
        sql = [f"ALTER TABLE {ddl.place(table)} {', '.join(alterations)};"] if alterations else []
        self._step(f"change {', '.join(sorted(changed - _SAID))} of {where}", *sql, note(table, column))

    @staticmethod
    def _names(column: Column) -> list[str]:
        return [column.name, column.index] if column.find else [column.name]

    def _keep_for(self, table: Table) -> None:
        name, seconds = ddl.place(table.name), _keep(table)
        there = ddl.EXPIRES in self._found.stored[table.name]
        if seconds == self._found.keep.get(table.name) and there:
            return
        sql = [] if there else [f"ALTER TABLE {name} ADD COLUMN {ddl.EXPIRES} timestamp with time zone;"]
        sql.append(f"ALTER TABLE {name} ALTER COLUMN {ddl.EXPIRES} SET DEFAULT {ddl.expiry(table.keep)};")
        what = "for ever" if seconds is None else f"for {seconds} s after they are first put"
        self._step(f"keep new rows of {table.name} {what}", *sql, _kept(table.name, seconds))

    def _build_indexes(self, table: Table, gone: set[str]) -> None:
        there = self._found.indexes.get(table.name, ())
        for columns in dict.fromkeys(ddl.indexes_of(table)):
            same = [index for index in there if index.columns == columns and not gone & set(columns)]
            if any(index.valid for index in same):
                continue
            what = f"index {table.name} ({', '.join(columns)})"
            for index in same:  # what was left of a build that was cut off
                sql = f"DROP INDEX CONCURRENTLY public.{ddl.quote(index.name)};"
                self.steps.append(Step(f"remove what is left of {what}", sql, outside=True))
            sql = ddl.create_index(table.name, columns, concurrently=True)
            self.steps.append(Step(what, sql, outside=True))
