"""The named statements of ``sql/queries.sql``, and the scripts beside it: SQL is reviewed as SQL."""

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
    parts = _NAME.split(script("queries"))
    return {name: text.strip() for name, text in zip(parts[1::2], parts[2::2], strict=True)}


def query(name: str) -> str:
    """One statement, with its parameters as ``$1``, ``$2``..."""
    return _queries()[name]
