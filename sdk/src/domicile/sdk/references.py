"""References: tables that belong to no subject, and are the same in every cell: catalogues, tax rates, countries.

They can hold nothing personal: every field is classified as the system's own, and an application reads them and
cannot write them. An operator does, with each release: ``domicile schema load``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Self, TypeVar

from pydantic import BaseModel, ConfigDict
from pydantic.fields import FieldInfo

from domicile.model.errors import ModelError, UnsupportedQuery
from domicile.model.fields import Personal, Principal
from domicile.sdk.records import check_aliases, column_of
from domicile.sdk.tables import TABLE, Column, ReferenceTable

Ref = TypeVar("Ref", bound="Reference")
_OWN_CATEGORY = "system"


class Reference(BaseModel):
    """A row that belongs to nobody: ``class TaxRate(Reference, table="tax_rates", key=("country",))``.

    Each field is ``Annotated[type, Shareable("system...")]``; a personal one is refused where the class is defined,
    and so is a category of users. ``key``: the fields that tell rows apart. Definitions raise ModelError.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    domicile_reference: ClassVar[ReferenceTable]

    def __init_subclass__(cls, *, table: str = "", key: tuple[str, ...] = (), **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)

    @classmethod
    def __pydantic_init_subclass__(cls, *, table: str = "", key: tuple[str, ...] = (), **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        cls.domicile_reference = describe(cls, table, key)

    @classmethod
    def of_row(cls, row: Mapping[str, Any]) -> Self:
        """From a row of the table; raises UnsupportedQuery where it lacks a column of the class."""
        columns = cls.domicile_reference.columns
        if missing := sorted({column.name for column in columns} - row.keys()):
            raise UnsupportedQuery(
                f"a result without {', '.join(missing)}",
                where=cls.__name__,
                remedy=f"select {cls.domicile_reference.name}.*",
            )
        return cls.model_validate({column.name: column.kind.plain(row[column.name]) for column in columns})


def _column(where: str, name: str, info: FieldInfo) -> Column:
    if any(isinstance(entry, Personal | Principal) for entry in info.metadata):
        raise ModelError(
            "a personal field in a table that belongs to no subject",
            where=where,
            remedy="a class of Record keeps it with its subject",
        )
    column = column_of(where, name, info)
    if column.field.category.partition(".")[0] != _OWN_CATEGORY:
        raise ModelError(
            f"{column.field.category} is a category of users, in a table that belongs to no subject",
            where=where,
            remedy='Shareable("system.operations"), or a class of Record',
        )
    return column


def describe(reference: type[Reference], table: str, key: tuple[str, ...]) -> ReferenceTable:
    """The table of a reference class; raises ModelError that names the field and the remedy."""
    name = reference.__name__
    if not TABLE.fullmatch(table):
        raise ModelError(
            "names no table", where=name, remedy=f'class {name}(Reference, table="lower_case", key=("x",)), not pg_...'
        )
    check_aliases(reference)
    columns = tuple(_column(f"{name}.{field}", field, info) for field, info in reference.model_fields.items())
    by_name = {column.name: column for column in columns}
    keys = [by_name[each] for each in key if each in by_name]
    if not key or len({column.name for column in keys}) != len(key):
        raise ModelError(
            "no key of its fields, each once", where=name, remedy='key=("country",): what tells rows apart'
        )
    for column in keys:
        if column.nullable or not column.kind.findable:
            raise ModelError(
                "a key that may be None, or whose equal values have several spellings",
                where=f"{name}.{column.name}",
                remedy="a key of str, int, UUID or date",
            )
    return ReferenceTable(table, columns, key)
