"""Rows as bytes: one spelling for each row, an order that tells nothing, and pages of a bounded size."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from typing import Any, Final

from domicile.cells.border.treatments import Value
from domicile.cells.border.wire import ReleasedColumn
from domicile.model.errors import InvalidInput

PAGE_ROWS: Final = 1_000
PAGE_BYTES: Final = 192 * 1024
MAX_ROW_BYTES: Final = 64 * 1024
_PYTHON: Final[dict[str, tuple[type, ...]]] = {
    "text": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
}


def spelled(values: Sequence[Value]) -> str:
    """Raises InvalidInput for a row that has no place on a page."""
    try:
        text = json.dumps(list(values), ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    except ValueError:
        raise InvalidInput("a number that is none", where="row", remedy="treat the column") from None
    if len(text) > MAX_ROW_BYTES:
        raise InvalidInput(f"a row of more than {MAX_ROW_BYTES} bytes", where="row", remedy="treat the column")
    return text


def paged(rows: Iterable[Sequence[Value]]) -> list[str]:
    """Pages of lines, in the order of the lines themselves: how rows lie at home does not show."""
    pages: list[str] = []
    lines: list[str] = []
    size = 0
    for line in sorted(map(spelled, rows)):
        if lines and (len(lines) >= PAGE_ROWS or size + len(line) >= PAGE_BYTES):
            pages.append("\n".join(lines))
            lines, size = [], 0
        lines.append(line)
        size += len(line) + 1
    if lines:
        pages.append("\n".join(lines))
    return pages


def digest(page: str) -> str:
    return hashlib.sha256(page.encode("utf-8", "surrogatepass")).hexdigest()


def read(page: str, columns: Sequence[ReleasedColumn]) -> list[list[Any]]:
    """The rows of a page that somebody else made. Raises InvalidInput, which quotes nothing of it."""
    return [_row(line, columns) for line in page.split("\n")]


def _row(line: str, columns: Sequence[ReleasedColumn]) -> list[Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        row = None
    if not isinstance(row, list) or len(row) != len(columns):
        raise InvalidInput("a row of another shape than declared", where="page")
    for value, column in zip(row, columns, strict=True):
        fits = value is None or (
            isinstance(value, _PYTHON[column.type]) and (column.type == "boolean" or not isinstance(value, bool))
        )
        if not fits:
            raise InvalidInput("a value of another type than declared", where=column.name)
    return row
