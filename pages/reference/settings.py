"""``DOMICILE_*``: what each process is told when it starts."""

from __future__ import annotations

from typing import Final

from pydantic_settings import BaseSettings

from domicile.cells.gateway import GatewaySettings
from domicile.cells.keys import KeySettings
from domicile.cells.keys.rotation import KeyOperatorSettings
from domicile.directory.main import DirectorySettings
from domicile.ops.backup.agent import AgentSettings
from domicile.router.settings import RouterSettings
from domicile.service import ProcessSettings
from pages.reference.markdown import cell, code, page, table
from pages.reference.schemas import Schema, default, target, value

_PROCESSES: Final[tuple[tuple[str, type[BaseSettings]], ...]] = (
    ("domicile-directory serve", DirectorySettings),
    ("domicile-router serve", RouterSettings),
    ("domicile-cell serve", GatewaySettings),
    ("domicile-keys serve", KeySettings),
    ("domicile-keys rotate", KeyOperatorSettings),
    ("python -m domicile.ops.backup.agent", AgentSettings),
)
_INTRODUCTION: Final = (
    "Paths, addresses to bind, log level: what is local to one process. Each is an environment variable; nothing "
    "else sets it, so there is no order of precedence. Topology and policy are in the [manifest](manifest.md) "
    "alone. A variable that is missing or wrong ends the process at its start with one line that names it."
)


def settings_page() -> str:
    shared = set(ProcessSettings.model_fields)
    parts = ["## Every serving process", _table(ProcessSettings, shared)]
    for program, settings in _PROCESSES:
        own = set(settings.model_fields) - (shared if issubclass(settings, ProcessSettings) else set())
        more = "Beside those of every serving process:" if issubclass(settings, ProcessSettings) else "These alone:"
        changed = {name for name in shared & set(settings.model_fields) if _changed(settings, name)}
        parts += [f"## {program}", more if own | changed else "Those of every serving process."]
        if own | changed:
            parts.append(_table(settings, own | changed))
    return page("Settings", _INTRODUCTION, *parts)


def _changed(settings: type[BaseSettings], name: str) -> bool:
    """Whether a process declares a field of all others in its own way."""
    shared = ProcessSettings.model_fields[name]
    return (shared.default, shared.annotation) != (
        settings.model_fields[name].default,
        settings.model_fields[name].annotation,
    )


def _resolved(field: Schema, schema: Schema) -> Schema:
    """An enumeration, where it stands, in place of its name."""
    name = target(str(field.get("$ref", "")))
    found: Schema = schema.get("$defs", {}).get(name, field)
    return found


def _table(settings: type[BaseSettings], names: set[str]) -> str:
    schema = settings.model_json_schema()
    fields, required = schema["properties"], set(schema.get("required", ()))
    rows = [
        [
            code(f"DOMICILE_{name.upper()}"),
            value(_resolved(fields[name], schema), {}),
            default(fields[name], required=name in required),
            cell(fields[name].get("description", "")),
        ]
        for name in settings.model_fields
        if name in names
    ]
    return table(["variable", "value", "default", "meaning"], rows)
