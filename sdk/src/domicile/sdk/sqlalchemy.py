"""SQLAlchemy's own table of a class of records or references, for ``tx.sql``: nobody writes columns twice.

A module of its own, since SQLAlchemy is optional: ``pip install 'domicile-sdk[sqlalchemy]'``. Blind indexes are no
columns of it. A sealed column can be selected; a comparison of it is refused where it is written, with what to do
instead, before there is a statement to be refused.
"""

from __future__ import annotations

from datetime import date, datetime
from decimal import Decimal
from functools import lru_cache
from typing import Any, Final, NoReturn
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.sql.operators import OperatorType

from domicile.model.errors import UnsupportedQuery
from domicile.sdk.records import Record
from domicile.sdk.references import Reference
from domicile.sdk.store.ddl import EXPIRES
from domicile.sdk.tables import Column, Table

_TYPES: Final[dict[type, Any]] = {
    str: sa.Text(),
    int: sa.BigInteger(),
    UUID: sa.Uuid(),
    date: sa.Date(),
    bool: sa.Boolean(),
    float: sa.Double(),
    bytes: sa.LargeBinary(),
    datetime: sa.DateTime(timezone=True),
    Decimal: sa.Numeric(),
}
_SYSTEM: Final[dict[str, Any]] = {
    "jurisdiction": sa.Text(),
    "subject_key": sa.LargeBinary(),
    "principal_key": sa.LargeBinary(),
    "id": sa.Uuid(),
    "epoch": sa.BigInteger(),
    "version": sa.BigInteger(),
    "created_at": sa.DateTime(timezone=True),
    "updated_at": sa.DateTime(timezone=True),
    EXPIRES: sa.DateTime(timezone=True),
}
_KEY: Final = ("subject_key", "id")


class Sealed(sa.types.TypeDecorator[bytes]):
    """Of a column that holds ciphertext. Every operator raises UnsupportedQuery; ``where`` names the class's field."""

    impl = sa.LargeBinary
    cache_ok = True

    def __init__(self, where: str, remedy: str) -> None:
        super().__init__()
        self.where = where
        self.remedy = remedy

    class Comparator(sa.types.TypeDecorator.Comparator[bytes]):
        def operate(self, op: OperatorType, *other: Any, **options: Any) -> NoReturn:
            self._refuse()

        def reverse_operate(self, op: OperatorType, other: Any, **options: Any) -> NoReturn:
            self._refuse()

        def _refuse(self) -> NoReturn:
            sealed = self.type
            assert isinstance(sealed, Sealed)
            raise UnsupportedQuery(
                "is sealed: it can be selected, and nothing else", where=sealed.where, remedy=sealed.remedy
            )

    comparator_factory: Any = Comparator


def _sealed(record: str, column: Column) -> Sealed:
    find = f"home.find({record}, {column.name}=...)" if column.find else "find=True, and find(); or sealed=False"
    return Sealed(f"{record}.{column.name}", find)


@lru_cache(maxsize=256)
def table_of(kind: type[Record] | type[Reference]) -> sa.Table:
    """The table that a class's rows lie in: ``sa.select(table_of(Profile).c.plan)``; the same one at each call."""
    stored = kind.domicile_table if issubclass(kind, Record) else kind.domicile_reference
    key = _KEY if isinstance(stored, Table) else stored.key
    types = dict(_SYSTEM) if isinstance(stored, Table) else {}
    for column in stored.columns:
        types[column.name] = _sealed(kind.__name__, column) if column.sealed else _TYPES[column.kind.python]
    columns = [sa.Column(name, each, primary_key=name in key) for name, each in types.items()]
    return sa.Table(stored.name, sa.MetaData(), *columns)
