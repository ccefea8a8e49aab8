"""What becomes of one value: each anonymiser as a pure function, and which kind of value it takes and gives."""

from __future__ import annotations

import hashlib
import hmac
from bisect import bisect_right
from collections.abc import Callable
from datetime import date, datetime
from decimal import Decimal
from functools import partial
from typing import Any, Final
from uuid import UUID

from domicile.cells.border.declaration import (
    AsItIs,
    Coarsen,
    Drop,
    Generalise,
    Pseudonym,
    RemoveText,
    TopCode,
    Treatment,
    Truncate,
)
from domicile.model.errors import Forbidden, InvalidInput

Value = str | int | float | bool | None
"""Of a column that leaves, as JSON has it."""
Treat = Callable[[Any], Value]
TYPES: Final = ("text", "integer", "number", "boolean")
_SHARED: Final = {
    "str": "text",
    "int": "integer",
    "float": "number",
    "bool": "boolean",
    "date": "text",
    "datetime": "text",
    "Decimal": "text",
    "UUID": "text",
}
_TAKES: Final[dict[type, frozenset[str]]] = {
    AsItIs: frozenset(_SHARED),
    Truncate: frozenset({"str"}),
    Pseudonym: frozenset({"str", "int", "UUID"}),
    Coarsen: frozenset({"date", "datetime"}),
    TopCode: frozenset({"int"}),
    RemoveText: frozenset({"str"}),
}
_NUMBERS: Final = frozenset({"int", "float", "Decimal"})
_LETTERS: Final = "abcdefghijklmnop"
PSEUDONYM_LETTERS: Final = 26
Personal = bool


def check(treatment: Treatment, kind: str, *, personal: Personal, where: str) -> str:
    """The type of what leaves, one of TYPES. Raises InvalidInput for a treatment that does not fit the column.

    ``kind``: the name of the Python type that the column was recorded with.
    """
    if isinstance(treatment, Drop):
        return "text"
    if isinstance(treatment, AsItIs) and personal:
        raise InvalidInput("a personal column without a treatment", where=where, remedy="name an anonymiser, or drop")
    if isinstance(treatment, Generalise):
        takes = _NUMBERS if treatment.bins is not None else frozenset({"str", "int", "bool", "UUID"})
    else:
        takes = _TAKES[type(treatment)]
    if kind not in takes:
        raise InvalidInput(
            f"{treatment.treatment} takes no {kind}", where=where, remedy=f"it takes {', '.join(sorted(takes))}"
        )
    match treatment:
        case AsItIs():
            return _SHARED[kind]
        case TopCode():
            return "integer"
        case RemoveText():
            return "boolean"
    return "text"


def treat(treatment: Treatment, secret: bytes, where: str, *, given: str = "text") -> Treat:
    """The function for one column's values. ``secret``: for pseudonyms; ``given``: what ``check`` said.

    It raises Forbidden for a value that is not of the column's kind, without quoting it.
    """
    change = _change(treatment, secret, given)

    def treated(value: Any) -> Value:
        if isinstance(treatment, RemoveText):
            return bool(value)
        if value is None:
            return None
        try:
            return change(value)
        except (TypeError, ValueError, AttributeError, ArithmeticError):
            pass
        raise Forbidden("a value that is not of the column's kind", where=where, remedy="mend the rows")

    return treated


def _change(treatment: Treatment, secret: bytes, given: str) -> Treat:
    match treatment:
        case Generalise():
            return partial(_generalise, treatment)
        case Truncate():
            return lambda value: _text(value)[: treatment.length]
        case Pseudonym():
            return partial(pseudonym, secret)
        case Coarsen():
            return lambda value: coarsen(value, treatment.to)
        case TopCode():
            return partial(_clip, treatment)
        case RemoveText():
            return bool
    return _PLAIN[given]


def _text(value: Any) -> str:
    match value:
        case str():
            return value
        case datetime() | date():
            return value.isoformat()
        case Decimal() | UUID():
            return str(value)
    raise TypeError


def _whole(value: Any) -> int:
    """PostgreSQL computes some whole numbers as numeric."""
    if isinstance(value, bool) or int(value) != value:
        raise TypeError
    return int(value)


def _truth(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError
    return value


_PLAIN: Final[dict[str, Treat]] = {"text": _text, "integer": _whole, "number": float, "boolean": _truth}


def _generalise(treatment: Generalise, value: Any) -> str:
    if treatment.bins is None:
        assert treatment.hierarchy is not None
        text = str(value).lower() if isinstance(value, bool) else str(value)
        return treatment.hierarchy.get(text, treatment.other)
    place = bisect_right(treatment.bins, value)
    if place == 0:
        return f"<{treatment.bins[0]}"
    low = treatment.bins[place - 1]
    return f"{low}+" if place == len(treatment.bins) else f"{low}-{treatment.bins[place]}"


def coarsen(value: date, to: str) -> str:
    """A date, or the date of a time, as the period that it lies in."""
    match to:
        case "month":
            return f"{value.year:04}-{value.month:02}"
        case "quarter":
            return f"{value.year:04}-Q{(value.month + 2) // 3}"
        case "year":
            return f"{value.year:04}"
    return f"{value.year // 10 * 10:04}s"


def _clip(treatment: TopCode, value: int) -> int:
    if treatment.above is not None:
        value = min(value, treatment.above)
    if treatment.below is not None:
        value = max(value, treatment.below)
    return int(value)


def secret_of(cell_secret: bytes, destination: str, family: str) -> bytes:
    """The key of pseudonyms for one destination and lineage: what one of them is told fits nobody else's tables."""
    message = b"domicile/border/pseudonym\0" + destination.encode() + b"\0" + family.encode()
    return hmac.digest(cell_secret, message, hashlib.sha256)


def pseudonym(secret: bytes, value: Any) -> str:
    """104 bits as letters, so that none of them can look like a number of any kind."""
    digest = hmac.digest(secret, str(value).encode("utf-8", "surrogatepass"), hashlib.sha256)
    return "".join(_LETTERS[nibble] for byte in digest[:13] for nibble in (byte >> 4, byte & 15))


def is_pseudonym(value: object) -> bool:
    return isinstance(value, str) and len(value) == PSEUDONYM_LETTERS and set(value) <= set(_LETTERS)
