"""The grammar of nginx's configuration, as far as recipes write it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final

_PLAIN: Final = re.compile(r"[A-Za-z0-9_./:@$=+-]+")
_DEPTH: Final = "    "


def quoted(value: object) -> str:
    """One argument of a directive, whatever it holds."""
    text = str(value)
    if _PLAIN.fullmatch(text):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def line(name: str, *arguments: object) -> str:
    return " ".join([name, *map(quoted, arguments)]) + ";"


def block(head: str, body: Iterable[str]) -> list[str]:
    return [f"{head} {{", *(_DEPTH + each for each in body), "}"]


def mapped(source: str, target: str, entries: Mapping[str, object]) -> list[str]:
    """``target`` is a variable made of ``source``, when it is first looked at; later entries give way to earlier ones
    where both are regular expressions (``~``)."""
    return block(f"map {quoted(source)} {target}", [line(quoted(key), value) for key, value in entries.items()])
