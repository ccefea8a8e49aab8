"""Records: classes whose every field is classified, so that nothing is stored by oversight.

A class that does not say what its fields are is refused where it is defined, with the remedy; an instance
never shows a personal value in its representation or in a validation error.
"""

from __future__ import annotations

import types
from collections.abc import Iterator, Mapping
from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, Final, NoReturn, Self, Union, cast, get_args, get_origin
from uuid import UUID

from pydantic import BaseModel, ConfigDict, ModelWrapValidatorHandler, PrivateAttr, ValidationError, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import CoreConfig, SchemaValidator

from domicile.model.errors import InvalidInput, ModelError, UnsupportedQuery
from domicile.model.fields import Destroyed, Personal, Principal, Shareable
from domicile.model.taxonomy import check_category
from domicile.sdk.tables import (
    IDENTIFIER,
    INDEX_SUFFIX,
    JSON,
    KINDS,
    SYSTEM_COLUMNS,
    TABLE,
    About,
    Column,
    Kind,
    Table,
    kind_of,
)
from domicile.service import where_invalid

_OWN: Final = ("jurisdiction", "id")
_RESERVED: Final = frozenset({"idempotency_key"})
"""What ``home.new`` is told beside fields."""
_KEPT: Final = ("frozen", "extra", "hide_input_in_errors", "alias_generator")
"""What a class may not configure otherwise than ``Record`` does: values would be told, or stored unchecked."""


class _Hidden:
    """Stands for a personal value where a record is shown."""

    def __init__(self, category: str) -> None:
        self._category = category

    def __repr__(self) -> str:
        return f"<personal {self._category}>"


class Record(BaseModel):
    """A row that belongs to a subject: ``class Profile(Record, table="profiles")``.

    ``jurisdiction`` has no default, here or in any subclass: whoever makes a record says where it belongs.
    ``id`` is a random key and never personal. Every other field is ``Annotated[type, Personal(...)]`` or
    ``Annotated[type, Shareable(...)]``; else the definition raises ModelError. A value that does not fit its
    field raises InvalidInput, and so does the reading of a field that ``model_construct`` left out. Records are
    immutable: change one with ``home.update``, or ``record.model_copy(update={...})``, which checks as the class does.

    One field may be ``Annotated[UUID, Principal(...)]``, or ``UUID | None``: who the row is about, by a random id
    that the application gives that person. None, or the home's ``internal_id``, is the subject itself. What the row
    seals is under that person's key; when that is destroyed, ``Destroyed`` is read in the place of sealed fields.

    ``indexes=("topic",)`` names shareable or clear fields that one subject's rows are looked up or ordered by;
    ``keep=timedelta(days=30)`` has rows deleted that long after they were first put, a minute late at most.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    jurisdiction: str
    id: UUID

    domicile_table: ClassVar[Table]
    _version: int = PrivateAttr(default=0)
    _changed: frozenset[str] = PrivateAttr(default=frozenset())
    """Fields that were changed since the record was read: they are not what is stored."""

    def __init_subclass__(
        cls, *, table: str = "", indexes: tuple[str, ...] = (), keep: timedelta | None = None, **kwargs: Any
    ) -> None:
        super().__init_subclass__(**kwargs)

    @classmethod
    def __pydantic_init_subclass__(
        cls, *, table: str = "", indexes: tuple[str, ...] = (), keep: timedelta | None = None, **kwargs: Any
    ) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        cls.domicile_table = describe(cls, table, indexes, keep)

    @property
    def version(self) -> int:
        """How often the row had been written when it was read; 0 for a record that was not read."""
        return self._version

    @property
    def destroyed(self) -> frozenset[str]:
        """Fields that were sealed under a key that was destroyed: ``Destroyed`` stands in their place."""
        return frozenset(name for name, value in self if isinstance(value, Destroyed))

    @classmethod
    def _stored(cls, fields: dict[str, Any], version: int) -> Self:
        """A record from a store of ours, which was checked on its way in: as ``model_construct``, in a third of it."""
        record = object.__new__(cls)
        record.__dict__.update(fields)
        _set_fields(record, set(fields))
        _set_extra(record, None)
        _set_private(record, {"_version": version, "_changed": frozenset()})
        return record

    @model_validator(mode="wrap")
    @classmethod
    def _tell_no_values(cls, data: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        try:
            return handler(data)
        except ValidationError as error:
            places = where_invalid(error)
        # outside of the handler: the error above holds the values, and would stay on as the context
        raise InvalidInput(places, where=cls.__name__)

    @classmethod
    def model_validate_json(cls, json_data: str | bytes | bytearray, **options: Any) -> Self:
        """As pydantic's. Raises InvalidInput for what is no JSON, too, and does not hold it."""
        try:
            return super().model_validate_json(json_data, **options)
        except (ValidationError, UnicodeError):
            pass  # raised before any field is looked at: it holds the whole text
        raise InvalidInput("not JSON", where=cls.__name__)

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """A copy, with some fields changed; checked as a new record. Raises InvalidInput for what doesn't fit.

        With another ``id`` it is a record that was not read.
        """
        if not update:
            return super().model_copy(deep=deep)
        record = type(self)(**{**dict(self), **update})
        _set_fields(record, self.model_fields_set | update.keys())
        if record.id == self.id:
            record._version = self._version
            record._changed = self._changed.union(update)
        return record

    if not TYPE_CHECKING:  # else a checker took every name for a field that may be assigned

        def __setattr__(self, name: str, value: object) -> None:
            if not name.startswith("_"):
                raise _immutable(type(self).__name__, name)
            super().__setattr__(name, value)

        def __delattr__(self, name: str) -> None:
            if not name.startswith("_"):
                raise _immutable(type(self).__name__, name)
            super().__delattr__(name)

        def __getattr__(self, name: str) -> Any:
            if name not in type(self).model_fields:
                return super().__getattr__(name)
            raise InvalidInput(
                "a record that was made without this field",
                where=f"{type(self).__name__}.{name}",
                remedy="home.new(...) checks that it is whole",
            )

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise UnsupportedQuery(
            "a pickle of a record, which would take personal values wherever it goes",
            where=type(self).__name__,
            remedy="send home.ticket() and the record's id",
        )

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        table = type(self).domicile_table
        for name in type(self).model_fields:
            field = table.by_name[name].field if name in table.by_name else None
            if table.about is not None and name == table.about.name:
                yield name, _Hidden(table.about.field.category)
            else:
                yield name, _Hidden(field.category) if isinstance(field, Personal) else self.__dict__.get(name)


def _immutable(record: str, name: str) -> UnsupportedQuery:
    where = f"{record}.{name}" if IDENTIFIER.fullmatch(name) else record
    return UnsupportedQuery(
        "a record is immutable", where=where, remedy="home.update(record, ...), or record.model_copy(update={...})"
    )


_set_fields, _set_extra, _set_private = (
    BaseModel.__dict__[f"__pydantic_{slot}__"].__set__ for slot in ("fields_set", "extra", "private")
)


@cache
def _validator(model: type[BaseModel], name: str) -> SchemaValidator:
    """What the class makes of one field's value: constraints, validators and normalisers, by Annotated or decorator."""
    schema: Any = model.__pydantic_core_schema__
    definitions: list[Any] = []
    config: Any = None
    while schema["type"] != "model-fields":
        definitions += schema.get("definitions", [])
        config = schema.get("config", config)
        schema = schema["schema"]
    own = schema["fields"][name]["schema"]
    if definitions:
        own = {"type": "definitions", "schema": own, "definitions": definitions}
    return SchemaValidator(own, cast("CoreConfig", {**(config or {}), "hide_input_in_errors": True}))


def as_stored(model: type[BaseModel], name: str, value: Any) -> Any:
    """A value as the field would hold it, for a condition to find what a record was put with.

    Raises InvalidInput, which does not hold the value, for one that no record can have there.
    """
    try:
        return _validator(model, name).validate_python(value)
    except ValidationError as error:
        why = ", ".join(sorted({item["type"] for item in error.errors(include_input=False, include_context=False)}))
    except Exception as error:
        why = f"{type(error).__name__} in a validator, which is asked of this field alone"
    raise InvalidInput(f"a value that no record has there ({why})", where=f"{model.__name__}.{name}")


def _split_optional(annotation: Any) -> tuple[Any, bool]:
    if get_origin(annotation) in (Union, types.UnionType):
        inner = [part for part in get_args(annotation) if part is not types.NoneType]
        if len(inner) == 1 and len(get_args(annotation)) == 2:
            return inner[0], True
    return annotation, False


def _kind(where: str, annotation: Any, *, sealed: bool) -> tuple[Kind, bool]:
    plain, nullable = _split_optional(annotation)
    kind = kind_of(plain)
    if kind is None or (kind.name == JSON and not sealed):
        supported = ", ".join(python.__name__ for python in KINDS)
        raise ModelError(
            "a type that cannot be stored",
            where=where,
            remedy=f"one of {supported}, an Enum or a Literal of str or of int, or one of them | None; "
            "a model, a list or a dict in a sealed field",
        )
    return kind, nullable


def check_name(where: str, name: str) -> None:
    """Raises ModelError for a name that no column of ours can have."""
    if not IDENTIFIER.fullmatch(name) or name in SYSTEM_COLUMNS or name.endswith(INDEX_SUFFIX):
        raise ModelError(
            "a name that no column can have",
            where=where,
            remedy=f"lower-case letters, digits and _; none of {', '.join(sorted(SYSTEM_COLUMNS))}; no {INDEX_SUFFIX}",
        )


def _about(where: str, name: str, info: FieldInfo) -> About:
    check_name(where, name)
    plain, nullable = _split_optional(info.annotation)
    (field,) = (entry for entry in info.metadata if isinstance(entry, Principal))
    if plain is not UUID or len([each for each in info.metadata if isinstance(each, Personal | Shareable)]):
        raise ModelError(
            "a principal that is not a UUID, or is classified as something else, too",
            where=where,
            remedy='write Annotated[UUID, Principal("user...")], or UUID | None',
        )
    check_category(field.category, where)
    if info.default_factory is not None or not (info.is_required() or info.default is None):
        raise ModelError("a principal by default", where=where, remedy="no default, or None: the subject itself")
    return About(name, field, nullable)


def _abouts(record: type[Record]) -> list[About]:
    found = [
        _about(f"{record.__name__}.{name}", name, info)
        for name, info in record.model_fields.items()
        if any(isinstance(entry, Principal) for entry in info.metadata)
    ]
    if len(found) > 1:
        raise ModelError("two principals", where=record.__name__, remedy="a row is about one person: two classes")
    return found


def column_of(where: str, name: str, info: FieldInfo) -> Column:
    """The column of a classified field; raises ModelError that names it and the remedy."""
    check_name(where, name)
    classes = [entry for entry in info.metadata if isinstance(entry, Personal | Shareable)]
    if len(classes) != 1:
        raise ModelError(
            "classified twice" if classes else "not classified",
            where=where,
            remedy='write Annotated[type, Personal("user...")] or Annotated[type, Shareable("user...")], once',
        )
    check_category(classes[0].category, where)
    field = classes[0]
    sealed = isinstance(field, Personal) and field.sealed
    kind, nullable = _kind(where, info.annotation, sealed=sealed)
    default = None if info.is_required() or info.default_factory is not None else info.default
    if default is not None:
        try:
            kind.check(default)
        except InvalidInput as error:
            raise ModelError(f"has as its default {error.what}", where=where, remedy="mend the default") from None
    column = Column(name, classes[0], kind, nullable, default, info.rebuild_annotation())
    if column.find and not kind.findable:
        findable = ", ".join(python.__name__ for python, other in KINDS.items() if other.findable)
        raise ModelError(
            f"{kind.called} cannot be found by a blind index",
            where=where,
            remedy=f"drop find=, or one of {findable}",
        )
    return column


def _check_indexes(name: str, columns: tuple[Column, ...], indexes: tuple[str, ...]) -> None:
    clear = {column.name for column in columns if not column.sealed}
    if not clear.issuperset(indexes) or len(set(indexes)) != len(indexes):
        raise ModelError(
            "indexes a field that is none, is sealed, or is named twice",
            where=name,
            remedy="indexes=(...) of shareable or clear fields; a sealed one is found by find=",
        )


def check_aliases(model: type[BaseModel]) -> None:
    """Raises ModelError for a field that has a second name."""
    for name, info in model.model_fields.items():
        if info.alias is not None or info.validation_alias is not None or info.serialization_alias is not None:
            raise ModelError(
                "a field with an alias",
                where=f"{model.__name__}.{name}",
                remedy="name the field as it is given; an alias belongs in a model of your API",
            )


def _check_config(record: type[Record]) -> None:
    for option in _KEPT:
        expected = Record.model_config.get(option)
        if record.model_config.get(option) != expected:
            raise ModelError(
                f"configures {option}", where=record.__name__, remedy=f"leave {option} as Record has it: {expected!r}"
            )


def describe(record: type[Record], table: str, indexes: tuple[str, ...] = (), keep: timedelta | None = None) -> Table:
    """The table of a record class; raises ModelError that names the field and the remedy."""
    name = record.__name__
    if not TABLE.fullmatch(table):
        raise ModelError(
            "names no table", where=name, remedy=f'class {name}(Record, table="lower_case_name"), not pg_...'
        )
    _check_config(record)
    check_aliases(record)
    for reserved in sorted(_RESERVED & record.model_fields.keys()):
        raise ModelError("a name that home.new() uses", where=f"{name}.{reserved}", remedy="another name")
    jurisdiction, key = (record.model_fields[field] for field in _OWN)
    if jurisdiction.annotation is not str or not jurisdiction.is_required():
        raise ModelError(
            "jurisdiction is a required str without a default", where=name, remedy="leave it as Record declares it"
        )
    if any(isinstance(entry, Personal | Principal) for entry in key.metadata):
        raise ModelError("a personal primary key", where=f"{name}.id", remedy="a random UUID, and a field of its own")
    if key.annotation is not UUID:
        raise ModelError("a primary key that is not a UUID", where=f"{name}.id", remedy="id: UUID")
    about = next(iter(_abouts(record)), None)
    not_columns = {*_OWN, about.name} if about else {*_OWN}
    columns = tuple(
        column_of(f"{name}.{field}", field, info)
        for field, info in record.model_fields.items()
        if field not in not_columns
    )
    _check_indexes(name, columns, indexes)
    if keep is not None and keep < timedelta(seconds=1):
        raise ModelError("is kept for less than a second", where=name, remedy="leave keep= out to keep it for ever")
    return Table(table, columns, indexes, keep, about)
