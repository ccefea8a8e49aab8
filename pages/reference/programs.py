"""Every command of every program, from the programs' own descriptions of themselves."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import entry_points
from typing import Any, Final

import typer
from typer.main import get_command

from pages.reference.markdown import cell, code, page, prose, table

PROGRAMS: Final = ("domicile", "domicile-directory", "domicile-router", "domicile-cell", "domicile-keys")
_INTRODUCTION: Final = (
    "Each command says the same with `--help`. Where a command has `--json`, that prints one document for "
    "machines; the exit status is 0 where it did what it says, 130 where it was interrupted, 1 where it was "
    "refused, unless it is told otherwise below. What a serving process is told stands in "
    "[settings](settings.md)."
)


def application(program: str) -> typer.Typer:
    if program == "domicile":
        from domicile.ops.main import app  # its script is a small program around it

        return app
    (script,) = entry_points(group="console_scripts", name=program)
    found: typer.Typer = script.load()
    return found


def commands(command: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Those that do something, by their whole name, in the order in which help tells them."""
    if hasattr(command, "commands"):
        for word, each in command.commands.items():
            yield from commands(each, f"{name} {word}")
    elif not command.hidden:
        yield name, command


def programs_page() -> str:
    parts = []
    for program in PROGRAMS:
        found = list(commands(get_command(application(program)), program))
        parts.append(f"## {program}")
        rows = [[f"[`{name}`](#{name.replace(' ', '-')})", cell(_first(each.help))] for name, each in found]
        parts.append(table(["command", "does"], rows))
        parts += [_section(name, each) for name, each in found]
    return page("Commands", _INTRODUCTION, *parts)


def _first(text: str | None) -> str:
    return (text or "").strip().partition("\n\n")[0]


def _section(name: str, command: Any) -> str:
    context = command.context_class(command, info_name=name, terminal_width=400, max_content_width=400)
    told = [f"### {name}", "```\n" + command.get_usage(context).removeprefix("Usage: ").strip() + "\n```"]
    told.append(prose(command.help or ""))
    if command.epilog:
        told.append(prose(command.epilog))
    records = [each.get_help_record(context) for each in command.params]
    rows = [[code(shape), cell(meaning)] for shape, meaning in filter(None, records)]
    if rows:
        told.append(table(["argument or option", "meaning"], rows))
    return "\n\n".join(told)
