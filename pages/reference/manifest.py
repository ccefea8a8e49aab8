"""``domicile.yaml``: every key, by the models that read it; and the same as a JSON Schema for editors."""

from __future__ import annotations

import json
from typing import Any, Final

from domicile.model import Manifest
from pages.reference.markdown import cell, code, page, prose, table
from pages.reference.schemas import Schema, default, value

SCHEMA_FILE: Final = "manifest.schema.json"
_INTRODUCTION: Final = (
    "The one place where topology and policy are written, as `domicile check` reads it. An unknown key is "
    "refused; so is whatever breaks a rule that spans several places (a zone outside its cell's jurisdiction, an "
    "address outside its zone's network, overlapping jurisdictions), each with its YAML path and the reason. "
    f"[{SCHEMA_FILE}]({SCHEMA_FILE}) is the same as a JSON Schema, for editors that complete YAML."
)


def schema() -> dict[str, Any]:
    found = Manifest.model_json_schema(by_alias=True)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **found}


def manifest_schema() -> str:
    return json.dumps(schema(), indent=1, ensure_ascii=False) + "\n"


def manifest_page() -> str:
    whole = schema()
    models: dict[str, Schema] = {"Manifest": whole, **dict(sorted(whole["$defs"].items()))}
    linked = {name: f"#{name.lower()}" for name in models}
    parts = [_section(name, model, linked) for name, model in models.items()]
    return page("Manifest", _INTRODUCTION, *parts)


def _section(name: str, model: Schema, linked: dict[str, str]) -> str:
    told = [f"## {name}"]
    if model.get("description"):
        told.append(prose(model["description"]))
    if "enum" in model:
        told.append("One of " + ", ".join(code(str(each)) for each in model["enum"]) + ".")
    if model.get("properties"):
        required = set(model.get("required", ()))
        rows = [
            [
                code(key),
                value(field, linked),
                default(field, required=key in required),
                cell(field.get("description", "")),
            ]
            for key, field in model["properties"].items()
        ]
        described = any(row[3] for row in rows)
        head = ["key", "value", "default", "meaning"]
        told.append(table(head if described else head[:3], rows if described else [row[:3] for row in rows]))
    return "\n\n".join(told)
