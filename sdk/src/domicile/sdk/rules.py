"""What a field may hold beside its type, as ``domicile schema apply`` records it: a gateway imports no class.

The members of an Enum or a Literal; pydantic's own constraints, normalisers of text among them; of a sealed model, list
or dict its JSON Schema. A validator that is a function is known to the application alone, and so is what it changes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Annotated, Any, Final

from pydantic import Field, StringConstraints, TypeAdapter, ValidationError
from pydantic.errors import PydanticInvalidForJsonSchema, PydanticSchemaGenerationError, PydanticUserError
from pydantic_core import SchemaError

from domicile.model.errors import InvalidInput
from domicile.sdk.tables import JSON, Kind, members

_BOUNDS: Final = frozenset({"gt", "ge", "lt", "le", "multiple_of"})
_CONSTRAINTS: Final = _BOUNDS | {
    "min_length", "max_length", "pattern", "strip_whitespace", "to_lower", "to_upper",
    "max_digits", "decimal_places", "allow_inf_nan",
}  # fmt: skip
_AROUND: Final = frozenset({"nullable", "default", "definitions", "function-before", "function-after"})
"""What pydantic puts around the schema of a type and leaves its constraints in force."""


def rules_of(annotation: Any, kind: Kind) -> str | None:
    """As they are recorded, JSON; None for none. ``annotation``: the field's whole, as its class has it. Pure."""
    rules: dict[str, Any] = {}
    if kind.base is not None:
        rules["members"] = members(kind.python)
    elif kind.name == JSON:
        rules["schema"] = _schema(annotation, kind)
    else:
        rules["constraints"] = _constraints(annotation, kind)
    said = {name: rule for name, rule in rules.items() if rule}
    return json.dumps(said, sort_keys=True) if said else None


def _schema(annotation: Any, kind: Kind) -> dict[str, Any] | None:
    for python in (annotation, kind.python):
        try:
            return TypeAdapter(python).json_schema()
        except (PydanticInvalidForJsonSchema, PydanticSchemaGenerationError, PydanticUserError):
            continue
    return None


def _constraints(annotation: Any, kind: Kind) -> dict[str, Any]:
    try:
        schema: Mapping[str, Any] = TypeAdapter(annotation).core_schema
    except (PydanticSchemaGenerationError, PydanticUserError):
        return {}
    while schema["type"] in _AROUND:
        schema = schema["schema"]
    found = {name: value for name, value in schema.items() if name in _CONSTRAINTS}
    if isinstance(found.get("pattern"), re.Pattern):
        found["pattern"] = found["pattern"].pattern
    said = {name: _bound(kind, value) if name in _BOUNDS else value for name, value in found.items()}
    said = {name: value for name, value in said.items() if value is not None}
    try:
        TypeAdapter(constrained(kind, said))
    except SchemaError:  # a pattern that only Python's own engine reads
        said.pop("pattern", None)
    return said


def _bound(kind: Kind, value: Any) -> Any:
    """As JSON; None for one that is no value of the field's own type, such as a time of no zone."""
    try:
        return json.loads(kind.dump(TypeAdapter(kind.python).validate_python(value)))
    except (ValidationError, InvalidInput):
        return None


def constrained(kind: Kind, constraints: Mapping[str, Any]) -> Any:
    """A type with what ``rules_of`` recorded of it."""
    if kind.python is str:
        return Annotated[str, StringConstraints(**constraints)]
    bounds = {
        name: kind.load(json.dumps(value).encode()) if name in _BOUNDS else value for name, value in constraints.items()
    }
    return Annotated[kind.python, Field(**bounds)]
