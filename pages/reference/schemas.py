"""A JSON Schema in a few words: what a table's column has room for."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

Schema = Mapping[str, Any]
_BOUNDS: Final = (
    ("minimum", "≥ {}"), ("exclusiveMinimum", "> {}"), ("maximum", "≤ {}"), ("exclusiveMaximum", "< {}"),
    ("minLength", "at least {} characters"), ("maxLength", "at most {} characters"),
    ("minItems", "at least {}"), ("maxItems", "at most {}"), ("minProperties", "at least {}"),
)  # fmt: skip


def target(reference: str) -> str:
    return reference.rpartition("/")[2]


def kind(schema: Schema, linked: Mapping[str, str]) -> str:
    """``linked``: the anchor of each model that has a table of its own."""
    if "$ref" in schema:
        name = target(schema["$ref"])
        return f"[{name}]({linked[name]})" if name in linked else f"`{name}`"
    if "const" in schema:
        return f"`{json.dumps(schema['const'])}`"
    if "enum" in schema:
        return ", ".join(f"`{each}`" for each in schema["enum"])
    for several in ("anyOf", "oneOf"):
        if several in schema:
            found = [kind(each, linked) for each in schema[several] if each.get("type") != "null"]
            return " or ".join(dict.fromkeys(found))
    if schema.get("type") == "array":
        return f"list of {kind(schema.get('items', {}), linked)}"
    if schema.get("type") == "object":
        inner = next(iter(schema.get("patternProperties", {}).values()), schema.get("additionalProperties"))
        return f"mapping of names to {kind(inner, linked)}" if isinstance(inner, dict) else "mapping"
    name = str(schema.get("type", "any"))
    return str(schema.get("format", name)).replace("ipv4network", "IPv4 network").replace("ipv6network", "IPv6 network")


def value(schema: Schema, linked: Mapping[str, str]) -> str:
    """Its kind, and the bounds that it is held to."""
    return "; ".join(filter(None, (kind(schema, linked), ", ".join(_bounds(schema)))))


def _bounds(schema: Schema) -> Iterator[str]:
    for key, words in _BOUNDS:
        if key in schema:
            yield words.format(schema[key])
    for each in schema.get("anyOf", ()):
        yield from _bounds(each)


def default(schema: Schema, *, required: bool) -> str:
    if required:
        return "**required**"
    value = schema.get("default")
    return "" if value is None else f"`{json.dumps(value)}`"
