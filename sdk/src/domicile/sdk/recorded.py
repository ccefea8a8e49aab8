"""Classes of records as ``domicile schema apply`` recorded them: a gateway imports no application's code."""

from __future__ import annotations

from functools import lru_cache
from typing import Annotated, Any, Final, cast

from pydantic import ConfigDict, JsonValue, create_model

from domicile.model import Conflict, NotFound, Personal, Principal, Shareable, extend_taxonomy
from domicile.sdk.records import Record
from domicile.sdk.store import RecordedColumn
from domicile.sdk.tables import KINDS, Kind

_TYPES: Final[dict[str, Kind]] = {kind.name: kind for kind in (*KINDS.values(), Kind(JsonValue, "bytea"))}


class _Recorded(Record, table="recorded"):
    """Bytes are base64url in JSON (RFC 4648, section 5)."""

    model_config = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")


def _field(column: RecordedColumn) -> tuple[Any, Any]:
    kind = _TYPES[column.kind or ""]
    python: Any = kind.python
    default: Any = None if column.nullable else ...
    if column.given is not None:
        default = kind.load(column.given.encode())
    if column.nullable:
        python = python | None
    if column.field_class == "principal":
        return Annotated[python, Principal(column.category)], default
    if column.field_class == "shareable":
        return Annotated[python, Shareable(column.category)], default
    find: Any = {"subject": True, "cell": "cell", None: False}[column.find]
    return Annotated[python, Personal(column.category, find=find, sealed=column.sealed)], default


@lru_cache(maxsize=256)
def record_class(table: str, columns: tuple[RecordedColumn, ...]) -> type[Record]:
    """The class of a table. Raises NotFound for a table of no class, Conflict for one of an older schema."""
    if not columns:
        raise NotFound("no such table of records")
    if any(column.kind not in _TYPES for column in columns):
        raise Conflict("the table was applied by an older program", remedy="run `domicile schema apply`")
    extend_taxonomy(*(column.category for column in columns))  # they were known to the application that applied them
    fields: dict[str, Any] = {column.name: _field(column) for column in columns}
    made = create_model("Recorded", __base__=_Recorded, __cls_kwargs__={"table": table}, **fields)
    return cast("type[Record]", made)
