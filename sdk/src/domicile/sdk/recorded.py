"""Classes of records as ``domicile schema apply`` recorded them: a gateway imports no application's code."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Annotated, Any, Final, Literal, cast

import jsonschema
from pydantic import AfterValidator, ConfigDict, JsonValue, create_model
from referencing import Registry

from domicile.model import Conflict, NotFound, Personal, Principal, Shareable, extend_taxonomy
from domicile.sdk.records import Record
from domicile.sdk.rules import constrained
from domicile.sdk.store import RecordedColumn
from domicile.sdk.tables import KINDS, Kind

_TYPES: Final[dict[str, Kind]] = {kind.name: kind for kind in (*KINDS.values(), Kind(JsonValue, "bytea"))}


class _Recorded(Record, table="recorded"):
    """Bytes are base64url in JSON (RFC 4648, section 5)."""

    model_config = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")


def _as_schema(schema: Mapping[str, Any]) -> AfterValidator:
    """What has pydantic hold a value against a JSON Schema. It fetches nothing."""
    checker = jsonschema.validators.validator_for(schema, jsonschema.Draft202012Validator)(schema, registry=Registry())

    def check(value: JsonValue) -> JsonValue:
        if value is not None and not checker.is_valid(value):
            raise ValueError("not what the class's schema says")
        return value

    return AfterValidator(check)


def _ruled(kind: Kind, rules: str | None) -> tuple[Any, list[Any]]:
    """The type of a field that was recorded so, and what it is annotated with beside its class."""
    said = json.loads(rules) if rules else {}
    if "members" in said:
        return Literal[tuple(said["members"])], []
    if "schema" in said:
        return JsonValue, [_as_schema(said["schema"])]
    if constraints := said.get("constraints"):
        return kind.python, list(constrained(kind, constraints).__metadata__)
    return kind.python, []


def _field(column: RecordedColumn) -> tuple[Any, Any]:
    kind = _TYPES[column.kind or ""]
    python, metadata = _ruled(kind, column.rules)
    default: Any = None if column.nullable else ...
    if column.given is not None:
        default = kind.load(column.given.encode())
    if column.nullable:
        python = python | None
    if column.field_class == "principal":
        return Annotated[python, Principal(column.category)], default
    find: Any = {"subject": True, "cell": "cell", None: False}[column.find]
    shareable = column.field_class == "shareable"
    classed = Shareable(column.category) if shareable else Personal(column.category, find=find, sealed=column.sealed)
    return Annotated[(python, classed, *metadata)], default


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


def described(table: str, columns: tuple[RecordedColumn, ...], *, prefix: str) -> dict[str, dict[str, Any]]:
    """The JSON Schemas of a table's fields: by the table's name of all of them, by ``TABLE.changes`` of some.

    Other names are of what they refer to; ``prefix`` goes before each where it is referred to. Raises as
    ``record_class``.
    """
    fields: dict[str, Any] = record_class(table, columns).model_json_schema()["properties"]
    found: dict[str, dict[str, Any]] = {}
    for column in columns:
        schema = (json.loads(column.rules) if column.rules else {}).get("schema")
        if schema is not None:
            name = f"{table}.{column.name}"
            schema = json.loads(json.dumps(schema).replace('"#/$defs/', f'"{prefix}{name}.'))
            found |= {f"{name}.{each}": model for each, model in schema.pop("$defs", {}).items()}
            given = fields[column.name]
            fields[column.name] = schema | {key: given[key] for key in ("default",) if key in given}
        if column.kind == bytes.__name__:  # they are counted before they are spelled
            for each in (fields[column.name], *fields[column.name].get("anyOf", ())):
                each.pop("minLength", None)
                each.pop("maxLength", None)
    own = {column.name: fields[column.name] for column in columns}
    whole = {"type": "object", "properties": own, "additionalProperties": False}
    required = [name for name, field in own.items() if "default" not in field]
    some = {name: {key: said for key, said in field.items() if key != "default"} for name, field in own.items()}
    changes = {**whole, "properties": some, "minProperties": 1}
    return {**found, table: {**whole, "required": required}, f"{table}.changes": changes}
