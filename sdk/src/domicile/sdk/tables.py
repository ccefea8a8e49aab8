"""What a record class says about its table, as plain data: columns, their classes, types and SQL names.

A value has one spelling as bytes (``Kind.dump``): it is what is sealed and what a blind index is made of.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from functools import cached_property
from typing import Any, Final, Literal, get_args, get_origin
from uuid import UUID

from pydantic import ConfigDict, PydanticSchemaGenerationError, PydanticUserError, TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError

from domicile.model.errors import InvalidInput
from domicile.model.fields import FieldClass, Personal, Principal

IDENTIFIER: Final = re.compile(r"[a-z][a-z0-9_]{0,54}")
TABLE: Final = re.compile(rf"(?!pg_){IDENTIFIER.pattern}")
"""PostgreSQL keeps names that begin with pg_ to itself, and finds its own tables before all others."""
INDEX_SUFFIX: Final = "_index"
PRINCIPAL: Final = "principal_key"
MAX_INTEGER: Final = 2**63 - 1
"""Of a bigint."""
SYSTEM_COLUMNS: Final = frozenset(
    {
        "jurisdiction",
        "subject_key",
        PRINCIPAL,
        "id",
        "epoch",
        "version",
        "created_at",
        "updated_at",
        "expires_at",
        *("ctid", "xmin", "xmax", "cmin", "cmax", "tableoid"),  # PostgreSQL's own, in every table
    }
)
_CONFIG: Final = ConfigDict(
    ser_json_bytes="base64", val_json_bytes="base64", ser_json_inf_nan="constants", hide_input_in_errors=True
)


@dataclass(frozen=True)
class Kind:
    """A type that a field may have. ``findable``: whether equal values have equal spellings.

    ``base``: as what a value lies in a column, where that is not of the type itself: of an Enum's and a Literal's.
    """

    python: Any
    sql: str
    findable: bool = False
    base: Kind | None = None

    @cached_property
    def name(self) -> str:
        """As it is recorded: who has no class of the field knows a value by what it is stored as."""
        if self.base is not None:
            return self.base.name
        return self.python.__name__ if isinstance(self.python, type) and self.python in KINDS else JSON

    @cached_property
    def called(self) -> str:
        if self.base is not None:
            return f"one of {', '.join(map(repr, members(self.python)))}"
        return f"a {self.name}"

    @cached_property
    def stored(self) -> Kind:
        """The type of what lies in a column that is not sealed."""
        return self.base or self

    @cached_property
    def converts(self) -> bool:
        """Whether what a driver answers is not yet a value of this type."""
        return self.python is UUID or self.base is not None

    @cached_property
    def _adapter(self) -> TypeAdapter[Any]:
        try:
            return TypeAdapter(self.python, config=_CONFIG)
        except PydanticUserError:  # a model has a configuration of its own
            return TypeAdapter(self.python)

    def require(self) -> None:
        """Raises what pydantic does for a type of which it cannot make a value."""
        self._adapter.json_schema()

    @cached_property
    def _validator(self) -> Any:
        """The adapter's own, without what it puts around each call."""
        return self._adapter.validator

    @cached_property
    def _serializer(self) -> Any:
        return self._adapter.serializer

    def check(self, value: Any) -> Any:
        """The value, if it is one of this type; raises InvalidInput that does not quote it."""
        try:
            checked = self._validator.validate_python(value, strict=True)
        except ValidationError:
            checked = None
        if checked is None:
            raise InvalidInput(f"a value that is not {self.called}")
        if isinstance(checked, datetime) and checked.tzinfo is None:
            raise InvalidInput("a time without a zone", remedy="use datetime.now(UTC)")
        if isinstance(checked, time) and checked.tzinfo is not None:
            raise InvalidInput("a time of day with a zone, which no date makes sense of", remedy="a datetime")
        return checked

    def plain(self, value: Any) -> Any:
        """A value as a driver answers it, as one of this type itself. Raises InvalidInput for no member of an Enum."""
        if value is None or not self.converts:
            return value
        if self.python is UUID:
            return UUID(int=value.int)
        try:
            return self._validator.validate_python(value)
        except ValidationError:
            pass
        raise InvalidInput(f"what is stored is not {self.called}", remedy="keep every member that rows may hold")

    def lower(self, value: Any) -> Any:
        """A checked value as it lies in a column that is not sealed."""
        return value.value if isinstance(value, Enum) else value

    def dump(self, value: Any) -> bytes:
        """The one spelling of a value, as JSON."""
        checked = self.check(value)
        try:
            spelled: bytes = self._serializer.to_json(checked)
            return spelled
        except PydanticSerializationError:
            pass
        raise InvalidInput(f"{self.called} that cannot be written as JSON")

    def given(self, raw: bytes) -> Any:
        """A value that somebody else wrote as JSON, of this type and no other; raises InvalidInput."""
        try:
            return self.check(self._validator.validate_json(raw, strict=True))
        except ValidationError:
            pass
        raise InvalidInput(f"no JSON of {self.called}")

    def of_text(self, text: str) -> Any:
        """A value that is spelled as text, as in a query string; raises ValidationError."""
        return self._validator.validate_strings(text)

    def load(self, raw: bytes) -> Any:
        """What ``dump`` wrote; raises InvalidInput for anything else."""
        try:
            return self._validator.validate_json(raw)
        except ValidationError:
            pass
        raise InvalidInput(f"bytes that are not {self.called}")


KINDS: Final[Mapping[type, Kind]] = {
    kind.python: kind
    for kind in (
        Kind(str, "text", findable=True),
        Kind(int, "bigint", findable=True),
        Kind(UUID, "uuid", findable=True),
        Kind(date, "date", findable=True),
        Kind(bool, "boolean"),
        Kind(float, "double precision"),
        Kind(bytes, "bytea"),
        Kind(datetime, "timestamp with time zone"),
        Kind(Decimal, "numeric"),
        Kind(time, "time without time zone", findable=True),
    )
}
JSON: Final = "json"
"""What is recorded of a field of any other type, which is sealed whole."""


def members(python: Any) -> list[Any]:
    """The values that an Enum's or a Literal's may be."""
    if isinstance(python, type) and issubclass(python, Enum):
        return [each.value for each in python]
    return list(get_args(python))


def kind_of(python: Any) -> Kind | None:
    """The kind of a type; None for one that no column can hold, sealed or not."""
    if isinstance(python, type) and (known := KINDS.get(python)) is not None:
        return known
    if get_origin(python) is Literal or (isinstance(python, type) and issubclass(python, Enum)):
        types = {
            next((each for each in (bool, str, int) if isinstance(value, each)), None) for value in members(python)
        }
        base = KINDS.get(types.pop() or object) if len(types) == 1 else None
        return None if base is None or base.python is bool else Kind(python, base.sql, base.findable, base)
    kind = Kind(python, "bytea")
    try:
        kind.require()
    except (PydanticSchemaGenerationError, PydanticUserError, TypeError):
        return None
    return kind


@dataclass(frozen=True, eq=False)
class Column:
    """One classified field. ``default``: what a record has that is made without it.

    Rows that were written before there was such a field hold it, too, or None where that is a value of the field.
    ``annotation``: what its class says it may hold.
    """

    name: str
    field: FieldClass
    kind: Kind
    nullable: bool
    default: Any = None
    annotation: Any = None

    @cached_property
    def personal(self) -> bool:
        return isinstance(self.field, Personal)

    @cached_property
    def sealed(self) -> bool:
        return isinstance(self.field, Personal) and self.field.sealed

    @cached_property
    def find(self) -> Literal["subject", "cell"] | None:
        """Under whose secret the blind index is, if there is one."""
        if not isinstance(self.field, Personal) or self.field.find is False:
            return None
        return "cell" if self.field.find == "cell" else "subject"

    @cached_property
    def index(self) -> str:
        """The name of the blind index's column."""
        return self.name + INDEX_SUFFIX

    def clear(self, value: Any) -> Any:
        """A value as it lies in a column that is not sealed; raises InvalidInput that does not quote it."""
        checked = self.kind.lower(self.kind.check(value))
        if isinstance(checked, str) and any(c == "\0" or "\ud800" <= c <= "\udfff" for c in checked):
            raise InvalidInput("a text with NUL or a lone surrogate, which PostgreSQL does not store")
        if self.kind.stored.python is int and not -MAX_INTEGER - 1 <= checked <= MAX_INTEGER:
            raise InvalidInput("a whole number of more than 64 bits", remedy="a sealed field holds any")
        return checked

    @cached_property
    def sql_type(self) -> str:
        return "bytea" if self.sealed else self.kind.sql

    @cached_property
    def sql_nullable(self) -> bool:
        """A database cannot seal a default; rows without a value read as the default then."""
        return self.nullable or (self.sealed and self.default is not None)


@dataclass(frozen=True)
class About:
    """The field that names who a row is about. ``nullable``: None is the subject itself."""

    name: str
    field: Principal
    nullable: bool


@dataclass(frozen=True, eq=False)
class Table:
    """A record class's table: the columns that the class declared, in its order. It is equal to itself alone.

    ``indexes``: clear columns that rows of one subject are looked up or ordered by. ``keep``: how long after a
    row was first put it is swept away; None for never. ``about``: None where every row is about its subject.
    """

    name: str
    columns: tuple[Column, ...]
    indexes: tuple[str, ...] = ()
    keep: timedelta | None = None
    about: About | None = None

    @cached_property
    def by_name(self) -> dict[str, Column]:
        return {column.name: column for column in self.columns}

    def kind_of(self, order: str) -> Kind:
        """The type of what rows are ordered by, as it lies there: a column, or the time of their creation."""
        column = self.by_name.get(order)
        return KINDS[datetime] if column is None else column.kind.stored

    @cached_property
    def derived(self) -> list[str]:
        """Stored columns that are made of values and keys: they are turned together."""
        names = [column.name for column in self.columns if column.sealed]
        return [*names, *(column.index for column in self.columns if column.find)]

    @cached_property
    def stored(self) -> tuple[tuple[str, str, bool], ...]:
        """(name, SQL type, nullable) of every column that a row carries beside the system's own."""
        plain = [(column.name, column.sql_type, column.sql_nullable) for column in self.columns]
        return (*plain, *((column.index, "bytea", column.sql_nullable) for column in self.columns if column.find))


@dataclass(frozen=True, eq=False)
class ReferenceTable:
    """A table that belongs to no subject. ``key``: the columns that tell its rows apart."""

    name: str
    columns: tuple[Column, ...]
    key: tuple[str, ...]

    @cached_property
    def by_name(self) -> dict[str, Column]:
        return {column.name: column for column in self.columns}
