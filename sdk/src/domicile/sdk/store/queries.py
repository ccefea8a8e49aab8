"""The named statements of ``sql/queries.sql``, ``schema`` and ``releases``, and scripts: SQL is reviewed as SQL."""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files

_NAME = re.compile(r"^-- name: (\w+)\n", re.MULTILINE)


def script(name: str) -> str:
    """A whole file of statements."""
    return (files("domicile.sdk.store") / "sql" / f"{name}.sql").read_text()


@cache
def _queries() -> dict[str, str]:
    found: dict[str, str] = {}
    for file in ("queries", "schema", "releases"):
        parts = _NAME.split(script(file))
        found |= {name: text.strip() for name, text in zip(parts[1::2], parts[2::2], strict=True)}
    return found


def query(name: str) -> str:
    """One statement, with its parameters as ``$1``, ``$2``..."""
    return _queries()[name]
