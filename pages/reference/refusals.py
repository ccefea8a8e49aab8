"""The error tree: code, status and class of every refusal, and what it carries."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import Final

from domicile.model import DomicileError
from domicile.model import errors as tree
from domicile.router import errors as of_routers
from pages.reference.markdown import cell, code, page, table

_LINE: Final = re.compile(r"[│├└─ ]*(?P<name>[A-Z]\w+) {2,}(?P<meaning>\S.*?)(?: {2,}[0-9/ ]+)?$", re.MULTILINE)
"""Of a tree as a module's docstring draws it."""
_INTRODUCTION: Final = (
    "One tree for every part. In Python, catch a class and you catch what stands below it; over HTTP, a refusal "
    "is a problem document (RFC 9457, `application/problem+json`) whose `code` is the one here. Codes are stable, "
    "texts are not. No message, cause or detail holds a personal value. The policy behind the statuses, and when "
    "each one is answered: [status codes](../status-codes.md)."
)


def refusals_page() -> str:
    meanings = _meanings()
    common = [each for each in _below(DomicileError, 0) if each[0].__module__ == tree.__name__]
    routers = sorted(_of_routers(), key=lambda each: int(each.status))
    statuses: dict[int, list[str]] = {}
    for kind in [*(kind for kind, _ in common), *routers]:
        statuses.setdefault(int(kind.status), []).append(kind.code)
    return page(
        "Errors and status codes",
        _INTRODUCTION,
        "## The tree",
        table(["class", "code", "status", "meaning"], [_row(kind, depth, meanings) for kind, depth in common]),
        "## Of routers alone",
        "What a router refuses at the level of HTTP itself.",
        table(["class", "code", "status", "meaning"], [_row(kind, 0, meanings) for kind in routers]),
        "## By status",
        table(
            ["status", "codes"],
            [[str(each), ", ".join(map(code, statuses[each]))] for each in sorted(statuses)],
        ),
    )


def _of_routers() -> Iterator[type[DomicileError]]:
    for _, each in inspect.getmembers(of_routers, inspect.isclass):
        if issubclass(each, DomicileError) and each.__module__ == of_routers.__name__:
            yield each


def _below(root: type[DomicileError], depth: int) -> Iterator[tuple[type[DomicileError], int]]:
    yield root, depth
    for child in root.__subclasses__():
        yield from _below(child, depth + 1)


def _row(kind: type[DomicileError], depth: int, meanings: dict[str, str]) -> list[str]:
    said = kind.__dict__.get("__doc__") or ""
    meaning = meanings.get(kind.__name__) or said
    return ["– " * depth + code(kind.__name__), code(kind.code), str(int(kind.status)), cell(meaning)]


def _meanings() -> dict[str, str]:
    text = f"{tree.__doc__}\n{of_routers.__doc__}"
    return {"DomicileError": "base of all refusals; by itself a fault of ours"} | {
        match["name"]: match["meaning"] for match in _LINE.finditer(text)
    }
